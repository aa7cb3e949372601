"""SAMM: its label workbook, raw and cropped frames, and the rows known to be wrong (docs/datasets.md).

Layouts read, doubled folders ignored: `SAMM/006/006_1_2/006_05562.jpg` (numbers padded to 4 or 5 digits), the same
below `SAMM_CROP`, and SLSTT's renamed `img5562.jpg`. Labels: `SAMM_Micro_FACS_Codes_v2.xlsx` or `SAMM_20181215_...`,
whose header stands below 13 rows of text, or SLSTT's table `slstt_samm.csv`, which has neither action units nor
objective classes and is taken as it is (its apexes of the rows corrected here are 1134, 4930, 5127).
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
from finetune.datasets.finding import NotHere, check_root, named, way
from finetune.validation import Validation, is_simulated
from shards.errors import FlickerError

FPS = 200.0
SHEET = "MICRO ONLY"
COLUMNS = ("Subject", "Filename", "Onset Frame", "Apex Frame", "Offset Frame", ("Estimated Emotion", "Emotion"))
OPTIONAL = ("Duration", "Action Units", ("Objective Classes", "Objective Class"))
EDITIONS = {
    "v2": ("SAMM_Micro_FACS_Codes_v2.xlsx", r"samm_micro_facs_codes(?:_v\d)?\.xlsx?"),
    "20181215": ("SAMM_20181215_Micro_FACS_Codes.xlsx", r"samm_20181215.*\.xlsx?"),
    "slstt": ("slstt_samm.csv", r"(?:slstt_)?samm(?:_coding)?\.csv"),
}
"""Edition of the labels -> its file's name, and the names it may have."""
VERSIONS = ("auto", *EDITIONS)
VARIANTS = ("auto", "cropped", "raw")
CLIP = re.compile(r"(\d{3})_([1-7])_(\d{1,2})", re.ASCII)
KNOWN_OFFSETS = {"013_1_9": 5739}
KNOWN_APEXES = {"028_4_1": 1105, "032_3_1": 4945, "032_3_2": 5130}
"""Used where the row's own apex is outside its interval, or missing."""
KNOWN_UNITS = {"007_6_1": "R12+R15", "007_6_5": "R12+R15", "011_4_2": "L14", "014_5_2": "R14", "035_7_2": "R14A"}
"""Used where the row says 'or'."""
PUBLISHED_LABELS = {
    "anger": 57,
    "happiness": 26,
    "others": 26,
    "surprise": 15,
    "contempt": 12,
    "disgust": 9,
    "fear": 8,
    "sadness": 6,
}
PUBLISHED = (159, 29)
"""Clips and subjects."""
Key = tuple[int, ...]


def inspect(root: str | Path, version: str = "auto", variant: str = "auto") -> tuple[list[Clip], Validation]:
    """Clips of SAMM under `root`, in the table's order, and the report of what was found, missed and repaired.

    Args:
        root: folder that holds the workbook and the frames, at any of the published depths.
        version: one of EDITIONS; 'auto' takes the first present in that order.
        variant: 'cropped' (SAMM_CROP), 'raw', or 'auto' (cropped before raw).

    Raises:
        FlickerError: no workbook, no frames, a missing column, a bad row, the same clip twice.
        UsageError: an unknown version or variant.
    """
    root = check_root(root, "SAMM")
    version, workbook = find_workbook(root, version, EDITIONS, "SAMM")
    found = _find_clips(root, variant)
    table = cells.read_sheet(workbook, SHEET, COLUMNS, optional=OPTIONAL)
    images = found[0][1].parent.parent
    report = Validation("samm", str(root), str(workbook), version, str(images), is_simulated(root))
    report.rows, report.notes = len(table), list(table.notes)
    report.simulated |= any("simulated data" in text.lower() for text in table.above)
    tree = assemble.tree(found, report)
    entries = [_entry(row, version, report) for row in table]
    assemble.refuse_duplicates(entries)
    clips = assemble.clips(entries, tree, report, dataset="samm", fps=FPS, labels=PUBLISHED_LABELS)
    used = {entry.key for entry in entries}
    report.unlabelled = [f"{path.parent.name}/{path.name}" for key, path in tree.items() if key not in used]
    report.published = PUBLISHED
    schemes.count(report, clips, PUBLISHED_LABELS)
    return within(clips), report


def _key(match: re.Match[str]) -> Key:
    """(subject, inducement, number) of a clip's name."""
    return tuple(map(int, match.groups()))


def _find_clips(root: Path, variant: str) -> list[tuple[Key, Path]]:
    """The clips' folders, of the wanted frames."""
    check_option("variant", variant, VARIANTS)
    present: dict[str, list[tuple[Key, Path]]] = {}
    for match, path in named(root, CLIP):
        cropped = "crop" in "/".join(way(root, path, "samm.*")).lower()
        present.setdefault("cropped" if cropped else "raw", []).append((_key(match), path))
    name = choose(present, variant, VARIANTS)
    if name is None:
        wanted = "frames" if variant == "auto" else f"'{variant}' frames"
        found = f"found only: {', '.join(present)}" if present else "no folder there is named like 006_1_2"
        raise NotHere(f"{root}: no {wanted} of SAMM ({found}); expected e.g. SAMM/006/006_1_2/006_05562.jpg")
    return present[name]


def _entry(row: cells.Row, version: str, report: Validation) -> Entry:
    """What a row states, known corrections applied."""
    clip = cells.clip_name(row)
    match = CLIP.fullmatch(clip)
    if match is None:
        raise FlickerError(f"{row.at}: 'Filename' is {row.cells['Filename']!r}; expected a clip such as 006_1_2")
    if cells.subject_number(row) != int(match[1]):
        raise FlickerError(f"{row.at}: 'Subject' is {row.cells['Subject']!r}, but the clip is {clip}; correct one")
    onset, offset = assemble.interval(row, clip, "Onset Frame", "Offset Frame")
    apex = row.cells["Apex Frame"]
    entry = Entry(
        subject=match[1],
        clip=clip,
        onset=onset,
        offset=offset,
        apex=cells.frame_cell(apex),
        said=cells.text(apex),
        emotion=cells.label(row, "Estimated Emotion"),
        units=row.cells["Action Units"],
        objective=cells.objective_class(row.cells["Objective Classes"]),
        key=_key(match),
        at=row.at,
    )
    assemble.check_total(entry, row.cells["Duration"], report)
    if version != "slstt":
        _correct(entry, report)
    if re.search(r"\bor\b", cells.text(entry.units), re.IGNORECASE):
        entry.flags.append(report.note(entry.name, "au-or", cells.text(entry.units)))
    return entry


def _correct(entry: Entry, report: Validation) -> None:
    """The known corrections of the published workbooks."""
    if entry.clip in KNOWN_OFFSETS:
        assemble.known(entry, report, offset=KNOWN_OFFSETS[entry.clip])
    outside = entry.apex is None or not entry.onset <= entry.apex <= entry.offset
    if outside and entry.clip in KNOWN_APEXES:
        assemble.known(entry, report, apex=KNOWN_APEXES[entry.clip])
    said = cells.text(entry.units)
    if entry.clip in KNOWN_UNITS and re.search(r"\bor\b", said, re.IGNORECASE):
        entry.units = KNOWN_UNITS[entry.clip]
        entry.flags.append(report.note(entry.name, "au-known", f"{said} -> {entry.units}"))
