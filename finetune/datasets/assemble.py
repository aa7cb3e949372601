"""From what a table says about a clip, and the frames there are, to `Clip` records; every repair is reported."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from finetune import annotations as cells
from finetune.clips import Clip
from finetune.datasets.finding import FrameFiles, frame_files
from finetune.validation import PRIVATE, Validation, count_labels
from shards.errors import FlickerError

Frames = Mapping[int, Path]
Key = TypeVar("Key", bound=Hashable)


@dataclass
class Entry:
    """A labelled clip as its table (or, without one, its folder) states it: nothing is known of its frames yet."""

    subject: str
    """As `Clip.subject`, e.g. 'sub01'."""
    clip: str
    """As `Clip.clip`: unique within the subject."""
    onset: int
    offset: int
    apex: int | None
    """None: not stated; it is then taken in the middle."""
    emotion: str
    key: Hashable
    """How the loader's tree of frames knows this clip."""
    at: str = ""
    """Where it stands, for messages: 'FILE, row N'."""
    said: str = ""
    """The apex as written, where `apex` is None."""
    units: object = None
    """The cell of action units."""
    objective: int | None = None
    """Objective class (1..7) where the dataset gives one."""
    flags: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """'sub01/EP02_01f', for messages and reports."""
        return f"{self.subject}/{self.clip}"


def interval(row: cells.Row, name: str, onset: str, offset: str) -> tuple[int, int]:
    """The frame numbers in columns `onset` and `offset`. Raises FlickerError naming the row for anything else."""
    found = []
    for column in (onset, offset):
        number = cells.frame_cell(row.cells[column])
        if number is None:
            raise FlickerError(f"{row.at} ({name}): '{column}' is {row.cells[column]!r}; expected a frame number")
        found.append(number)
    return found[0], found[1]


def check_total(entry: Entry, stated: object, report: Validation) -> None:
    """Note where the stated number of frames (a cell; blank: none) is not that of the interval as written."""
    total, counted = cells.frame_cell(stated), entry.offset - entry.onset + 1
    if total is not None and total != counted:
        entry.flags.append(report.note(entry.name, "total-differs", f"stated {total}, counted {counted}"))


def known(entry: Entry, report: Validation, **values: int) -> None:
    """Replace onset, apex or offset by the known correction of this row, and report it."""
    for name, value in values.items():
        if getattr(entry, name) != value:
            entry.flags.append(report.note(entry.name, f"{name}-known", f"{getattr(entry, name)} -> {value}"))
            setattr(entry, name, value)


def tree(found: Iterable[tuple[Key, Path]], report: Validation) -> dict[Key, Path]:
    """Key -> folder; where two folders have one key (by case, padding, a copy), the first counts, as noted."""
    first: dict[Key, Path] = {}
    for key, path in found:
        if first.setdefault(key, path) != path:
            report.note(f"{path.parent.name}/{path.name}", "folder-twice", f"{path}; used: {first[key]}")
    return first


def refuse_duplicates(entries: Iterable[Entry]) -> None:
    """Raise FlickerError if two rows state the same clip."""
    seen: dict[tuple[str, str], str] = {}
    for entry in entries:
        key = (entry.subject.lower(), entry.clip.lower())
        if key in seen:
            row = seen[key].rpartition(", ")[2]
            raise FlickerError(f"{entry.at}: clip {entry.name} is already in {row}; remove one of the two rows")
        seen[key] = entry.at


def clips(
    entries: Iterable[Entry],
    tree: Mapping[Any, Path],
    report: Validation,
    *,
    dataset: str,
    fps: float,
    labels: Collection[str] = (),
    private: Collection[str] = (),
    files: Callable[[Path], Frames] = frame_files,
) -> list[Clip]:
    """The clips of all entries that have frames, in order; the others are noted as missing in `report`.

    Args:
        tree: `Entry.key` -> folder of the clip's frames.
        labels: the dataset's published labels; another one is noted. () to accept all.
        private: subjects whose pictures must not be published.
        files: frame number -> file of such a folder.

    Raises FlickerError where onset and offset of an entry are no interval.
    """
    found = []
    listed: dict[Path, Frames] = {}  # several clips may share a folder

    def frames(entry: Entry) -> Frames | None:
        path = tree.get(entry.key)
        if path is not None and path not in listed:
            listed[path] = files(path)
        return None if path is None else listed[path]

    for entry in entries:
        if entry.onset > entry.offset:
            raise FlickerError(
                f"{entry.at} ({entry.name}): onset {entry.onset} is after offset {entry.offset}; correct the row"
            )
        if entry.subject in private:
            entry.flags.append(PRIVATE)
        if labels and entry.emotion not in labels:
            entry.flags.append(report.note(entry.name, "label-unknown", entry.emotion))
        clip = _clip(entry, frames(entry), report, dataset, fps)
        if clip is not None:
            found.append(clip)
    report.rows, report.found = report.rows or len(found) + len(report.missing), len(found)
    report.subjects, report.labels = len({clip.subject for clip in found}), count_labels(found)
    return found


def _clip(entry: Entry, frames: Frames | None, report: Validation, dataset: str, fps: float) -> Clip | None:
    """One clip, or None (noted as missing)."""
    span = _span(entry, frames, report) if frames else None
    if span is None or frames is None:
        reason = "no folder" if frames is None else "no frame between onset and offset exists"
        report.missing.append(f"{entry.name}: {reason if frames is None or frames else 'no images in its folder'}")
        return None
    if isinstance(frames, FrameFiles) and frames.twice:
        entry.flags.append(report.note(entry.name, "frames-twice", f"{frames.twice} files"))
    units, odd = cells.action_units(entry.units)
    if odd:
        entry.flags.append(report.note(entry.name, "au-unread", " ".join(odd)))
    onset, apex, offset = span
    return Clip(
        dataset=dataset,
        subject=entry.subject,
        clip=entry.clip,
        onset=onset,
        apex=apex,
        offset=offset,
        emotion=entry.emotion,
        aus=units,
        objective=entry.objective,
        fps=fps,
        flags=tuple(entry.flags),
        frames=dict(frames),
    )


def _span(entry: Entry, frames: Frames, report: Validation) -> tuple[int, int, int] | None:
    """(onset, apex, offset) that exist as frames, by the reference's rules; None where none exists."""
    onset, offset = entry.onset, entry.offset

    def note(flag: str, detail: str) -> None:
        entry.flags.append(report.note(entry.name, flag, detail))

    if offset > max(frames) >= onset:
        note("offset-clamped", f"{offset} -> {max(frames)}")
        offset = max(frames)
    inside = [number for number in frames if onset <= number <= offset]
    if not inside:
        return None
    if len(inside) < inside[-1] - inside[0] + 1:
        note("gaps", f"{inside[-1] - inside[0] + 1 - len(inside)} frames")
    apex = entry.apex
    if apex is None or not onset <= apex <= offset:
        midpoint = onset + (offset - onset) // 2
        note("apex-midpoint", f"{entry.said or 'blank' if apex is None else apex} -> {midpoint}")
        apex = midpoint
    exact = {"onset": onset, "apex": apex, "offset": offset}
    near = {name: min(inside, key=lambda number: (abs(number - value), number)) for name, value in exact.items()}
    for name, value in exact.items():
        if near[name] != value:
            note(f"{name}-nearest", f"{value} -> {near[name]}")
    if near["apex"] == near["onset"]:
        note("apex-at-onset", str(near["apex"]))
    elif near["apex"] == near["offset"]:
        note("apex-at-offset", str(near["apex"]))
    return near["onset"], near["apex"], near["offset"]
