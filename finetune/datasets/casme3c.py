"""CAS(ME)³ part C, the mock crime: 165 micro-expressions of 30 people, without apex (docs/datasets.md).

Labels: `CAS(ME)3_part_C_ME.xlsx`; action units are separated by commas, one of them full-width, some trailing. Of the
frames the reference says nothing; read are whole videos `part_C/01/a/color/355.jpg`, with or without the folder `a`,
and a folder for each clip, `01/1/color/355.jpg`, where one is named by the clip's `count`. A clip is named by count
and onset: `1_373`.
"""

from __future__ import annotations

import re
from pathlib import Path

from finetune import annotations as cells
from finetune import schemes
from finetune.clips import Clip
from finetune.datasets import assemble
from finetune.datasets.assemble import Entry
from finetune.datasets.choosing import check_option, holders, path_from, within
from finetune.datasets.finding import IMAGE_SUFFIXES, NotHere, check_root, folders, subjects, workbooks
from finetune.validation import Validation, is_simulated
from shards.errors import FlickerError

FPS = 30.0
SHEET = "Sheet1"
COLUMNS = ("sub", "count", "onset", "offset", "au", "emotion")
BOOK = r"cas\(me\)\^?3_part_c_me\.(?:xlsx?|csv)"
VERSIONS = ("auto",)
VARIANTS = ("auto",)
PUBLISHED_LABELS = {"negative": 99, "surprise": 30, "others": 20, "positive": 16}
PUBLISHED_SUBJECTS = 30

_PART_C = re.compile(r"(?:me|part)[ _]?c(?:[ _].*)?|.*part[ _]?c(?:[ _].*)?", re.IGNORECASE)
_PART_AB = re.compile(r".*part[ _]?[ab](?:[ _].*)?|exceptions?|annotations?", re.IGNORECASE)


def inspect(root: str | Path, version: str = "auto", variant: str = "auto") -> tuple[list[Clip], Validation]:
    """Clips of CAS(ME)³ part C under `root`, in workbook order, and the report; every apex is a midpoint.

    Raises:
        FlickerError: no workbook, no frames, a missing column, a bad row, the same clip twice.
        UsageError: another version or variant than 'auto'.
    """
    check_option("version", version, VERSIONS)
    check_option("variant", variant, VARIANTS)
    root = check_root(root, "CAS(ME)³ part C")
    workbook = next((path for _, path in workbooks(root, BOOK)), None)
    if workbook is None:
        raise NotHere(f"{root}: no workbook CAS(ME)3_part_C_ME.xlsx; put the label workbook of part C there")
    images = _find_images(root)
    report = Validation("casme3c", str(root), str(workbook), version, str(images), is_simulated(root))
    table = cells.read_sheet(workbook, SHEET, COLUMNS)
    report.notes += table.notes
    entries = [_entry(row, report) for row in table]
    assemble.refuse_duplicates(entries)
    people = dict(subjects(images, _subject))
    tree = {
        entry.key: folder
        for entry in entries
        if (folder := _folder(people, int(entry.subject), int(entry.clip.partition("_")[0]))) is not None
    }
    clips = assemble.clips(entries, tree, report, dataset="casme3c", fps=FPS, labels=PUBLISHED_LABELS)
    report.published = sum(PUBLISHED_LABELS.values()), PUBLISHED_SUBJECTS
    schemes.count(report, clips, PUBLISHED_LABELS)
    return within(clips), report


def _find_images(root: Path) -> Path:
    """The folder of the subjects' folders: below one named for part C, or else outside of parts A and B."""
    found = [folder for _, folder in holders(root, _subject, lambda name: _PART_AB.fullmatch(name) is not None)]
    named = [folder for folder in found if any(map(_PART_C.fullmatch, path_from(root, folder).parts))]
    if not found:
        raise NotHere(f"{root}: no frames of CAS(ME)³ part C; expected e.g. part_C/01/a/color/355.jpg")
    return (named or found)[0]


def _subject(name: str) -> int | None:
    """The number of a subject's folder ('01', 'sub1', 'spNO.1'), or None."""
    match = re.fullmatch(r"(?:s|sub|sp[ _]?no[ ._]*)?([0-9]{1,3})", name.lower())
    return int(match[1]) if match else None


def _entry(row: cells.Row, report: Validation) -> Entry:
    """What a row states."""
    number, count = cells.subject_number(row, "sub"), cells.frame_cell(row.cells["count"])
    if count is None:
        raise FlickerError(f"{row.at}: 'count' is {row.cells['count']!r}; expected the clip's number")
    subject = f"{number:02d}"
    onset, offset = assemble.interval(row, f"{subject}/{count}", "onset", "offset")
    entry = Entry(
        subject=subject,
        clip=f"{count}_{onset}",
        onset=onset,
        offset=offset,
        apex=onset + (offset - onset) // 2,
        emotion=cells.label(row, "emotion"),
        units=row.cells["au"],
        key=(number, count, onset),
        at=row.at,
    )
    entry.flags.append(report.note(entry.name, "apex-uncoded", ""))
    return entry


def _folder(people: dict[int, Path], number: int, count: int) -> Path | None:
    """The folder that holds the frames of a subject's clip, or None."""
    if number not in people:
        return None
    inside = folders(people[number])
    own = [path for path in inside if path.name.isdecimal() and int(path.name) == count]
    if not own and len(inside) == 1:  # the only video
        own = inside
    folder = own[0] if own else people[number]
    colour = [path for path in folders(folder) if path.name.lower() == "color"]
    chosen = colour[0] if colour else folder
    return chosen if any(path.suffix.lower() in IMAGE_SUFFIXES for path in chosen.iterdir()) else None
