"""What a run leaves on disk: folds (one JSON each), results.json, predictions.csv; and how they are read back."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from finetune import metrics
from finetune.fold import SELECTIONS, FoldResult
from shards.errors import FlickerError
from shards.files import atomic_path, read_json, write_json

VERSION = 1
SCORES = metrics.NAMES
SELECTION_TITLES = {
    "last": "last epoch (fixed budget; the headline)",
    "inner": "epoch chosen on held-out training subjects",
    "oracle": "epoch chosen on the test subject: as published, leaks",
}
SIMULATED = "simulated data: not a result on a real dataset"


@dataclass
class Results:
    """A finished run: pooled scores per selection, and all folds."""

    out: Path
    title: str
    """A few words naming the encoder, for tables."""
    dataset: str
    scheme: str
    classes: list[str]
    simulated: bool
    clips: int
    subjects: int
    folds: list[FoldResult]
    selections: dict[str, dict[str, Any]]
    """Selection -> uf1, uar, accuracy, war, weighted_f1 (mean over seeds), the same with '_std', 'per_seed',
    'confusion' [C C]; and 'fold_means': the mean over folds of each fold's own scores, another number."""
    encoder: dict[str, Any]
    validation: dict[str, Any]
    config: dict[str, Any]
    machine: dict[str, Any]
    digest: str
    seconds: dict[str, float] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    """How the prepared inputs came about: clips left out, faces found by a fallback (finetune.inputs.Report)."""
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of several datasets: dataset -> 'clips', 'subjects', 'selections' (as above, of its own clips)."""
    ensemble: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Selection -> scores of the mean of the seeds' probabilities; empty unless asked for."""
    findings: list[dict[str, str]] = field(default_factory=list)
    """What the leak guards found: 'name', 'what', 'severity'."""

    @property
    def optimism(self) -> float:
        """UF1 by `oracle` minus UF1 by `last`: the optimism of the published protocol."""
        return float(self.selections["oracle"]["uf1"] - self.selections["last"]["uf1"])

    def summary(self) -> dict[str, Any]:
        """The content of results.json."""
        label = {"label": SIMULATED} if self.simulated else {}
        values = {key: value for key, value in vars(self).items() if key not in ("out", "folds")}
        titles = {name: SELECTION_TITLES[name] for name in SELECTIONS}
        return {"version": VERSION, **label, **values, "optimism_uf1": self.optimism, "selection_titles": titles}


def fold_path(out: Path, subject: str, seed: int) -> Path:
    """Where a fold's result lies."""
    name = re.sub(r"[^\w.+-]+", "-", subject)
    return out / "folds" / f"{name}-seed{seed}.json"


def write_fold(out: Path, result: FoldResult, digest: str) -> None:
    """Write a fold's result atomically and durably, with the digest of everything it depends on."""
    values = {"version": VERSION, "digest": digest, **asdict(result)}
    write_json(fold_path(out, result.subject, result.seed), values, durable=True)


def read_fold(out: Path, subject: str, seed: int, digest: str) -> FoldResult | None:
    """The stored result of a fold, or None where there is none.

    Raises FlickerError where it comes from another config, other data or another encoder.
    """
    path = fold_path(out, subject, seed)
    found = read_fold_file(path, digest) if path.exists() else None
    if found is not None and found.subject != subject:
        raise FlickerError(f"{path} is of {found.subject}, and {subject} would lie there too; rename one of them")
    return found


def read_fold_file(path: Path, digest: str) -> FoldResult:
    """The fold result in a file. Raises FlickerError as `read_fold`."""
    stored = read_json(path, "fold result")
    if stored.pop("version", None) != VERSION or stored.pop("digest", None) != digest:
        raise FlickerError(
            f"{path} was made with another config, other data or another encoder; "
            "give another --out, or delete the old folds with --fresh true"
        )
    try:
        return FoldResult(**stored)
    except TypeError as error:
        raise FlickerError(f"{path} is not a fold result ({error}); delete it with --fresh true") from None


def pool(folds: Sequence[FoldResult], truth: Mapping[str, int], classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Scores per selection: folds pooled within a seed, joined by clip id, then mean and deviation over seeds.

    Raises FlickerError if a seed's predictions are incomplete or not unique.
    """
    seeds = sorted({fold.seed for fold in folds})
    result = {}
    for selection in SELECTIONS:
        per_seed, confusion = [], np.zeros((len(classes), len(classes)), np.int64)
        means = []
        for seed in seeds:
            own = [fold for fold in folds if fold.seed == seed]
            means.append(metrics.fold_means(np.stack([_counts(fold, selection, len(classes)) for fold in own])))
            pairs = [pair for fold in own for pair in _pairs(fold, selection)]
            true, predicted = metrics.join(truth, pairs)
            scores = metrics.scores(truth=true, predicted=predicted, classes=range(len(classes)))
            confusion += scores.pop("confusion")
            per_seed.append({"seed": seed, **scores})
        figures: dict[str, Any] = {}
        for name in SCORES:
            values = np.array([scores[name] for scores in per_seed])
            figures[name], figures[f"{name}_std"] = float(values.mean()), float(values.std())
        over_folds = {name: float(np.mean([mean[name] for mean in means])) for name in SCORES}
        shown = {"per_seed": per_seed, "confusion": confusion.tolist(), "fold_means": over_folds}
        result[selection] = {**figures, **shown}
    return result


def _counts(fold: FoldResult, selection: str, classes: int) -> np.ndarray:
    """Confusion matrix [C C] of one fold."""
    return metrics.confusion_matrix(truth=fold.truth, predicted=fold.predicted(selection), classes=range(classes))


def _pairs(fold: FoldResult, selection: str) -> Iterator[tuple[str, int]]:
    """(clip id, predicted class) of a fold."""
    return zip(fold.ids, fold.predicted(selection), strict=True)


def write_predictions(path: Path, folds: Sequence[FoldResult], classes: Sequence[str]) -> None:
    """predictions.csv: one row per clip, fold, selection and seed, with every class's probability."""
    head = ["id", "dataset", "subject", "clip", "fold", "seed", "selection", "epoch", "truth", "predicted", "correct"]
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*head, *(f"p_{name}" for name in classes)])
        for fold in folds:
            for selection in SELECTIONS:
                for place, clip in enumerate(fold.ids):
                    probabilities = fold.probabilities[selection][place]
                    truth, predicted = fold.truth[place], int(np.argmax(probabilities))
                    row = [clip, *clip.split("/", 2), fold.subject, fold.seed, selection, fold.epochs[selection]]
                    row += [classes[truth], classes[predicted], int(truth == predicted), *probabilities]
                    writer.writerow(row)


def read_summary(run: Path) -> dict[str, Any]:
    """results.json of a run directory. Raises FlickerError where there is none."""
    return dict(read_json(run / "results.json", "results of a run"))


def read(run: Path) -> Results:
    """The results of a finished run directory, with those of its folds that belong to them.

    Raises FlickerError where results.json is missing or not one.
    """
    stored = read_summary(run)
    known = {name: stored[name] for name in Results.__dataclass_fields__ if name in stored}
    try:
        results = Results(**known, out=run, folds=[])
        seeds = {scores["seed"] for scores in results.selections["last"]["per_seed"]}
    except (TypeError, KeyError) as error:
        raise FlickerError(
            f"{run / 'results.json'} is not the results of a run ({error}); make the run again"
        ) from None
    for path in sorted((run / "folds").glob("*.json")):
        fold = read_json(path, "fold result")
        if fold.get("digest") == results.digest and fold.get("seed") in seeds:
            results.folds.append(read_fold_file(path, results.digest))
    return results
