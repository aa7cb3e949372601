"""The result tables of five papers as data, and what keeps a published figure from being set beside a run's.

One CSV per paper (Micron-BERT, SLSTT, FRL-DGT, HTNet, FDP), one row per method, dataset and part of every table with
results, the methods that a paper only quotes included. Figures are as printed; what is doubtful about one is said in
`note` (a UAR that is an accuracy elsewhere, two scores that no confusion matrix has both). A paper's tables say which
protocol it follows; how an epoch was chosen is known of some released code alone (`selection`).
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

PAPERS = {"micron_bert": "Micron-BERT", "slstt": "SLSTT", "frl_dgt": "FRL-DGT", "htnet": "HTNet", "fdp": "FDP"}
"""The files, and how the methods of each paper's authors begin."""
ABLATIONS = {
    "micron_bert": ("6",),
    "slstt": (),
    "frl_dgt": ("2", "text 4.3", "text 4.4"),
    "htnet": ("4", "5"),
    "fdp": ("9", "10", "11", "13", "14"),
}
"""Tables that compare variants of one method."""
SELECTIONS = ("last", "oracle", "not stated")
METRICS = ("uf1", "uar", "accuracy", "f1", "war")
COMPOSITE = "megc2019"
_ALIASES = {"flow-maps": COMPOSITE}
_LOSO = {
    "SDE LOSO": "leave one subject out of one dataset",
    "CDE LOSO": "leave one subject out of several datasets together",
}


@dataclass(frozen=True)
class Published:
    """One figure or pair of figures of a table, all shares 0..1."""

    paper: str
    """File name: a key of PAPERS."""
    table: str
    """Number in the paper, or 'text' with the section where a figure stands in the text alone."""
    method: str
    reference: str
    """As the paper cites the method, e.g. '[12]'; '' for its own, and where it gives none."""
    dataset: str
    """As loaders name it; what is tested where datasets differ ('casme2+samm': a mean over both)."""
    scheme: str
    """A class scheme of ours; several with | between where the paper leaves open which."""
    part: str
    """The dataset of a composite that the figure is of; '' for all of it."""
    protocol: str
    """'SDE LOSO' (one dataset), 'CDE LOSO' (composite), LOOCV where the paper writes leave-one-out without saying of
    what, 'cross-dataset A->B', 'none' where nothing is recognised."""
    selection: str
    """How the epoch was chosen: one of SELECTIONS."""
    clips: int | None
    """Clips tested, and subjects, where the paper states them of this figure's classes."""
    subjects: int | None
    uf1: float | None
    uar: float | None
    accuracy: float | None
    f1: float | None
    """Printed as F1 where the paper does not say that it is the macro mean (that one is `uf1`)."""
    war: float | None
    printed: str
    """The figures as they stand in the paper, with the column's name."""
    note: str
    """What else must be known; '; ' between remarks. What cannot be right as printed begins with 'doubtful'."""
    other: Mapping[str, float] = field(default_factory=dict)
    """Further figures by name: parameters_millions, training_seconds, milliseconds, statistic, p_value, ..."""

    @property
    def schemes(self) -> tuple[str, ...]:
        """The class schemes it may be of; () where nothing is stated."""
        return tuple(filter(None, self.scheme.split("|")))

    @property
    def own(self) -> bool:
        """Whether the method is the paper's own, not one it quotes or runs for comparison."""
        return self.method.startswith(PAPERS[self.paper])

    @property
    def ablation(self) -> bool:
        """Whether the table compares variants of one method."""
        return self.table in ABLATIONS[self.paper]

    @property
    def doubtful(self) -> bool:
        """Whether the note says that a figure cannot be right as printed."""
        return "doubtful" in self.note

    @property
    def scored(self) -> bool:
        """Whether it has a score of recognition (the others have run times or statistics)."""
        return any(getattr(self, name) is not None for name in METRICS)


def rows(dataset: str | None = None, scheme: str | None = None) -> list[Published]:
    """Rows of all papers in the tables' order; of one dataset (a composite's part too), of one class scheme.

    Ready-made flow maps are the composite (megc2019). Given a dataset or scheme, rows without a score are left out;
    an unknown name gives no rows.
    """
    found = [row for row in _all() if row.scored or (dataset is None and scheme is None)]
    if dataset is not None:
        name = _ALIASES.get(dataset, dataset)
        found = [row for row in found if name in (row.part, *row.dataset.split("+")) and name]
    if scheme is not None:
        found = [row for row in found if scheme.lower() in (known.lower() for known in row.schemes)]
    return found


@functools.cache
def _all() -> tuple[Published, ...]:
    return tuple(row for paper in PAPERS for row in _read(paper))


def _read(paper: str) -> Iterator[Published]:
    """The rows of one file."""
    text = resources.files(__name__).joinpath(f"{paper}.csv").read_text(encoding="utf-8")
    for cells in csv.DictReader(text.splitlines()):
        counts = {name: int(cells.pop(name) or 0) or None for name in ("clips", "subjects")}
        values = {name: float(text) if (text := cells.pop(name)) else None for name in METRICS}
        pairs = [pair.partition("=") for pair in cells.pop("other").split(";") if pair]
        other = {name: float(value) for name, _, value in pairs}
        yield Published(paper=paper, **cells, **counts, **values, other=other)  # type: ignore[arg-type]


def differences(published: Published, ours: Mapping[str, Any], selection: str = "last") -> list[str]:
    """What differs between a published figure and one of our runs, in words; [] where nothing is known to.

    Args:
        published: the row.
        ours: the summary of a run, as results.json holds it.
        selection: which of the run's figures stands beside it.
    """
    dataset = _ALIASES.get(ours["dataset"], ours["dataset"])
    parts: Mapping[str, Any] = ours.get("parts") or {}
    inside = bool(published.part) and published.part in parts
    where = published.part if dataset == published.part or inside else published.dataset
    found = ["data: real, ours simulated"] if ours.get("simulated") else []
    if dataset not in (published.dataset, published.part) and not inside:
        shown = f"{published.part} in {published.dataset}" if published.part else published.dataset or "not stated"
        found.append(f"dataset: {shown}, ours {dataset}")
    found += _classes(published, str(ours["scheme"]))
    found += _protocol(published, ours, several=len(parts) > 1 or dataset == COMPOSITE)
    found += _selection(published, selection)
    counted: Mapping[str, Any] = parts.get(where, ours)
    if published.part in ("", dataset) or inside:
        for name, count in (("clips", published.clips), ("subjects", published.subjects)):
            if count and count != counted[name]:
                found.append(f"{name}: {count}, ours {counted[name]}")
    return found


def _classes(published: Published, scheme: str) -> list[str]:
    """Difference of the class schemes."""
    if scheme not in published.schemes:
        return [f"classes: {' or '.join(published.schemes) or 'not stated'}, ours {scheme}"]
    if len(published.schemes) > 1:
        return [f"classes: {' or '.join(published.schemes)}, the paper does not say which; ours {scheme}"]
    return []


def _protocol(published: Published, ours: Mapping[str, Any], several: bool) -> list[str]:
    """Difference of the protocols."""
    theirs, code = published.protocol, protocol_of(ours, several)
    if theirs == code:
        return []
    shown = _LOSO.get(theirs, theirs)
    if theirs.endswith("LOOCV"):
        scope = "one dataset" if theirs.startswith("SDE") else "several datasets together"
        shown = f"leave-one-out of {scope}, whether of subjects or of clips is not stated"
    elif theirs == "SDE LOSO" and published.part:
        shown = f"{shown} ({published.part} alone, although in a column of the composite)"
    return [f"protocol: {shown}, ours {_LOSO.get(code, code)}"]


def protocol_of(ours: Mapping[str, Any], several: bool) -> str:
    """A run's protocol as the tables' `protocol` has it; `several`: its clips are of several datasets."""
    settings: Mapping[str, Any] = ours.get("config", {}).get("protocol", {})
    kind = settings.get("kind", "loso")
    if kind == "loso":
        return "CDE LOSO" if several else "SDE LOSO"
    if kind == "cross":
        return f"cross-dataset {'+'.join(settings['train_on'])}->{'+'.join(settings['test_on'])}"
    return {"kfold": f"{settings.get('folds')} groups of subjects", "lodo": "leave one dataset out"}.get(kind, kind)


def _selection(published: Published, selection: str) -> list[str]:
    """Difference of how the epoch is chosen."""
    theirs = {
        "oracle": "on the test subject (a leak)",
        "last": "the last of a fixed budget",
        "not stated": "how is not stated",
    }[published.selection]
    own = {
        "oracle": "on the test subject (a leak)",
        "last": "the last of a fixed budget",
        "inner": "on held-out training subjects",
    }.get(selection, selection)
    return [] if published.selection == selection else [f"epoch: {theirs}, ours {own}"]
