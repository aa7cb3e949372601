"""report.html: one self-contained page about a run, and how it compares with others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml

from finetune import charts, figures, metrics, pretraining
from finetune.examples import examples
from finetune.fold import SELECTIONS, FoldResult
from finetune.prepare import Prepared
from finetune.results import SELECTION_TITLES, SIMULATED, Results, read_summary
from shards.errors import FlickerError
from shards.files import write_text

TEMPLATES = Path(__file__).parent / "templates"


def write(results: Results, prepared: Prepared, compare: Sequence[str] = ()) -> Path:
    """Write report.html and confusion.png into the run; returns the report's path.

    `compare` are other run directories whose results.json are shown beside this one's.

    Raises FlickerError where one of them has none, or another dataset, scheme or set of clips.
    """
    page = render(context(results, prepared, compare))
    path = results.out / "report.html"
    write_text(path, page)
    figures.write_confusions(results.out / "confusion.png", results)
    return path


def render(values: dict[str, Any]) -> str:
    """The page. Everything that comes from data is escaped by the template engine."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["figure"] = lambda value: "–" if value is None or np.isnan(value) else f"{value:.3f}"
    return environment.get_template("report.html").render(values)


def context(results: Results, prepared: Prepared, compare: Sequence[str]) -> dict[str, Any]:
    """Everything the template shows."""
    confusions = {
        name: charts.confusion(np.array(scores["confusion"]), results.classes, name)
        for name, scores in results.selections.items()
    }
    return {
        "results": results,
        "titles": SELECTION_TITLES,
        "simulated_label": SIMULATED,
        "confusions": confusions,
        "per_class": per_class(results),
        "subjects_chart": charts.subjects(per_subject(results.folds)),
        "curves": training_curves(results.folds),
        "examples": examples(prepared, results.folds),
        "runs": comparison(results, compare),
        "pretraining": pretraining_of(results, prepared),
        "validation": "\n\n".join(filter(None, [prepared.validation.text(), prepared.material.text])),
        "absent": absent_classes(results.folds),
        "config": yaml.safe_dump(results.config, sort_keys=False),
    }


def pretraining_of(results: Results, prepared: Prepared) -> pretraining.Pretraining | None:
    """How the encoder was pretrained; None for random weights and where its run's log is not beside it."""
    if prepared.backbone is None or not prepared.backbone.pretrained or "weights" not in results.encoder:
        return None
    return pretraining.read(str(results.encoder["weights"]), results.encoder.get("step"))


def per_class(results: Results) -> list[dict[str, Any]]:
    """Per class over all seeds, selection `last`: f1, recall, precision (None where undefined) and clips."""
    counts = np.array(results.selections["last"]["confusion"])
    values = metrics.class_scores(counts)
    seeds = len({fold.seed for fold in results.folds})
    rows = []
    for place, name in enumerate(results.classes):
        row: dict[str, Any] = {"name": name, "clips": int(values["support"][place]) // seeds}
        for key in ("f1", "recall", "precision"):
            value = float(values[key][place])
            row[key] = None if np.isnan(value) else value
        rows.append(row)
    return rows


def per_subject(folds: Sequence[FoldResult]) -> list[dict[str, float | str]]:
    """Accuracy per subject and selection, mean over seeds; in order of subject."""
    rows: list[dict[str, float | str]] = []
    for subject in sorted({fold.subject for fold in folds}):
        own = [fold for fold in folds if fold.subject == subject]
        row: dict[str, float | str] = {"subject": subject, "clips": len(own[0].ids)}
        for name in SELECTIONS:
            row[name] = float(np.mean([np.equal(fold.predicted(name), fold.truth).mean() for fold in own]))
        rows.append(row)
    return rows


def training_curves(folds: Sequence[FoldResult]) -> list[str]:
    """Charts of the mean over all folds and seeds, by epoch."""
    loss = np.mean([fold.loss for fold in folds], axis=0)
    inner = np.mean([fold.inner_uf1 for fold in folds], axis=0)
    clips = [len(fold.ids) for fold in folds]
    test = np.average([fold.test_accuracy for fold in folds], axis=0, weights=clips)
    top = float(np.ceil(max(loss.max(), 0.1) * 10) / 10)
    watched = [("UF1, held training subjects", "inner-line", inner), ("accuracy, test subjects", "leak-line", test)]
    return [
        charts.curves([("training loss", "accent-line", loss)], "training loss", (0.0, top)),
        charts.curves(watched, "held training subjects (UF1), test subjects (accuracy)", (0.0, 1.0)),
    ]


def absent_classes(folds: Sequence[FoldResult]) -> list[str]:
    """Folds whose training clips lack a class: 'sub01: fear'."""
    return sorted({f"{fold.subject}: {', '.join(fold.absent_classes)}" for fold in folds if fold.absent_classes})


def comparison(results: Results, others: Sequence[str]) -> list[dict[str, Any]]:
    """One row per run, this one first: title, scores by selection. Only runs on the same clips compare."""
    rows = [{"title": results.title, "where": str(results.out), "selections": results.selections}]
    for name in others:
        other = read_summary(Path(name))
        for key in ("dataset", "scheme", "clips", "subjects"):
            if other.get(key) != getattr(results, key):
                raise FlickerError(
                    f"compare: {name} has {key} {other.get(key)}, this run {getattr(results, key)}; "
                    "runs compare on the same clips and classes only"
                )
        rows.append({"title": other["title"], "where": name, "selections": other["selections"]})
    return rows
