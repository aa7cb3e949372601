"""The cache of found faces: one small file per image, named by what the result depends on."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.faces import chain
from finetune.faces.interface import FacePoints
from shards.errors import FlickerError
from shards.files import write_text

FORMAT = 1  # of the files


@dataclass(frozen=True)
class Entry:
    """What is known of an image: its face, or that the detector finds none."""

    face: FacePoints | None


class FaceCache:
    """Faces on disk, by digest of the image's bytes, backend name and version, chain and format.

    A file that is cut off or altered counts as absent; `damaged` counts them.
    """

    def __init__(self, folder: Path, name: str, version: str):
        self.folder, self._prefix = folder, f"{FORMAT}|{chain.VERSION}|{name}|{version}"
        self.damaged = 0

    def key(self, *digests: str) -> str:
        """The entry's name for an image, or for an image and its neighbours, given by SHA-256 of their files."""
        return hashlib.sha256("|".join([self._prefix, *digests]).encode()).hexdigest()

    def read(self, key: str) -> Entry | None:
        """The entry, or None where there is none that is whole."""
        try:
            text = self._path(key).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError):
            self.damaged += 1
            return None
        try:
            check, body = text.rstrip("\n").split(" ", 1)
            if int(check, 16) != zlib.crc32(body.encode()):
                raise ValueError
            return _entry(json.loads(body), key)
        except (ValueError, KeyError, TypeError):
            self.damaged += 1
            return None

    def write(self, key: str, entry: Entry) -> None:
        """Keep an entry. Raises FlickerError where the folder cannot be written to."""
        face = entry.face
        found = face and {"source": face.source, "box": list(face.box), "points": face.points.tolist()}
        body = json.dumps({"key": key, "face": found})
        try:
            write_text(self._path(key), f"{zlib.crc32(body.encode()):08x} {body}\n")
        except OSError as error:
            raise FlickerError(
                f"cannot write the cache of faces {self.folder}: {error.strerror}; choose another folder"
            ) from None

    def _path(self, key: str) -> Path:
        """The entry's file, in one of 256 folders."""
        return self.folder / key[:2] / f"{key}.json"


def _entry(value: dict, key: str) -> Entry:
    """The entry of a file's content. Raises ValueError, KeyError or TypeError for anything else."""
    if value["key"] != key:
        raise ValueError
    face = value["face"]
    if face is None:
        return Entry(None)
    x, y, width, height = map(float, face["box"])
    points = np.array(face["points"], np.float64)
    if points.shape != (68, 2):
        raise ValueError
    return Entry(FacePoints(points, (x, y, width, height), str(face["source"])))
