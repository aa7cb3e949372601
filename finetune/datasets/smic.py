"""SMIC: clips by their folders alone, for it has no workbook of them (docs/datasets.md).

Layouts read, doubled folders ignored: `SMIC_all_raw/HS/s1/micro/negative/s1_ne_01/image559740.bmp` and
`SMIC_all_cropped/HS/s1/micro/negative/s1_ne_01/reg_image559740.bmp`, the same with VIS and NIR; `non_micro` is not
read. A clip's name tells its subject and label; onset and offset are its first and last frame, and the apex, which
SMIC does not code, is onset + (offset - onset) // 2 (as SLSTT has it). Cropped frames have gaps. SLSTT's table
`slstt_smic.csv` can be read instead (version 'slstt').
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

from finetune import annotations as cells
from finetune import schemes
from finetune.clips import Clip
from finetune.datasets import assemble
from finetune.datasets.assemble import Entry, Frames
from finetune.datasets.choosing import check_option, choose
from finetune.datasets.finding import NotHere, check_root, frame_files, named, way, workbooks
from finetune.validation import Validation, is_simulated
from shards.errors import FlickerError

FPS = 100.0
SLOW_FPS = 25.0
"""Frames per second of the VIS and NIR cameras."""
VERSIONS = ("auto", "folders", "slstt")
VARIANTS = ("auto", "cropped", "raw", "vis-cropped", "vis-raw", "nir-cropped", "nir-raw")
HIGH_SPEED = VARIANTS[1:3]
CLIP = re.compile(r"s(\d{1,2})_(ne|po|sur)_(\d{1,2})", re.IGNORECASE | re.ASCII)
LABELS = {"ne": "negative", "po": "positive", "sur": "surprise"}
KNOWN_EMPTY = {(18, "sur", 3)}
"""Clips whose cropped frames were never published."""
TABLE = r"(?:slstt_)?smic(?:_coding)?\.csv"
PUBLISHED_LABELS = {"negative": 70, "positive": 51, "surprise": 43}
PUBLISHED = (164, 16)
"""Clips and subjects of the high-speed camera."""
PUBLISHED_CLIPS = {
    1: (3, 2, 1),
    2: (0, 1, 5),
    3: (22, 11, 6),
    4: (10, 4, 5),
    5: (1, 0, 1),
    6: (2, 0, 2),
    8: (9, 4, 0),
    9: (0, 1, 3),
    11: (3, 3, 1),
    12: (0, 8, 1),
    13: (0, 10, 0),
    14: (3, 2, 5),
    15: (1, 1, 2),
    18: (2, 0, 5),
    19: (0, 1, 1),
    20: (14, 3, 5),
}
"""Subject -> negative, positive, surprise clips."""
OWN = r"smic.*|hs(?:_long)?|vis|nir|micro"
"""Folders that a root may be itself."""
_HOME = re.compile(r"micro|negative|positive|surprise", re.IGNORECASE)
_NOT_MICRO = re.compile(r"non[ _-]?micro.*", re.IGNORECASE)
Key = tuple[int, str, int]


def inspect(root: str | Path, version: str = "auto", variant: str = "auto") -> tuple[list[Clip], Validation]:
    """Clips of SMIC under `root`, by subject, label and number, and the report of what was found, missed, repaired.

    Args:
        root: folder that holds the frames, at any of the published depths.
        version: 'folders' (also 'auto') or 'slstt' (its table must lie under the root).
        variant: one of VARIANTS, the first two of the high-speed camera; 'auto' takes cropped before raw.

    Raises:
        FlickerError: no frames, a bad row of the table.
        UsageError: an unknown version or variant.
    """
    check_option("version", version, VERSIONS)
    root = check_root(root, "SMIC")
    kind, found = _find_clips(root, variant)
    images = _common(path for _, path in found)
    version = "folders" if version == "auto" else version
    table = None if version == "folders" else _find_table(root)
    source = "the clips' names" if table is None else str(table)
    report = Validation("smic", str(root), source, version, str(images), is_simulated(root))
    tree = assemble.tree(sorted(found), report)
    files = cache(frame_files)
    entries = _stated(table, report) if table else _told(tree, kind, files, report)
    assemble.refuse_duplicates(entries)
    fps = FPS if kind in HIGH_SPEED else SLOW_FPS
    clips = assemble.clips(entries, tree, report, dataset="smic", fps=fps, files=files)
    if kind in HIGH_SPEED:
        report.published = PUBLISHED
        report.notes += _incomplete(clips)
    schemes.count(report, clips, PUBLISHED_LABELS if kind in HIGH_SPEED else {})
    return clips, report


def key_of(match: re.Match[str]) -> Key:
    """(subject, 'ne' | 'po' | 'sur', number) of a clip's name."""
    return int(match[1]), match[2].lower(), int(match[3])


def is_clip_of_smic(names: Iterable[str]) -> bool:
    """Whether the folders above a clip make it one of SMIC's, and not of SMIC-HS-E's, which have the same names."""
    return any(map(_HOME.fullmatch, names))


def _find_clips(root: Path, variant: str) -> tuple[str, list[tuple[Key, Path]]]:
    """(variant, the clips' folders) of the wanted frames; folders outside of `micro` or a class are not SMIC's."""
    check_option("variant", variant, VARIANTS)
    present: dict[str, list[tuple[Key, Path]]] = {}
    for match, path in named(root, CLIP, depth=8):
        names = way(root, path, OWN)
        if is_clip_of_smic(names) and not any(map(_NOT_MICRO.fullmatch, names)):
            present.setdefault(_variant(names), []).append((key_of(match), path))
    name = choose(present, variant, HIGH_SPEED)
    if name is None:
        wanted = "frames" if variant == "auto" else f"'{variant}' frames"
        seen = (
            f"found only: {', '.join(present)}" if present else "no folder micro there holds clips such as s1_ne_01"
        )
        raise NotHere(
            f"{root}: no {wanted} of SMIC ({seen}); expected e.g. "
            "SMIC_all_cropped/HS/s1/micro/negative/s1_ne_01/reg_image559740.bmp"
        )
    return name, present[name]


def _variant(names: Sequence[str]) -> str:
    """Which published variant the folders on the way to a clip make it."""
    path = "/".join(names).lower()
    camera = re.findall(r"(?<![a-z])(hs|vis|nir)(?![a-z])", path)
    frames = "cropped" if "crop" in path else "raw"
    return frames if not camera or camera[-1] == "hs" else f"{camera[-1]}-{frames}"


def _common(paths: Iterable[Path]) -> Path:
    """The deepest folder that holds them all."""
    first, *others = paths
    return next(
        (folder for folder in first.parents if all(folder in other.parents for other in others)), first.parent
    )


def _told(tree: dict[Key, Path], kind: str, files: Callable[[Path], Frames], report: Validation) -> list[Entry]:
    """The clips as their folders tell them."""
    entries = []
    for key, path in tree.items():
        subject, clip = f"s{key[0]}", f"s{key[0]}_{key[1]}_{key[2]:02d}"
        numbers = list(files(path))
        if not numbers:
            if key in KNOWN_EMPTY and kind.endswith("cropped"):
                report.note(f"{subject}/{clip}", "known-empty", str(path))
            else:
                report.missing.append(f"{subject}/{clip}: no images in its folder")
            continue
        onset, offset = numbers[0], numbers[-1]
        middle = onset + (offset - onset) // 2
        entry = Entry(subject, clip, onset, offset, middle, LABELS[key[1]], key)
        entry.flags.append(report.note(entry.name, "apex-uncoded", ""))
        _check_home(entry, path, report)
        entries.append(entry)
    return entries


def _check_home(entry: Entry, path: Path, report: Validation) -> None:
    """Note a folder that lies below another class or subject than its name says."""
    names = [folder.name.lower() for folder in path.parents]
    classes = [name for name in names if name in LABELS.values()]
    people = [match[1] for name in names if (match := re.fullmatch(r"s0*(\d{1,2})", name))]
    if (classes and classes[0] != entry.emotion) or (people and f"s{people[0]}" != entry.subject):
        entry.flags.append(report.note(entry.name, "folder-elsewhere", str(path)))


def _find_table(root: Path) -> Path:
    """SLSTT's table under the root."""
    found = next((path for _, path in workbooks(root, TABLE)), None)
    if found is None:
        raise NotHere(f"{root}: no table slstt_smic.csv; put it there, or leave --data.version at folders")
    return found


def _stated(table: Path, report: Validation) -> list[Entry]:
    """The clips as SLSTT's table has them."""
    entries = []
    rows = cells.read_sheet(table, "", ("Subject", "Filename", "Emotion", "OnsetFrame", "ApexFrame", "OffsetFrame"))
    report.rows, report.notes = len(rows), list(rows.notes)
    for row in rows:
        match = CLIP.fullmatch(cells.clip_name(row))
        if match is None or int(match[1]) != cells.subject_number(row):
            raise FlickerError(
                f"{row.at}: 'Filename' is {row.cells['Filename']!r} of subject {row.cells['Subject']!r}; expected a "
                "clip of the subject such as s1_ne_01"
            )
        onset, offset = assemble.interval(row, match[0], "OnsetFrame", "OffsetFrame")
        apex = row.cells["ApexFrame"]
        entry = Entry(
            subject=f"s{int(match[1])}",
            clip=match[0].lower(),
            onset=onset,
            offset=offset,
            apex=cells.frame_cell(apex),
            said=cells.text(apex),
            emotion=LABELS[match[2].lower()],
            key=key_of(match),
            at=row.at,
        )
        if cells.label(row, "Emotion") != entry.emotion:
            entry.flags.append(report.note(entry.name, "label-of-name", cells.label(row, "Emotion")))
        entries.append(entry)
    return entries


def _incomplete(clips: Iterable[Clip]) -> list[str]:
    """Subjects, and clips of theirs by label, that were published and not found."""
    found = Counter((int(clip.subject[1:]), clip.emotion) for clip in clips)
    present = {subject for subject, _ in found}
    absent = [f"s{subject}" for subject in PUBLISHED_CLIPS if subject not in present]
    notes = [f"published subjects without a clip here: {', '.join(absent)}"] if absent else []
    for subject in sorted(present & PUBLISHED_CLIPS.keys()):
        for label, count in zip(LABELS.values(), PUBLISHED_CLIPS[subject], strict=True):
            if found[subject, label] != count:
                notes.append(f"s{subject}: {found[subject, label]} of {count} {label} clips")
    return notes
