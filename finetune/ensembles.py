"""Ensembles of seeds: the mean of the seeds' probabilities of each clip, each seed at its own chosen epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune import metrics
from finetune.fold import SELECTIONS, FoldResult
from shards.errors import FlickerError


def probabilities(folds: Sequence[FoldResult], selection: str) -> dict[str, np.ndarray]:
    """Clip id -> mean probabilities float64 [C] over the seeds.

    Raises FlickerError where a clip has not exactly one prediction of every seed.
    """
    seeds = {fold.seed for fold in folds}
    rows: dict[str, dict[int, list[float]]] = {}
    for fold in folds:
        for name, values in zip(fold.ids, fold.probabilities[selection], strict=True):
            if fold.seed in rows.setdefault(name, {}):
                raise FlickerError(f"clip {name} is predicted twice by seed {fold.seed}; run the folds afresh")
            rows[name][fold.seed] = values
    for name, found in rows.items():
        if lacking := sorted(seeds - set(found)):
            raise FlickerError(f"clip {name} has no prediction of seed {lacking[0]}; run the missing folds")
    return {name: np.mean([found[seed] for seed in sorted(found)], axis=0) for name, found in rows.items()}


def scores(
    folds: Sequence[FoldResult], truth: Mapping[str, int], classes: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Selection -> the scores of `finetune.metrics.scores` ('confusion' as lists), and 'seeds', their number.

    truth: clip id -> class, of every tested clip. Raises FlickerError where predictions are incomplete or not unique.
    """
    found = {}
    for selection in SELECTIONS:
        pairs = [(name, int(row.argmax())) for name, row in probabilities(folds, selection).items()]
        true, predicted = metrics.join(truth, pairs)
        figures = metrics.scores(truth=true, predicted=predicted, classes=range(len(classes)))
        figures["confusion"] = figures["confusion"].tolist()
        found[selection] = {**figures, "seeds": len({fold.seed for fold in folds})}
    return found
