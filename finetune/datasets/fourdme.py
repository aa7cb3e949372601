"""4DME: grey videos at 60 frames per second, with more than one emotion to a clip (docs/datasets.md).

Layout read: `gray_micro/S01/S01_1st_001_01_1/100.jpg`, with or without the subject's folder, or `gray_micro_crop/`.
Labels: `4DME_Labelling_Micro_release v1.xlsx`. A clip's label is the set of its emotions, in the order of the five
columns: `positive+surprise`. Where the column `Emotion` names another set, the five columns are taken and the clip is
reported; a clip with no column set has the emotions of the text. Action units marked `(k)` are held through the whole
clip and left out.

Another reader of this workbook (meb) exchanges the action units of the data rows 144 and 145 (Excel rows 146 and 147
of 267). Nothing in the table shows the fault, so it is not done here; in a table of 267 rows the two are reported.
"""

from __future__ import annotations

import re
from pathlib import Path

from finetune import annotations as cells
from finetune import schemes
from finetune.clips import Clip
from finetune.datasets import assemble
from finetune.datasets.assemble import Entry
from finetune.datasets.choosing import check_option, choose, holders, note_spelling, path_from
from finetune.datasets.finding import NotHere, check_root, folders, workbooks
from finetune.validation import Validation, is_simulated
from shards.errors import FlickerError

FPS = 60.0
SHEET = "Sheet1"
EMOTIONS = ("Positive", "Negative", "Surprise", "Repression", "Others")
COLUMNS = ("sub_ID", "fold_name", "Onset", "Apex", "Offset", *EMOTIONS, "Emotion", "AUs")
BOOK = r"4dme_labelling_micro_?release[ _]?v?\d*\.(?:xlsx?|csv)"
VERSIONS = ("auto",)
VARIANTS = ("auto", "crop", "gray")
PUBLISHED_CLIPS = 267
DOUBTFUL = (144, 145)
"""Data rows, counted from 0, whose action units may be exchanged."""

_CLIP = re.compile(r"s[0-9]+(?:_[0-9a-z]+){2,}", re.IGNORECASE)


def inspect(root: str | Path, version: str = "auto", variant: str = "auto") -> tuple[list[Clip], Validation]:
    """Clips of 4DME under `root`, in workbook order, and the report of what was found, missed and repaired.

    Args:
        root: folder that holds the workbook and the frames, at any of the published depths.
        version: 'auto'.
        variant: 'crop' (faces), 'gray' (as recorded), or 'auto' (faces before recordings).

    Raises:
        FlickerError: no workbook, no frames, a missing column, a bad row, the same clip twice.
        UsageError: an unknown version or variant.
    """
    check_option("version", version, VERSIONS)
    check_option("variant", variant, VARIANTS)
    root = check_root(root, "4DME")
    workbook = next((path for _, path in workbooks(root, BOOK)), None)
    if workbook is None:
        raise NotHere(f"{root}: no workbook '4DME_Labelling_Micro_release v1.xlsx'; put the workbook of 4DME there")
    images, tree = _find_images(root, variant)
    report = Validation("4dme", str(root), str(workbook), version, str(images), is_simulated(root))
    table = cells.read_sheet(workbook, SHEET, COLUMNS)
    report.notes += table.notes
    entries = [_entry(row, report) for row in table]
    assemble.refuse_duplicates(entries)
    note_spelling(entries, tree, report)
    if len(entries) == PUBLISHED_CLIPS:
        for entry in (entries[place] for place in DOUBTFUL):
            detail = f"{cells.text(entry.units)}; another reader exchanges those of data rows 144 and 145"
            entry.flags.append(report.note(entry.name, "au-doubtful", detail))
    clips = assemble.clips(entries, tree, report, dataset="4dme", fps=FPS)
    used = {entry.key for entry in entries}
    report.unlabelled = [path.name for name, path in tree.items() if name not in used]
    report.published = PUBLISHED_CLIPS, None
    schemes.count(report, clips, {})
    return clips, report


def _find_images(root: Path, variant: str) -> tuple[Path, dict[str, Path]]:
    """(the folder of all frames of the variant; fold_name in lower case -> its folder)."""
    present: dict[str, dict[str, Path]] = {}
    for _, folder in holders(root, _CLIP.fullmatch):
        name = "crop" if "crop" in str(path_from(root, folder)).lower() else "gray"
        clips = {path.name.lower(): path for path in folders(folder) if _CLIP.fullmatch(path.name)}
        present[name] = clips | present.get(name, {})
    name_found = choose(present, variant, VARIANTS[1:])
    if name_found is None:
        found = f"found only: {', '.join(present)}" if present else "no folder there is named like S01_1st_001_01_1"
        raise NotHere(f"{root}: no frames of 4DME ({found}); expected e.g. gray_micro/S01/S01_1st_001_01_1/100.jpg")
    tree = present[name_found]
    parent = next(iter(tree.values())).parent
    return (parent.parent if re.fullmatch(r"s[0-9]+", parent.name.lower()) else parent), tree


def _entry(row: cells.Row, report: Validation) -> Entry:
    """What a row states."""
    number, clip = cells.subject_number(row, "sub_ID"), cells.clip_name(row, "fold_name")
    subject = f"S{number:02d}"
    onset, offset = assemble.interval(row, f"{subject}/{clip}", "Onset", "Offset")
    columns, words = _columns(row), _words(row)
    if not columns and not words:
        raise FlickerError(f"{row.at} ({subject}/{clip}): no emotion in {', '.join(EMOTIONS)} or Emotion; give one")
    entry = Entry(
        subject=subject,
        clip=clip,
        onset=onset,
        offset=offset,
        apex=cells.frame_cell(row.cells["Apex"]),
        said=cells.text(row.cells["Apex"]),
        emotion=_joined(columns or words),
        units=row.cells["AUs"],
        key=clip.lower(),
        at=row.at,
    )
    if columns != words:
        detail = f"columns {_joined(columns) or 'none'}, text {cells.text(row.cells['Emotion']) or 'blank'}"
        entry.flags.append(report.note(entry.name, "emotion-columns", f"{detail} -> {entry.emotion}"))
    return entry


def _joined(emotions: set[str]) -> str:
    """'positive+surprise': the emotions in the order of the columns, then others."""
    known = [name.lower() for name in EMOTIONS]
    return "+".join(sorted(emotions, key=lambda name: (known.index(name) if name in known else len(known), name)))


def _columns(row: cells.Row) -> set[str]:
    """The emotions whose column is 1. Raises FlickerError naming the row for a cell that is not 0, 1 or blank."""
    found = set()
    for name in EMOTIONS:
        said = cells.text(row.cells[name])
        if said not in {"", "0", "1"}:
            raise FlickerError(f"{row.at}: '{name}' is {row.cells[name]!r}; expected 0 or 1")
        if said == "1":
            found.add(name.lower())
    return found


def _words(row: cells.Row) -> set[str]:
    """The emotions that the text names."""
    return {word for part in re.split(r"[+,，/]", cells.text(row.cells["Emotion"])) if (word := cells.emotion(part))}
