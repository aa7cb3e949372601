"""What a loader found, missed and repaired, as an object and as text a researcher can read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from finetune.clips import Clip
from shards.errors import FlickerError

SIMULATED_MARKS = ("SIMULATED.txt", ".synthetic.json")
PRIVATE = "not-to-be-published"
FLAGS: Mapping[str, str] = {
    "apex-midpoint": "apex missing or outside onset..offset: the midpoint is used",
    "apex-uncoded": "the dataset codes no apex: the middle of onset and offset is used",
    "apex-spotted": "no apex coded: spotted in the frames (data.apex)",
    "apex-at-onset": "apex = onset: the onset-apex pair shows no motion",
    "apex-at-offset": "apex = offset",
    "onset-nearest": "onset frame has no file: the nearest frame that exists is used",
    "apex-nearest": "apex frame has no file: the nearest frame that exists is used",
    "offset-clamped": "offset lies past the last frame that exists: clamped to it",
    "offset-nearest": "offset frame has no file: the nearest frame that exists is used",
    "onset-known": "onset replaced by the known correction of this row",
    "apex-known": "apex replaced by the known correction of this row",
    "offset-known": "offset replaced by the known correction of this row",
    "au-known": "action units replaced by the known reading of an 'or' in this row",
    "au-or": "the coders could not decide between action units: all are kept",
    "au-unread": "part of the action unit cell could not be read and was left out",
    "folder-case": "clip folder found under another spelling of its name",
    "folder-elsewhere": "clip folder lies below another subject or class: its name counts",
    "folder-twice": "the clip has more than one folder: the first is used",
    "folder-shared": "one of several clips that a row states of the same folder",
    "label-unknown": "label that the dataset does not publish: part of no scheme",
    "label-of-name": "label differs from the one that the clip's name gives: the name counts",
    "objective-missing": "no objective class is given for this clip",
    "total-differs": "stated number of frames differs from offset - onset + 1",
    "known-empty": "published without frames: not used",
    "wrongly-labelled": "row that the authors list as wrongly labelled: left out",
    "au-sheet": "action units taken from the AU sheet, which differs from the label table",
    "not-micro": "the AU sheet does not call this clip a micro-expression",
    "unreadable": "frames listed as damaged by the authors do not open: treated as missing",
    "onset-first": "no onset stated: the clip's first frame is used",
    "offset-last": "no offset stated, or one before the onset: the clip's last frame is used",
    "offset-mirrored": "offset not coded (0): as far after the apex as the onset is before it",
    "apex-second": "ApexF1 missing or outside onset..offset: ApexF2 is used",
    "interval-of-folder": "no frame between the stated onset and offset: the frames of the folder are used",
    "subject-of-clip": "subject differs from the one that the clip's name gives: the name counts",
    "emotion-columns": "emotion text and emotion columns differ: the columns count",
    "au-doubtful": "action units that another reader of this table exchanges between two rows: kept as stated",
    "landmarks-mean": "no landmarks in this row: the mean of the other rows' areas is used",
    PRIVATE: "the subject did not agree to publication: never shown in reports",
    "frames-twice": "files of one folder have the same frame number: the first by name is used",
    "gaps": "frames between onset and offset are missing",
}


@dataclass(frozen=True)
class Repair:
    """One repair or peculiarity: which clip, which flag, and the values before and after."""

    clip: str
    flag: str
    detail: str


@dataclass
class Validation:
    """The outcome of loading a dataset. `text()` prints it; `as_dict()` goes into results.json."""

    dataset: str
    root: str
    workbook: str
    version: str
    images: str
    """Folder that the frames were read from."""
    simulated: bool = False
    """The dataset is marked as simulated (SIMULATED_MARKS): scores on it are no result on a real dataset."""
    found: int = 0
    """Clips loaded."""
    rows: int = 0
    """Rows in the workbook."""
    missing: list[str] = field(default_factory=list)
    """Rows whose folder or frames are missing: 'sub01/EP02_01f: reason'."""
    unlabelled: list[str] = field(default_factory=list)
    """Clip folders without a row."""
    notes: list[str] = field(default_factory=list)
    """What else a reader should know: rows that are no data, what could not be joined."""
    subjects: int = 0
    """Subjects with a clip."""
    published: tuple[int, int | None] | None = None
    """(clips, subjects or None) as published, where known for this version."""
    repairs: list[Repair] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    """Clips per published label."""
    schemes: list[tuple[str, dict[str, int], dict[str, int] | None]] = field(default_factory=list)
    """(scheme, clips per class found, clips per class published or None)."""
    parts: list[Validation] = field(default_factory=list)
    """Of a composite: the outcome for each of its datasets."""

    @property
    def missing_share(self) -> float:
        """Share of the workbook's rows that could not be loaded."""
        return len(self.missing) / max(self.rows, 1)

    def note(self, clip: str, flag: str, detail: str) -> str:
        """Record a repair; returns the flag."""
        self.repairs.append(Repair(clip, flag, detail))
        return flag

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def text(self) -> str:
        """The report as lines of text."""
        lines = [
            f"{self.dataset} {self.version}: {self.found} of {self.rows} clips found in {self.images}",
            *([f"  labels   {self.workbook}"] if self.workbook else []),
            f"  subjects {self.subjects} with a clip" + self._published(),
        ]
        if self.simulated:
            lines.append("  simulated data: scores on it are not a result on a real dataset")
        if self.missing:
            people = len({label.rpartition("/")[0] for label in self.missing})
            lines += [f"  missing  {len(self.missing)} clips of {people} subjects:", *_few(self.missing)]
        if self.unlabelled:
            lines += [f"  folders without a row (not used): {len(self.unlabelled)}", *_few(self.unlabelled)]
        if self.notes:
            lines += ["  notes", *_few(self.notes)]
        lines += self._repair_lines()
        lines += ["  emotions " + ", ".join(f"{name} {n}" for name, n in sorted(self.labels.items()))]
        lines += self._scheme_lines() if self.schemes else []
        return "\n\n".join(["\n".join(lines), *(part.text() for part in self.parts)])

    def _published(self) -> str:
        """The published numbers of clips and subjects, and whether they were found."""
        if self.published is None:
            return ""
        clips, subjects = self.published
        mark = "" if self.found == clips and subjects in (None, self.subjects) else " *"
        people = "" if subjects is None else f" of {subjects} subjects"
        return f" (published: {clips} clips{people}){mark}"

    def _repair_lines(self) -> list[str]:
        """Repairs, grouped by kind."""
        lines = []
        for flag, count in sorted(Counter(repair.flag for repair in self.repairs).items()):
            lines.append(f"  {flag} ({FLAGS.get(flag, '')}): {count}")
            lines += _few([f"{one.clip}: {one.detail}" for one in self.repairs if one.flag == flag and one.detail])
        return lines

    def _scheme_lines(self) -> list[str]:
        """Counts per class scheme beside the published counts."""
        lines = ["", f"  {'scheme':<28}{'class':<12}{'found':>7}{'published':>11}"]
        for scheme, found, published in self.schemes:
            for place, (name, count) in enumerate(found.items()):
                expected = str(published[name]) if published else "-"
                mark = " *" if published and published[name] != count else ""
                lines.append(f"  {scheme if place == 0 else '':<28}{name:<12}{count:>7}{expected:>11}{mark}")
            total = str(sum(published.values())) if published else "-"
            mark = " *" if published and total != str(sum(found.values())) else ""
            lines.append(f"  {'':<28}{'total':<12}{sum(found.values()):>7}{total:>11}{mark}")
        return [*lines, "  * differs from the published count"]


def _few(items: list[str], limit: int = 12) -> list[str]:
    """The first `limit` items, indented, and how many more there are."""
    lines = [f"    {item}" for item in items[:limit]]
    return lines + ([f"    ... and {len(items) - limit} more"] if len(items) > limit else [])


def is_simulated(root: Path) -> bool:
    """Whether the dataset (or the folder that holds it) carries a file that marks it as simulated."""
    folders = (root, root.resolve().parent)
    return any((folder / mark).is_file() for folder in folders for mark in SIMULATED_MARKS)


def count_labels(clips: Iterable[Clip]) -> dict[str, int]:
    """Clips per published label, most frequent first."""
    return dict(Counter(clip.emotion for clip in clips).most_common())


def check_missing(report: Validation, max_missing: float) -> None:
    """Raise FlickerError if a larger share of rows than `max_missing` has no frames."""
    if report.missing_share > max_missing:
        raise FlickerError(
            f"{len(report.missing)} of {report.rows} rows of {report.workbook or report.dataset} have no frames "
            f"under {report.images} (first: {report.missing[0]}); complete the download, or allow it with "
            f"--data.max_missing {report.missing_share + 0.005:.2f}"
        )
