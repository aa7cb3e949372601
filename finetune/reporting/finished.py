"""A finished run as reports need it: results, predictions, figures, pictures; read back without its dataset."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from finetune import results as stored
from finetune.reporting import examples, predictions, pretraining
from finetune.reporting.analysis import analyse
from finetune.reporting.examples import Example
from finetune.reporting.predictions import Predictions
from finetune.results import Results
from shards.errors import FlickerError

DATA_TEXT = "data.txt"
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Run:
    """One run of a report."""

    results: Results
    predictions: Predictions
    figures: dict[str, Any]
    """`finetune.reporting.analysis.analyse`."""
    examples: list[Example] = field(default_factory=list)
    pretraining: pretraining.Pretraining | None = None
    data: str = ""
    """What the loader found, missed and repaired, and how the inputs came about."""

    @property
    def name(self) -> str:
        """A few words that tell the run from others of a report."""
        return f"{self.figures['head']}, {self.results.title}"


def of(results: Results, table: Predictions) -> Run:
    """The run of results just made or read, with what its directory stores besides."""
    text = results.out / DATA_TEXT
    return Run(
        results=results,
        predictions=table,
        figures=analyse(results, table),
        examples=examples.load(results.out),
        pretraining=pretraining.read(str(results.encoder.get("weights", "")), results.encoder.get("step")),
        data=text.read_text(encoding="utf-8") if text.is_file() else "",
    )


def read(folder: Path) -> Run:
    """A finished run from its directory: results.json, predictions.csv, folds/, examples/, data.txt.

    Raises FlickerError: a file is missing or unreadable, predictions are incomplete or not unique, or their scores
    are not those of results.json.
    """
    results = stored.read(folder)
    table = predictions.read(folder / "predictions.csv", results.classes)
    if len(table.ids) != results.clips:
        raise FlickerError(
            f"{folder}: results.json has {results.clips} clips, predictions.csv {len(table.ids)}; run it afresh"
        )
    run = of(results, table)
    for selection, scores in results.selections.items():
        ours = run.figures["scores"][selection]["uf1"]["mean"]
        if not np.isclose(ours, scores["uf1"], rtol=0, atol=TOLERANCE):
            raise FlickerError(
                f"{folder}: UF1 ({selection}) is {ours:.6f} by predictions.csv, {scores['uf1']:.6f} by results.json; "
                "they are of different runs, run it afresh"
            )
    return run
