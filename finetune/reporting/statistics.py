"""Intervals and tests over subjects: percentile bootstrap, paired permutation test, Wilcoxon signed-rank test.

The unit is always the person: clips of one person are no independent draws. Arrays of counts are [S G C C]: confusion
matrices by seed and person. A run's score is the mean over its seeds of the score pooled over all people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from finetune import metrics

RESAMPLES = 10_000
PERMUTATIONS = 10_000
LEVEL = 0.95
SEED = 2019
EXACT_WILCOXON = 50  # subjects; scipy's exact distribution beyond is slow and the normal one close
TRIED = 2**13  # signs of differences that are tried where some are of the same size
SLACK = 1e-12  # sums of the same counts in another order


def pooled(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Score name -> float64 [...] of counts [... S C C] that are already summed over people: the mean over seeds."""
    return {name: values.mean(-1) for name, values in metrics.from_counts(counts).items()}


def score(counts: np.ndarray) -> dict[str, float]:
    """Scores of one run's counts [S G C C]."""
    return {name: float(value) for name, value in pooled(counts.sum(1)).items()}


def resampled(people: int, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """How often each person is drawn, float64 [B G]: B times G people with replacement."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(people, np.full(people, 1 / people), size=resamples).astype(np.float64)


def _weighted(weights: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sum over people of counts [S G C C] by weights [B G]: [B S C C]."""
    seeds, people, size, _ = counts.shape
    flat = counts.transpose(1, 0, 2, 3).reshape(people, -1).astype(np.float64)
    return (weights @ flat).reshape(len(weights), seeds, size, size)


def interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The percentile interval of bootstrap values [B]."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap(counts: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, tuple[float, float]]:
    """Score name -> (low, high): percentile interval at LEVEL over people drawn with replacement.

    A draw that lacks a class scores the classes it shows, as `metrics.scores` does.
    """
    drawn = pooled(_weighted(resampled(counts.shape[1], resamples, seed), counts))
    return {name: interval(values) for name, values in drawn.items()}


def bootstrap_difference(
    first: np.ndarray, second: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, tuple[float, float]]:
    """Score name -> interval of (first − second), both runs scored on the same drawn people; counts [S G C C]."""
    weights = resampled(first.shape[1], resamples, seed)
    one, two = pooled(_weighted(weights, first)), pooled(_weighted(weights, second))
    return {name: interval(one[name] - two[name]) for name in one}


@dataclass(frozen=True)
class Permutation:
    """A paired permutation test: p per score, two-sided."""

    differences: dict[str, float]
    """Score name -> first − second."""
    p: dict[str, float]
    permutations: int
    exact: bool
    """All 2^G exchanges were tried; otherwise that many were drawn."""
    smallest: float
    """The smallest p that the test can give."""

    @property
    def formula(self) -> str:
        """How p was computed."""
        if self.exact:
            return f"p = #(|d*| ≥ |d|) / {self.permutations}, all exchanges of the two runs within subjects"
        return (
            f"p = (1 + #(|d*| ≥ |d|)) / (1 + {self.permutations}), exchanges drawn at random (Phipson and Smyth 2010)"
        )


def permutation(
    first: np.ndarray,
    second: np.ndarray,
    permutations: int = PERMUTATIONS,
    seed: int = SEED,
    exact: bool | None = None,
) -> Permutation:
    """Exchange the two runs' predictions of a person, for every person by a coin; counts [S G C C] each.

    Under the hypothesis that the runs are alike the difference d of their scores is then as good as any other. All
    2^G exchanges are tried where these are no more than `permutations` (`exact` decides instead where given).
    """
    people = first.shape[1]
    every = 2**people <= permutations if exact is None else exact
    if every:
        swap = (np.arange(2**people)[:, None] >> np.arange(people)[None]) & 1  # [2^G G]
    else:
        swap = np.random.default_rng(seed).integers(0, 2, (permutations, people))
    moved = _weighted(swap.astype(np.float64), second - first)  # [B S C C]
    one, two = pooled(first.sum(1) + moved), pooled(second.sum(1) - moved)
    ours, theirs = score(first), score(second)
    differences = {name: ours[name] - theirs[name] for name in ours}
    p = {}
    for name, value in differences.items():
        extreme = int((np.abs(one[name] - two[name]) >= abs(value) - SLACK).sum())
        p[name] = extreme / len(swap) if every else (1 + extreme) / (1 + len(swap))
    smallest = 2 / len(swap) if every else 1 / (1 + len(swap))
    return Permutation(differences, p, len(swap), every, smallest)


@dataclass(frozen=True)
class Wilcoxon:
    """Wilcoxon's signed-rank test on per-person accuracies, two-sided, zero differences left out."""

    p: float
    subjects: int
    """People whose accuracy differs between the runs."""
    method: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def accuracies(counts: np.ndarray) -> np.ndarray:
    """Accuracy of each person, mean over seeds, float64 [G], from counts [S G C C]."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1).sum(-1)
    return (hits / counts.sum((-2, -1))).mean(0)


def wilcoxon(first: np.ndarray, second: np.ndarray) -> Wilcoxon:
    """The test on accuracies [G] of the same people under two runs (scipy.stats.wilcoxon).

    Exact for few subjects (with equal differences by trying all signs, up to TRIED of them); otherwise the normal
    approximation, corrected for ties. Runs that nowhere differ have p = 1.
    """
    differences = np.round(first - second, 12)
    left = differences[differences != 0]
    if not len(left):
        return Wilcoxon(1.0, 0, "no subject differs")
    ties = len(np.unique(np.abs(left))) < len(left)
    method: Any = "asymptotic"
    how = "normal approximation, ties corrected"
    if not ties and len(left) <= EXACT_WILCOXON:
        method, how = "exact", "exact"
    elif 2 ** len(left) <= TRIED:
        method, how = stats.PermutationMethod(n_resamples=TRIED), "exact, all signs tried"
    return Wilcoxon(float(stats.wilcoxon(left, method=method).pvalue), len(left), how)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction for several tests: adjusted p in the given order (Holm 1979)."""
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, place in enumerate(np.argsort(p, kind="stable").tolist()):
        highest = max(highest, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = highest
    return adjusted
