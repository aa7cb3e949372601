"""The predictions of a finished run as one table: complete, unique, in ascending order of clip id.

Every figure of a report is computed from it alone, so that runs made elsewhere compare without their dataset.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.clips import SAME_PEOPLE
from finetune.fold import SELECTIONS, FoldResult
from shards.errors import FlickerError

Row = tuple[int, str, str, int, str, list[float]]
"""Seed, selection, clip id, true class, fold, probability of each class."""


@dataclass(frozen=True)
class Predictions:
    """Each clip's prediction by seed and selection; n clips, S seeds, C classes."""

    classes: tuple[str, ...]
    ids: tuple[str, ...]
    truth: np.ndarray  # int64 [n]
    folds: tuple[str, ...]
    """Name of the fold that tested each clip, [n]."""
    seeds: tuple[int, ...]
    probabilities: dict[str, np.ndarray]
    """Selection -> float64 [S n C]."""

    @property
    def subjects(self) -> tuple[str, ...]:
        """The person of each clip, 'dataset/subject' [n]: the unit of resampling and of exchange, in any protocol."""
        parts = [name.split("/", 2) for name in self.ids]
        return tuple(f"{SAME_PEOPLE.get(dataset, dataset)}/{subject}" for dataset, subject, _ in parts)

    @property
    def people(self) -> tuple[str, ...]:
        """Each person once, ascending [G]."""
        return tuple(sorted(set(self.subjects)))

    @property
    def datasets(self) -> tuple[str, ...]:
        """Each dataset once, ascending."""
        return tuple(sorted({name.split("/", 1)[0] for name in self.ids}))

    def of_dataset(self, dataset: str) -> Predictions:
        """The clips of one dataset alone: a composite's part, by filtering the pooled predictions."""
        rows = [row for row, name in enumerate(self.ids) if name.split("/", 1)[0] == dataset]
        return Predictions(
            self.classes,
            tuple(self.ids[row] for row in rows),
            self.truth[rows],
            tuple(self.folds[row] for row in rows),
            self.seeds,
            {name: values[:, rows] for name, values in self.probabilities.items()},
        )

    def predicted(self, selection: str) -> np.ndarray:
        """Predicted class int64 [S n]."""
        return self.probabilities[selection].argmax(-1)

    def counts(self, selection: str, groups: Sequence[str] | None = None) -> np.ndarray:
        """Confusion matrices by seed and person, int64 [S G C C], people in ascending order.

        `groups` [n] puts another name to each clip (its fold, its dataset) instead of the person.
        """
        groups = self.subjects if groups is None else groups
        place = {name: row for row, name in enumerate(sorted(set(groups)))}
        group = np.array([place[name] for name in groups])
        size = len(self.classes)
        counts = np.zeros((len(self.seeds), len(place), size, size), np.int64)
        for seed, predicted in enumerate(self.predicted(selection)):
            np.add.at(counts[seed], (group, self.truth, predicted), 1)
        return counts

    def surest(self, right: bool) -> list[tuple[int, int, float]]:
        """(row, predicted class, its probability) of the right or the wrong predictions, the surest first.

        By the mean over seeds of the probabilities of `last`.
        """
        mean = self.probabilities["last"].mean(0)  # [n C]
        predicted = mean.argmax(-1)
        rows = np.flatnonzero((predicted == self.truth) == right)
        rows = rows[np.argsort(-mean[rows, predicted[rows]], kind="stable")]
        return [(int(row), int(predicted[row]), float(mean[row, predicted[row]])) for row in rows]

    def same_clips(self, other: Predictions) -> str:
        """'' where both hold the same clips with the same labels; otherwise what differs, in a few words."""
        if self.classes != other.classes:
            return f"other classes ({', '.join(self.classes)} against {', '.join(other.classes)})"
        if self.ids != other.ids:
            apart = len(set(self.ids) ^ set(other.ids))
            return f"other clips ({len(self.ids)} against {len(other.ids)}, {apart} of them in one run only)"
        if not np.array_equal(self.truth, other.truth):
            return f"other labels ({int((self.truth != other.truth).sum())} of {len(self.ids)} clips)"
        return ""


def from_folds(folds: Sequence[FoldResult], classes: Sequence[str]) -> Predictions:
    """The table of all folds. Raises FlickerError where predictions are incomplete or not unique."""

    def rows() -> Iterator[Row]:
        for fold in folds:
            for selection in SELECTIONS:
                for place, name in enumerate(fold.ids):
                    probabilities = fold.probabilities[selection][place]
                    yield fold.seed, selection, name, fold.truth[place], fold.subject, probabilities

    return _build(rows(), classes, "the folds")


def read(path: Path, classes: Sequence[str]) -> Predictions:
    """The table of a predictions.csv. Raises FlickerError where it is missing, unreadable, incomplete, not unique."""
    place = {name: row for row, name in enumerate(classes)}

    def rows() -> Iterator[Row]:
        with path.open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                probabilities = [float(line[f"p_{name}"]) for name in classes]
                truth = place[line["truth"]]
                yield int(line["seed"]), line["selection"], line["id"], truth, line["fold"], probabilities

    try:
        return _build(rows(), classes, str(path))
    except OSError:
        raise FlickerError(f"predictions of a run not found: {path}; finish the run first") from None
    except (KeyError, TypeError, ValueError) as error:
        raise FlickerError(
            f"{path} is not a predictions.csv of these classes ({error}); make the run again"
        ) from None


def _build(rows: Iterator[Row], classes: Sequence[str], where: str) -> Predictions:
    """The table, each clip exactly once for each seed and selection."""
    found: dict[tuple[int, str], dict[str, list[float]]] = {}
    truth: dict[str, int] = {}
    folds: dict[str, str] = {}
    for seed, selection, name, label, fold, probabilities in rows:
        own = found.setdefault((seed, selection), {})
        if name in own:
            raise FlickerError(f"{where}: clip {name} is predicted twice (seed {seed}, {selection}); run it afresh")
        if truth.setdefault(name, label) != label:
            raise FlickerError(f"{where}: clip {name} has two true classes; run it afresh")
        folds.setdefault(name, fold)
        own[name] = probabilities
    ids, seeds = tuple(sorted(truth)), tuple(sorted({seed for seed, _ in found}))
    if not ids:
        raise FlickerError(f"{where}: no predictions; run the folds first")
    table: dict[str, list[list[list[float]]]] = {name: [] for name in SELECTIONS}
    for selection in SELECTIONS:
        for seed in seeds:
            own = found.get((seed, selection), {})
            if missing := [name for name in ids if name not in own]:
                what = f"{len(missing)} clips have no prediction (seed {seed}, {selection}), first {missing[0]}"
                raise FlickerError(f"{where}: {what}; run the missing folds")
            table[selection].append([own[name] for name in ids])
    labels = np.array([truth[name] for name in ids], np.int64)
    names = tuple(folds[name] for name in ids)
    values = {name: np.array(rows, np.float64) for name, rows in table.items()}
    return Predictions(tuple(classes), ids, labels, names, seeds, values)
