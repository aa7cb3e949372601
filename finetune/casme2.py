"""CASME II: both label workbooks, cropped and raw frames, and the rows known to be wrong (datasets reference §1).

Layouts read, each possibly with doubled folders (`Cropped/Cropped/...`):
`Cropped/sub01/EP02_01f/reg_img46.jpg`, `Cropped-updated/Cropped/...`, `CASME2_RAW_selected/sub01/EP02_01f/img46.jpg`
and `CASME2_RAW/CASME2-RAW/...` (whole videos). Labels: `CASME2-coding-20140508.xlsx`, `CASME2-coding-20190701.xlsx`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from finetune import annotations as cells
from finetune import schemes
from finetune.clips import Clip
from finetune.validation import PRIVATE, Validation, count_labels, is_simulated
from shards.errors import FlickerError, UsageError

FPS = 200.0
SHEET = "Sheet1"
COLUMNS = (
    "Subject",
    "Filename",
    "OnsetFrame",
    "ApexFrame",
    "OffsetFrame",
    "Action Units",
    "Estimated Emotion",
)
WORKBOOKS = {"2014": "CASME2-coding-20140508.xlsx", "2019": "CASME2-coding-20190701.xlsx"}
VERSIONS = ("auto", *WORKBOOKS)
VARIANTS = ("auto", "cropped-updated", "cropped", "raw-selected", "raw")
KNOWN_OFFSETS = {(7, "EP06_02_01"): 91}
PRIVATE_SUBJECTS = (12, 22)  # their pictures must not be published
_DEPTH = 4  # folders between the root and sub01 at most

_COMMON = {"happiness": 32, "disgust": 63, "repression": 27, "others": 99, "fear": 2}
PUBLISHED_LABELS = {
    "2014": {**_COMMON, "surprise": 25, "sadness": 7},
    "2019": {**_COMMON, "surprise": 28, "sadness": 4},
}


def load(
    root: str | Path, version: str = "auto", variant: str = "auto", max_missing: float = 0.0
) -> tuple[list[Clip], Validation]:
    """Clips of CASME II under `root`, in workbook order, and the report of what was found and repaired.

    Args:
        root: folder that holds the workbook and the frames, at any of the published depths.
        version: '2014', '2019' (the corrected labels) or 'auto' (2019 where both are present).
        variant: which frames, one of VARIANTS; 'auto' takes the first present in that order.
        max_missing: share (0..1) of rows whose frames may be missing before loading stops with an error.

    Raises:
        FlickerError: no workbook, no frames, a missing column, a bad row, the same clip twice, or more rows
            without frames than `max_missing`.
    """
    clips, report = inspect(root, version, variant)
    check_missing(report, max_missing)
    return clips, report


def check_missing(report: Validation, max_missing: float) -> None:
    """Raise FlickerError if a larger share of rows than `max_missing` has no frames."""
    if report.missing_share > max_missing:
        raise FlickerError(
            f"{len(report.missing)} of {report.rows} rows of {report.workbook} have no frames under {report.images} "
            f"(first: {report.missing[0]}); complete the download, or allow it with "
            f"--data.max_missing {report.missing_share + 0.005:.2f}"
        )


def inspect(root: str | Path, version: str = "auto", variant: str = "auto") -> tuple[list[Clip], Validation]:
    """As `load`, but rows without frames are only reported, however many there are."""
    root = Path(root)
    if not root.is_dir():
        raise FlickerError(f"data.root: no such folder: {root}; give the folder that holds CASME II")
    version, workbook = _find_workbook(root, version)
    images = _find_images(root, variant)
    rows = cells.read_sheet(workbook, SHEET, COLUMNS)
    report = Validation("casme2", str(root), str(workbook), version, str(images), is_simulated(root), rows=len(rows))
    tree = _tree(images)
    _refuse_duplicates(rows)
    clips = [clip for row in rows if (clip := _clip(row, tree, report)) is not None]
    used = {(cells.subject_number(row), cells.clip_name(row).lower()) for row in rows}
    report.unlabelled = [f"sub{s:02d}/{path.name}" for (s, name), path in tree.items() if (s, name) not in used]
    report.found, report.labels = len(clips), count_labels(clips)
    _count_schemes(report, clips, version)
    return clips, report


def _find_workbook(root: Path, version: str) -> tuple[str, Path]:
    """(version, workbook) under `root`, at most three folders deep."""
    if version not in VERSIONS:
        raise UsageError(f"data.version: '{version}' is not one of {', '.join(VERSIONS)}")
    present: dict[str, Path] = {}
    for depth in range(4):
        for path in sorted(root.glob("*/" * depth + "*.xlsx")):
            match = re.fullmatch(r"casme2-coding-(2014|2019)\d{4}\.xlsx", path.name.lower())
            if match:
                present.setdefault(match[1], path)
    wanted = ("2019", "2014") if version == "auto" else (version,)
    for name in wanted:
        if name in present:
            return name, present[name]
    names = " or ".join(WORKBOOKS[name] for name in wanted)
    other = f" (found {', '.join(path.name for path in present.values())})" if present else ""
    raise FlickerError(f"{root}: no workbook {names}{other}; put the workbook of CASME II there")


def _find_images(root: Path, variant: str) -> Path:
    """The folder whose children are the subjects' folders, for the wanted variant of the frames."""
    if variant not in VARIANTS:
        raise UsageError(f"data.variant: '{variant}' is not one of {', '.join(VARIANTS)}")
    present: dict[str, Path] = {}
    for folder in _subject_parents(root, _DEPTH):
        present.setdefault(_variant(folder.relative_to(root)), folder)
    for name in VARIANTS[1:] if variant == "auto" else (variant,):
        if name in present:
            return present[name]
    found = f"found only: {', '.join(present)}" if present else "no folder there holds sub01, sub02, ..."
    wanted = "frames" if variant == "auto" else f"'{variant}' frames"
    raise FlickerError(
        f"{root}: no {wanted} of CASME II ({found}); expected e.g. Cropped/sub01/EP02_01f/reg_img46.jpg"
    )


def _subject_parents(folder: Path, depth: int) -> list[Path]:
    """Folders, at most `depth` levels down, that have a child folder named like a subject; outermost first."""
    children = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    if any(_subject(child.name) is not None for child in children):
        return [folder]
    if depth == 0:
        return []
    return [found for child in children for found in _subject_parents(child, depth - 1)]


def _variant(path: Path) -> str:
    """Which published variant a folder under the root is, by its name."""
    name = str(path).lower()
    if "crop" in name:
        return "cropped-updated" if "updated" in name else "cropped"
    if "select" in name:
        return "raw-selected"
    return "raw" if "raw" in name else "cropped"


def _subject(name: str) -> int | None:
    """The number of a subject's folder ('sub01', 'Sub1', 's01'), or None."""
    match = re.fullmatch(r"s(?:ub)?(\d+)", name.lower())
    return int(match[1]) if match else None


def _tree(images: Path) -> dict[tuple[int, str], Path]:
    """(subject number, clip name in lower case) -> clip folder."""
    tree = {}
    for subject in sorted(path for path in images.iterdir() if path.is_dir()):
        number = _subject(subject.name)
        if number is not None:
            for clip in sorted(path for path in subject.iterdir() if path.is_dir()):
                tree[number, clip.name.lower()] = clip
    return tree


def _refuse_duplicates(rows: list[cells.Row]) -> None:
    """Raise FlickerError if two rows name the same clip."""
    seen: dict[tuple[int, str], int] = {}
    for row in rows:
        key = (cells.subject_number(row), cells.clip_name(row).lower())
        if key in seen:
            name = f"sub{key[0]:02d}/{cells.clip_name(row)}"
            raise FlickerError(f"{row.at}: clip {name} is already in row {seen[key]}; remove one of the two rows")
        seen[key] = row.number


def _clip(row: cells.Row, tree: dict[tuple[int, str], Path], report: Validation) -> Clip | None:
    """The row's clip with its repairs noted in `report`, or None (noted as missing) where it has no frames."""
    number, name = cells.subject_number(row), cells.clip_name(row)
    label = f"sub{number:02d}/{name}"
    folder = tree.get((number, name.lower()))
    if folder is None:
        report.missing.append(f"{label}: no folder")
        return None
    frames = cells.frame_files(folder)
    if not frames:
        report.missing.append(f"{label}: no images in {folder}")
        return None
    flags = [report.note(label, "folder-case", folder.name)] if folder.name != name else []
    span = _span(row, label, frames, report, flags)
    if span is None:
        report.missing.append(f"{label}: no frame between onset and offset exists")
        return None
    if number in PRIVATE_SUBJECTS:
        flags.append(PRIVATE)
    units, odd = cells.action_units(row.cells["Action Units"])
    if odd:
        flags.append(report.note(label, "au-unread", " ".join(odd)))
    return Clip(
        dataset="casme2",
        subject=f"sub{number:02d}",
        clip=name,
        onset=span.onset,
        apex=span.apex,
        offset=span.offset,
        emotion=cells.emotion(row.cells["Estimated Emotion"]),
        aus=units,
        fps=FPS,
        flags=tuple(flags),
        frames=frames,
    )


@dataclass(frozen=True)
class _Span:
    """Onset, apex and offset that exist as frames."""

    onset: int
    apex: int
    offset: int


def _span(row: cells.Row, label: str, frames: dict[int, Path], report: Validation, flags: list[str]) -> _Span | None:
    """Onset, apex, offset by the reference's rules, repaired to frames that exist; None where none exists."""
    onset, offset = _bounds(row, label, report, flags)
    if offset > max(frames) >= onset:
        flags.append(report.note(label, "offset-clamped", f"{offset} -> {max(frames)}"))
        offset = max(frames)
    inside = [number for number in frames if onset <= number <= offset]
    if not inside:
        return None
    if len(inside) < inside[-1] - inside[0] + 1:
        flags.append(report.note(label, "gaps", f"{inside[-1] - inside[0] + 1 - len(inside)} frames"))
    cell = row.cells["ApexFrame"]
    apex = cells.frame_cell(cell)
    if apex is None or not onset <= apex <= offset:
        midpoint = onset + (offset - onset) // 2
        flags.append(report.note(label, "apex-midpoint", f"{cells.text(cell) or 'blank'} -> {midpoint}"))
        apex = midpoint
    exact = {"onset": onset, "apex": apex, "offset": offset}
    near = {name: min(inside, key=lambda number: (abs(number - value), number)) for name, value in exact.items()}
    for name, value in exact.items():
        if near[name] != value:
            flags.append(report.note(label, f"{name}-nearest", f"{value} -> {near[name]}"))
    if near["apex"] == near["onset"]:
        flags.append(report.note(label, "apex-at-onset", str(near["apex"])))
    elif near["apex"] == near["offset"]:
        flags.append(report.note(label, "apex-at-offset", str(near["apex"])))
    return _Span(near["onset"], near["apex"], near["offset"])


def _bounds(row: cells.Row, label: str, report: Validation, flags: list[str]) -> tuple[int, int]:
    """(onset, offset) of a row, known corrections applied. Raises FlickerError where they are no interval."""
    onset, offset = cells.frame_cell(row.cells["OnsetFrame"]), cells.frame_cell(row.cells["OffsetFrame"])
    for name, value in (("OnsetFrame", onset), ("OffsetFrame", offset)):
        if value is None:
            raise FlickerError(f"{row.at} ({label}): '{name}' is {row.cells[name]!r}; expected a frame number")
    assert onset is not None and offset is not None
    known = KNOWN_OFFSETS.get((cells.subject_number(row), cells.clip_name(row)), offset)
    if known != offset:
        flags.append(report.note(label, "offset-known", f"{offset} -> {known}"))
        offset = known
    if onset > offset:
        raise FlickerError(f"{row.at} ({label}): OnsetFrame {onset} is after OffsetFrame {offset}; correct the row")
    return onset, offset


def _count_schemes(report: Validation, clips: list[Clip], version: str) -> None:
    """Class counts per scheme beside those of the published workbook."""
    labels = PUBLISHED_LABELS[version]
    for scheme in schemes.SCHEMES.values():
        published = dict.fromkeys(scheme.classes, 0)
        for label, count in labels.items():
            if label in scheme.members:
                published[scheme.members[label]] += count
        report.schemes.append((scheme.name, scheme.counts(clips), published))
