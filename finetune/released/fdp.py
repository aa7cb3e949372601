"""FDP as its authors released it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from finetune.heads.fdp_network import Network
from finetune.options.fdp import FdpOptions
from pretrain.released import read_state
from pretrain.weights import load_weights
from shards.errors import FlickerError

_RENAMES = (
    (r"^frame_rep\.", "codes."),
    (r"^mer\.conv3d\.", "dynamics.pool."),
    (r"^mer\.fc1\.", "dynamics.hidden."),
    (r"^mer\.fc2\.", "dynamics.classify."),
    (r"^dyimg_net\.", "image."),
)
_COUNTER = "num_batches_tracked"  # of batch norms; means nothing here


class ReleasedFdp(nn.Module):
    """FDP as released: clips [B 1 t 1 S S] (grey, scaled by their split) to (logits [B C], dynamic image [B S S])."""

    def __init__(self, frames: int, size: int, classes: int, hidden: int):
        super().__init__()
        self.network = Network(classes, FdpOptions(release=True, frames=frames, crop=size, hidden=hidden))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        logits, image, _ = self.network(x[:, 0])
        assert image is not None
        return logits, image


def load(source: Mapping[str, Any] | Path, **config: Any) -> nn.Module:
    """FDP as released: from a state dict or a checkpoint.

    config: `frames`, `size`, `classes`; they are read off the weights, and have to agree where they are given.
    Raises FlickerError: other weights, or arguments that do not describe them.
    """
    path = source if isinstance(source, Path) else Path("state dict")
    state, stored = read_state(source) if isinstance(source, Path) else (source, {})
    weights = rename(state)
    try:
        pool, code = weights["dynamics.pool.weight"], weights["codes.proj_head.0.weight"]
        hidden, classes = (len(weights[f"dynamics.{name}.weight"]) for name in ("hidden", "classify"))
    except KeyError as error:
        raise FlickerError(f"{path}: these are not FDP's weights: {error.args[0]} is missing") from None
    found = {"frames": pool.shape[-1], "size": round(len(code) ** 0.5), "classes": classes}
    if unknown := sorted(set(config) - set(found)):
        raise FlickerError(f"FDP's release has no argument {', '.join(unknown)}; it has {', '.join(sorted(found))}")
    for name, value in found.items():
        told = config.get(name, stored.get(name, value))
        if told != value:
            raise FlickerError(f"{path}: {name} is {value} in these weights, not {told}")
    model = ReleasedFdp(**found, hidden=hidden)
    own = model.network.state_dict()
    weights |= {name: value for name, value in own.items() if name.endswith(_COUNTER)}
    load_weights(model.network, weights, path)
    return model


def rename(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights by the names of `Network`."""
    weights = {}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            continue
        name = re.sub(r"^(module\.|_orig_mod\.)+", "", name)
        for pattern, new in _RENAMES:
            name = re.sub(pattern, new, name)
        weights[name] = value.float()
    return weights
