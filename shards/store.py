"""Where shards are read from: a folder of this machine (or its mounts), or a remote location (shards.remote).

A store gives byte ranges of named files. It knows nothing of frames: checksums are the caller's, who tells the store
with `forget` when bytes turn out to be damaged.
"""

from __future__ import annotations

import abc
import contextlib
import errno
import math
import os
import random
import re
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.errors import FlickerError

OPEN_FILES = 128
LOST_SECONDS = 5.0  # how long a file that could not be read fails at once
LOCAL_ATTEMPTS = 4
CACHE_BYTES = 8 * 2**30
LEAST_CACHE_BYTES = 64 * 2**20
COUNTS = ("requests", "bytes_fetched", "bytes_read", "retries", "cache_hits", "hints_dropped")


class StoreError(FlickerError):
    """Bytes that cannot be had; one line names the file and what to do."""


class OutageError(StoreError):
    """A server or network that still did not answer after all attempts: no fault of the data."""


@dataclass(frozen=True)
class _Lost:
    """Bytes `start` to `end` of a file fail at once until `until` (monotonic seconds)."""

    until: float
    start: int
    end: float
    error: StoreError


class Store(abc.ABC):
    """Byte ranges of named files at one location. Safe to use from several threads of the process that made it."""

    remote = False

    def __init__(self, location: str):
        self.location = location
        """for messages; holds no secret"""
        self.counts = dict.fromkeys(COUNTS, 0)
        """since the store was opened: requests, bytes_fetched (from disk or server), bytes_read (given to callers),
        retries, cache_hits (blocks), hints_dropped"""
        self._counting = threading.Lock()
        self._lost: dict[str, _Lost] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.location!r})"

    @abc.abstractmethod
    def read(self, name: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes of a file from `offset` on. Raises StoreError."""

    def view(self, name: str, offset: int, length: int) -> bytes | memoryview:
        """As `read`, in memory that the next call may use again: for callers of one thread. Raises StoreError."""
        return self.read(name, offset, length)

    @abc.abstractmethod
    def read_all(self, name: str) -> bytes:
        """A whole small file. Raises StoreError."""

    @abc.abstractmethod
    def sizes(self, names: Sequence[str]) -> dict[str, int] | None:
        """Bytes of each of these files, missing ones left out; None if nothing can be listed. Raises StoreError."""

    @abc.abstractmethod
    def hint(self, name: str, offset: int, length: int) -> None:
        """These bytes will be read soon. Does not wait, raises nothing."""

    @abc.abstractmethod
    def forget(self, name: str, offset: int, length: int) -> None:
        """These bytes turned out to be damaged: drop kept copies, so that the next read fetches them again."""

    @abc.abstractmethod
    def arguments(self) -> dict[str, Any]:
        """What `open_store` needs to open this store in another process (JSON). May hold secrets: do not log."""

    @abc.abstractmethod
    def close(self) -> None:
        """Free files, connections and threads."""

    def _count(self, **more: int) -> None:
        with self._counting:
            for name, number in more.items():
                self.counts[name] += number

    def _refuse_lost(self, name: str, offset: int, length: int) -> None:
        """Raises StoreError where these bytes could not be read a moment ago."""
        lost = self._lost.get(name)
        if lost and offset < lost.end and offset + length > lost.start and time.monotonic() < lost.until:
            raise type(lost.error)(str(lost.error))

    def _lose(
        self, name: str, message: str, start: int = 0, end: float = math.inf, kind: type[StoreError] = StoreError
    ) -> StoreError:
        """The error to raise; reads of bytes `start` to `end` fail with it for some seconds."""
        self._lost[name] = _Lost(time.monotonic() + LOST_SECONDS, start, end, kind(message))
        return kind(message)


class _File:
    """An open file; closed when the last thread that uses it lets go."""

    def __init__(self, path: Path):
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self.descriptor)


class LocalStore(Store):
    """Files of a folder, read by position. Failed and short reads are tried again for about a second."""

    def __init__(self, folder: Path, pause: float = 0.05):
        super().__init__(str(folder))
        self._folder, self._pause = folder, pause
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._opening = threading.Lock()
        self._buffer = bytearray()

    def read(self, name: str, offset: int, length: int) -> bytes:
        if self._lost:
            self._refuse_lost(name, offset, length)
        started = time.monotonic()
        error: OSError | _ShortError
        for attempt in range(LOCAL_ATTEMPTS):
            if attempt:
                self._count(retries=1)
                time.sleep(self._pause * 4 ** (attempt - 1) * random.uniform(0.8, 1.2))
            try:
                data = self._pread(name, offset, length)
            except (OSError, _ShortError) as fault:
                error = fault
                self._forget_file(name)
            else:
                with self._counting:
                    self.counts["requests"] += 1
                    self.counts["bytes_fetched"] += length
                    self.counts["bytes_read"] += length
                return data
        raise self._failed(name, offset, length, error, time.monotonic() - started)

    def view(self, name: str, offset: int, length: int) -> bytes | memoryview:
        if length > len(self._buffer):
            self._buffer = bytearray(2 * length)
        window = memoryview(self._buffer)[:length]  # fresh memory would cost three times as much as the reading
        try:
            file = self._files.get(name) or self._file(name)
            whole = not self._lost and os.preadv(file.descriptor, (window,), offset) == length
        except OSError:
            whole = False
        if not whole:
            return self.read(name, offset, length)
        counts = self.counts  # one thread only: no lock
        counts["requests"] += 1
        counts["bytes_fetched"] += length
        counts["bytes_read"] += length
        return window.toreadonly()

    def _pread(self, name: str, offset: int, length: int) -> bytes:
        file = self._file(name)
        data = os.pread(file.descriptor, length, offset)
        while len(data) < length:
            more = os.pread(file.descriptor, length - len(data), offset + len(data))
            if not more:
                raise _ShortError(os.fstat(file.descriptor).st_size)
            data += more
        return data

    def _failed(
        self, name: str, offset: int, length: int, error: OSError | _ShortError, seconds: float
    ) -> StoreError:
        """The error to raise after the last attempt, and which bytes shall fail at once from now on."""
        place = f"cannot read {self._folder / name} at byte {offset}"
        if isinstance(error, _ShortError):
            reason = f"it ends at byte {error.size}, before byte {offset + length}"
            advice = "copy the file again, or check it with launch/shard.py --verify"
            return self._lose(name, f"{place}: {reason}: {advice}", start=min(error.size, offset + length - 1))
        reason = f"{error.strerror or type(error).__name__}"
        message = f"{place}: {reason}: check the disk or mount, and the file with launch/shard.py --verify"
        if error.errno == errno.EIO and seconds < LOST_SECONDS:  # a bad sector; the rest of the file may be fine
            return self._lose(name, message, offset, offset + length)
        return self._lose(name, message)

    def read_all(self, name: str) -> bytes:
        path = self._folder / name
        try:
            size = path.stat().st_size
        except OSError as error:
            advice = "check the folder's name, and that it was copied completely"
            raise StoreError(f"cannot read {path}: {error.strerror}: {advice}") from None
        return self.read(name, 0, size)

    def sizes(self, names: Sequence[str]) -> dict[str, int] | None:
        wanted = set(names)
        try:
            with os.scandir(self._folder) as entries:
                found = {entry.name: _file_size(entry) for entry in entries if entry.name in wanted}
            return {name: size for name, size in found.items() if size is not None}
        except OSError as error:
            raise StoreError(f"cannot list {self._folder}: {error.strerror}: check the folder's name") from None

    def hint(self, name: str, offset: int, length: int) -> None:
        with contextlib.suppress(OSError, AttributeError):  # not every system has posix_fadvise
            os.posix_fadvise(self._file(name).descriptor, offset, length, os.POSIX_FADV_WILLNEED)

    def forget(self, name: str, offset: int, length: int) -> None:
        with contextlib.suppress(OSError, AttributeError):  # the page cache's copy
            os.posix_fadvise(self._file(name).descriptor, offset, length, os.POSIX_FADV_DONTNEED)
        self._forget_file(name)

    def arguments(self) -> dict[str, Any]:
        return {"location": str(self._folder)}

    def close(self) -> None:
        with self._opening:
            self._files.clear()

    def _file(self, name: str) -> _File:
        """An open file; the least recently used one is let go above 128."""
        with self._opening:
            file = self._files.get(name)
            if file is not None:
                self._files.move_to_end(name)
                return file
            file = self._files[name] = _File(self._folder / name)
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)
            return file

    def _forget_file(self, name: str) -> None:
        """Open the file anew next time (a replaced file, a stale handle of a network mount)."""
        with self._opening:
            self._files.pop(name, None)


def _file_size(entry: os.DirEntry[str]) -> int | None:
    """Bytes of a file; None for what is none (a folder, a link to nothing)."""
    try:
        status = entry.stat()
    except FileNotFoundError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


class _ShortError(Exception):
    """A file that ends before the bytes asked for."""

    def __init__(self, size: int):
        super().__init__(size)
        self.size = size


def without_secrets(url: str) -> str:
    """A URL for messages: no user, no password, no query."""
    return re.sub(r"[?#].*$", "", re.sub(r"//[^/]*@", "//", url, count=1))
