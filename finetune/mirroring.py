"""Left and right exchanged in prepared inputs, by kind."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from finetune.inputs import FlowMap, LongFlow, Pair, Recipe, Regions, Sequence
from shards.errors import UsageError

BOXES = (1, 0, 2, 4, 3, 5, 7, 6, 8)  # action unit boxes of the other side (FRL-DGT, Fig. 4: a b, d e, g h are pairs)
AREAS = (1, 0, 3, 2)  # HTNet's areas: eyes, mouth corners


def mirrored(arrays: Mapping[str, np.ndarray], recipes: Mapping[str, Recipe]) -> dict[str, np.ndarray]:
    """The same inputs of the mirrored faces. Raises UsageError for a kind that cannot be mirrored here."""
    result = dict(arrays)
    for name, recipe in recipes.items():
        result[name] = _mirrored(name, arrays[name], recipe)
    return result


def _mirrored(name: str, value: np.ndarray, recipe: Recipe) -> np.ndarray:
    """One input, [n ...]."""
    if isinstance(recipe, Pair | Sequence):  # [n T S S 3]
        return np.ascontiguousarray(value[:, :, :, ::-1])
    if isinstance(recipe, FlowMap | LongFlow):  # [n .. S S 2 or 3], u first
        flipped = value[..., ::-1, :].copy()
        flipped[..., 0] *= -1
        return flipped
    if isinstance(recipe, Regions) and name == "areas":  # [n 4 2]
        swapped = value[:, AREAS].copy()
        swapped[..., 0] = recipe.grid - 1 - swapped[..., 0]
        return swapped
    if isinstance(recipe, Regions) and name == "boxes":  # [n 9 4] x, y, w, h
        swapped = value[:, BOXES].copy()
        swapped[..., 0] = recipe.size - swapped[..., 0] - swapped[..., 2]
        return swapped
    raise UsageError(f"train.mirror: the input '{name}' cannot be mirrored; use the head's own option")
