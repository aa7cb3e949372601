"""Dataset `flow-maps`: ready-made maps of onset-apex flow and strain with a table, an input kind of its own.

A folder holds `clips.csv` and the maps, as researchers pass them around (STSTNet, HTNet):

clips.csv   columns dataset (casme2, samm, smic), subject, clip, label (0 negative, 1 positive, 2 surprise, or the
            names); optional: left_eye_x, left_eye_y, right_eye_x, .., mouth_right_y in map pixels, and file
maps        maps.npz (key maps) or maps.npy, [n S S 3] in the table's order; or one .npy, .png or .jpg file per row
            (flow_map_files.py says which)

Channels are u (right), v (down), optical strain. Maps as floats are taken as they are. Maps of 8 bits are each
channel of each clip stretched to 0..255, so neither its scale nor its zero is known any more: u and v are decoded to
-1..1 (value / 127.5 - 1) and strain to 0..1 (value / 255). Amplitudes of different clips are therefore not
comparable, and a resting face is not at 0; `centred` moves the median there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune import schemes, tables
from finetune.clips import Clip
from finetune.datasets import flow_map_files as files
from finetune.datasets.finding import NotHere, check_root
from finetune.validation import Validation, count_labels, is_simulated
from shards.errors import FlickerError

NAME = "flow-maps"
VERSIONS = ("auto",)
VARIANTS = ("auto",)
TABLE = "clips.csv"
CLASSES = ("negative", "positive", "surprise")
SUBJECTS = {"casme2": "sub{:02d}", "samm": "{:03d}", "smic": "s{}"}
FPS = {"casme2": 200.0, "samm": 200.0, "smic": 100.0}
PARTS = ("left_eye", "right_eye", "mouth_left", "mouth_right")
LANDMARKS = tuple(f"{part}_{axis}" for part in PARTS for axis in "xy")


@dataclass(frozen=True)
class FlowMaps:
    """The dataset in memory; row i of every array belongs to clip i."""

    clips: list[Clip]
    """Without frames: onset, apex and offset are 0."""
    maps: np.ndarray
    """float32 [n S S 3]: u, v, strain."""
    areas: np.ndarray | None
    """float64 [n 4 2], centres (x, y) in map pixels of left eye, right eye, left and right corner of the mouth (the
    picture's left), as finetune.faces.regions.areas gives them; None where the table has no landmarks."""
    validation: Validation


@dataclass(frozen=True)
class Row:
    """A checked row of the table."""

    clip: Clip
    at: str
    """'FILE, row N', for messages."""
    file: str
    """As the table names it; '' where it does not."""
    landmarks: tuple[float, ...]
    """LANDMARKS, or () where the row has none."""


def inspect(root: str, version: str = "auto", variant: str = "auto") -> tuple[list[Clip], Validation]:
    """As every loader; the maps come from `load`."""
    found = load(root)
    return found.clips, found.validation


def load(root: str | Path) -> FlowMaps:
    """The table and its maps; rows without a map file are reported as missing and left out.

    Raises FlickerError, one line with file and row, for a table or maps that cannot be what they should be.
    """
    root = check_root(root, f"{TABLE} and the maps")
    if not (root / TABLE).is_file():
        raise NotHere(f"{root}: no {TABLE}; the table of the maps is needed: dataset, subject, clip, label")
    rows, table = read_rows(root / TABLE)
    found = files.read(root, [(row.clip, row.file, row.at) for row in rows])
    kept = [row for row, here in zip(rows, found.there, strict=True) if here]
    if not kept:
        raise FlickerError(f"{root}: none of the {len(rows)} rows of {TABLE} has a map; {files.HINT}")
    clips = [row.clip for row in kept]
    _finite(found.maps, kept, found.source)
    report = Validation(NAME, str(root), str(root / TABLE), "", found.source, simulated=is_simulated(root))
    report.rows, report.found, report.notes = len(rows), len(kept), [*table.notes, *found.notes]
    report.subjects = len({(clip.dataset, clip.subject) for clip in clips})
    report.missing = [
        f"{row.clip.subject}/{row.clip.clip}: no map file"
        for row, here in zip(rows, found.there, strict=True)
        if not here
    ]
    report.labels = count_labels(clips)
    schemes.count(report, clips, {})
    _channels(found.maps, report)
    return FlowMaps(clips, decode(found.maps), _areas(kept, found.maps.shape[1], report), report)


def read_rows(path: Path) -> tuple[list[Row], tables.Table]:
    """The checked rows of the table. Raises FlickerError naming the row."""
    optional = ["file", *LANDMARKS]
    table = tables.read_sheet(path, "clips", ["dataset", "subject", "clip", "label"], optional=optional)
    rows = [_row(row) for row in table]
    if not rows:
        raise FlickerError(f"{path}: no rows; one per clip is needed")
    seen: dict[str, str] = {}
    for one in rows:
        key = one.clip.id.lower()
        if key in seen:
            before = seen[key].rpartition(", ")[2]
            raise FlickerError(f"{one.at}: clip {one.clip.id} is already in {before}; remove one of the two rows")
        seen[key] = one.at
    return rows, table


def decode(maps: np.ndarray) -> np.ndarray:
    """float32 [n S S 3] from uint8 (u, v to -1..1, strain to 0..1) or from floats (as they are)."""
    if maps.dtype != np.uint8:
        return maps.astype(np.float32)
    scaled = maps.astype(np.float32) / 255
    scaled[..., :2] = scaled[..., :2] * 2 - 1
    return scaled


def centred(maps: np.ndarray) -> np.ndarray:
    """Maps [n S S 3] with the median of u and of v moved to 0 in each: most of a face does not move."""
    moved = maps.copy()
    moved[..., :2] -= np.median(moved[..., :2], axis=(1, 2), keepdims=True)
    return moved


def _row(row: tables.Row) -> Row:
    """One row, checked."""
    dataset = tables.text(row.cells["dataset"]).lower()
    if dataset not in SUBJECTS:
        raise FlickerError(f"{row.at}: 'dataset' is {dataset!r}; expected one of {', '.join(SUBJECTS)}")
    number = "".join(filter(str.isdigit, tables.text(row.cells["subject"])))
    if not number.isascii() or not number:
        raise FlickerError(f"{row.at}: 'subject' is {row.cells['subject']!r}; expected a number such as sub01")
    name = tables.text(row.cells["clip"])
    if not name or "/" in name or "\\" in name:
        raise FlickerError(f"{row.at}: 'clip' is {row.cells['clip']!r}; expected a clip name such as EP02_01f")
    label = tables.text(row.cells["label"]).lower()
    if label not in (*CLASSES, "0", "1", "2"):
        raise FlickerError(f"{row.at}: 'label' is {label!r}; expected 0 negative, 1 positive or 2 surprise")
    clip = Clip(
        dataset=dataset,
        subject=SUBJECTS[dataset].format(int(number)),
        clip=re.sub("^s0*", "s", name.lower()) if dataset == "smic" else name,
        onset=0,
        apex=0,
        offset=0,
        emotion=label if label in CLASSES else CLASSES[int(label)],
        fps=FPS[dataset],
    )
    return Row(clip, row.at, tables.text(row.cells["file"]), _landmarks(row))


def _landmarks(row: tables.Row) -> tuple[float, ...]:
    """The row's landmarks, or () where all are blank. Raises FlickerError for one that is no number."""
    cells = [row.cells[name] for name in LANDMARKS]
    if all(map(tables.is_blank, cells)):
        return ()
    values = []
    for name, cell in zip(LANDMARKS, cells, strict=True):
        try:
            value = float(tables.text(cell))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise FlickerError(f"{row.at}: '{name}' is {cell!r}; expected map pixels, or blank landmarks all over")
        values.append(value)
    return tuple(values)


def _areas(rows: Sequence[Row], size: int, report: Validation) -> np.ndarray | None:
    """Centres of the four areas; a row without landmarks gets the mean of the others, which is reported."""
    known = np.array([row.landmarks for row in rows if row.landmarks]).reshape(-1, 2, 2, 2)  # [n part side (x, y)]
    if not len(known):
        return None
    order = np.argsort(known[..., 0], axis=2, kind="stable")  # left is the picture's, whatever the table calls so
    centres = np.take_along_axis(known, order[..., None], axis=2).reshape(-1, 4, 2)
    outside = int(((centres < -0.5) | (centres > size - 0.5)).any(axis=(1, 2)).sum())
    if outside:
        raise FlickerError(
            f"{report.workbook}: landmarks of {outside} rows lie outside the maps of {size} x {size} px; "
            "give them in map pixels"
        )
    found = np.tile(centres.mean(axis=0), (len(rows), 1, 1))
    place = 0
    for index, row in enumerate(rows):
        if row.landmarks:
            found[index] = centres[place]
            place += 1
        else:
            report.note(f"{row.clip.subject}/{row.clip.clip}", "landmarks-mean", "")
    return found


def _finite(maps: np.ndarray, rows: Sequence[Row], source: str) -> None:
    """Raise FlickerError naming the first clip whose map is not finite."""
    bad = np.flatnonzero(~np.isfinite(maps).all(axis=(1, 2, 3)))
    if len(bad):
        clip = rows[int(bad[0])].clip
        raise FlickerError(f"{source}: the maps of {len(bad)} clips hold NaN or infinity, e.g. {clip.id}; mend them")


def _channels(maps: np.ndarray, report: Validation) -> None:
    """Note where the third channel does not look like strain, which is small in most places."""
    means = maps.mean(axis=(0, 1, 2), dtype=np.float64)
    if maps.dtype == np.uint8 and means.argmin() != 2:
        report.notes.append(
            f"the third channel's mean {means[2]:.0f} is not the lowest ({means[0]:.0f}, {means[1]:.0f} before it): "
            "is the order u, v, strain?"
        )
