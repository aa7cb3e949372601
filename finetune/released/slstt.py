"""SLSTT as its authors released it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from finetune.heads.slstt_network import Temporal, spatial
from finetune.heads.slstt_weights import to_timm
from finetune.options.slstt import SlsttOptions
from pretrain.released import read_state
from pretrain.weights import load_weights
from shards.errors import FlickerError

HEADS = 12
_ARGUMENTS = {"input_size", "frames", "classes", "aggregation", "heads"}
_KINDS = {"LSTM": "lstm", "Mean": "mean"}


class ReleasedSlstt(nn.Module):
    """SLSTT as released: pictures [B F 3 S S] as ImageNet's are scaled, to logits [B C].

    The two stages that the authors train one after the other: the encoder with one linear layer, averaged over the
    frames ('Mean'), and the LSTM behind the encoder ('LSTM').
    """

    def __init__(self, vit: VisionTransformer, temporal: Temporal):
        super().__init__()
        self.vit, self.temporal = vit, temporal

    def forward(self, pictures: Tensor) -> Tensor:
        """[B F 3 S S] -> [B C]"""
        return self.temporal(self.vit(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2]))


def load(source: Mapping[str, Any] | Path, **config: Any) -> nn.Module:
    """SLSTT as released: from a state dict or a checkpoint, of both stages or of the encoder alone.

    config: `aggregation` (LSTM where the weights have one, else Mean), `heads` (12); input_size, frames and classes
    are read off the weights or not needed, and compared where given. Raises FlickerError: other weights, or arguments
    that do not describe them.
    """
    path = source if isinstance(source, Path) else Path("state dict")
    state = read_state(source)[0] if isinstance(source, Path) else source
    if unknown := sorted(set(config) - _ARGUMENTS):
        raise FlickerError(
            f"SLSTT's release has no argument {', '.join(unknown)}; it has {', '.join(sorted(_ARGUMENTS))}"
        )
    bare = {re.sub(r"^(module\.|_orig_mod\.)+", "", name): value for name, value in state.items()}
    kind = config.get("aggregation", "LSTM" if any(name.startswith("lstm.") for name in bare) else "Mean")
    if kind not in _KINDS:
        raise FlickerError(f"SLSTT's release has no aggregation {kind!r}; it has {', '.join(_KINDS)}")
    behind = _temporal(bare, kind)
    options = _options(to_timm(bare), behind, kind, config, path)
    vit, temporal = spatial(options), Temporal(options.dim, len(behind["fc2.bias"]), options)
    encoder = {name: value for name, value in to_timm(bare).items() if not _other(name)}
    load_weights(vit, encoder, path)
    load_weights(temporal, behind, path)
    return ReleasedSlstt(vit, temporal)


def _other(name: str) -> bool:
    """Whether a weight is no part of the encoder, whichever of the two stages it belongs to."""
    return name.startswith(("lstm.", "fc1.", "fc2.", "fc."))


def _temporal(bare: Mapping[str, Any], kind: str) -> dict[str, Tensor]:
    """The weights behind the encoder by the names of `Temporal`; the other stage's are not used."""
    if kind == "Mean":
        pattern, new = r"^(vit\.)?fc\.", "fc2."
    else:
        pattern, new = r"^fc1\.", "fc1.0."
    weights = {}
    for name, value in bare.items():
        chosen = re.match(pattern, name) if kind == "Mean" else re.match(r"^(lstm|fc1|fc2)\.", name)
        if chosen and isinstance(value, Tensor):
            weights[re.sub(pattern, new, name)] = value.float()
    return weights


def _options(
    encoder: Mapping[str, Tensor], behind: Mapping[str, Tensor], kind: str, given: Mapping[str, Any], path: Path
) -> SlsttOptions:
    """The architecture that the weights and the release's arguments describe."""
    try:
        dim, _, patch, _ = encoder["patch_embed.proj.weight"].shape
        tokens = encoder["pos_embed"].shape[1]
        classes = len(behind["fc2.bias"])
        hidden = behind["lstm.weight_hh_l0"].shape[1] if kind == "LSTM" else 1
        middle = len(behind["fc1.0.bias"]) if kind == "LSTM" else 1
    except (KeyError, ValueError) as error:
        raise FlickerError(f"{path}: these are not SLSTT's weights: {error.args[0]} is missing") from None
    size, heads = round((tokens - 1) ** 0.5) * patch, int(given.get("heads", HEADS))
    if dim % heads:
        raise FlickerError(f"{path}: {dim} numbers do not divide into {heads} heads; give the heads of these weights")
    for name, found in {"input_size": size, "classes": classes}.items():
        if given.get(name, found) != found:
            raise FlickerError(f"{path}: {name} is {found} in these weights, not {given[name]}")
    return SlsttOptions(
        release=True,
        aggregation="lstm" if kind == "LSTM" else "mean",
        activation="gelu-tanh",
        size=size,
        patch=patch,
        dim=dim,
        depth=_count(encoder, r"^blocks\.(\d+)\."),
        heads=heads,
        hidden=hidden,
        layers=max(1, _count(behind, r"^lstm\.weight_ih_l(\d+)$")),
        classifier=middle,
    )


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers the names have at the pattern's place."""
    return len({found.group(1) for name in weights if (found := re.match(pattern, name))})
