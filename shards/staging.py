"""The intermediate file of one source: its clips, one record after another, then what came of the source.

A record is four little-endian uint32 (frames, bytes of KEY.json, bytes of the file names, 0), the frames' lengths
and CRC32C (uint32 each), KEY.json, the names of the files that hold the frames (separated by zero bytes, an empty
one where the frame lies in the record), and the frames that lie in it. Frames that are taken over unchanged are
not copied here: their file is named, and packing reads it again and compares the CRC32C.

After the records: a safetensors file with the source's report and four columns, 19 bytes per clip, and its length
(uint64). The file gets its name when it is complete: a source that has one is done.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from shards.errors import FlickerError
from shards.index import BLOCK, member_bytes
from shards.schema import LONGEST_NAME, SourceReport, canonical, frame_member, known

_HEAD = np.dtype("<u4")
_LENGTH = struct.Struct("<Q")
_SHORT = 4 * _HEAD.itemsize
COLUMNS: dict[str, Any] = {"offset": np.int64, "tar_bytes": np.int64, "frames": np.uint16, "continued": np.bool_}


@dataclass(frozen=True)
class Head:
    """A record without its frames."""

    lengths: NDArray[np.uint32]
    """bytes of each frame's JPEG [F]"""
    crc32c: NDArray[np.uint32]
    meta: bytes
    """KEY.json"""
    files: list[bytes]
    """the file of each frame in the source's folder, empty where it lies in the record [F]; or no entries at all"""
    data: int
    """byte of the staging file where the record's own frames begin"""


@dataclass
class Recorder:
    """Writes the records of one source to an open file and keeps their columns."""

    file: BinaryIO
    columns: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in COLUMNS})
    _offset: int = 0

    def add(
        self,
        key: str,
        meta: bytes,
        lengths: Sequence[int] | NDArray[np.integer],
        crc32c: Sequence[int] | NDArray[np.integer],
        files: Sequence[str] = (),
        data: Sequence[bytes] = (),
        *,
        continues: bool,
    ) -> None:
        """Append a clip. `files` names each frame's file (empty: its bytes are the next of `data`), or nothing.

        `continues` says that the clip goes on where the one before it ends.
        """
        longest = frame_member(key, len(lengths) - 1)
        assert len(longest.encode()) <= LONGEST_NAME, longest
        names = b"\0".join(map(os.fsencode, files))
        numbers = np.concatenate([[len(lengths), len(meta), len(names), 0], lengths, crc32c]).astype(_HEAD)
        parts = [numbers.tobytes(), meta, names, *data]
        self.file.writelines(parts)
        if continues:
            self.columns["continued"][-1] = True
        tar = BLOCK + -(-len(meta) // BLOCK) * BLOCK + int(member_bytes(np.asarray(lengths, np.int64)).sum())
        for name, value in zip(COLUMNS, (self._offset, tar, len(lengths), False), strict=True):
            self.columns[name].append(value)
        self._offset += sum(map(len, parts))

    def restart(self) -> None:
        """Forget all records."""
        self.file.seek(0)
        self.file.truncate()
        self.columns = {name: [] for name in COLUMNS}
        self._offset = 0

    def end(self, report: SourceReport) -> None:
        """Append what came of the source."""
        arrays = {name: np.array(self.columns[name], dtype) for name, dtype in COLUMNS.items()}
        data = safetensors.numpy.save(arrays, {"report": canonical(asdict(report)).decode()})
        self.file.writelines([data, _LENGTH.pack(len(data))])

    @property
    def clips(self) -> int:
        """Clips so far."""
        return len(self.columns["offset"])

    @property
    def frames(self) -> int:
        """Frames so far."""
        return sum(self.columns["frames"])

    @property
    def runs(self) -> int:
        """Runs so far."""
        return self.clips - sum(self.columns["continued"])


def read_counts(file: int, offset: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Lengths and CRC32C of the frames of the record at `offset` of an open file, without reading more."""
    frames = int(np.frombuffer(os.pread(file, _SHORT, offset), _HEAD)[0])
    both = np.frombuffer(os.pread(file, 2 * frames * _HEAD.itemsize, offset + _SHORT), _HEAD)
    return both[:frames], both[frames:]


def read_head(file: int, offset: int) -> Head:
    """The record at `offset` of an open file."""
    frames, meta, names, _ = np.frombuffer(os.pread(file, _SHORT, offset), _HEAD).tolist()
    counts = 2 * frames * _HEAD.itemsize
    rest = os.pread(file, counts + meta + names, offset + _SHORT)
    both = np.frombuffer(rest, _HEAD, 2 * frames)
    files = rest[counts + meta :].split(b"\0") if names else []
    data = offset + _SHORT + len(rest)
    return Head(both[:frames], both[frames:], rest[counts : counts + meta], files, data)


def staged_path(staging: Path, number: int) -> Path:
    """The intermediate file of source `number`; its presence says that the source is done."""
    return staging / f"source-{number:06d}.staged"


def read_summary(staging: Path, number: int) -> tuple[SourceReport, dict[str, NDArray[Any]]]:
    """What came of source `number`, and the columns of COLUMNS, [clips] each.

    Raises FlickerError where the file is damaged.
    """
    path = staged_path(staging, number)
    try:
        with path.open("rb") as file:
            end = file.seek(-_LENGTH.size, os.SEEK_END)
            (length,) = _LENGTH.unpack(file.read())
            file.seek(end - length)
            data = file.read(length)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        report = SourceReport(**known(SourceReport, json.loads(header["__metadata__"]["report"])))
        return report, safetensors.numpy.load(data)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError, struct.error) as error:
        raise FlickerError(f"{path} is damaged ({error}): delete it and run again") from None
