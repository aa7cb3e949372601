"""How far a run's probabilities can be believed: reliability, expected calibration error, Brier score, likelihood."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 10
FLOOR = 5e-7
"""Probabilities are stored with six decimals: a smaller one counts as this in the log-likelihood."""


@dataclass(frozen=True)
class Calibration:
    """Figures of one selection, means over seeds; the bins hold the predictions of all seeds."""

    ece: float
    """Expected calibration error: Σ_b n_b/n |accuracy_b − confidence_b| over BINS equal bins of the largest
    probability (Guo et al. 2017, eq. 3)."""
    brier: float
    """Mean of Σ_c (p_c − y_c)², 0 to 2 (Brier 1950)."""
    nll: float
    """Mean of −ln p of the true class, nats."""
    counts: list[int]
    """Predictions in each bin."""
    confidence: list[float | None]
    """Mean largest probability in each bin, None where it is empty."""
    accuracy: list[float | None]
    """Share of right predictions in each bin, None where it is empty."""
    bins: int = BINS


def calibration(probabilities: np.ndarray, truth: np.ndarray, bins: int = BINS) -> Calibration:
    """Of probabilities float64 [S n C] and true classes int64 [n].

    Bin b holds the confidences in (b/bins, (b+1)/bins]; the first also 0.
    """
    confidence = probabilities.max(-1)  # [S n]
    right = (probabilities.argmax(-1) == truth).astype(np.float64)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    errors = []
    for seed in range(len(probabilities)):
        n, sure, hits = _sums(place[seed], confidence[seed], right[seed], bins)
        errors.append(float(np.abs(hits - sure).sum() / n.sum()))
    n, sure, hits = _sums(place.ravel(), confidence.ravel(), right.ravel(), bins)
    of_truth = np.take_along_axis(probabilities, np.broadcast_to(truth[None, :, None], (*right.shape, 1)), -1)[..., 0]
    target = np.eye(probabilities.shape[-1])[truth]
    return Calibration(
        ece=float(np.mean(errors)),
        brier=float(((probabilities - target) ** 2).sum(-1).mean()),
        nll=float(-np.log(np.maximum(of_truth, FLOOR)).mean()),
        counts=n.astype(int).tolist(),
        confidence=[float(a / b) if b else None for a, b in zip(sure, n, strict=True)],
        accuracy=[float(a / b) if b else None for a, b in zip(hits, n, strict=True)],
        bins=bins,
    )


def _sums(
    place: np.ndarray, confidence: np.ndarray, right: np.ndarray, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per bin: predictions, sum of confidences, right predictions."""
    n = np.bincount(place, minlength=bins).astype(np.float64)
    return n, np.bincount(place, confidence, bins), np.bincount(place, right, bins)
