"""The sidecar index: where every frame of a shard lies, and which frames follow it in its run.

`shard-000000.idx` is a safetensors file of columns (see `ShardIndex`), about 0.2 % of its tar. Each clip also lists
the up to `REACH` frames that follow it, which lie in other shards: a partner is found without their indexes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from shards.errors import FlickerError
from shards.schema import VERSION, canonical

REACH = 128  # frames after a clip that its entry lists: the longest δ
BLOCK = 512  # tar
NO_SHARD = -1


@dataclass(frozen=True)
class After:
    """The first frames of a clip that continues another."""

    shard: int
    """number of the shard that holds it"""
    start: int
    """byte of its first tar header"""
    lengths: Sequence[int]
    crc32c: Sequence[int]


@dataclass(frozen=True)
class ClipEntry:
    """One clip on its way into an index. Its frames come first in the tar, in order; KEY.json is the last member."""

    key: str
    source: str
    fps: float | None
    first: int
    """real frame number of the first frame; the others follow one by one"""
    start: int
    """byte of the first tar header"""
    lengths: Sequence[int]
    """bytes of each frame's JPEG"""
    crc32c: Sequence[int]
    """CRC32C (Castagnoli) of each frame's JPEG"""
    meta_length: int
    """bytes of KEY.json"""
    meta_crc: int
    next: str | None = None
    """key of the clip that continues this one"""
    after: Sequence[After] = field(default_factory=list)
    """the frames that follow, up to REACH of them, piece by piece"""


@dataclass(frozen=True)
class ShardIndex:
    """One shard's index: columns per clip [C], per frame [F] in tar order, per piece [P] and frame [A] that
    follow them."""

    shard: str
    bytes: int
    sha256: str
    """of the tar"""
    keys: list[str]
    sources: list[str]
    next: list[str | None]
    columns: dict[str, NDArray[Any]]

    def __getattr__(self, name: str) -> NDArray[Any]:
        """A column: source, first, start, frames, meta_length, meta_crc, fps [C]; length, crc [F];
        after_clip, after_shard, after_start, after_frames [P]; after_length, after_crc [A]."""
        try:
            return self.__dict__["columns"][name]  # type: ignore[no-any-return]
        except KeyError:
            raise AttributeError(name) from None

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def row(self) -> NDArray[np.int64]:
        """[C + 1]: the frames of clip c are rows row[c] to row[c + 1] of the frame columns."""
        return _starts(self.frames)

    @cached_property
    def after_row(self) -> NDArray[np.int64]:
        """[C + 1]: the frames that follow clip c are rows after_row[c] to after_row[c + 1]."""
        per_clip = np.bincount(self.after_clip, weights=self.after_frames, minlength=len(self))
        return _starts(per_clip.astype(np.int64))

    @cached_property
    def after(self) -> NDArray[np.int64]:
        """How many following frames each clip lists, [C]; REACH means that many or more."""
        return np.diff(self.after_row)

    @cached_property
    def offset(self) -> NDArray[np.int64]:
        """Byte of each frame's JPEG in the tar, [F]."""
        return _data_offsets(self.start, self.frames, self.length)

    @cached_property
    def after_offset(self) -> NDArray[np.int64]:
        """Byte of each following frame's JPEG in its own tar, [A]."""
        return _data_offsets(self.after_start, self.after_frames, self.after_length)

    @cached_property
    def after_in(self) -> NDArray[np.int32]:
        """Number of the shard that each following frame lies in, [A]."""
        return np.repeat(self.after_shard, self.after_frames)

    def meta(self, clip: int) -> tuple[int, int, int]:
        """Offset, length and CRC32C of a clip's KEY.json."""
        lengths = self.length[self.row[clip] : self.row[clip + 1]].astype(np.int64)
        offset = int(self.start[clip] + member_bytes(lengths).sum() + BLOCK)
        return offset, int(self.meta_length[clip]), int(self.meta_crc[clip])

    def locate(self, number: int, clip: NDArray[np.int64], position: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where frames lie: [4 n], rows shard, offset, length, CRC32C.

        Args:
            number: this shard's number.
            clip, position: [n]; a position past the clip's end counts into the frames that follow it.
        """
        beyond = position - self.frames[clip]
        own = beyond < 0
        found = np.empty((4, len(clip)), np.int64)
        rows = self.row[clip[own]] + position[own]
        found[0, own] = number
        found[1:, own] = [column[rows] for column in (self.offset, self.length, self.crc)]
        rows = self.after_row[clip[~own]] + beyond[~own]
        columns = (self.after_in, self.after_offset, self.after_length, self.after_crc)
        found[:, ~own] = [column[rows] for column in columns]
        return found


def member_bytes(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bytes that members of these sizes take in a tar, headers included."""
    return BLOCK + -(-lengths // BLOCK) * BLOCK


def _starts(sizes: NDArray[Any]) -> NDArray[np.int64]:
    """Running sums from 0: [n + 1]."""
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)


def _data_offsets(start: NDArray[np.int64], count: NDArray[np.int64], length: NDArray[Any]) -> NDArray[np.int64]:
    """Where the data of successive members begin, for groups of `count` members that begin at `start`."""
    taken = member_bytes(length.astype(np.int64))
    before = np.cumsum(taken) - taken
    heads = _starts(count)[:-1]
    at_head = np.append(before, 0)[np.minimum(heads, len(before))]
    return np.repeat(start - at_head, count) + before + BLOCK


def encode_index(shard: str, size: int, sha256: str, clips: Sequence[ClipEntry]) -> bytes:
    """The index file's bytes. `shard` is its name without suffix, `size` and `sha256` are the tar's."""
    sources = sorted({clip.source for clip in clips})
    number = {name: position for position, name in enumerate(sources)}
    pieces = [(owner, piece) for owner, clip in enumerate(clips) for piece in clip.after]
    columns: dict[str, NDArray[Any]] = {
        "source": np.array([number[clip.source] for clip in clips], np.int32),
        "first": np.array([clip.first for clip in clips], np.int64),
        "start": np.array([clip.start for clip in clips], np.int64),
        "frames": np.array([len(clip.lengths) for clip in clips], np.int32),
        "meta_length": np.array([clip.meta_length for clip in clips], np.int32),
        "meta_crc": np.array([clip.meta_crc for clip in clips], np.uint32),
        "fps": np.array([clip.fps or np.nan for clip in clips], np.float64),
        "length": _joined([clip.lengths for clip in clips], np.int32),
        "crc": _joined([clip.crc32c for clip in clips], np.uint32),
        "after_clip": np.array([owner for owner, _ in pieces], np.int32),
        "after_shard": np.array([piece.shard for _, piece in pieces], np.int32),
        "after_start": np.array([piece.start for _, piece in pieces], np.int64),
        "after_frames": np.array([len(piece.lengths) for _, piece in pieces], np.int32),
        "after_length": _joined([piece.lengths for _, piece in pieces], np.int32),
        "after_crc": _joined([piece.crc32c for _, piece in pieces], np.uint32),
    }
    text = {"keys": [clip.key for clip in clips], "next": [clip.next for clip in clips], "sources": sources}
    head = {"version": VERSION, "shard": shard, "bytes": size, "sha256": sha256}
    return safetensors.numpy.save(columns, {"flicker": canonical(head | text).decode()})


def _joined(parts: list[Sequence[int]], dtype: Any) -> NDArray[Any]:
    """Per-clip lists as one array."""
    return np.concatenate([np.asarray(part, dtype) for part in parts]) if parts else np.zeros(0, dtype)


def read_index(data: bytes, name: str, sha256: str = "") -> ShardIndex:
    """An index file's bytes as a ShardIndex; `name` for messages, `sha256` what the file should have.

    Raises FlickerError: another checksum, damaged, another version, columns of unequal length.
    """
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise FlickerError(f"{name}: its SHA-256 differs from the manifest's: restore it, or write the folder again")
    try:
        columns = safetensors.numpy.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        text = json.loads(header["__metadata__"]["flicker"])
        if text["version"] != VERSION:
            raise ValueError(f"version {text['version']}, this Flicker reads {VERSION}")
        index = ShardIndex(
            text["shard"], text["bytes"], text["sha256"], text["keys"], text["sources"], text["next"], columns
        )
        _check_lengths(index)
        return index
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise FlickerError(f"shard index {name} is damaged ({error}): write the folder again") from None


def _check_lengths(index: ShardIndex) -> None:
    """Raise ValueError where the columns do not fit together."""
    clips, frames, pieces = len(index.keys), int(index.frames.sum()), len(index.after_clip)
    listed = int(index.after_frames.sum())
    expected = {
        **dict.fromkeys(("source", "first", "start", "frames", "meta_length", "meta_crc", "fps"), clips),
        **dict.fromkeys(("length", "crc"), frames),
        **dict.fromkeys(("after_clip", "after_shard", "after_start", "after_frames"), pieces),
        **dict.fromkeys(("after_length", "after_crc"), listed),
    }
    wrong = [name for name, size in expected.items() if len(index.columns[name]) != size]
    if wrong or len(index.next) != clips:
        raise ValueError(f"columns of unequal length: {', '.join(wrong) or 'next'}")
