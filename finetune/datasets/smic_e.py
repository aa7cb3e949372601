"""SMIC-HS-E: micro-expressions inside longer videos, with a workbook of their frames (docs/datasets.md).

Layouts read, doubled folders ignored: `SMIC-E_raw image/HS_long/SMIC-HS-E/s01/s1_ne_01/image559740.jpg` (also `HS`
before `s01`). Labels: `SMIC-HS-E_annotation_2019.xlsx` or `SMIC-HS-E_annotation.xlsx`. A row states up to three
intervals of one video: the first is the clip of the row's name, the others are `NAME-2` and `NAME-3`. The clip's name
gives the label. SMIC codes no apex: it is onset + (offset - onset) // 2. FirstF and LastF are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from finetune import annotations as cells
from finetune import schemes
from finetune.clips import Clip
from finetune.datasets import assemble
from finetune.datasets.assemble import Entry
from finetune.datasets.choosing import check_option, choose, find_workbook, within
from finetune.datasets.finding import NotHere, check_root, named, way
from finetune.datasets.smic import CLIP, LABELS, OWN, Key, is_clip_of_smic, key_of
from finetune.validation import Validation, is_simulated
from shards.errors import FlickerError

FPS = 100.0
SHEET = "Sheet1"
COLUMNS = ("Subject", "Filename", "OnsetF", "OffsetF")
MORE = ("Onset2F", "Offset2F", "Onset3F", "Offset3F", "TotalMF1", "TotalMF2", "TotalMF3", "Emotion")
INTERVALS = (
    ("OnsetF", "OffsetF", "TotalMF1"),
    ("Onset2F", "Offset2F", "TotalMF2"),
    ("Onset3F", "Offset3F", "TotalMF3"),
)
EDITIONS = {
    "2019": ("SMIC-HS-E_annotation_2019.xlsx", r"smic-?hs-?e_annotations?_2019\.(?:xlsx?|csv)"),
    "original": ("SMIC-HS-E_annotation.xlsx", r"smic-?hs-?e_annotations?\.(?:xlsx?|csv)"),
}
"""Edition of the labels -> its file's name, and the names it may have."""
VERSIONS = ("auto", *EDITIONS)
VARIANTS = ("auto", "cropped", "raw")


def inspect(root: str | Path, version: str = "auto", variant: str = "auto") -> tuple[list[Clip], Validation]:
    """Clips of SMIC-HS-E under `root`, in workbook order, and the report of what was found, missed and repaired.

    Args:
        root: folder that holds the workbook and the frames, at any of the published depths.
        version: '2019', 'original', or 'auto' (2019 before original).
        variant: 'cropped', 'raw', or 'auto' (cropped before raw).

    Raises:
        FlickerError: no workbook, no frames, a missing column, a bad row, the same clip twice.
        UsageError: an unknown version or variant.
    """
    root = check_root(root, "SMIC-HS-E")
    version, workbook = find_workbook(root, version, EDITIONS, "SMIC-HS-E")
    found = _find_clips(root, variant)
    table = cells.read_sheet(workbook, SHEET, COLUMNS, optional=MORE)
    images = found[0][1].parent.parent
    report = Validation("smic_e", str(root), str(workbook), version, str(images), is_simulated(root))
    report.notes = list(table.notes)
    tree = assemble.tree(found, report)
    rows = [row for row in table if not _is_note(row, report)]
    entries = [entry for row in rows for entry in _entries(row, report)]
    assemble.refuse_duplicates(entries)
    clips = assemble.clips(entries, tree, report, dataset="smic_e", fps=FPS)
    used = {entry.key for entry in entries}
    report.unlabelled = [f"{path.parent.name}/{path.name}" for key, path in tree.items() if key not in used]
    schemes.count(report, clips, {})
    return within(clips), report


def _find_clips(root: Path, variant: str) -> list[tuple[Key, Path]]:
    """The clips' folders, of the wanted frames; SMIC's own clips, below `micro`, are not taken."""
    check_option("variant", variant, VARIANTS)
    present: dict[str, list[tuple[Key, Path]]] = {}
    for match, path in named(root, CLIP, depth=8):
        names = way(root, path, OWN)
        if not is_clip_of_smic(names):
            kind = "cropped" if any("crop" in name.lower() for name in names) else "raw"
            present.setdefault(kind, []).append((key_of(match), path))
    name = choose(present, variant, VARIANTS)
    if name is None:
        wanted = "frames" if variant == "auto" else f"'{variant}' frames"
        seen = f"found only: {', '.join(present)}" if present else "no folder there is named like s1_ne_01"
        raise NotHere(
            f"{root}: no {wanted} of SMIC-HS-E ({seen}); expected e.g. SMIC-HS-E/s01/s1_ne_01/image559740.jpg"
        )
    return present[name]


def _is_note(row: cells.Row, report: Validation) -> bool:
    """Whether a row is text below the table (its subject is no number, it has no onset); it is then noted."""
    if cells.frame_cell(row.cells["Subject"]) is not None or cells.frame_cell(row.cells["OnsetF"]) is not None:
        return False
    said = " ".join(filter(None, map(cells.text, row.cells.values())))
    report.notes.append(f"row {row.number}: {said[:80]}")
    return True


def _entries(row: cells.Row, report: Validation) -> Iterator[Entry]:
    """A row's intervals, one clip each."""
    name = cells.clip_name(row)
    match = CLIP.fullmatch(name)
    if match is None or int(match[1]) != cells.subject_number(row):
        raise FlickerError(
            f"{row.at}: 'Filename' is {name!r} of subject {row.cells['Subject']!r}; expected a clip of the subject "
            "such as s1_ne_01"
        )
    label, said = LABELS[match[2].lower()], cells.emotion(row.cells["Emotion"])
    for place, (onset, offset, total) in enumerate(INTERVALS, start=1):
        if place > 1 and not any(map(cells.frame_cell, (row.cells[onset], row.cells[offset]))):
            continue
        first, last = assemble.interval(row, name, onset, offset)
        clip = name.lower() if place == 1 else f"{name.lower()}-{place}"
        entry = Entry(
            subject=f"s{int(match[1])}",
            clip=clip,
            onset=first,
            offset=last,
            apex=first + (last - first) // 2,
            emotion=label,
            key=key_of(match),
            at=row.at,
        )
        entry.flags.append(report.note(entry.name, "apex-uncoded", ""))
        assemble.check_total(entry, row.cells[total], report)
        if said not in ("", label):
            entry.flags.append(report.note(entry.name, "label-of-name", said))
        if place > 1:
            entry.flags.append(report.note(entry.name, "folder-shared", name))
        yield entry
