"""Staged clips to shards: the tar and index files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO

import numpy as np
from crc32c import crc32c as checksum
from numpy.typing import NDArray

from shards import pool, tails
from shards.dealing import PackTask
from shards.errors import FlickerError
from shards.files import atomic_path
from shards.folders import FileReader
from shards.index import BLOCK, REACH, After, ClipEntry, encode_index, read_index
from shards.schema import ShardInfo, frame_member, shard_name
from shards.staging import Head, read_counts, read_head, staged_path
from shards.tarfiles import header

Bytes = NDArray[np.uint8]
SEND = 8 * 2**20  # bytes that are handed to the disk at a time


@dataclass(frozen=True)
class Packed:
    """A finished shard."""

    number: int
    info: ShardInfo
    tails: tails.Tails


def pack_shard(task: PackTask) -> Packed:
    """Write one shard and its index, atomically; a finished one is only looked at.

    Raises FlickerError where a frame's file is no longer what was staged, OSError where nothing can be written.
    """
    name = shard_name(task.number)
    tar, index = task.directory / f"{name}.tar", task.directory / f"{name}.idx"
    frames = int(task.frames[_own(task)].sum())
    if not _is_finished(tar, index, task.size):
        _write_shard(task, name, tar, index)
    else:
        pool.tick(frames)
    data = index.read_bytes()
    written = read_index(data, index.name)
    digest = hashlib.sha256(data).hexdigest()
    info = ShardInfo(tar.name, index.name, written.bytes, written.sha256, digest, len(written), frames)
    return Packed(task.number, info, tails.count(task.number, written))


def _is_finished(tar: Path, index: Path, size: int) -> bool:
    """Whether both files are there: the index comes last and says that the tar is whole."""
    return index.exists() and tar.exists() and tar.stat().st_size == size


def _own(task: PackTask) -> NDArray[np.int64]:
    """The rows of the shard's own clips."""
    return np.asarray(np.cumsum(task.rows_of) - task.rows_of, np.int64)


def _write_shard(task: PackTask, name: str, tar: Path, index: Path) -> None:
    """The tar first, then its index, whose presence says that both are complete."""
    with atomic_path(tar, task.staging) as temporary, temporary.open("wb") as file:
        writer = ShardWriter(task, file)
        entries = [writer.add(row) for row in range(len(task.rows_of))]
        writer.end()
    with atomic_path(index, task.staging) as temporary:
        temporary.write_bytes(encode_index(name, task.size, writer.digest.hexdigest(), entries))


class ShardWriter:
    """Writes the clips of one shard, a clip at a time, and hashes them on the way."""

    def __init__(self, task: PackTask, file: BinaryIO):
        self.digest = hashlib.sha256()
        self._task, self._file = task, file
        self._rows = _own(task)
        self._written = self._sent = 0
        self._buffer = np.empty(1 << 20, np.uint8)

    def add(self, clip: int) -> ClipEntry:
        """Write clip `clip` of the task; returns its index entry."""
        task, row = self._task, int(self._rows[clip])
        path = staged_path(task.staging, int(task.source[row]))
        with path.open("rb", buffering=0) as staged:
            head = read_head(staged.fileno(), int(task.offset[row]))
            meta = json.loads(head.meta)
            size = self._fill(meta["key"], head, staged.fileno(), task.folders.get(int(task.source[row])))
            after = list(self._after(clip, staged.fileno()))
        assert self._written == task.start[row]
        self._put(self._buffer[:size])
        pool.tick(len(head.lengths))
        following = meta["first"] + len(head.lengths)
        return ClipEntry(
            key=meta["key"],
            source=meta["source"],
            fps=meta["fps"],
            first=meta["first"],
            start=int(task.start[row]),
            lengths=head.lengths.tolist(),
            crc32c=head.crc32c.tolist(),
            meta_length=len(head.meta),
            meta_crc=checksum(head.meta),
            next=f"{meta['key'].rpartition('_')[0]}_{following:07d}" if task.continued[row] else None,
            after=after,
        )

    def end(self) -> None:
        """The zeros that end a tar."""
        self._put(np.zeros(self._task.size - self._written, np.uint8))

    def _put(self, data: Bytes) -> None:
        self.digest.update(data.data)
        self._file.write(data.data)
        self._written += len(data)
        if self._written - self._sent >= SEND:
            self._send()

    def _send(self) -> None:
        """Start writing to the disk, and give up the memory of what is there: it is not read again, sources are."""
        self._file.flush()
        os.posix_fadvise(self._file.fileno(), self._sent, self._written - self._sent, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(self._file.fileno(), 0, max(1, self._sent - 4 * SEND), os.POSIX_FADV_DONTNEED)
        self._sent = self._written

    def _after(self, clip: int, staged: int) -> Iterator[After]:
        """The frames that follow the clip, piece by piece, up to REACH of them."""
        task, left = self._task, REACH
        for row in range(self._rows[clip] + 1, self._rows[clip] + task.rows_of[clip]):
            lengths, crc32c = read_counts(staged, int(task.offset[row]))
            yield After(int(task.shard[row]), int(task.start[row]), lengths[:left].tolist(), crc32c[:left].tolist())
            left -= len(lengths)

    def _fill(self, key: str, head: Head, staged: int, folder: Path | None) -> int:
        """Put the clip's members into the buffer; returns how many bytes they take."""
        sizes = [*head.lengths.tolist(), len(head.meta)]
        places = np.cumsum([0, *(BLOCK + _padded(size) for size in sizes)]).tolist()
        if places[-1] > len(self._buffer):
            self._buffer = np.empty(places[-1], np.uint8)
        names = [*(frame_member(key, position) for position in range(len(head.lengths))), f"{key}.json"]
        for name, place, size in zip(names, places, sizes, strict=False):
            self._buffer[place : place + BLOCK] = np.frombuffer(header(name.encode(), size), np.uint8)
            self._buffer[place + BLOCK + size : place + BLOCK + _padded(size)] = 0
        bodies = zip(places, sizes, strict=False)
        slots = [self._buffer[place + BLOCK : place + BLOCK + size] for place, size in bodies]
        slots.pop()[:] = np.frombuffer(head.meta, np.uint8)
        own = [slot for slot, file in zip_longest(slots, head.files) if not file]
        if own:
            self._read_staged(staged, head, own)
        if len(own) < len(slots):
            self._read_files(folder, head, slots)
        return int(places[-1])

    def _read_staged(self, staged: int, head: Head, slots: list[Bytes]) -> None:
        """The frames that lie in the record. Raises FlickerError if they are damaged."""
        offset = head.data
        for slot in slots:
            offset += os.preadv(staged, [slot.data], offset)
        crcs = [crc for crc, file in zip_longest(head.crc32c.tolist(), head.files) if not file]
        if [checksum(slot.data) for slot in slots] != crcs:
            staging = self._task.staging
            raise FlickerError(f"the intermediate files in {staging} are damaged: delete it and run again")

    def _read_files(self, folder: Path | None, head: Head, slots: list[Bytes]) -> None:
        """The frames that are taken over unchanged, from their own files. Raises FlickerError if they changed."""
        assert folder is not None
        name = ""
        try:
            with FileReader(folder) as reader:
                for file, slot, crc in zip(head.files, slots, head.crc32c.tolist(), strict=True):
                    if not file:
                        continue
                    name = os.fsdecode(file)
                    data = reader.read(name)
                    if len(data) != len(slot) or checksum(data.data) != crc:
                        raise self._changed(folder / name, "has changed since this run first read it")
                    slot[:] = data
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise self._changed(folder / name if name else folder, f"cannot be read any more ({reason})") from None

    def _changed(self, path: Path, what: str) -> FlickerError:
        """A source that is not what it was."""
        out = self._task.directory
        return FlickerError(f"{path} {what}: restore it and run again, or delete {out} and write it anew")


def _padded(size: int) -> int:
    """Bytes that `size` bytes of data take in a tar."""
    return -(-size // BLOCK) * BLOCK
