"""CASME, the first of its kind: 60 frames per second (docs/datasets.md).

Layouts read, each possibly with doubled folders: `Cropped/sub01/EP01_5/reg_EP01_5-113.jpg`,
`CASME_raw_selected/sub01/EP01_5/EP01_5-113.jpg` and `CASME_raw/...` (whole videos). The frame's number follows the
hyphen, padded to three digits in some clips and not at all in others. Labels: `casme.xlsx` with two columns for the
apex, of which `ApexF1` is taken, or `ApexF2` where the first is missing or outside the clip.

Another reader of this workbook (meb) replaces onset, apex and offset of five rows, which it names by position alone,
by what the folders hold. That does not carry over to a table in another order; here a clip with no frame between the
row's onset and offset gets those of its folder, where the folder holds that clip alone, and is reported.
"""

from __future__ import annotations

import re
from pathlib import Path

from finetune import annotations as cells
from finetune import schemes
from finetune.clips import Clip
from finetune.datasets import assemble
from finetune.datasets.assemble import Entry
from finetune.datasets.choosing import check_option, choose, holders, note_spelling, within
from finetune.datasets.finding import IMAGE_SUFFIXES, NotHere, check_root, folders, subjects, workbooks
from finetune.validation import Validation, is_simulated

FPS = 60.0
SHEET = "Sheet1"
COLUMNS = ("Subject", "Filename", "OnsetF", "ApexF1", "ApexF2", "OffsetF", "AU", "Emotion")
BOOK = r"casme(?:[ _-]?(?:1|i))?(?:[ _-]?cod(?:ing|e)[^.]*)?\.(?:xlsx?|csv)"
VERSIONS = ("auto",)
VARIANTS = ("auto", "cropped", "raw-selected", "raw")
LABELS = ("tense", "disgust", "repression", "surprise", "happiness", "sadness", "fear", "contempt")
PUBLISHED_CLIPS = 189

Tree = dict[tuple[int, str], Path]


def inspect(root: str | Path, version: str = "auto", variant: str = "auto") -> tuple[list[Clip], Validation]:
    """Clips of CASME under `root`, in workbook order, and the report of what was found, missed and repaired.

    Args:
        root: folder that holds the workbook and the frames, at any of the published depths.
        version: 'auto'.
        variant: which frames, one of VARIANTS; 'auto' takes the first present in that order.

    Raises:
        FlickerError: no workbook, no frames, a missing column, a bad row, the same clip twice.
        UsageError: an unknown version or variant.
    """
    check_option("version", version, VERSIONS)
    check_option("variant", variant, VARIANTS)
    root = check_root(root, "CASME")
    workbook = next((path for _, path in workbooks(root, BOOK)), None)
    if workbook is None:
        raise NotHere(f"{root}: no workbook casme.xlsx; put the workbook of CASME there")
    kind, images = _find_images(root, variant)
    report = Validation("casme", str(root), str(workbook), version, str(images), is_simulated(root))
    found = (
        ((number, path.name.lower()), path) for number, home in subjects(images, _subject) for path in folders(home)
    )
    tree = assemble.tree(found, report)
    table = cells.read_sheet(workbook, SHEET, COLUMNS)
    report.notes += table.notes
    entries = [_entry(row, report) for row in table]
    assemble.refuse_duplicates(entries)
    note_spelling(entries, tree, report)
    if kind != "raw":
        for entry in entries:
            _as_in_folder(entry, tree, report)
    clips = assemble.clips(entries, tree, report, dataset="casme", fps=FPS, labels=LABELS, files=files)
    used = {entry.key for entry in entries}
    report.unlabelled = [f"sub{s:02d}/{path.name}" for (s, name), path in tree.items() if (s, name) not in used]
    report.published = PUBLISHED_CLIPS, None
    schemes.count(report, clips, {})
    return within(clips), report


def _find_images(root: Path, variant: str) -> tuple[str, Path]:
    """(variant, the folder whose children are the subjects' folders)."""
    present: dict[str, Path] = {}
    for _, folder in holders(root, _subject):
        present.setdefault(_variant(folder.relative_to(root)), folder)
    name = choose(present, variant, VARIANTS[1:])
    if name is None:
        found = f"found only: {', '.join(present)}" if present else "no folder there holds sub01, sub02, ..."
        raise NotHere(f"{root}: no frames of CASME ({found}); expected e.g. Cropped/sub01/EP01_5/reg_EP01_5-113.jpg")
    return name, present[name]


def _variant(path: Path) -> str:
    """Which published variant a folder under the root is, by its name."""
    name = str(path).lower()
    if "raw" in name and "crop" not in name:
        return "raw-selected" if "select" in name else "raw"
    return "cropped"


def _subject(name: str) -> int | None:
    """The number of a subject's folder ('sub01', 'Sub1'), or None."""
    match = re.fullmatch(r"s(?:ub)?([0-9]+)", name.lower())
    return int(match[1]) if match else None


def files(folder: Path) -> dict[int, Path]:
    """Frame number -> image of a clip's folder, ascending: the number after the hyphen, where there is one.

    Of `EP01_5-113.jpg` that is 113; `EP01_5.jpg` shows no frame number, for its digits name the clip.
    """
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        stem = path.stem.lower().removeprefix("reg_")
        number = cells.frame_number(path) if stem != folder.name.lower() else None
        if number is not None and path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            found.setdefault(number, path)
    return dict(sorted(found.items()))


def _entry(row: cells.Row, report: Validation) -> Entry:
    """What a row states."""
    number, clip = cells.subject_number(row), cells.clip_name(row)
    subject, key = f"sub{number:02d}", (number, clip.lower())
    onset, offset = assemble.interval(row, f"{subject}/{clip}", "OnsetF", "OffsetF")
    first, second = (cells.frame_cell(row.cells[name]) for name in ("ApexF1", "ApexF2"))
    entry = Entry(
        subject=subject,
        clip=clip,
        onset=onset,
        offset=offset,
        apex=first,
        said=cells.text(row.cells["ApexF1"]),
        emotion=cells.label(row, "Emotion"),
        units=row.cells["AU"],
        key=key,
        at=row.at,
    )
    if (first is None or not onset <= first <= offset) and second is not None and onset <= second <= offset:
        entry.flags.append(report.note(entry.name, "apex-second", f"{entry.said or 'blank'} -> {second}"))
        entry.apex = second
    return entry


def _as_in_folder(entry: Entry, tree: Tree, report: Validation) -> None:
    """Onset and offset of the folder, if it holds no frame between those of the row."""
    frames = files(tree[entry.key]) if entry.key in tree else {}  # type: ignore[index]
    if not frames or any(entry.onset <= number <= entry.offset for number in frames):
        return
    first, last = min(frames), max(frames)
    detail = f"{entry.onset}..{entry.offset} -> {first}..{last}"
    entry.flags.append(report.note(entry.name, "interval-of-folder", detail))
    entry.onset, entry.offset = first, last
