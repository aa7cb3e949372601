"""Copies of clips that folds train on beside the clips themselves: magnified, mirrored."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from finetune.inputs import FlowMap, MagnifiedApex, Recipe
from finetune.mirroring import mirrored

FACTOR = "pair.factor"
Arrays = dict[str, np.ndarray]


def copies(arrays: Mapping[str, np.ndarray], recipes: Mapping[str, Recipe], mirror: bool) -> list[Arrays]:
    """The inputs as they are, then of each recipe `MagnifiedApex` a copy, then with `mirror` all of these mirrored.

    A magnified copy has that recipe's frame for the apex of 'pair', flow (u, v, strain) times the factor, and all
    else as it is. Where there are such copies 'pair.factor' float32 [n] says which one a clip is (1: as it is).
    Raises UsageError for a kind that cannot be mirrored.
    """
    extra = {name: recipe for name, recipe in recipes.items() if isinstance(recipe, MagnifiedApex)}
    kept = {name: recipe for name, recipe in recipes.items() if name not in extra}
    plain = {name: value for name, value in arrays.items() if name not in extra}
    result = [plain]
    if extra:
        count = len(plain["pair"])
        result = [plain | {FACTOR: np.ones(count, np.float32)}]
        result += [_magnified(plain, kept, arrays[name], recipe.factor) for name, recipe in extra.items()]
    return result + ([mirrored(some, kept) for some in result] if mirror else [])


def _magnified(plain: Arrays, recipes: Mapping[str, Recipe], apex: np.ndarray, factor: float) -> Arrays:
    """One copy; `apex` uint8 [n S S 3]."""
    pair = plain["pair"].copy()
    pair[:, 1] = apex
    flows = {
        name: (plain[name] * factor).astype(np.float32)
        for name, recipe in recipes.items()
        if isinstance(recipe, FlowMap)
    }
    return plain | flows | {"pair": pair, FACTOR: np.full(len(pair), factor, np.float32)}
