"""The tables of a report about one run: `finetune.reporting.analysis` figures as text cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.fold import SELECTIONS
from finetune.reporting import statistics
from finetune.reporting.calibration import BINS
from finetune.reporting.finished import Run
from finetune.reporting.tables_out import Sheet

SHOWN = {"uf1": "UF1", "uar": "UAR", "accuracy": "accuracy = WAR", "weighted_f1": "weighted F1"}
HARD = "\N{NO-BREAK SPACE}"
LEAKS = "as published, leaks"


def figure(value: float | None) -> str:
    """Three decimals, or a dash."""
    return "–" if value is None or value != value else f"{value:.3f}"


def ranged(scores: Mapping[str, float], seeds: int) -> str:
    """'0.705 ± 0.010 [0.640, 0.760]': mean, deviation over several seeds, interval over subjects."""
    spread = f"{HARD}±{HARD}{figure(scores['std'])}" if seeds > 1 else ""
    return f"{figure(scores['mean'])}{spread} [{figure(scores['low'])},{HARD}{figure(scores['high'])}]"


def method(run: Run) -> str:
    """How the intervals came about, in a sentence."""
    people, seeds = run.figures["subjects"], len(run.figures["seeds"])
    over = f"± is the standard deviation over {seeds} seeds. " if seeds > 1 else ""
    return (
        f"{over}[ ] is the {statistics.LEVEL:.0%} percentile interval of {statistics.RESAMPLES:,} bootstrap "
        f"resamples of the {people} subjects (drawn with replacement, seed {statistics.SEED})."
    )


def scores(run: Run) -> Sheet:
    """Pooled scores by selection, the seeds' ensemble where there is one, and what the commonest answer scores."""
    figures = run.figures
    rows = [
        [_selection(name), *(ranged(figures["scores"][name][key], len(figures["seeds"])) for key in SHOWN)]
        for name in SELECTIONS
    ]
    for name, values in figures["ensemble"].items():
        rows.append(
            [f"{_selection(name)}, mean of the seeds' probabilities", *(figure(values.get(key)) for key in SHOWN)]
        )
    common = figures["majority"]
    rows.append([f'always "{common["class"]}"', *(figure(common[key]) for key in SHOWN)])
    leaks = tuple(place for place, row in enumerate(rows) if row[0].startswith("oracle"))
    note = f"The predictions of all folds are pooled into one confusion matrix. {method(run)}"
    return Sheet("Pooled scores", ("Selection", *SHOWN.values()), rows, note, leaks=leaks, strong=(0,), key="scores")


def _selection(name: str) -> str:
    """'oracle (as published, leaks)'."""
    return f"{name} ({LEAKS})" if name == "oracle" else name


def fold_means(run: Run) -> Sheet:
    """Means over folds, which some papers report in place of pooled scores."""
    means = run.figures["fold_means"]
    rows = [[_selection(name), *(figure(means[name][key]) for key in SHOWN)] for name in SELECTIONS]
    note = (
        "Each fold scored alone, then the plain mean over folds (and seeds): every fold weighs the same and a class "
        "it lacks drops out. These are not the pooled scores above, and not comparable with them."
    )
    head = ("Mean over folds", *(f"{title}, fold mean" for title in SHOWN.values()))
    return Sheet("Means over folds", head, rows, note, leaks=(2,), key="fold-means")


def parts(run: Run) -> Sheet | None:
    """Of several datasets: the scores on the clips of each."""
    seeds = len(run.figures["seeds"])
    rows = []
    for name, part in run.figures["parts"].items():
        counts, last = [str(part["clips"]), str(part["subjects"])], part["scores"]["last"]
        others = (figure(part["scores"][selection]["uf1"]["mean"]) for selection in ("inner", "oracle"))
        rows.append([name, *counts, ranged(last["uf1"], seeds), ranged(last["uar"], seeds), *others])
        if mean := part["ensemble"]:
            shown = (mean["last"]["uf1"], mean["last"]["uar"], mean["inner"]["uf1"], mean["oracle"]["uf1"])
            rows.append([f"{name}, mean of the seeds' probabilities", *counts, *map(figure, shown)])
    head = ("Part", "clips", "subjects", "UF1 last", "UAR last", "UF1 inner", f"UF1 oracle ({LEAKS})")
    over = f"± is the standard deviation over {seeds} seeds, " if seeds > 1 else ""
    note = (
        "The pooled predictions filtered by dataset: one model per fold for all datasets together. "
        f"{over}[ ] the {statistics.LEVEL:.0%} percentile interval over resamples of the part's own subjects."
    )
    return Sheet("Datasets of the run", head, rows, note, key="parts") if rows else None


def classes(run: Run) -> Sheet:
    """Per class: F1, recall, precision."""
    found = run.figures["per_class"]
    rows = [
        [
            row["class"], str(row["clips"]), *(figure(row[key]) for key in ("f1", "recall", "precision")),
            figure(inner["f1"]), figure(oracle["f1"]),
        ]
        for row, inner, oracle in zip(found["last"], found["inner"], found["oracle"], strict=True)
    ]  # fmt: skip
    head = ("Class", "clips", "F1", "recall", "precision", "F1 inner", "F1 oracle (leaks)")
    return Sheet("Per class", head, rows, "Selection last where nothing else is said; over all seeds.", key="classes")


def subjects(run: Run) -> Sheet:
    """Per subject: accuracy by selection."""
    rows = [
        [row["subject"], str(row["clips"]), *(figure(row[name]) for name in SELECTIONS)]
        for row in run.figures["per_subject"]
    ]
    head = ("Subject", "clips", "accuracy last", "accuracy inner", "accuracy oracle (leaks)")
    return Sheet("Per subject", head, rows, "Mean over seeds.", key="subjects")


def calibration(run: Run) -> Sheet:
    """How far the probabilities can be believed."""
    found = run.figures["calibration"]
    rows = [[_selection(name), *(figure(found[name][key]) for key in ("ece", "brier", "nll"))] for name in SELECTIONS]
    note = (
        f"ECE: expected calibration error over {BINS} equal bins of the largest probability (Guo et al. 2017). "
        "Brier: mean over clips of Σ (p − y)² over classes, 0 to 2. Both 0 at best. Means over seeds."
    )
    head = ("Selection", f"ECE ({BINS} bins)", "Brier score", "negative log-likelihood")
    return Sheet("Calibration", head, rows, note, leaks=(2,), strong=(0,), key="calibration")


def worst(run: Run) -> Sheet:
    """The surest wrong predictions."""
    seeds = len(run.figures["seeds"])
    rows = [
        [row["clip"], row["truth"], row["predicted"], figure(row["probability"]), f"{row['wrong_seeds']} of {seeds}"]
        for row in run.figures["worst"]
    ]
    head = ("Clip", "true class", "predicted", "probability", "seeds wrong")
    note = "Selection last, by the mean over seeds of the probabilities; the surest first."
    return Sheet("Surest wrong predictions", head, rows, note, texts=(0, 1, 2), key="worst")


def findings(run: Run) -> Sheet | None:
    """What the leak guards found."""
    rows = [[row["severity"], row["name"], row["what"]] for row in run.figures["findings"]]
    head = ("Severity", "finding", "what was found")
    return Sheet("Findings of the leak guards", head, rows, texts=(0, 1, 2), key="findings") if rows else None


def published(run: Run, rows: Sequence[Mapping[str, Any]]) -> list[Sheet]:
    """Paper, others and ours side by side, a table for the whole and for each part that the papers report."""
    by_part: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_part.setdefault(row.get("part") or "", []).append(row)
    return [_published(run, part, own) for part, own in by_part.items() if not part or part in run.figures["parts"]]


def _published(run: Run, part: str, rows: Sequence[Mapping[str, Any]]) -> Sheet:
    """One table of published figures and ours; what differs stands below it, numbered."""
    keys = ("uf1", "uar", "accuracy", "f1", "war")
    notes = list(dict.fromkeys(text for row in rows for text in row["differs"]))
    cells = []
    for row in rows:
        marks = " ".join(f"({place})" for place in sorted(notes.index(text) + 1 for text in row["differs"]))
        shown = (figure(row.get(key)) for key in keys)
        cells.append([row["whose"], row["method"], row["source"], *shown, marks or "nothing known"])
    papers = sum(row["whose"] == "paper" for row in rows)
    ours = run.figures["parts"][part]["scores"] if part else run.figures["scores"]
    for place, name in enumerate(SELECTIONS, papers):
        values = {key: figure(score["mean"]) for key, score in ours[name].items()}
        own = [values["uf1"], values["uar"], values["accuracy"], f"{values['weighted_f1']} weighted", values["war"]]
        cells.insert(place, ["ours", run.name, _selection(name), *own, ""])
    head = ("Whose", "method", "source", "UF1", "UAR", "accuracy", "F1 as published", "WAR", "differs from ours in")
    title = f"Paper, ours, others: {run.results.scheme}" + (f", the {part} part" if part else "")
    note = (
        "Published figures as their tables print them, ablations left out. A row that differs in protocol or "
        "selection is no yardstick for the headline (last); one whose epoch was chosen on the test subject stands "
        "beside oracle."
    )
    key = f"published-{part}" if part else "published"
    numbered = tuple(f"({place}) {text}" for place, text in enumerate(notes, 1))
    return Sheet(title, head, cells, note, (0, 1, 2, 8), (papers + 2,), (papers,), key, numbered)


def of_run(run: Run, rows: Sequence[Mapping[str, Any]]) -> dict[str, Sheet]:
    """All tables of a run by key, in the order of a report."""
    found = [
        findings(run), scores(run), fold_means(run), parts(run), *published(run, rows), classes(run), subjects(run),
        calibration(run), worst(run),
    ]  # fmt: skip
    return {sheet.key: sheet for sheet in found if sheet is not None}
