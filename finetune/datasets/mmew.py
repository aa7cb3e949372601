"""MMEW: micro-expressions of 36 people at 90 frames per second (docs/datasets.md).

Layouts read: `Micro_Expression/anger/S13-07-001/1.jpg`, as released, and `Micro_Expression/S13/anger/S13-07-001/...`,
as its site documents; `Macro_Expression` is passed over. Labels: `MMEW_Micro_Exp.xlsx`. Frame numbers count from 1
within each clip. The clip's name tells the subject. What the workbook calls `others` lies in the folder `repression`.

Another reader of this workbook (meb) replaces apex and offset of 16 rows, which it names by position alone: that does
not carry over to a table in another order, so it is not done here. The general rules hold: an apex outside the clip
becomes the midpoint, and an offset that is missing or before the onset becomes the clip's last frame.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from finetune import annotations as cells
from finetune import schemes
from finetune.clips import Clip
from finetune.datasets import assemble
from finetune.datasets.assemble import Entry
from finetune.datasets.choosing import check_option, holders, note_spelling
from finetune.datasets.finding import NotHere, check_root, folders, frame_files, workbooks
from finetune.validation import Validation, is_simulated
from shards.errors import FlickerError

FPS = 90.0
SHEET = "Sheet1"
COLUMNS = ("Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Action Units", "Estimated Emotion")
BOOK = r"mmew_micro_exp(?:_v\d+)?\.(?:xlsx?|csv)"
VERSIONS = ("auto",)
VARIANTS = ("auto",)
PUBLISHED_CLIPS = 300
PUBLISHED_SUBJECTS = 36
FOLDER_OF = {"others": "repression"}
EMOTIONS = ("anger", "disgust", "fear", "happiness", "others", "sadness", "surprise")

_CLIP = re.compile(r"s([0-9]+)-[0-9]+-[0-9]+", re.IGNORECASE)


def inspect(root: str | Path, version: str = "auto", variant: str = "auto") -> tuple[list[Clip], Validation]:
    """Clips of MMEW under `root`, in workbook order, and the report of what was found, missed and repaired.

    Raises:
        FlickerError: no workbook, no frames, a missing column, a bad row, the same clip twice.
        UsageError: another version or variant than 'auto'.
    """
    check_option("version", version, VERSIONS)
    check_option("variant", variant, VARIANTS)
    root = check_root(root, "MMEW")
    workbook = next((path for _, path in workbooks(root, BOOK)), None)
    if workbook is None:
        raise NotHere(f"{root}: no workbook MMEW_Micro_Exp.xlsx; put the workbook of MMEW there")
    found = _find_images(root)
    table = cells.read_sheet(workbook, SHEET, COLUMNS)
    report = Validation("mmew", str(root), str(workbook), version, str(_above(found)), is_simulated(root))
    report.notes += table.notes
    tree = assemble.tree(((path.name.lower(), path) for path in found), report)
    entries = [_entry(row, tree, report) for row in table]
    assemble.refuse_duplicates(entries)
    note_spelling(entries, tree, report)
    clips = assemble.clips(entries, tree, report, dataset="mmew", fps=FPS, labels=EMOTIONS)
    used = {entry.key for entry in entries}
    report.unlabelled = ["/".join(path.parts[-2:]) for name, path in tree.items() if name not in used]
    report.published = PUBLISHED_CLIPS, PUBLISHED_SUBJECTS
    schemes.count(report, clips, {})
    return clips, report


def _find_images(root: Path) -> list[Path]:
    """The clips' folders. Raises NotHere where there is none."""
    homes = [folder for _, folder in holders(root, _CLIP.fullmatch, lambda name: name.lower().startswith("macro"))]
    if not homes:
        raise NotHere(f"{root}: no frames of MMEW; expected e.g. Micro_Expression/anger/S13-07-001/1.jpg")
    return [path for folder in homes for path in folders(folder) if _CLIP.fullmatch(path.name)]


def _above(found: list[Path]) -> Path:
    """The innermost folder that holds all of the clips."""
    return Path(os.path.commonpath([path.parent for path in found]))


def _entry(row: cells.Row, tree: dict[str, Path], report: Validation) -> Entry:
    """What a row states, compared with the folder's name."""
    clip = cells.clip_name(row)
    match = _CLIP.fullmatch(clip)
    if match is None:
        raise FlickerError(f"{row.at}: 'Filename' is {clip!r}; expected a clip name such as S13-07-001")
    key = clip.lower()
    onset, apex, offset = (cells.frame_cell(row.cells[name]) for name in COLUMNS[2:5])
    entry = Entry(
        subject=f"S{int(match[1]):02d}",
        clip=clip,
        onset=1 if onset is None else onset,
        offset=0 if offset is None else offset,
        apex=apex,
        said=cells.text(row.cells["ApexFrame"]),
        emotion=cells.label(row, "Estimated Emotion"),
        units=row.cells["Action Units"],
        key=key,
        at=row.at,
    )
    stated = cells.text(row.cells["Subject"])
    if [int(number) for number in re.findall("[0-9]+", stated)] != [int(match[1])]:
        entry.flags.append(report.note(entry.name, "subject-of-clip", f"the row says {stated or 'nothing'}"))
    if key in tree:
        _compare(entry, onset, tree[key], report)
    elif offset is None:
        entry.offset = entry.onset  # the clip is missing, whatever its row states
    return entry


def _compare(entry: Entry, onset: int | None, folder: Path, report: Validation) -> None:
    """What the folder says of the clip: its emotion, and onset and offset where the row states none."""
    there = folder.parent.name.lower()
    if there in {*EMOTIONS, *FOLDER_OF.values()} - {entry.emotion, FOLDER_OF.get(entry.emotion)}:
        entry.flags.append(report.note(entry.name, "folder-elsewhere", f"{there}/, the row says {entry.emotion}"))
    if onset is not None and entry.offset >= onset:
        return
    frames = frame_files(folder)
    if onset is None and frames:
        entry.flags.append(report.note(entry.name, "onset-first", f"blank -> {min(frames)}"))
        entry.onset = min(frames)
    if entry.offset < entry.onset and frames and max(frames) >= entry.onset:
        entry.flags.append(report.note(entry.name, "offset-last", f"{entry.offset or 'blank'} -> {max(frames)}"))
        entry.offset = max(frames)
