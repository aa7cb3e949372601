"""The report of one run or of several: report.html (one self-contained page), report.md, report.json, report.tex."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml

from finetune.fold import SELECTIONS, FoldResult
from finetune.prepare import Prepared
from finetune.reporting import (
    charts,
    comparing,
    examples,
    figures,
    finished,
    predictions,
    sheets,
    sheets_compared,
    tables_out,
)
from finetune.reporting.finished import Run
from finetune.reporting.tables_out import Sheet
from finetune.results import SELECTION_TITLES, SIMULATED, Results
from shards.files import write_json, write_text

TEMPLATES = Path(__file__).parent / "templates"
VERSION = 1
STYLES = {"last": "accent", "inner": "inner", "oracle": "leak"}


def write(results: Results, prepared: Prepared, compare: Sequence[str] = ()) -> Path:
    """The report of a run just made, into its directory, with what later reports need; returns report.html's path.

    `compare` are other run directories that are shown beside it. Raises FlickerError where one of them is no finished
    run, or where predictions are incomplete or not unique.
    """
    table = predictions.from_folds(results.folds, results.classes)
    examples.store(prepared, table, results.out)
    text = "\n\n".join(filter(None, [prepared.validation.text(), prepared.material.text]))
    write_text(results.out / finished.DATA_TEXT, text + "\n")
    figures.write_confusions(results.out / "confusion.png", results)
    runs = [finished.of(results, table), *(finished.read(Path(name)) for name in compare)]
    return write_runs(runs, results.out, detailed=1)


def write_folders(folders: Sequence[Path], out: Path) -> Path:
    """One report of several finished runs, read from their directories. Raises FlickerError as `finished.read`."""
    return write_runs([finished.read(folder) for folder in folders], out)


def write_runs(runs: Sequence[Run], out: Path, detailed: int | None = None) -> Path:
    """The four files of a report; the first `detailed` runs (all by default) have a section of their own."""
    values = context(runs, len(runs) if detailed is None else detailed)
    write_text(out / "report.html", render(values))
    write_text(out / "report.md", markdown(values))
    write_text(out / "report.tex", latex(values))
    write_json(out / "report.json", as_json(values))
    return out / "report.html"


def render(values: Mapping[str, Any]) -> str:
    """The page. Everything that comes from data is escaped by the template engine."""
    return _environment().get_template("report.html").render(values)


@functools.cache
def _environment() -> jinja2.Environment:
    """The template engine, its templates compiled once."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = sheets.figure
    return environment


def context(runs: Sequence[Run], detailed: int) -> dict[str, Any]:
    """Everything that the four files show."""
    tested = comparing.tests(runs)
    published = [comparing.beside_published(run) for run in runs]
    several = len(runs) > 1
    return {
        "runs": runs,
        "tests": tested,
        "published": published,
        "simulated_label": SIMULATED,
        "simulated": any(run.results.simulated for run in runs),
        "compared": sheets_compared.of_runs(runs, tested, comparing.differing_settings(runs)),
        "compared_chart": charts.forest(compared_rows(runs), "UF1 of all runs, by selection") if several else "",
        "names": sheets_compared.names(runs) if several else [run.name for run in runs],
        "sections": [section(run, rows) for run, rows in zip(runs[:detailed], published, strict=False)],
    }


def section(run: Run, published: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One run's part of the page."""
    found, results = run.figures, run.results
    calibrations = {
        name: charts.reliability(row["counts"], row["confidence"], row["accuracy"], f"reliability, {name}")
        for name, row in found["calibration"].items()
    }
    return {
        "run": run,
        "results": results,
        "figures": found,
        "sheets": sheets.of_run(run, published),
        "scores_chart": charts.forest(selection_rows(run), "UF1 by selection"),
        "published_chart": published_chart(run, published),
        "confusions": {
            name: charts.confusion(np.array(counts), found["classes"], name)
            for name, counts in found["confusion"].items()
        },
        "subjects_chart": charts.subjects(found["per_subject"]),
        "calibrations": calibrations,
        "curves": training_curves(results.folds),
        "absent": absent_classes(results.folds),
        "titles": SELECTION_TITLES,
        "config": yaml.safe_dump(results.config, sort_keys=False),
    }


def selection_rows(run: Run, prefix: str = "") -> list[tuple[str, str, float, float | None, float | None]]:
    """Rows of a forest chart: UF1 by selection."""
    scores = {name: run.figures["scores"][name]["uf1"] for name in SELECTIONS}
    titles = {"last": "last", "inner": "inner", "oracle": "oracle (leaks)"}
    return [
        (prefix + titles[name], STYLES[name], score["mean"], score["low"], score["high"])
        for name, score in scores.items()
    ]


def compared_rows(runs: Sequence[Run]) -> list[tuple[str, str, float, float | None, float | None]]:
    """Rows of a forest chart: UF1 of every run by selection."""
    places = range(len(runs))
    return [row for place in places for row in selection_rows(runs[place], f"{sheets_compared.label(place)} · ")]


def published_chart(run: Run, published: Sequence[Mapping[str, Any]]) -> str:
    """UF1 of the papers' rows for the whole dataset, and ours with intervals; '' where none is published.

    A figure that several papers quote is one row.
    """
    quoted: dict[tuple[str, float], list[str]] = {}
    for row in published:
        if not row["part"] and row["uf1"] is not None:
            quoted.setdefault((row["method"], round(row["uf1"], 3)), []).append(row["source"].split(",")[0])
    if not quoted:
        return ""
    theirs = [
        (f"{name} ({', '.join(papers)})", "muted", value, None, None) for (name, value), papers in quoted.items()
    ]
    ordered = sorted(theirs, key=lambda row: row[2])
    return charts.forest([*ordered, *selection_rows(run, "ours, ")], "published UF1 and ours")


def training_curves(folds: Sequence[FoldResult]) -> list[str]:
    """Charts of the mean over all folds and seeds, by epoch; [] where the folds are not at hand."""
    if not folds:
        return []
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


def markdown(values: Mapping[str, Any]) -> str:
    """report.md: what the page's tables say."""
    lines = [f"# {title(values)}", ""]
    lines += [f"**{SIMULATED}**", ""] if values["simulated"] else []
    if values["compared"]:
        lines += ["## Comparison", "", *map(tables_out.markdown, values["compared"].values())]
    for place, part in enumerate(values["sections"]):
        gap = part["figures"]["optimism"]
        lines += [f"## {values['names'][place]}", "", describe(part["run"]), ""]
        lines += [
            f"**Optimism of the published protocol** (UF1, oracle − last): {gap['uf1']:+.3f} "
            f"[{gap['low']:+.3f}, {gap['high']:+.3f}]",
            "",
        ]
        lines += map(tables_out.markdown, part["sheets"].values())
    return "\n".join(lines)


def title(values: Mapping[str, Any]) -> str:
    """The report's heading."""
    runs = values["runs"]
    if len(runs) > 1:
        return f"Micro-expression recognition: {len(runs)} runs"
    return f"Micro-expression recognition on {runs[0].results.dataset}, {len(runs[0].results.classes)} classes"


def describe(run: Run) -> str:
    """A run in a line."""
    found, seeds = run.figures, len(run.figures["seeds"])
    return (
        f"Scheme {found['scheme']} · {found['clips']} clips of {found['subjects']} subjects · {found['protocol']}, "
        f"{found['folds']} folds · {seeds} seed{'s' if seeds > 1 else ''} · {run.name}"
    )


def latex(values: Mapping[str, Any]) -> str:
    """report.tex: tables for a paper, to be read by \\input; needs the package booktabs."""
    simulated = f"% {SIMULATED}\n" if values["simulated"] else ""
    compared = values["compared"]
    found: list[Sheet] = [sheets_compared.paper(values["runs"])]
    found += [compared["tests"].only((0, 1, 2, 3, 6, 7))] if compared else []
    for part in values["sections"]:
        own = part["sheets"]
        found += [own[key] for key in own if key == "parts"]
        found += [own[key].only((1, 2, 3, 4, 5, 6, 8)) for key in own if key.startswith("published")]
    return f"% \\usepackage{{booktabs}}\n{simulated}" + "\n".join(map(tables_out.latex, found))


def as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """report.json: every number of the report."""
    runs: Sequence[Run] = values["runs"]
    rows = zip(runs, values["names"], values["published"], strict=True)
    return {
        "version": VERSION,
        **({"label": SIMULATED} if values["simulated"] else {}),
        "runs": [run.figures | {"name": name, "published": published} for run, name, published in rows],
        "tests": values["tests"],
    }
