"""The sidecar index: where every frame lies in its tar, and which frame follows which.

`shard-000000.idx` is JSON: per clip its key, source, real frame numbers, rate, the byte offset, length and CRC32C
of every frame and of `KEY.json`, and the key and shard of the clip that continues it (`null` at the end of a run).
`FrameIndex` holds all of a folder's frames as flat arrays in run order, so the partner of frame i at δ is i + δ.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import FlickerError
from shards.files import read_json
from shards.schema import VERSION, Manifest, known

Numbers = Sequence[int] | NDArray[Any]


@dataclass(frozen=True)
class ClipEntry:
    """One clip in a shard's index."""

    key: str
    source: str
    fps: float | None
    numbers: Numbers
    """real frame numbers, consecutive"""
    offsets: Numbers
    """first byte of each frame's JPEG in the tar"""
    lengths: Numbers
    """bytes of each frame's JPEG"""
    crc32c: Numbers
    """CRC32C (Castagnoli) of each frame's JPEG"""
    meta: Sequence[int]
    """offset, length and CRC32C of KEY.json"""
    next: str | None
    """key of the clip that continues this one"""
    next_shard: str | None
    """the shard that holds it"""


@dataclass(frozen=True)
class ShardIndex:
    """One shard's index file."""

    shard: str
    bytes: int
    sha256: str
    clips: list[ClipEntry]


def encode_index(index: ShardIndex) -> bytes:
    """The index file's bytes: JSON with one clip per line."""
    head = {"version": VERSION, "shard": index.shard, "bytes": index.bytes, "sha256": index.sha256}
    clips = ",\n".join(json.dumps(asdict(clip), separators=(",", ":")) for clip in index.clips)
    return (json.dumps(head)[:-1] + ', "clips": [\n' + clips + "\n]}\n").encode()


def read_index(path: Path) -> ShardIndex:
    """Read an index file. Raises FlickerError: missing, not JSON, fields missing or of unequal length."""
    record = read_json(path, "shard index")
    try:
        clips = [ClipEntry(**known(ClipEntry, clip)) for clip in record["clips"]]
        index = ShardIndex(record["shard"], record["bytes"], record["sha256"], clips)
        if any(len({*map(len, (c.numbers, c.offsets, c.lengths, c.crc32c))}) != 1 for c in clips):
            raise ValueError("a clip's lists have unequal lengths")
        return index
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FlickerError(f"shard index {path} is damaged ({error}): write the folder again") from None


class FrameIndex:
    """All frames of a shard folder, in run order: frame i + 1 follows frame i unless a run ends between them.

    Per frame [F], 20 bytes in all: clip int32, offset int64, length int32, crc uint32. Per clip [C]: keys,
    clip_shard, clip_run, clip_start (frame id of its first frame), clip_first (that frame's real number). Per
    run [R]: run_end (frame id after its last frame), fps float64 (NaN where unknown).
    """

    def __init__(self, shard_names: list[str], per_shard: list[ShardIndex]):
        self.shard_names = shard_names
        clips = {clip.key: (number, clip) for number, index in enumerate(per_shard) for clip in index.clips}
        if len(clips) != sum(len(index.clips) for index in per_shard):
            raise FlickerError("two clips in the index share a key: write the folder again")
        chain = _chains(clips)
        ordered = [clips[key][1] for key, _ in chain]
        sizes = np.array([len(clip.numbers) for clip in ordered], np.int64)
        self.keys = [key for key, _ in chain]
        self.clip_shard = np.array([clips[key][0] for key in self.keys], np.int32)
        self.clip_run = np.array([run for _, run in chain], np.int32)
        self.clip_start = np.cumsum(sizes) - sizes
        self.clip_first = np.array([clip.numbers[0] for clip in ordered], np.int64)
        self.clip = np.repeat(np.arange(len(chain), dtype=np.int32), sizes)
        self.offset = _joined([clip.offsets for clip in ordered], np.int64)
        self.length = _joined([clip.lengths for clip in ordered], np.int32)
        self.crc = _joined([clip.crc32c for clip in ordered], np.uint32)
        heads = np.flatnonzero(np.diff(self.clip_run, prepend=-1))
        self.run_end = np.append(self.clip_start[heads[1:]], len(self.clip))
        self.fps = np.array([ordered[head].fps or np.nan for head in heads], np.float64)

    def __len__(self) -> int:
        return len(self.clip)

    @property
    def runs(self) -> int:
        """Number of runs."""
        return len(self.fps)

    @property
    def shards(self) -> int:
        """Number of shards."""
        return len(self.shard_names)

    def run_of(self, frames: NDArray[np.int64]) -> NDArray[np.int32]:
        """The runs of frame ids, same shape."""
        return self.clip_run[self.clip[frames]]

    def shard_of(self, frames: NDArray[np.int64]) -> NDArray[np.int32]:
        """The shards of frame ids, same shape."""
        return self.clip_shard[self.clip[frames]]

    def remaining(self, frames: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many frames follow each frame id in its run, same shape."""
        return self.run_end[self.run_of(frames)] - 1 - frames

    def number(self, frames: NDArray[np.int64]) -> NDArray[np.int64]:
        """The real frame numbers of frame ids, same shape."""
        clip = self.clip[frames]
        return self.clip_first[clip] + frames - self.clip_start[clip]

    def name(self, frame: int) -> str:
        """`KEY/number` of a frame id."""
        clip = self.clip[frame]
        return f"{self.keys[clip]}/{self.clip_first[clip] + frame - self.clip_start[clip]}"


def _joined(parts: list[Any], dtype: Any) -> NDArray[Any]:
    """Per-clip lists as one array."""
    return np.concatenate([np.asarray(part, dtype) for part in parts]) if parts else np.zeros(0, dtype)


def _chains(clips: dict[str, tuple[int, ClipEntry]]) -> list[tuple[str, int]]:
    """(key, run) of every clip, runs in the order of their first keys. Checks that frame numbers go on by 1."""
    followed = {clip.next for _, clip in clips.values() if clip.next}
    ordered: list[tuple[str, int]] = []
    for run, head in enumerate(sorted(key for key in clips if key not in followed)):
        key: str | None = head
        last = None
        while key is not None:
            if key not in clips:
                raise FlickerError(f"clip {ordered[-1][0]} is continued by {key}, which no index lists: write again")
            numbers = np.asarray(clips[key][1].numbers, np.int64)
            first = numbers[0] if last is None else last + 1
            if not np.array_equal(numbers, np.arange(first, first + len(numbers))):
                raise FlickerError(f"clip {key}: its frame numbers are not consecutive: write the folder again")
            ordered.append((key, run))
            last, key = numbers[-1], clips[key][1].next
    if len(ordered) != len(clips):
        raise FlickerError("the index links clips in a circle: write the folder again")
    return ordered


def load_frames(manifest: Manifest) -> FrameIndex:
    """The FrameIndex of a shard folder, after checking that every shard is there in its full length.

    Raises FlickerError listing all missing or shortened shards and indexes.
    """
    faults = []
    for shard in manifest.shards:
        path = manifest.directory / shard.name
        if not path.exists():
            faults.append(f"{shard.name} is missing")
        elif (size := path.stat().st_size) != shard.bytes:
            faults.append(f"{shard.name} has {size} bytes, not {shard.bytes}")
        if not (manifest.directory / shard.index).exists():
            faults.append(f"{shard.index} is missing")
    if faults:
        raise FlickerError(f"{manifest.directory}: {'; '.join(faults)}: restore the files, or write the folder again")
    per_shard = [_compact(read_index(manifest.directory / shard.index)) for shard in manifest.shards]
    for shard, index in zip(manifest.shards, per_shard, strict=True):
        if (index.bytes, index.sha256) != (shard.bytes, shard.sha256):
            raise FlickerError(f"{manifest.directory / shard.index} belongs to another shard than the manifest's")
    return FrameIndex([shard.name for shard in manifest.shards], per_shard)


def _compact(index: ShardIndex) -> ShardIndex:
    """The index with arrays for lists: a quarter of the memory while many are open."""
    clips = [
        replace(
            clip,
            numbers=np.asarray(clip.numbers, np.int64),
            offsets=np.asarray(clip.offsets, np.int64),
            lengths=np.asarray(clip.lengths, np.int32),
            crc32c=np.asarray(clip.crc32c, np.uint32),
        )
        for clip in index.clips
    ]
    return replace(index, clips=clips)
