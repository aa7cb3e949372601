"""CASME II: all its label tables, cropped and raw frames, and the rows known to be wrong (docs/datasets.md).

Layouts read, each possibly with doubled folders (`Cropped/Cropped/...`):
`Cropped/sub01/EP02_01f/reg_img46.jpg`, `Cropped-updated/Cropped/...`, `CASME2_RAW_selected/sub01/EP02_01f/img46.jpg`
and `CASME2_RAW/CASME2-RAW/...` (whole videos, of which the clips are cut). Labels: `CASME2-coding-20190701.xlsx`,
`CASME2-coding-20140508.xlsx`, `CASME2_label_Ver_2.xls` or SLSTT's table `slstt_casme2.csv`; objective classes are
joined from `CASME2-ObjectiveClasses.xlsx` where it is present.

Rows known to be wrong: sub04/EP12_01f has '/' for an apex: the midpoint 291 is used and flagged (SLSTT's table has
303, others use 279). sub05/EP09_05f has its apex at its onset, four rows theirs at the offset: kept and flagged.
"""

from __future__ import annotations

import re
from pathlib import Path

from finetune import annotations as cells
from finetune import schemes
from finetune.clips import Clip
from finetune.datasets import assemble
from finetune.datasets.assemble import Entry
from finetune.datasets.choosing import check_option, choose, find_workbook, within
from finetune.datasets.finding import NotHere, check_root, folders, parents, subjects, workbooks
from finetune.validation import Validation, is_simulated

FPS = 200.0
SHEET = "Sheet1"
COLUMNS = (
    "Subject",
    "Filename",
    "OnsetFrame",
    "ApexFrame",
    "OffsetFrame",
    ("Action Units", "Aus"),
    ("Estimated Emotion", "Emotion"),
)
EDITIONS = {
    "2019": ("CASME2-coding-20190701.xlsx", r"casme2-coding-2019\d{4}\.xlsx?"),
    "2014": ("CASME2-coding-20140508.xlsx", r"casme2-coding-2014\d{4}\.xlsx?"),
    "ver2": ("CASME2_label_Ver_2.xls", r"casme2_label_ver_?2\.xlsx?"),
    "slstt": ("slstt_casme2.csv", r"(?:slstt_)?casme(?:2|_?ii)(?:_coding)?\.csv"),
}
"""Edition of the labels -> its file's name, and the names it may have."""
OBJECTIVE = r"casme2-?objective_?classes\.(?:xlsx?|csv)"
VERSIONS = ("auto", *EDITIONS)
VARIANTS = ("auto", "cropped-updated", "cropped", "raw-selected", "raw")
KNOWN_OFFSETS = {(7, "ep06_02_01"): 91, (16, "ep01_08"): 96}
PRIVATE_SUBJECTS = ("sub12", "sub22")  # their pictures must not be published

_COMMON = {"happiness": 32, "disgust": 63, "repression": 27, "others": 99, "fear": 2}
PUBLISHED_LABELS = {
    "2014": {**_COMMON, "surprise": 25, "sadness": 7},
    "2019": {**_COMMON, "surprise": 28, "sadness": 4},
    "slstt": {**_COMMON, "surprise": 28, "sadness": 4},
}
PUBLISHED = (255, 26)
"""Clips and subjects."""


def inspect(root: str | Path, version: str = "auto", variant: str = "auto") -> tuple[list[Clip], Validation]:
    """Clips of CASME II under `root`, in the table's order, and the report of what was found, missed and repaired.

    Args:
        root: folder that holds the workbook and the frames, at any of the published depths.
        version: one of EDITIONS (2019 has the corrected labels); 'auto' takes the first present in that order.
        variant: which frames, one of VARIANTS; 'auto' takes the first present in that order.

    Raises:
        FlickerError: no workbook, no frames, a missing column, a bad row, the same clip twice.
        UsageError: an unknown version or variant.
    """
    root = check_root(root, "CASME II")
    version, workbook = find_workbook(root, version, EDITIONS, "CASME II")
    images = _find_images(root, variant)
    table = cells.read_sheet(workbook, SHEET, COLUMNS)
    report = Validation("casme2", str(root), str(workbook), version, str(images), is_simulated(root))
    report.rows, report.notes = len(table), list(table.notes)
    tree = assemble.tree(
        (
            ((number, path.name.lower()), path)
            for number, home in subjects(images, _subject)
            for path in folders(home)
        ),
        report,
    )
    entries = [_entry(row, tree, report) for row in table]
    assemble.refuse_duplicates(entries)
    _join_objective(root, entries, report)
    labels = PUBLISHED_LABELS.get(version, {})
    clips = assemble.clips(
        entries,
        tree,
        report,
        dataset="casme2",
        fps=FPS,
        labels=labels or PUBLISHED_LABELS["2014"],
        private=PRIVATE_SUBJECTS,
    )
    used = {entry.key for entry in entries}
    report.unlabelled = [f"sub{s:02d}/{path.name}" for (s, name), path in tree.items() if (s, name) not in used]
    report.published = PUBLISHED if labels else None
    schemes.count(report, clips, labels)
    return within(clips), report


def _find_images(root: Path, variant: str) -> Path:
    """The folder whose children are the subjects' folders, for the wanted variant of the frames."""
    check_option("variant", variant, VARIANTS)
    present: dict[str, Path] = {}
    for folder in parents(root, _subject):
        present.setdefault(_variant(folder.relative_to(root)), folder)
    name = choose(present, variant, VARIANTS)
    if name is not None:
        return present[name]
    found = f"found only: {', '.join(present)}" if present else "no folder there holds sub01, sub02, ..."
    wanted = "frames" if variant == "auto" else f"'{variant}' frames"
    raise NotHere(f"{root}: no {wanted} of CASME II ({found}); expected e.g. Cropped/sub01/EP02_01f/reg_img46.jpg")


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


def _entry(row: cells.Row, tree: dict[tuple[int, str], Path], report: Validation) -> Entry:
    """What a row states, known corrections applied."""
    number, clip = cells.subject_number(row), cells.clip_name(row)
    subject, key = f"sub{number:02d}", (number, clip.lower())
    onset, offset = assemble.interval(row, f"{subject}/{clip}", "OnsetFrame", "OffsetFrame")
    apex = row.cells["ApexFrame"]
    entry = Entry(
        subject=subject,
        clip=clip,
        onset=onset,
        offset=offset,
        apex=cells.frame_cell(apex),
        said=cells.text(apex),
        emotion=cells.label(row, "Estimated Emotion"),
        units=row.cells["Action Units"],
        key=key,
        at=row.at,
    )
    if key in tree and tree[key].name != clip:
        entry.flags.append(report.note(entry.name, "folder-case", tree[key].name))
    if key in KNOWN_OFFSETS:
        assemble.known(entry, report, offset=KNOWN_OFFSETS[key])
    return entry


def _join_objective(root: Path, entries: list[Entry], report: Validation) -> None:
    """Give each entry its objective class, from the table of them where there is one."""
    path = next((path for _, path in workbooks(root, OBJECTIVE)), None)
    if path is None:
        return
    table = cells.read_sheet(path, SHEET, ("Subject", "Filename", "Objective Class"))
    classes: dict[object, int | None] = {}
    for row in table:
        number = cells.objective_class(row.cells["Objective Class"])
        classes[cells.subject_number(row), cells.clip_name(row).lower()] = number
    for entry in entries:
        entry.objective = classes.pop(entry.key, None)
        if entry.objective is None:
            entry.flags.append(report.note(entry.name, "objective-missing", path.name))
    if classes:
        report.notes.append(
            f"{path.name}: {len(classes)} rows of clips that {Path(report.workbook).name} does not have"
        )
