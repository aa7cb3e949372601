"""The sidecar index: where every frame lies in its tar, and which frame follows which.

`shard-000000.idx` is JSON: per clip its key, source, real frame numbers, rate, the byte offset, length and CRC32C
of every frame and of `KEY.json`, and the key and shard of the clip that continues it (`null` at the end of a run).
`FrameIndex` holds all of a folder's frames as flat arrays in run order, so the partner of frame i at δ is i + δ.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import FlickerError
from shards.files import read_json
from shards.schema import VERSION, Manifest, known


@dataclass(frozen=True)
class ClipEntry:
    """One clip in a shard's index."""

    key: str
    source: str
    fps: float | None
    numbers: list[int]
    """real frame numbers, consecutive"""
    offsets: list[int]
    """first byte of each frame's JPEG in the tar"""
    lengths: list[int]
    """bytes of each frame's JPEG"""
    crc32c: list[int]
    """CRC32C (Castagnoli) of each frame's JPEG"""
    meta: list[int]
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
    """All frames of a shard folder, in run order. Arrays over frames [F] or runs [R]; about 32 bytes per frame.

    shard, clip, run: int32 [F], where a frame lies; offset int64, length int32, crc uint32 [F], its bytes;
    remaining int32 [F], frames that follow it in its run; number int64 [F], its real number;
    fps float64 [R], NaN where unknown; keys: list of clip keys.
    """

    def __init__(self, shard_names: list[str], per_shard: list[ShardIndex]):
        self.shard_names = shard_names
        clips = {clip.key: (number, clip) for number, index in enumerate(per_shard) for clip in index.clips}
        if len(clips) != sum(len(index.clips) for index in per_shard):
            raise FlickerError("two clips in the index share a key: write the folder again")
        chain = _chains(clips)
        sizes = np.array([len(clips[key][1].numbers) for key, _ in chain], np.int64)
        run_of_clip = np.array([run for _, run in chain], np.int32)
        self.keys = [key for key, _ in chain]
        self.runs = int(run_of_clip[-1]) + 1 if len(run_of_clip) else 0
        self.clip = np.repeat(np.arange(len(chain), dtype=np.int32), sizes)
        self.run = run_of_clip[self.clip] if len(chain) else np.zeros(0, np.int32)
        self.shard = np.array([clips[key][0] for key in self.keys], np.int32)[self.clip]
        self.number = self._gather(clips, "numbers", np.int64)
        self.offset = self._gather(clips, "offsets", np.int64)
        self.length = self._gather(clips, "lengths", np.int32)
        self.crc = self._gather(clips, "crc32c", np.uint32)
        ends = np.cumsum(np.bincount(self.run, minlength=self.runs))
        self.remaining = (ends[self.run] - 1 - np.arange(len(self))).astype(np.int32)
        heads = np.flatnonzero(np.diff(run_of_clip, prepend=-1))
        rates = [clips[self.keys[head]][1].fps for head in heads]
        self.fps = np.array([rate or np.nan for rate in rates], np.float64)

    def _gather(self, clips: dict[str, tuple[int, ClipEntry]], name: str, dtype: Any) -> NDArray[Any]:
        """One per-frame field of all clips, in run order, [F]."""
        parts = [np.asarray(getattr(clips[key][1], name), dtype) for key in self.keys]
        return np.concatenate(parts) if parts else np.zeros(0, dtype)

    def __len__(self) -> int:
        return len(self.clip)

    @property
    def shards(self) -> int:
        """Number of shards."""
        return len(self.shard_names)

    def name(self, frame: int) -> str:
        """`KEY/number` of a frame id."""
        return f"{self.keys[self.clip[frame]]}/{self.number[frame]}"


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
            numbers = clips[key][1].numbers
            expected = range(numbers[0] if last is None else last + 1, numbers[-1] + 1)
            if numbers != list(expected):
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
    per_shard = [read_index(manifest.directory / shard.index) for shard in manifest.shards]
    for shard, index in zip(manifest.shards, per_shard, strict=True):
        if (index.bytes, index.sha256) != (shard.bytes, shard.sha256):
            raise FlickerError(f"{manifest.directory / shard.index} belongs to another shard than the manifest's")
    return FrameIndex([shard.name for shard in manifest.shards], per_shard)
