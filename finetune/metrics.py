"""Scores of pooled predictions: UF1, UAR, accuracy, WAR, weighted F1, confusion matrix (HTNet eq. 8; MEGC2019).

The predictions of all folds are pooled into one confusion matrix first; a mean of per-fold scores (`fold_means`) is
another number, and never stands under the same name.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from shards.errors import FlickerError

NAMES = ("uf1", "uar", "accuracy", "war", "weighted_f1")
Labels = Sequence[Hashable] | np.ndarray  # names or numbers


def confusion_matrix(*, truth: Labels, predicted: Labels, classes: Labels) -> np.ndarray:
    """Counts int64 [C C]: row = true class, column = predicted class, in the order of `classes`.

    Raises FlickerError: different lengths, no predictions, or a label that is no class.
    """
    truth, predicted = _plain(truth), _plain(predicted)
    if len(truth) != len(predicted):
        raise FlickerError(f"{len(truth)} true labels but {len(predicted)} predictions; give one for each clip")
    if not truth:
        raise FlickerError("no predictions to score")
    place = {name: index for index, name in enumerate(_plain(classes))}
    if unknown := sorted({str(label) for label in [*truth, *predicted] if label not in place}):
        raise FlickerError(f"labels outside the classes {list(place)}: {', '.join(unknown)}")
    counts = np.zeros((len(place), len(place)), np.int64)
    np.add.at(counts, ([place[label] for label in truth], [place[label] for label in predicted]), 1)
    return counts


def _plain(values: Iterable[Any]) -> list[Hashable]:
    """A list of plain Python values from a list, array or tensor."""
    return list(values.tolist() if hasattr(values, "tolist") else values)


def class_scores(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Per class from counts [C C]: f1, recall, precision float64 [C], support int64 [C]; NaN where undefined.

    F1_c = 2TP/(2TP+FP+FN) is undefined for a class in neither truth nor predictions, recall_c = TP/N_c for a
    class not in truth, precision for one never predicted.
    """
    hits = np.diag(confusion).astype(np.float64)
    support, chosen = confusion.sum(1), confusion.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "f1": 2 * hits / (support + chosen),
            "recall": hits / support,
            "precision": hits / chosen,
            "support": support,
        }


def from_counts(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of many confusion matrices at once: counts [... C C] to name -> float64 [...], names as in NAMES."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)  # [... C]
    support, chosen = confusion.sum(-1), confusion.sum(-2)
    known, shown = support + chosen > 0, support > 0
    f1 = np.divide(2 * hits, support + chosen, out=np.zeros_like(hits), where=known)
    recall = np.divide(hits, support, out=np.zeros_like(hits), where=shown)
    total = np.maximum(support.sum(-1), 1e-300)
    accuracy = hits.sum(-1) / total
    return {
        "uf1": f1.sum(-1) / np.maximum(known.sum(-1), 1),
        "uar": recall.sum(-1) / np.maximum(shown.sum(-1), 1),
        "accuracy": accuracy,
        "war": accuracy,
        "weighted_f1": (f1 * support).sum(-1) / total,
    }


def from_confusion(confusion: np.ndarray) -> dict[str, Any]:
    """The dictionary of `scores` from counts [C C]."""
    return {name: float(value) for name, value in from_counts(confusion).items()} | {"confusion": confusion}


def fold_means(confusions: np.ndarray) -> dict[str, float]:
    """Scores of each fold alone, then their plain mean over folds: from counts [F C C].

    Every fold weighs the same, however few its clips, and a class that a fold does not show drops out of that fold's
    UF1 and UAR. Some papers report this; it is not the pooled score.
    """
    return {name: float(value.mean()) for name, value in from_counts(confusions).items()}


def scores(*, truth: Labels, predicted: Labels, classes: Labels) -> dict[str, Any]:
    """Scores over all given predictions together.

    Returns:
        uf1: mean over classes of 2TP/(2TP+FP+FN). A class in neither truth nor predictions is left out of the
            mean; one that is predicted but never true counts as 0.
        uar: mean over the classes present in truth of TP/N_c (balanced accuracy).
        accuracy, war: ΣTP/N (the same number under its two names).
        weighted_f1: mean of F1 weighted by the classes' clips (FDP's "F1").
        confusion: int64 [C C], row = truth.
    """
    return from_confusion(confusion_matrix(truth=truth, predicted=predicted, classes=classes))


def join(truth: Mapping[str, int], predictions: Iterable[tuple[str, int]]) -> tuple[list[int], list[int]]:
    """(truth, predicted) in the order of `truth`, joined by clip id.

    Raises FlickerError if an id is predicted twice, unknown, or missing: such predictions are not scored.
    """
    found: dict[str, int] = {}
    for name, label in predictions:
        if name in found:
            raise FlickerError(f"clip {name} is predicted twice in one selection; the folds overlap, run them afresh")
        found[name] = label
    if unknown := [name for name in found if name not in truth]:
        raise FlickerError(
            f"{len(unknown)} predictions are of unknown clips, first {unknown[0]}; run the folds afresh"
        )
    if missing := [name for name in truth if name not in found]:
        raise FlickerError(f"{len(missing)} clips have no prediction, first {missing[0]}; run the missing folds")
    return list(truth.values()), [found[name] for name in truth]
