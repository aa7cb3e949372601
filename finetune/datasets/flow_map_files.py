"""Where the maps of dataset `flow-maps` are read from: one array, or one file per clip.

Order of search in the folder: maps.npz (key maps), maps.npy, files. A row's file is the one that the table's column
`file` names, otherwise the one whose name without suffix is `CLIP` or `SUBJECT_CLIP` (case, leading zeros and spaces
at its ends do not matter), anywhere below. HTNet's tree holds every map once per fold: the copy under `u_test`
counts. Image files are read in OpenCV's order, first channel u (stored as blue), as HTNet's and STSTNet's code does.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from finetune.clips import Clip
from shards.errors import FlickerError

ARCHIVE, KEY = "maps.npz", "maps"
ARRAY = "maps.npy"
SUFFIXES = (".npy", ".png", ".jpg", ".jpeg")
SMALLEST, LARGEST = 8, 1024  # px
HINT = f"put {ARCHIVE} (key {KEY}), {ARRAY}, or one {', '.join(SUFFIXES)} file per clip there"

Wanted = tuple[Clip, str, str]
"""A clip, the file that the table names ('' where none), and where the row stands."""


@dataclass(frozen=True)
class Found:
    """Maps as stored, uint8 or float."""

    maps: np.ndarray
    """[k S S 3], of the rows that have one."""
    there: list[bool]
    """Whether each row has one."""
    source: str
    notes: list[str] = field(default_factory=list)


def read(root: Path, rows: Sequence[Wanted]) -> Found:
    """The maps of the rows. Raises FlickerError naming the file, for maps that are none or do not fit the table."""
    for name in (ARCHIVE, ARRAY):
        path = root / name
        if path.exists():
            maps = _checked(_load(path), path, 4)
            if len(maps) != len(rows):
                raise FlickerError(
                    f"{path}: {len(maps)} maps, but the table has {len(rows)} rows; one map per row is needed"
                )
            return Found(maps, [True] * len(rows), str(path))
    return _separate(root, rows)


def _load(path: Path) -> np.ndarray:
    """The array of a .npy or .npz file, without pickle."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            if KEY not in loaded.files:
                raise FlickerError(f"{path}: no array '{KEY}'; found: {', '.join(loaded.files) or 'none'}")
            return np.asarray(loaded[KEY])
    except (OSError, ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if "allow_pickle" in reason or "Object arrays" in reason:
            reason = "it is no numpy file, or holds Python objects"
        raise FlickerError(f"{path}: not a readable array of numbers ({reason}); save it again with numpy") from None


def _checked(maps: np.ndarray, path: Path, dimensions: int) -> np.ndarray:
    """The array if it can be maps: [n S S 3] or [S S 3], uint8 or float."""
    shape = maps.shape
    square = len(shape) == dimensions and shape[-1] == 3 and shape[-2] == shape[-3]
    if not square or not SMALLEST <= shape[-2] <= LARGEST:
        wanted = "[n S S 3]" if dimensions == 4 else "[S S 3]"
        raise FlickerError(
            f"{path}: shape {list(shape)}; expected {wanted} (u, v, strain), S from {SMALLEST} to {LARGEST}"
        )
    if maps.dtype != np.uint8 and not np.issubdtype(maps.dtype, np.floating):
        raise FlickerError(f"{path}: numbers of type {maps.dtype}; expected uint8 or float")
    return maps


def _separate(root: Path, rows: Sequence[Wanted]) -> Found:
    """One file per row."""
    below = _index(root) if not all(file for _, file, _ in rows) else {}
    maps: list[np.ndarray] = []
    there = []
    for clip, file, at in rows:
        path = _named(root, file, at) if file else _choose(below, clip)
        there.append(path is not None)
        if path is not None:
            maps.append(_read_one(path))
            if maps[-1].shape != maps[0].shape or maps[-1].dtype != maps[0].dtype:
                kinds = (f"{one.dtype} {list(one.shape)}" for one in (maps[-1], maps[0]))
                raise FlickerError(f"{path}: {next(kinds)}, but the first map is {next(kinds)}; all must be alike")
    stacked = np.stack(maps) if maps else np.zeros((0, SMALLEST, SMALLEST, 3), np.uint8)
    return Found(stacked, there, str(root))


def _named(root: Path, file: str, at: str) -> Path | None:
    """The file that the table names, None where it does not exist. Raises FlickerError where it leaves the folder."""
    path = (root / file).resolve()
    if not path.is_relative_to(root.resolve()) or path.suffix.lower() not in SUFFIXES:
        raise FlickerError(
            f"{at}: 'file' is {file!r}; expected a {', '.join(SUFFIXES)} file below the table's folder"
        )
    return path if path.is_file() else None


def _index(root: Path) -> dict[str, list[Path]]:
    """Plain name -> files of that name below the folder."""
    found: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            found.setdefault(_plain(path.stem), []).append(path)
    return found


def _plain(name: str) -> str:
    """Lower case, without spaces at the ends and leading zeros of numbers."""
    return re.sub(r"0*(\d+)", lambda digits: str(int(digits[0])), name.strip().lower())


def _choose(below: dict[str, list[Path]], clip: Clip) -> Path | None:
    """The clip's file. Raises FlickerError where several that differ could be it."""
    paths = below.get(_plain(f"{clip.subject}_{clip.clip}")) or below.get(_plain(clip.clip)) or []
    paths = [path for path in paths if "u_test" in path.parts] or paths
    if len(paths) > 1 and len({path.read_bytes() for path in paths}) > 1:
        raise FlickerError(
            f"{paths[0]} and {paths[1]} could both be the map of {clip.id} and differ; name its file in column 'file'"
        )
    return paths[0] if paths else None


def _read_one(path: Path) -> np.ndarray:
    """One map [S S 3]."""
    if path.suffix.lower() == ".npy":
        return _checked(_load(path), path, 3)
    try:
        image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    except (OSError, cv2.error):
        image = None
    if image is None:
        raise FlickerError(f"{path}: not a readable image; replace the file")
    return _checked(np.asarray(image), path, 3)
