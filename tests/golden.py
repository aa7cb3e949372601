"""Weights and inputs of the golden references, generated from names."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers that depend on the name alone, float64."""
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)


def weights(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """A state dict by the rule of the golden files; position tables and counters are left out."""
    state = {}
    for name, shape in shapes.items():
        if name.endswith(("pos_embed", "num_batches_tracked")):
            continue
        n = draw(name, tuple(shape))
        if len(shape) >= 2 and not name.endswith(".g"):
            n = n / np.sqrt(np.prod(shape[1:]))
        elif name.endswith("running_var"):
            n = 1 + 0.1 * np.abs(n)
        elif name.endswith(("weight", ".g")):
            n = 1 + 0.1 * n
        else:
            n = 0.05 * n
        state[name] = torch.from_numpy(n).float()
    return state


def reference(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Description and outputs of one golden reference."""
    with np.load(folder / f"{name}.npz") as arrays:
        return json.loads((folder / f"{name}.json").read_text()), dict(arrays)


def relative_error(value: torch.Tensor, target: np.ndarray) -> float:
    """Largest absolute difference over the largest absolute target."""
    return float(np.abs(value.detach().numpy() - target).max() / np.abs(target).max())
