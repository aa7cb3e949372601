"""CAS(ME)²: micro- and macro-expressions of 22 people at 30 frames per second (docs/datasets.md).

Layouts read, doubled folders ignored: `cropped/15/anger1_1/img557.jpg`, `selectedpic/s15/anger1_1/img557.jpg` and
whole videos `rawpic/s15/15_0101disgustingteeth/img001.jpg`; frame numbers are those of the whole video in all three.
A whole video belongs to the person in its own name, whichever subject's folder it lies in.

Labels: `CAS(ME)^2code_final.xlsx` (also `(Updated)`, which is preferred, or `code_final.xlsx`), three sheets without
header: `CASFEcode_final` (participants 1..22 and clips such as anger1_1), `naming rule1` (participant -> s15) and
`naming rule2` (code 0401 -> stimulus anger1). An offset of 0 means that the end was not coded: it becomes
2·apex - onset, as far after the apex as the onset is before it (others take the apex as the end).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune import annotations as cells
from finetune import schemes
from finetune.clips import Clip
from finetune.datasets import assemble
from finetune.datasets.assemble import Entry
from finetune.datasets.choosing import check_option, choose, holders, note_spelling, path_from, within
from finetune.datasets.finding import NotHere, check_root, folders, subjects, workbooks
from finetune.validation import Validation, is_simulated
from shards.errors import FlickerError

FPS = 30.0
SHEETS = ("CASFEcode_final", "naming rule1", "naming rule2")
COLUMNS = ("participant", "clip", "onset", "apex", "offset", "AU", "emotion", "type", "self-report")
BOOK = r"(?:cas\(me\)\^?2[ _]?)?code[ _]?final([ _]?\(updated\))?\.xlsx?"
VERSIONS = ("auto", "micro", "macro", "all")
VARIANTS = ("auto", "cropped", "selectedpic", "rawpic")
LABELS = ("positive", "negative", "surprise", "others")
PUBLISHED_LABELS = {"micro": dict(zip(LABELS, (8, 21, 9, 19), strict=True))}
PUBLISHED_CLIPS = {"micro": 57, "macro": 300, "all": 357}
PUBLISHED_SUBJECTS = 22

_VIDEO = re.compile(r"([0-9]+)_([0-9]{4}).*")
Tree = dict[tuple[int, str], Path]
"""(number of the subject's folder, clip in lower case or the video's code) -> folder of frames."""


def inspect(root: str | Path, version: str = "auto", variant: str = "auto") -> tuple[list[Clip], Validation]:
    """Clips of CAS(ME)² under `root`, in workbook order, and the report of what was found, missed and repaired.

    Args:
        root: folder that holds the workbook and the frames, at any of the published depths.
        version: 'micro' (57 clips; also 'auto'), 'macro' (300) or 'all'.
        variant: which frames, one of VARIANTS; 'auto' takes the first present in that order.

    Raises:
        FlickerError: no workbook, no frames, a missing sheet, a bad row, the same clip twice.
        UsageError: an unknown version or variant.
    """
    check_option("version", version, VERSIONS)
    check_option("variant", variant, VARIANTS)
    root = check_root(root, "CAS(ME)²")
    found = sorted(workbooks(root, BOOK), key=lambda pair: pair[0][1] is None)  # stable: outermost folders first
    if not found:
        raise NotHere(f"{root}: no workbook CAS(ME)^2code_final.xlsx; put the workbook of CAS(ME)² there")
    workbook, version = found[0][1], "micro" if version == "auto" else version
    kind, images = _find_images(root, variant)
    report = Validation("casme_sq", str(root), str(workbook), version, str(images), is_simulated(root))
    tree = _videos(images, report) if kind == "rawpic" else _clips(images, report)
    people, codes = _people(workbook), _codes(workbook)
    rows = cells.read_positions(workbook, SHEETS[0], COLUMNS, accept=_labelled)
    report.notes += rows.notes
    chosen = [row for row in rows if version in ("all", _type(row))]
    entries = [_entry(row, people, codes if kind == "rawpic" else None, report) for row in chosen]
    assemble.refuse_duplicates(entries)
    note_spelling(entries, tree, report)
    clips = assemble.clips(entries, tree, report, dataset="casme_sq", fps=FPS, labels=LABELS)
    if version == "all" and kind != "rawpic":  # otherwise folders without a wanted row are no surprise
        used = {entry.key for entry in entries}
        report.unlabelled = [
            f"s{number}/{path.name}" for (number, name), path in tree.items() if (number, name) not in used
        ]
    report.published = PUBLISHED_CLIPS[version], PUBLISHED_SUBJECTS if version == "all" else None
    schemes.count(report, clips, PUBLISHED_LABELS.get(version, {}))
    return within(clips), report


def _find_images(root: Path, variant: str) -> tuple[str, Path]:
    """(variant, the folder whose children are the subjects' folders)."""
    present: dict[str, Path] = {}
    for _, folder in holders(root, _subject, lambda name: name.lower().startswith("rawvideo")):
        present.setdefault(_variant(folder, root), folder)
    name = choose(present, variant, VARIANTS[1:])
    if name is None:
        found = f"found only: {', '.join(present)}" if present else "no folder there holds s15, s16, ..."
        raise NotHere(f"{root}: no frames of CAS(ME)² ({found}); expected e.g. selectedpic/s15/anger1_1/img557.jpg")
    return name, present[name]


def _variant(folder: Path, root: Path) -> str:
    """Which published variant a folder of subjects holds: whole videos tell by their names, crops by the folder's."""
    if any(_VIDEO.fullmatch(path.name) for _, person in subjects(folder, _subject) for path in folders(person)):
        return "rawpic"
    return "cropped" if "crop" in str(path_from(root, folder)).lower() else "selectedpic"


def _subject(name: str) -> int | None:
    """The number of a subject's folder ('s15', '15'), or None."""
    match = re.fullmatch(r"s?([0-9]{2})", name.lower())
    return int(match[1]) if match else None


def _clips(images: Path, report: Validation) -> Tree:
    """Folders of cut clips."""
    found = (
        ((number, path.name.lower()), path) for number, home in subjects(images, _subject) for path in folders(home)
    )
    return assemble.tree(found, report)


def _videos(images: Path, report: Validation) -> Tree:
    """Folders of whole videos by the person and code in their names; one in another's folder is reported."""
    tree: Tree = {}
    strays: Tree = {}
    for number, folder in subjects(images, _subject):
        for path in folders(folder):
            if match := _VIDEO.fullmatch(path.name):
                (tree if int(match[1]) == number else strays).setdefault((int(match[1]), match[2]), path)
    for (number, code), path in strays.items():
        if (number, code) not in tree:
            report.note(f"s{number}/{code}", "folder-elsewhere", f"{path.parent.name}/{path.name}")
            tree[number, code] = path
    return tree


def _labelled(row: Mapping[str, Any]) -> bool:
    """Whether a row states a clip, and is no heading or row of another sheet."""
    named = "_" in cells.text(row["clip"]) or not cells.is_blank(row["type"])
    return named and cells.frame_cell(row["participant"]) is not None


def _people(workbook: Path) -> dict[int, int]:
    """Participant -> number of the subject's folder (1 -> 15)."""

    def states(row: Mapping[str, Any]) -> bool:
        folder, participant = cells.text(row["folder"]), cells.frame_cell(row["participant"])
        return folder.lower().startswith("s") and _subject(folder) is not None and participant is not None

    rows = cells.read_positions(workbook, SHEETS[1], ("number", "folder", "participant"), accept=states)
    return {int(row.cells["participant"]): _subject(cells.text(row.cells["folder"])) or 0 for row in rows}


def _codes(workbook: Path) -> dict[str, str]:
    """Stimulus -> code of four digits (anger1 -> 0401), whether the cell is text or a number."""

    def states(row: Mapping[str, Any]) -> bool:
        stimulus = re.fullmatch(r"[a-z]+[0-9]+", cells.text(row["stimulus"]).lower())
        return stimulus is not None and cells.frame_cell(row["code"]) is not None

    rows = cells.read_positions(workbook, SHEETS[2], ("code", "stimulus"), accept=states)
    return {cells.text(row.cells["stimulus"]).lower(): f"{cells.frame_cell(row.cells['code']):04d}" for row in rows}


def _type(row: cells.Row) -> str:
    """'micro' or 'macro'. Raises FlickerError naming the row."""
    match = re.fullmatch(r"(micro|macro)\W*expression", cells.text(row.cells["type"]).lower())
    if match is None:
        raise FlickerError(
            f"{row.at}: column 8 is {row.cells['type']!r}; expected micro-expression or macro-expression"
        )
    return match[1]


def _entry(row: cells.Row, people: dict[int, int], codes: dict[str, str] | None, report: Validation) -> Entry:
    """What a row states; the frames' key is the clip's name, or with `codes` the code of its video."""
    participant, clip = cells.subject_number(row, "participant"), cells.clip_name(row, "clip")
    stimulus = clip.rpartition("_")[0].lower()
    if participant not in people:
        raise FlickerError(f"{row.at}: participant {participant} is not in sheet '{SHEETS[1]}'; add it there")
    if codes is not None and stimulus not in codes:
        raise FlickerError(f"{row.at}: the stimulus of {clip} is not in sheet '{SHEETS[2]}'; add it there")
    number = people[participant]
    onset, apex, offset = (cells.frame_cell(row.cells[name]) for name in COLUMNS[2:5])
    entry = Entry(
        subject=f"s{number}",
        clip=clip,
        onset=onset or 0,
        offset=offset or 0,
        apex=apex,
        said=cells.text(row.cells["apex"]),
        emotion=cells.label(row, "emotion"),
        units=row.cells["AU"],
        key=(number, clip.lower() if codes is None else codes[stimulus]),
        at=row.at,
    )
    if not onset or not (apex or offset):
        raise FlickerError(f"{row.at} ({entry.name}): expected an onset, and an apex or offset, in columns 3 to 5")
    if not offset and apex:
        entry.offset = 2 * apex - onset
        entry.flags.append(report.note(entry.name, "offset-mirrored", f"0 -> {entry.offset}"))
    return entry
