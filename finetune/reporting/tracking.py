"""A recognition run in wandb: one run per protocol, however many folds, seeds and ranks it has.

Offline unless WANDB_MODE says otherwise; WANDB_MODE=disabled costs nothing. The run's id is kept in its directory, so
that a run that is continued (more seeds, a new report) stays one run in wandb too.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from finetune.config import FinetuneConfig
from finetune.fold import SELECTIONS, FoldResult
from finetune.results import SCORES, Results
from shards.errors import FlickerError
from shards.files import read_json, write_json

log_lines = logging.getLogger(__name__)
PROJECT = "flicker-recognition"
ID_FILE = "wandb-run.json"
FOLD_COLUMNS = ["fold", "seed", "clips", *(f"accuracy {name}" for name in SELECTIONS)]
FOLD_COLUMNS += ["epoch inner", "epoch oracle", "seconds"]


def log(results: Results, config: FinetuneConfig) -> str | None:
    """Tell wandb about a finished run: curves, fold table, confusion matrices, scores; returns the wandb run's id.

    Call it on one rank, when everything else is written: a wandb that does not start is a warning, no failure.
    Groups by WANDB_RUN_GROUP, else by dataset and scheme. None where WANDB_MODE is disabled or wandb did not start.
    """
    if os.environ.get("WANDB_MODE") == "disabled":
        return None
    from pretrain.tracking import Tracker  # imports wandb: seconds that a disabled one need not cost

    out = Path(results.out)
    group = f"{results.dataset} {results.scheme}"
    try:
        tracker = Tracker(out, asdict(config), PROJECT, stored_id(out), active=True, group=group)
    except FlickerError as error:
        log_lines.warning("%s; the run itself is complete in %s", error, out)
        return None
    write_json(out / ID_FILE, {"id": tracker.run_id})
    for epoch, figures in enumerate(curves(results.folds), 1):
        tracker.show(figures, step=epoch)
    tracker.table("folds", FOLD_COLUMNS, fold_rows(results.folds))
    for name in SELECTIONS:
        counts = np.array(results.selections[name]["confusion"])
        tracker.confusion(f"confusion {name}", counts, results.classes)
    tracker.summary(summary(results))
    tracker.close()
    return tracker.run_id


def stored_id(out: Path) -> str | None:
    """The wandb id of a run directory that was logged before."""
    path = out / ID_FILE
    return str(read_json(path, "wandb run id")["id"]) if path.is_file() else None


def curves(folds: Sequence[FoldResult]) -> list[dict[str, float]]:
    """Per epoch: the mean over folds and seeds of loss, UF1 of held training subjects, accuracy of test clips."""
    clips = [len(fold.ids) for fold in folds]
    loss = np.mean([fold.loss for fold in folds], axis=0)
    inner = np.mean([fold.inner_uf1 for fold in folds], axis=0)
    test = np.average([fold.test_accuracy for fold in folds], axis=0, weights=clips)
    return [
        {"loss": float(a), "inner/uf1": float(b), "test/accuracy": float(c)}
        for a, b, c in zip(loss, inner, test, strict=True)
    ]


def fold_rows(folds: Sequence[FoldResult]) -> list[list[Any]]:
    """A row per fold and seed, columns as in FOLD_COLUMNS."""
    rows: list[list[Any]] = []
    for fold in folds:
        shares = [float(np.equal(fold.predicted(name), fold.truth).mean()) for name in SELECTIONS]
        chosen = [fold.epochs[name] for name in ("inner", "oracle")]
        rows.append([fold.subject, fold.seed, len(fold.ids), *shares, *chosen, fold.seconds])
    return rows


def summary(results: Results) -> dict[str, Any]:
    """Pooled scores by selection, and what else tells runs apart."""
    scores = {f"{name}/{score}": results.selections[name][score] for name in SELECTIONS for score in SCORES}
    about = {"clips": results.clips, "subjects": results.subjects, "simulated": results.simulated}
    return {**scores, "optimism_uf1": results.optimism, "findings": len(results.findings), **about}
