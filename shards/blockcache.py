"""Blocks of remote files kept on disk, shared by all processes of a machine, within a bound.

A file holds one stretch of one block: where it starts, how long it is (two uint32, little endian), and the bytes. It
is written under a temporary name and renamed. The oldest files are removed first. Nothing is locked for reading: what
another process removes is simply fetched again.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

log = logging.getLogger(__name__)
SCAN_BYTES = 64 * 2**20  # written by a process between two scans for what to remove
HEAD = struct.Struct("<II")
STALE_SECONDS = 3600.0  # temporary files older than this are from a process that died; empty folders are left over


def default_folder() -> Path:
    """flicker/blocks in the user's cache folder."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "flicker" / "blocks"


class BlockCache:
    """Files of up to `limit` bytes in all under `folder`; every process may exceed it by up to 64 MiB for a moment.

    `area` separates what must not be mixed up (locations, versions). Safe to use from several threads. Where the disk
    is full or cannot be written, one warning is logged and `writable` turns false.
    """

    def __init__(self, folder: Path, limit: int, area: str):
        self.folder, self.limit = folder, limit
        self.writable = True
        self._area = str(folder / area)
        self._scan_bytes = min(SCAN_BYTES, max(limit // 16, 1))
        self._unscanned = self._scan_bytes  # the first block written starts a scan
        self._lock = threading.Lock()
        self._numbers = itertools.count()

    def get(self, key: str, low: int, high: int) -> bytes | None:
        """Bytes `low` to `high` of a block; None unless all of them are kept."""
        return self._read(key, lambda start, end: (low, high) if start <= low and high <= end else None)

    def piece(self, key: str) -> tuple[int, bytes] | None:
        """(first byte, data) of what is kept of a block."""
        first = 0

        def all_of(start: int, end: int) -> tuple[int, int]:
            nonlocal first
            first = start
            return start, end

        data = self._read(key, all_of)
        return None if data is None else (first, data)

    def covers(self, key: str, low: int, high: int) -> bool:
        """Whether bytes `low` to `high` of a block are kept now."""
        return self._read(key, lambda start, end: (low, low) if start <= low and high <= end else None) is not None

    def _read(self, key: str, choose: Callable[[int, int], tuple[int, int] | None]) -> bytes | None:
        """The bytes that `choose` picks from those kept; None without any, or where the file was cut."""
        try:
            descriptor = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            head = os.pread(descriptor, HEAD.size, 0)
            if len(head) < HEAD.size:
                return None
            start, length = HEAD.unpack(head)
            wanted = choose(start, start + length)
            if wanted is None:
                return None
            low, high = wanted
            data = os.pread(descriptor, high - low, HEAD.size + low - start)
            return data if len(data) == high - low else None
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def put(self, key: str, data: bytes, low: int = 0) -> None:
        """Keep bytes of a block from `low` on, in place of what is kept of it."""
        if not self.writable:
            return
        path = self._path(key)
        parts = [HEAD.pack(low, len(data)), data]
        try:
            try:
                self._write(path, parts)
            except FileNotFoundError:  # not made yet, or removed after it had been empty for long
                os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120
                self._write(path, parts)
        except OSError as error:
            self._stop_writing(error)
            return
        with self._lock:
            self._unscanned += len(data)
            due = self._unscanned >= self._scan_bytes
            if due:
                self._unscanned = 0
        if due:
            self.shrink()

    def drop(self, key: str) -> None:
        """Remove a block."""
        with contextlib.suppress(OSError):
            os.unlink(self._path(key))  # noqa: PTH108

    def _path(self, key: str) -> str:
        return f"{self._area}/{key[:2]}/{key}"

    def _write(self, path: str, parts: list[bytes]) -> None:
        folder = os.path.dirname(path)  # noqa: PTH120
        temporary = f"{folder}/.{os.getpid()}-{next(self._numbers)}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            try:
                for part in parts:
                    rest = memoryview(part)
                    while rest:
                        rest = rest[os.write(descriptor, rest) :]
            finally:
                os.close(descriptor)
            os.replace(temporary, path)  # noqa: PTH105
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
            raise

    def _stop_writing(self, error: OSError) -> None:
        with self._lock:
            if not self.writable:
                return
            self.writable = False
        log.warning(
            "the cache folder %s cannot be written (%s): reading goes on without it", self.folder, error.strerror
        )

    def shrink(self) -> None:
        """Remove the oldest blocks if there is more than `limit` less one scan's worth, down to 7/8 of it."""
        with self._alone() as alone:
            if not alone:
                return
            files = sorted(self._scan())
            total = sum(size for _, size, _ in files)
            if total <= self.limit - self._scan_bytes:
                return
            for _, size, path in files:
                if total <= self.limit * 7 // 8:
                    return
                with contextlib.suppress(OSError):  # another process was faster
                    os.unlink(path)  # noqa: PTH108
                total -= size

    def _scan(self) -> Iterator[tuple[int, int, str]]:
        """(mtime, bytes, path) of every file; empty folders and stale temporary files are removed on the way."""
        now = time.time()
        for folder in _folders(str(self.folder)):
            inner = list(_folders(folder))
            for path in inner:
                entries = list(_entries(path))
                for entry in entries:
                    with contextlib.suppress(OSError):
                        status = entry.stat(follow_symlinks=False)
                        if entry.name.startswith(".") and now - status.st_mtime > STALE_SECONDS:
                            os.unlink(entry.path)  # noqa: PTH108
                        else:
                            yield status.st_mtime_ns, status.st_size, entry.path
                if not entries:
                    _remove_old(path, now)
            if not inner:
                _remove_old(folder, now)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """True unless another process is removing blocks now."""
        try:
            descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            yield True
            return
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            except OSError:  # a file system without locks: two that remove at once do no harm
                pass
            yield True
        finally:
            os.close(descriptor)


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """What a folder holds; nothing where it cannot be listed."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        yield from entries


def _folders(folder: str) -> Iterator[str]:
    return (entry.path for entry in _entries(folder) if entry.is_dir(follow_symlinks=False))


def _remove_old(folder: str, now: float) -> None:
    """Remove an empty folder that nobody is about to write to."""
    with contextlib.suppress(OSError):
        if now - os.stat(folder).st_mtime > STALE_SECONDS:  # noqa: PTH116
            os.rmdir(folder)  # noqa: PTH106
