"""Finished runs made up without training: what reports read from a run's directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from finetune import results as stored
from finetune.fold import SELECTIONS, FoldResult
from finetune.results import Results
from shards.files import write_json

CLASSES = ["negative", "positive", "surprise"]
SKILL = {"last": 0.5, "inner": 0.55, "oracle": 0.8}
EPOCHS = 4


def folds(
    seed: int = 0,
    seeds: tuple[int, ...] = (0, 1),
    people: int = 6,
    clips: int = 5,
    skill: dict[str, float] | None = None,
    datasets: tuple[str, ...] = ("casme2",),
) -> list[FoldResult]:
    """Leave-one-subject-out folds whose predictions are right with probability `skill` of the selection."""
    labels = np.random.default_rng(7)
    truth = {
        f"{dataset}/sub{person:02d}/c{clip}": int(labels.integers(len(CLASSES)))
        for dataset in datasets
        for person in range(people)
        for clip in range(clips)
    }
    chance = np.random.default_rng(seed)
    found = []
    for number in seeds:
        for name in sorted({clip.rpartition("/")[0] for clip in truth}):
            ids = [clip for clip in truth if clip.rpartition("/")[0] == name]
            own = [truth[clip] for clip in ids]
            probabilities = {
                selection: [_row(chance, label, (skill or SKILL)[selection]) for label in own]
                for selection in SELECTIONS
            }
            found.append(_fold(name.split("/")[1] if len(datasets) == 1 else name, number, ids, own, probabilities))
    return found


def _row(chance: np.random.Generator, label: int, skill: float) -> list[float]:
    """Probabilities whose largest is at `label` in a share `skill` of the calls."""
    values = np.sort(chance.dirichlet(np.ones(len(CLASSES))))[::-1]
    top = label if chance.random() < skill else int((label + chance.integers(1, len(CLASSES))) % len(CLASSES))
    order = [top, *(other for other in range(len(CLASSES)) if other != top)]
    row = np.empty(len(CLASSES))
    row[order] = values
    return row.round(6).tolist()


def _fold(name: str, seed: int, ids: list[str], truth: list[int], probabilities: dict[str, Any]) -> FoldResult:
    return FoldResult(
        subject=name,
        seed=seed,
        ids=ids,
        truth=truth,
        epochs={"last": EPOCHS, "inner": 2, "oracle": 3},
        probabilities=probabilities,
        by_epoch=[truth] * EPOCHS,
        loss=[1.0, 0.8, 0.6, 0.5],
        inner_uf1=[0.2, 0.4, 0.4, 0.3],
        test_accuracy=[0.3, 0.5, 0.6, 0.5],
        held_subjects=[["sub01"]],
        absent_classes=[],
        seconds=0.1,
    )


def results(out: Path, made: list[FoldResult], title: str = "native", **more: Any) -> Results:
    """The results of these folds."""
    truth = {name: label for fold in made for name, label in zip(fold.ids, fold.truth, strict=True)}
    values: dict[str, Any] = {
        "out": out,
        "title": title,
        "dataset": "casme2",
        "scheme": "C2-3",
        "classes": CLASSES,
        "simulated": False,
        "clips": len(truth),
        "subjects": len({name.rpartition("/")[0] for name in truth}),
        "folds": made,
        "selections": stored.pool(made, truth, CLASSES),
        "encoder": {"title": title, "weights": "none: trained from the start in every fold"},
        "validation": {},
        "config": {"head": {"name": "htnet"}, "train": {"epochs": EPOCHS}, "protocol": {"kind": "loso"}},
        "machine": {"device": "CPU"},
        "digest": "d" * 32,
        "seconds": {"prepare": 1.0, "folds": 2.0},
    }
    return Results(**values | more)


def run(out: Path, made: list[FoldResult] | None = None, **more: Any) -> Path:
    """A finished run's directory."""
    found = results(out, folds() if made is None else made, **more)
    for fold in found.folds:
        stored.write_fold(out, fold, found.digest)
    stored.write_predictions(out / "predictions.csv", found.folds, found.classes)
    write_json(out / "results.json", found.summary())
    return out
