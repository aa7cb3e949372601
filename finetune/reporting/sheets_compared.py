"""The tables of a report about several runs: scores side by side, tests of significance, differing settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.fold import SELECTIONS
from finetune.reporting import statistics
from finetune.reporting.finished import Run
from finetune.reporting.sheets import LEAKS, SHOWN, figure, method, ranged
from finetune.reporting.tables_out import Sheet


def names(runs: Sequence[Run]) -> list[str]:
    """A short name per run, numbered: 'A: micron, pretrained'; with its folder where several are called the same."""
    plain = [run.name for run in runs]
    return [
        f"{label(place)}: {run.name}" + (f" ({run.results.out.name})" if plain.count(run.name) > 1 else "")
        for place, run in enumerate(runs)
    ]


def label(place: int) -> str:
    """A, B, ... Z, then 27, 28, ..."""
    return chr(ord("A") + place) if place < 26 else str(place + 1)


def listed(runs: Sequence[Run]) -> Sheet:
    """What each run is, and where it lies."""
    rows = []
    for name, run in zip(names(runs), runs, strict=True):
        figures = run.figures
        data, counts = f"{figures['dataset']} {figures['scheme']}", (str(figures["clips"]), str(figures["subjects"]))
        marks = [finding["name"] for finding in figures["findings"]] + (
            ["simulated data"] if figures["simulated"] else []
        )
        rows.append([name, str(run.results.out), data, figures["protocol"], *counts, ", ".join(marks)])
    head = ("Run", "directory", "data", "protocol", "clips", "subjects", "mind")
    return Sheet("Runs", head, rows, texts=(0, 1, 2, 3, 6), key="listed")


def overview(runs: Sequence[Run]) -> Sheet:
    """One row per run: its scores by selection, and the optimism of the published protocol."""
    rows = []
    for name, run in zip(names(runs), runs, strict=True):
        figures, seeds = run.figures, len(run.figures["seeds"])
        last = (ranged(figures["scores"]["last"][key], seeds) for key in SHOWN)
        others = (ranged(figures["scores"][selection]["uf1"], seeds) for selection in SELECTIONS[1:])
        rows.append([name, *last, *others, f"{figures['optimism']['uf1']:+.3f}"])
    shown = (f"{title}, last" for title in SHOWN.values())
    head = ("Run", *shown, "UF1, inner", f"UF1, oracle ({LEAKS})", "optimism (oracle − last)")
    alike = len({(run.figures["subjects"], len(run.figures["seeds"])) for run in runs}) == 1
    note = (
        "± is the standard deviation over seeds, [ ] the percentile interval of a bootstrap over each run's subjects."
    )
    return Sheet("Scores of all runs", head, rows, method(runs[0]) if alike else note, key="overview")


def paper(runs: Sequence[Run]) -> Sheet:
    """The table for a paper: a row per run and selection, an interval where there is room."""
    rows = []
    for name, run in zip(names(runs) if len(runs) > 1 else [run.name for run in runs], runs, strict=True):
        for selection in SELECTIONS:
            scores = run.figures["scores"][selection]
            one, two = (ranged(scores[key], 1) for key in ("uf1", "uar"))
            shown = f"oracle ({LEAKS})" if selection == "oracle" else selection
            rows.append(
                [name, shown, one, two, *(figure(scores[key]["mean"]) for key in ("accuracy", "weighted_f1"))]
            )
    strong, leaks = tuple(range(0, len(rows), 3)), tuple(range(2, len(rows), 3))
    first = runs[0].figures
    where = f"{first['dataset']} {first['scheme']}, {first['protocol']}. " if len(runs) == 1 else ""
    head = ("Run", "selection", *SHOWN.values())
    note = where + method(runs[0]) if len(runs) == 1 else overview(runs).note
    return Sheet("Recognition", head, rows, note, (0, 1), leaks, strong, "recognition")


def tests(runs: Sequence[Run], rows: Sequence[Mapping[str, Any]]) -> Sheet:
    """Every pair of runs: differences, intervals and p-values."""
    cells = []
    for row in rows:
        pair = f"{label(row['first'])} − {label(row['second'])}"
        if row["refused"]:
            cells.append([pair, row["selection"], f"not tested: {row['refused']}", *[""] * 6])
            continue
        low, high = row["intervals"]["uf1"]
        signed = row["wilcoxon"]
        cells.append(
            [
                pair, row["selection"], f"{row['differences']['uf1']:+.3f} [{low:+.3f}, {high:+.3f}]",
                *(p_value(row["p"][key]) for key in ("uf1", "uar", "accuracy")), p_value(row["holm"]),
                f"{p_value(signed['p'])} ({signed['method']}, {signed['subjects']} subjects differ)", _way(row),
            ]
        )  # fmt: skip
    head = (
        "Pair", "selection", "difference in UF1", "p UF1", "p UAR", "p accuracy", "p UF1, Holm", "p Wilcoxon",
        "permutation test",
    )  # fmt: skip
    return Sheet("Tests between runs", head, cells, _explained(rows), texts=(0, 1, 2, 7, 8), key="tests")


def _way(row: Mapping[str, Any]) -> str:
    """How a pair was permuted."""
    kind = "all" if row["exact"] else "random"
    seeds = f"{row['seeds']} seeds" if row["seeds"] > 1 else "1 seed"
    least = p_value(row["smallest_p"])
    return f"{row['permutations']:,} {kind} exchanges, {row['subjects']} subjects, {seeds}; smallest p {least}"


def _explained(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the tests are, with their formulas."""
    formulas = list(dict.fromkeys(row["formula"] for row in rows if not row["refused"]))
    if not formulas:
        return "No two runs are of the same clips, labels and classes: nothing can be tested."
    return (
        "All tests are two-sided and paired over subjects. Permutation: the two runs' predictions of a subject (all "
        "seeds together) change places; d is the difference of the pooled scores. "
        f"{'; '.join(formulas)}. Seed {statistics.SEED}. [ ]: {statistics.LEVEL:.0%} percentile interval "
        f"over {statistics.RESAMPLES:,} resamples of the same subjects in both runs. Holm: p of UF1 corrected for "
        "the number of pairs of this selection. Wilcoxon: signed ranks of the subjects' accuracies. oracle is not "
        "tested: a difference between leaks says nothing about the recognisers."
    )


def p_value(p: float) -> str:
    """Three significant digits, never a bare zero."""
    return f"{p:.4f}" if p >= 0.001 else f"{p:.1e}"


def settings(runs: Sequence[Run], rows: Sequence[Mapping[str, Any]]) -> Sheet | None:
    """Settings that differ between the runs."""
    cells = [[row["key"], *("–" if value is None else str(value) for value in row["values"])] for row in rows]
    head = ("Setting", *names(runs))
    texts = tuple(range(len(head)))
    return Sheet("Settings that differ", head, cells, texts=texts, key="settings") if cells else None


def of_runs(
    runs: Sequence[Run], tested: Sequence[Mapping[str, Any]], differing: Sequence[Mapping[str, Any]]
) -> dict[str, Sheet]:
    """All tables that compare, by key; none for one run alone."""
    if len(runs) < 2:
        return {}
    found = [listed(runs), overview(runs), tests(runs, tested), settings(runs, differing)]
    return {sheet.key: sheet for sheet in found if sheet is not None}
