"""The intermediate file of one source: its finished clips, one record after another.

A record is a 4-byte length, a JSON header (the clip's KEY.json, frame lengths and CRC32C), then the JPEG frames.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c

from shards.files import read_json, write_json
from shards.schema import LONGEST_NAME, SourceReport, canonical, frame_member, known

_LENGTH = struct.Struct("<I")
BLOCK = 512  # tar


@dataclass(frozen=True)
class Clip:
    """One clip as tar members will hold it."""

    meta: dict[str, Any]
    """KEY.json"""
    frames: list[bytes]
    crc32c: list[int]

    @property
    def key(self) -> str:
        """The sample's key."""
        return str(self.meta["key"])

    @property
    def meta_bytes(self) -> bytes:
        """KEY.json's bytes."""
        return canonical(self.meta)


@dataclass(frozen=True)
class StagedClip:
    """Where a clip lies in its staging file, and what it will take in a tar."""

    key: str
    offset: int
    length: int
    tar_bytes: int
    frames: int
    run: int


def tar_bytes(sizes: list[int]) -> int:
    """Bytes that members of these sizes take in a tar, headers included."""
    return sum(BLOCK + -(-size // BLOCK) * BLOCK for size in sizes)


def append_clip(file: BinaryIO, meta: dict[str, Any], frames: list[bytes], run: int) -> StagedClip:
    """Write one record at the end of `file` and say where it is."""
    longest = frame_member(meta["key"], len(frames) - 1)
    assert len(longest.encode()) <= LONGEST_NAME, longest
    crcs = [google_crc32c.value(frame) for frame in frames]
    header = canonical({"meta": meta, "lengths": [len(frame) for frame in frames], "crc32c": crcs})
    offset = file.tell()
    file.write(_LENGTH.pack(len(header)) + header)
    file.writelines(frames)
    size = tar_bytes([len(canonical(meta)), *map(len, frames)])
    return StagedClip(meta["key"], offset, file.tell() - offset, size, len(frames), run)


def read_clip(path: Path, offset: int) -> Clip:
    """Read the record at `offset`."""
    with path.open("rb") as file:
        file.seek(offset)
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        header = json.loads(file.read(length))
        frames = [file.read(size) for size in header["lengths"]]
    return Clip(header["meta"], frames, header["crc32c"])


def clips_path(staging: Path, number: int) -> Path:
    """The records of source `number`."""
    return staging / f"source-{number:06d}.clips"


def summary_path(staging: Path, number: int) -> Path:
    """The summary of source `number`; its presence says that the source is done."""
    return staging / f"source-{number:06d}.json"


def write_summary(staging: Path, number: int, report: SourceReport, clips: list[StagedClip]) -> None:
    """Mark source `number` as done."""
    record = {"report": asdict(report), "clips": [list(asdict(clip).values()) for clip in clips]}
    write_json(summary_path(staging, number), record)


def read_summary(staging: Path, number: int) -> tuple[SourceReport, list[StagedClip]]:
    """What `write_summary` wrote."""
    record = read_json(summary_path(staging, number), "staging summary")
    report = SourceReport(**known(SourceReport, record["report"]))
    return report, [StagedClip(*clip) for clip in record["clips"]]
