"""The plan of the shards: which clip goes where, in numpy columns, for a billion frames and more.

Memory: 19 bytes per clip for what the summaries say (offset, tar_bytes, frames, continued), 20 for the plan (order,
shard, start), and as much again for a moment while the order is drawn; 15.6 million clips (a billion frames) take
0.6 GB, twice that at the peak. Nothing per clip is a Python object but within the shards being packed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.index import REACH
from shards.order import PACK, permutation
from shards.schema import Options
from shards.staging import COLUMNS
from shards.tarfiles import END, RECORD

Columns = dict[str, NDArray]


@dataclass(frozen=True)
class PackTask:
    """Everything a worker needs for one shard: rows [R], each of its clips followed by those that continue it."""

    number: int
    directory: Path
    staging: Path
    rows_of: NDArray[np.int64]
    """rows of each clip of the shard, its own included [C]"""
    source: NDArray[np.int32]
    """number of the source, [R]"""
    offset: NDArray[np.int64]
    """byte of the record in the source's staging file, [R]"""
    frames: NDArray[np.int64]
    """[R]"""
    shard: NDArray[np.int32]
    """number of the shard that the row's clip goes to, [R]"""
    start: NDArray[np.int64]
    """byte of its first header in that shard's tar, [R]"""
    continued: NDArray[np.bool_]
    """whether another clip continues it, [R]"""
    size: int
    """bytes of the tar"""
    folders: dict[int, Path]
    """where the sources are that are frame folders"""


@dataclass(frozen=True)
class Plan:
    """All clips of all sources [C], in order of source and frame, dealt over the shards."""

    columns: Columns
    """offset, tar_bytes, frames, continued (see `shards.staging`), [C]"""
    first: NDArray[np.int64]
    """number of each source's first clip, and the number of all clips, [sources + 1]"""
    order: NDArray[np.int64]
    """the clips shard by shard, [C]"""
    ends: NDArray[np.int64]
    """where in `order` each shard ends, [shards]"""
    shard: NDArray[np.int32]
    """shard of each clip, [C]"""
    start: NDArray[np.int64]
    """byte of each clip's first header in its tar, [C]"""

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def frames(self) -> int:
        """All frames."""
        return int(self.columns["frames"].sum(dtype=np.int64))

    def task(self, number: int, directory: Path, staging: Path, folders: dict[int, Path]) -> PackTask:
        """Shard `number`."""
        members = self.order[self.ends[number - 1] if number else 0 : self.ends[number]]
        rows, rows_of = self._with_successors(members)
        sources = (np.searchsorted(self.first, rows, side="right") - 1).astype(np.int32)
        needed = set(sources.tolist())
        return PackTask(
            number=number,
            directory=directory,
            staging=staging,
            rows_of=rows_of,
            source=sources,
            offset=self.columns["offset"][rows],
            frames=self.columns["frames"][rows].astype(np.int64),
            shard=self.shard[rows],
            start=self.start[rows],
            continued=self.columns["continued"][rows],
            size=_tar_size(int(self.columns["tar_bytes"][members].sum())),
            folders={source: folders[source] for source in needed if source in folders},
        )

    def _with_successors(self, members: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Each clip followed by its successors until they hold REACH frames; and how many rows each takes."""
        frames, continued = self.columns["frames"], self.columns["continued"]
        rows: list[int] = []
        rows_of = []
        for member in members.tolist():
            before, listed, last = len(rows), 0, member
            rows.append(member)
            while continued[last] and listed < REACH:
                last += 1
                rows.append(last)
                listed += int(frames[last])
            rows_of.append(len(rows) - before)
        return np.array(rows, np.int64), np.array(rows_of, np.int64)


def deal(per_source: Sequence[Columns], options: Options) -> Plan:
    """Deal all clips, shuffled by the seed, over shards of at most `shard_bytes` (a longer clip gets its own).

    `per_source` holds each source's columns, in order (none for a skipped source); the same columns and options
    give the same plan.
    """
    empty = {name: np.zeros(0, dtype) for name, dtype in COLUMNS.items()}
    full = [item or empty for item in per_source]
    columns = {name: np.concatenate([empty[name], *(item[name] for item in full)]) for name in COLUMNS}
    first = np.concatenate([[0], np.cumsum([len(item["offset"]) for item in full])]).astype(np.int64)
    order = permutation(len(columns["offset"]), options.seed, PACK)
    filled = np.cumsum(columns["tar_bytes"][order])  # bytes up to and with each clip, in that order
    ends = _fill(filled, options.shard_bytes // RECORD * RECORD - END)
    sizes = np.diff(ends, prepend=0)
    shard = np.empty(len(order), np.int32)
    shard[order] = np.repeat(np.arange(len(ends), dtype=np.int32), sizes)
    start = np.empty(len(order), np.int64)
    before = np.concatenate([[0], filled[ends[:-1] - 1]])[: len(ends)]  # bytes of all earlier shards
    start[order] = filled - columns["tar_bytes"][order] - np.repeat(before, sizes)
    return Plan(columns, first, order, ends, shard, start)


def _fill(filled: NDArray[np.int64], room: int) -> NDArray[np.int64]:
    """Where each shard ends, given the running sum of bytes and the room in one."""
    ends = [0]
    while ends[-1] < len(filled):
        used = filled[ends[-1] - 1] if ends[-1] else 0
        ends.append(max(ends[-1] + 1, int(np.searchsorted(filled, used + room, side="right"))))
    return np.array(ends[1:], np.int64)


def _tar_size(clips: int) -> int:
    """Bytes of a tar whose members take `clips` bytes."""
    return -(-(clips + END) // RECORD) * RECORD
