"""CASME II: both label workbooks, cropped and raw frames, and the rows known to be wrong (datasets reference §1).

Layouts read, each possibly with doubled folders (`Cropped/Cropped/...`):
`Cropped/sub01/EP02_01f/reg_img46.jpg`, `Cropped-updated/Cropped/...`, `CASME2_RAW_selected/sub01/EP02_01f/img46.jpg`
and `CASME2_RAW/CASME2-RAW/...` (whole videos). Labels: `CASME2-coding-20140508.xlsx`, `CASME2-coding-20190701.xlsx`.
"""

from __future__ import annotations

import re
from pathlib import Path

from finetune import annotations as cells
from finetune import schemes
from finetune.clips import Clip
from finetune.datasets import assemble
from finetune.datasets.assemble import Entry
from finetune.datasets.finding import NotHere, check_root, folders, parents, subjects, workbooks
from finetune.validation import Validation, count_labels, is_simulated
from shards.errors import UsageError

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
PRIVATE_SUBJECTS = ("sub12", "sub22")  # their pictures must not be published

_COMMON = {"happiness": 32, "disgust": 63, "repression": 27, "others": 99, "fear": 2}
PUBLISHED_LABELS = {
    "2014": {**_COMMON, "surprise": 25, "sadness": 7},
    "2019": {**_COMMON, "surprise": 28, "sadness": 4},
}


def inspect(root: str | Path, version: str = "auto", variant: str = "auto") -> tuple[list[Clip], Validation]:
    """Clips of CASME II under `root`, in workbook order, and the report of what was found, missed and repaired.

    Args:
        root: folder that holds the workbook and the frames, at any of the published depths.
        version: '2014', '2019' (the corrected labels) or 'auto' (2019 where both are present).
        variant: which frames, one of VARIANTS; 'auto' takes the first present in that order.

    Raises:
        FlickerError: no workbook, no frames, a missing column, a bad row, the same clip twice.
        UsageError: an unknown version or variant.
    """
    root = check_root(root, "CASME II")
    version, workbook = _find_workbook(root, version)
    images = _find_images(root, variant)
    rows = cells.read_sheet(workbook, SHEET, COLUMNS)
    report = Validation("casme2", str(root), str(workbook), version, str(images), is_simulated(root), rows=len(rows))
    tree = {
        (number, path.name.lower()): path for number, folder in subjects(images, _subject) for path in folders(folder)
    }
    entries = [_entry(row, tree, report) for row in rows]
    assemble.refuse_duplicates(entries)
    clips = assemble.clips(
        entries,
        tree,
        report,
        dataset="casme2",
        fps=FPS,
        private=PRIVATE_SUBJECTS,
    )
    used = {entry.key for entry in entries}
    report.unlabelled = [f"sub{s:02d}/{path.name}" for (s, name), path in tree.items() if (s, name) not in used]
    report.labels = count_labels(clips)
    schemes.count(report, clips, PUBLISHED_LABELS[version])
    return clips, report


def _find_workbook(root: Path, version: str) -> tuple[str, Path]:
    """(version, workbook) under `root`, at most three folders deep."""
    if version not in VERSIONS:
        raise UsageError(f"data.version: '{version}' is not one of {', '.join(VERSIONS)}")
    present: dict[str, Path] = {}
    for match, path in workbooks(root, r"casme2-coding-(2014|2019)\d{4}\.xlsx"):
        present.setdefault(match[1], path)
    wanted = ("2019", "2014") if version == "auto" else (version,)
    for name in wanted:
        if name in present:
            return name, present[name]
    names = " or ".join(WORKBOOKS[name] for name in wanted)
    other = f" (found {', '.join(path.name for path in present.values())})" if present else ""
    raise NotHere(f"{root}: no workbook {names}{other}; put the workbook of CASME II there")


def _find_images(root: Path, variant: str) -> Path:
    """The folder whose children are the subjects' folders, for the wanted variant of the frames."""
    if variant not in VARIANTS:
        raise UsageError(f"data.variant: '{variant}' is not one of {', '.join(VARIANTS)}")
    present: dict[str, Path] = {}
    for folder in parents(root, _subject):
        present.setdefault(_variant(folder.relative_to(root)), folder)
    for name in VARIANTS[1:] if variant == "auto" else (variant,):
        if name in present:
            return present[name]
    found = f"found only: {', '.join(present)}" if present else "no folder there holds sub01, sub02, ..."
    wanted = "frames" if variant == "auto" else f"'{variant}' frames"
    raise NotHere(
        f"{root}: no {wanted} of CASME II ({found}); expected e.g. Cropped/sub01/EP02_01f/reg_img46.jpg"
    )


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
        emotion=cells.emotion(row.cells["Estimated Emotion"]),
        units=row.cells["Action Units"],
        key=key,
        at=row.at,
    )
    if key in tree and tree[key].name != clip:
        entry.flags.append(report.note(entry.name, "folder-case", tree[key].name))
    if (number, clip) in KNOWN_OFFSETS:
        assemble.known(entry, report, offset=KNOWN_OFFSETS[number, clip])
    return entry
