"""HTNet as its authors released it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from finetune.heads.htnet_network import Hierarchy, Shape, sizes
from pretrain.released import read_state
from pretrain.weights import load_weights
from shards.errors import FlickerError

_RENAMES = (
    (r"^to_patch_embedding\.1\.", "embed."),
    (r"^layers\.(\d+)\.0\.pos_emb$", r"levels.\1.position"),
    (r"^layers\.(\d+)\.0\.layers\.(\d+)\.0\.norm\.", r"levels.\1.layers.\2.norm1."),
    (r"^layers\.(\d+)\.0\.layers\.(\d+)\.1\.norm\.", r"levels.\1.layers.\2.norm2."),
    (r"^layers\.(\d+)\.0\.layers\.(\d+)\.0\.fn\.to_qkv\.", r"levels.\1.layers.\2.attention.qkv."),
    (r"^layers\.(\d+)\.0\.layers\.(\d+)\.0\.fn\.to_out\.0\.", r"levels.\1.layers.\2.attention.out."),
    (r"^layers\.(\d+)\.0\.layers\.(\d+)\.1\.fn\.net\.0\.", r"levels.\1.layers.\2.wide."),
    (r"^layers\.(\d+)\.0\.layers\.(\d+)\.1\.fn\.net\.3\.", r"levels.\1.layers.\2.narrow."),
    (r"^layers\.(\d+)\.1\.0\.", r"aggregations.\1.convolution."),
    (r"^layers\.(\d+)\.1\.1\.", r"aggregations.\1.norm."),
    (r"^mlp_head\.0\.", "norm."),
    (r"^mlp_head\.2\.", "classify."),
    (r"\.g$", ".weight"),
    (r"\.b$", ".bias"),
)
_ARGUMENTS = {"image_size", "patch_size", "num_classes", "dim", "heads", "num_hierarchies", "block_repeats"}
_ARGUMENTS |= {"mlp_mult", "channels", "dim_head", "dropout"}


class ReleasedHTNet(nn.Module):
    """HTNet as released: arranged maps [B 3 S S], 0..255, to logits [B C]. Cutting the areas is not part of it."""

    def __init__(self, shape: Shape, dropout: float = 0.0):
        super().__init__()
        self.hierarchy = Hierarchy(shape, dropout=dropout, activation="gelu", position="scalar")

    def forward(self, maps: Tensor) -> Tensor:
        """[B 3 S S] -> [B C]"""
        return self.hierarchy(maps.permute(0, 2, 3, 1))


def load(source: Mapping[str, Any] | Path, **config: Any) -> nn.Module:
    """HTNet as released: from a state dict or a checkpoint.

    config: the release's own arguments. Sizes that the weights show are read off them; image_size is 28 and heads 3
    unless stated. Raises FlickerError: other weights, or arguments that do not describe them.
    """
    path = source if isinstance(source, Path) else Path("state dict")
    state, stored = read_state(source) if isinstance(source, Path) else (source, {})
    given = {**{name: value for name, value in stored.items() if name in _ARGUMENTS}, **config}
    if unknown := sorted(set(given) - _ARGUMENTS):
        raise FlickerError(
            f"HTNet's release has no argument {', '.join(unknown)}; it has {', '.join(sorted(_ARGUMENTS))}"
        )
    weights = rename(state)
    model = ReleasedHTNet(_shape(weights, given, path), float(given.get("dropout", 0.0)))
    load_weights(model.hierarchy, weights, path)
    return model


def rename(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights by the names of `Hierarchy`: 1 × 1 convolutions and channel norms as linear layers and plain norms."""
    weights = {}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            continue
        name = re.sub(r"^(module\.|_orig_mod\.)+", "", name)
        for pattern, new in _RENAMES:
            name = re.sub(pattern, new, name)
        value = _flat(name, value.float())
        if name.endswith(".attention.qkv.weight"):
            split = len(value) // 3 * 2
            weights[name.replace(".qkv.", ".qk.")] = value[:split]
            weights[name.replace(".qkv.", ".v.")] = value[split:]
        else:
            weights[name] = value
    return weights


def _flat(name: str, value: Tensor) -> Tensor:
    """The shape that `Hierarchy` has for a weight."""
    if name.endswith(".position"):
        return value.reshape(-1, 1)
    if "norm" in name:
        return value.flatten()
    if value.ndim == 4 and value.shape[2:] == (1, 1):
        return value.flatten(1)
    return value


def _shape(weights: Mapping[str, Tensor], given: Mapping[str, Any], path: Path) -> Shape:
    """The architecture that the weights and the release's arguments describe."""
    try:
        dim, row = weights["embed.weight"].shape
        classes = len(weights["classify.weight"])
        ratio = len(weights["levels.0.layers.0.wide.weight"]) // dim
    except (KeyError, ValueError) as error:
        raise FlickerError(f"{path}: these are not HTNet's weights: {error.args[0]} is missing") from None
    levels = len({name.split(".")[1] for name in weights if name.startswith("levels.")})
    depths = tuple(_depth(weights, level) for level in range(levels))
    channels = int(given.get("channels", 3))
    shape = Shape(
        channels=channels,
        size=int(given.get("image_size", 28)),
        patch=int(given.get("patch_size", round((row / channels) ** 0.5))),
        dim=dim,
        heads=int(given.get("heads", 3)),
        depths=depths,
        classes=classes,
        ratio=ratio,
    )
    repeats = given.get("block_repeats", depths)
    repeats = (repeats,) * levels if isinstance(repeats, int) else tuple(repeats)
    told = {
        "dim": (given.get("dim", dim), dim),
        "num_classes": (given.get("num_classes", classes), classes),
        "num_hierarchies": (given.get("num_hierarchies", levels), levels),
        "block_repeats": (repeats, depths),
        "mlp_mult": (given.get("mlp_mult", ratio), ratio),
    }
    for name, (said, found) in told.items():
        if said != found:
            raise FlickerError(f"{path}: {name} is {found} in these weights, not {said}")
    if wrong := sizes(shape.depths, shape.size, shape.patch):
        raise FlickerError(f"{path}: {wrong}; give the image_size and patch_size of these weights")
    return shape


def _depth(weights: Mapping[str, Tensor], level: int) -> int:
    """Transformer layers of a level."""
    prefix = f"levels.{level}.layers."
    return len({name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)})
