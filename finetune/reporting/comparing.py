"""Runs beside each other: tests of significance on the same clips, differing settings, and the papers' figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

from finetune import published
from finetune.reporting import statistics
from finetune.reporting.finished import Run

TESTED = ("last", "inner")
"""Selections that are tested. Not `oracle`: a difference between two leaks says nothing about the recognisers."""
SKIPPED = ("out", "compare", "fresh", "data.cache", "data.workers", "backbone.compare_random", "wait_minutes")
"""Settings that change no result."""


def tests(runs: Sequence[Run], selections: Sequence[str] = TESTED) -> list[dict[str, Any]]:
    """Every pair of runs and selection: differences of the scores with interval and p, or why it was refused.

    Paired over subjects. 'holm' is the permutation p of UF1 corrected for the number of pairs of the selection.
    """
    rows = [_test(runs, a, b, selection) for selection in selections for a, b in combinations(range(len(runs)), 2)]
    for selection in selections:
        own = [row for row in rows if row["selection"] == selection and not row["refused"]]
        for row, p in zip(own, statistics.holm([row["p"]["uf1"] for row in own]), strict=True):
            row["holm"] = p
    return rows


def _test(runs: Sequence[Run], a: int, b: int, selection: str) -> dict[str, Any]:
    """One pair. Runs of different numbers of seeds are compared on the first seeds of each."""
    one, two = runs[a].predictions, runs[b].predictions
    row: dict[str, Any] = {"first": a, "second": b, "selection": selection, "refused": one.same_clips(two)}
    if row["refused"]:
        return row
    seeds = min(len(one.seeds), len(two.seeds))
    first, second = one.counts(selection)[:seeds], two.counts(selection)[:seeds]
    exchange = statistics.permutation(first, second)
    signed = statistics.wilcoxon(statistics.accuracies(first), statistics.accuracies(second))
    return row | {
        "seeds": seeds,
        "subjects": len(one.people),
        "differences": exchange.differences,
        "intervals": statistics.bootstrap_difference(first, second),
        "p": exchange.p,
        "permutations": exchange.permutations,
        "exact": exchange.exact,
        "formula": exchange.formula,
        "smallest_p": exchange.smallest,
        "wilcoxon": signed.as_dict(),
    }


def differing_settings(runs: Sequence[Run], skip: Sequence[str] = SKIPPED) -> list[dict[str, Any]]:
    """Settings (dotted key) that differ between the runs, with each run's value; options of unused heads left out."""
    flat = [_flat(run.results.config) for run in runs]
    heads = {run.figures["head"] for run in runs}
    keys = dict.fromkeys(key for values in flat for key in values)
    rows = []
    for key in keys:
        parts = key.split(".")
        unused = parts[0] == "head" and len(parts) > 2 and parts[1] not in heads
        values = [values.get(key) for values in flat]
        if not unused and key not in skip and any(value != values[0] for value in values[1:]):
            rows.append({"key": key, "values": values})
    return rows


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def beside_published(run: Run) -> list[dict[str, Any]]:
    """Published rows of the run's dataset and scheme, ablations left out, parts of a composite after the whole.

    'whose' is 'paper' for the paper of the run's head and 'others' otherwise; 'differs' lists what keeps the row
    from being compared with the run's headline ([] where nothing is known to), and what is doubtful about it.
    """
    ours = run.results.summary() | {"parts": run.figures["parts"]}
    parts = run.figures["parts"]
    found = []
    for row in published.rows(dataset=run.results.dataset, scheme=run.results.scheme):
        if row.ablation:
            continue
        own = row.own and row.paper.startswith(run.figures["head"])
        simulated = ["data: real, ours simulated"] if run.results.simulated else []
        differs = (
            simulated
            + published.differences(row, ours)
            + [remark for remark in row.note.split("; ") if remark.startswith("doubtful")]
        )
        shown = {
            "source": f"{published.PAPERS[row.paper]}, table {row.table}",
            "whose": "paper" if own else "others",
            "differs": differs,
        }
        found.append(asdict(row) | shown | {"part": row.part if row.part in parts else ""})
    return sorted(found, key=lambda row: (row["part"], row["whose"] != "paper"))
