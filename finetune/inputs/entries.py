"""One file per clip and recipe: a plain .npz (no pickle) with a JSON note of what it holds and how it came about."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.inputs import coding
from shards.errors import FlickerError
from shards.files import atomic_path

FORMAT = 1  # of the file; in every key
NOTE = "note"
_BROKEN = (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile)


class CannotWrite(FlickerError):
    """The cache's folder takes no file: no matter of one clip."""


@dataclass(frozen=True)
class Note:
    """What an entry says about itself, readable without its arrays."""

    clip: str
    kind: str
    """Of the recipe; `recipe.json` beside the entries has all of it."""
    source: str = ""
    """How the face was found (finetune.faces.landmarks.SOURCES); '' where no landmarks were needed."""
    bad: list[str] = field(default_factory=list)
    """Images of the clip that were left out, with the reason."""
    coded: dict[str, Any] = field(default_factory=dict)
    """Array -> [shape, dtype, axes] for those that `coding` packed."""
    digest: str = ""
    """SHA-256 of the arrays' names and bytes: what a fold's result depends on."""


def write(path: Path, arrays: Mapping[str, np.ndarray], coded: Mapping[str, tuple[int, ...]], note: Note) -> None:
    """Write an entry, complete or not at all; `coded` names the arrays to pack and their axes.

    Raises CannotWrite: no space, no permission.
    """
    members, digest = dict(arrays), hashlib.sha256()
    packed: dict[str, Any] = {}
    for name, array in arrays.items():
        if name in coded:
            packed[name] = [list(array.shape), array.dtype.name, list(coded[name])]
            members[name] = coding.encode(array, coded[name])
        digest.update(f"{name}{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).data)
    note = replace(note, coded=packed, digest=digest.hexdigest())
    members[NOTE] = np.frombuffer(json.dumps(asdict(note)).encode(), np.uint8)
    try:
        with atomic_path(path) as temporary:
            np.savez(temporary, **members)  # type: ignore[arg-type]
    except OSError as error:
        raise CannotWrite(
            f"cannot write the prepared input {path}: {error.strerror}; free space or choose another folder"
        ) from None


def read_note(path: Path) -> Note | None:
    """The note of an entry, or None where there is no whole one (absent, cut short)."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return Note(**json.loads(file[NOTE].tobytes()))
    except _BROKEN:
        return None


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an entry, unpacked. Raises FlickerError where it is absent or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        note = Note(**json.loads(arrays.pop(NOTE).tobytes()))
        for name, (shape, dtype, axes) in note.coded.items():
            arrays[name] = coding.decode(arrays[name], tuple(shape), dtype, tuple(axes))
        return arrays
    except _BROKEN as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise FlickerError(f"prepared input {path} is damaged ({reason}); delete it and run again") from None
