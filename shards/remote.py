"""Shards on a server: ranged requests, retries, blocks kept on disk, and hints that fetch ahead."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import queue
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from shards.blockcache import BlockCache, default_folder
from shards.store import OutageError, Store, StoreError, without_secrets
from shards.transport import (
    Answer,
    DeniedError,
    EndError,
    MissingError,
    PermanentError,
    TemporaryError,
    Transport,
    connect,
)

log = logging.getLogger(__name__)
BLOCK_BYTES = 2**18
HINT_THREADS = 8
HINTS = 4096  # waiting; more are dropped
LONGEST_PAUSE = 15.0  # s
Span = tuple[int, int]
"""first byte, last byte + 1"""


class RemoteStore(Store):
    """Files below a URL; what was fetched stays in a cache on disk, by aligned blocks. See `open_store`.

    Reads of a block's size or more, and hints, fetch the bytes they name, in one request where they are neighbours;
    smaller reads fetch the whole block. A block of which a hint is fetching bytes is waited for. To be used only in
    the process that made it.
    """

    remote = True

    def __init__(
        self,
        location: str,
        *,
        cache_dir: Path | None,
        cache_bytes: int,
        attempts: int = 5,
        timeout: float = 30.0,
        version: str = "",
        block_bytes: int = BLOCK_BYTES,
        pause: float = 0.25,
    ):
        super().__init__(without_secrets(location).rstrip("/"))
        self._url, self._attempts, self._timeout, self._pause = location, attempts, timeout, pause
        self._named, self._version = bool(version), version or f"unnamed-{uuid.uuid4().hex}"
        self._block = block_bytes
        self._transport: Transport | None = connect(location, timeout)
        area = hashlib.sha256(f"{self.location}\n{self._version}\n{block_bytes}".encode()).hexdigest()[:24]
        self._cache_dir = cache_dir
        if cache_dir is not None:
            _make(cache_dir)
        self._cache = BlockCache(cache_dir or default_folder(), cache_bytes, area)
        self._flights: dict[tuple[str, int], threading.Event] = {}
        """blocks of which a thread is fetching bytes, and what it sets at the end"""
        self._claiming = threading.Lock()
        self._hints: _Hints | None = None
        self._process = os.getpid()

    def arguments(self) -> dict[str, Any]:
        return {
            "location": self._url,
            "cache_dir": None if self._cache_dir is None else str(self._cache_dir),
            "cache_bytes": self._cache.limit,
            "attempts": self._attempts,
            "timeout": self._timeout,
            "version": self._version,
        }

    def read(self, name: str, offset: int, length: int) -> bytes:
        self._check_process()
        spans = {block: (low, high) for block, low, high in self._spans(offset, length)}
        pieces = {block: self._cache.get(_key(name, block), *span) for block, span in spans.items()}
        missing = {block: spans[block] for block, data in pieces.items() if data is None}
        self._count(cache_hits=len(pieces) - len(missing), bytes_read=length)
        if missing:
            self._refuse_lost(name, offset, length)
            if not self._cache.writable:
                return self._whole(name, offset, self._fetch(name, offset, offset + length), length)
            pieces |= self._obtain(name, missing, ahead=length < self._block)
        return self._whole(name, offset, b"".join(data for data in pieces.values() if data), length)

    def _whole(self, name: str, offset: int, data: bytes, length: int) -> bytes:
        """The data. Raises StoreError if the file ended before all of them."""
        if len(data) == length:
            return data
        raise self._lose(
            name,
            f"cannot read {self.location}/{name} at byte {offset}: it ends at byte {offset + len(data)}, before byte "
            f"{offset + length}: upload the file again",
            start=offset + len(data),
        )

    def _spans(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """(block, first byte in it, last byte + 1) of a range."""
        size, end = self._block, offset + length
        for block in range(offset // size, (end - 1) // size + 1 if length else 0):
            yield block, max(offset - block * size, 0), min(end - block * size, size)

    def _obtain(self, name: str, needs: dict[int, Span], ahead: bool) -> dict[int, bytes]:
        """These bytes of blocks, fetched here or by a thread that is at it; fewer where the file ends.

        `ahead`: whatever is fetched here, fetch the whole block.
        """
        got: dict[int, bytes] = {}
        waiting = needs
        while waiting:
            self._refuse_lost(name, 0, 1)
            own, others = self._claim(name, waiting)
            try:
                for blocks in own:
                    got |= self._fly(name, {block: needs[block] for block in blocks}, ahead)
                    self._land(name, blocks)
            except BaseException:
                for blocks in own:
                    self._land(name, blocks)
                raise
            waiting = {}
            for block, landed in others.items():
                landed.wait()
                if (data := self._cache.get(_key(name, block), *needs[block])) is None:
                    waiting[block] = needs[block]  # it failed, or fetched other bytes: try here
                else:
                    got[block] = data
        return got

    def _claim(self, name: str, blocks: Iterable[int]) -> tuple[list[list[int]], dict[int, threading.Event]]:
        """Runs of neighbouring blocks that this thread is to fetch, and those that others are at."""
        own: list[list[int]] = []
        others: dict[int, threading.Event] = {}
        with self._claiming:
            for block in blocks:
                if landing := self._flights.get((name, block)):
                    others[block] = landing
                elif own and own[-1][-1] == block - 1:
                    own[-1].append(block)
                    self._flights[name, block] = self._flights[name, block - 1]
                else:
                    own.append([block])
                    self._flights[name, block] = threading.Event()
        return own, others

    def _land(self, name: str, blocks: list[int]) -> None:
        """Let waiting threads go on, and these blocks be claimed again."""
        with self._claiming:
            for block in blocks:
                if landing := self._flights.pop((name, block), None):
                    landing.set()

    def _fly(self, name: str, needs: dict[int, Span], ahead: bool) -> dict[int, bytes]:
        """Fetch what the cache lacks of neighbouring blocks, in one request if it can be, and keep it."""
        size = self._block
        kept = {block: self._cache.piece(_key(name, block)) for block in needs}
        lacking = {block: _lacking(kept[block], need, size if ahead else 0) for block, need in needs.items()}
        ranges: list[list[int]] = []
        for block, (low, high) in lacking.items():
            if ranges and ranges[-1][1] == block * size + low:
                ranges[-1][1] = block * size + high
            elif high > low:
                ranges.append([block * size + low, block * size + high])
        fetched = [(start, self._fetch(name, start, end)) for start, end in ranges]
        got = {}
        for block, (low, high) in lacking.items():
            first, data = kept[block] or (low, b"")
            for start, fresh in fetched:
                if high > low and start <= block * size + low < start + len(fresh):
                    new = fresh[block * size + low - start : block * size + high - start]
                    first, data = _join(first, data, low, new)
                    self._cache.put(_key(name, block), data, first)
            start, end = needs[block]
            got[block] = data[start - first : end - first] if start >= first else b""
        return got

    def _fetch(self, name: str, start: int, end: int | None) -> bytes:
        """Bytes `start` to `end` (None: the last one), fewer only where the file ends."""
        try:
            return self._persist(name, f" at byte {start}", lambda: self._server().get(name, start, end))
        except EndError:
            return b""

    def read_all(self, name: str) -> bytes:
        self._check_process()
        key = _key(name, None)
        kept = self._cache.piece(key)
        if kept is None:
            self._refuse_lost(name, 0, 1)
            data = self._fetch(name, 0, None)
            if self._named:
                self._cache.put(key, data)
        else:
            data = kept[1]
        self._count(bytes_read=len(data), cache_hits=kept is not None)
        return data

    def sizes(self, names: Sequence[str]) -> dict[str, int] | None:
        self._check_process()
        if not self._server().listable:
            return None
        found: dict[str, int] | None = None

        def ask() -> Answer:
            nonlocal found
            found = self._server().sizes()
            return Answer(b"", None)

        self._persist("", "", ask)
        return None if found is None else {name: found[name] for name in names if name in found}

    def _persist(self, name: str, at: str, ask: Callable[[], Answer]) -> bytes:
        """The answer to a request, tried several times with growing pauses. Raises StoreError, EndError."""
        place = f"{self.location}/{name}".rstrip("/")
        reason = ""
        for attempt in range(self._attempts):
            if attempt:
                self._count(retries=1)
                time.sleep(min(self._pause * 3 ** (attempt - 1), LONGEST_PAUSE) * random.uniform(0.5, 1.5))
            try:
                self._count(requests=1)
                data, length = ask()
            except TemporaryError as error:
                reason = str(error)
                continue
            except MissingError:
                raise self._lose(name, f"{place} is missing: upload it, or check the location") from None
            except DeniedError:
                advice = "check the credentials in the environment, and the location"
                raise self._lose(name, f"no permission to read {place}: {advice}") from None
            except PermanentError as error:
                raise self._lose(name, f"cannot read {place}: {error}") from None
            self._count(bytes_fetched=len(data))
            if length is None or len(data) == length:
                return data
            reason = f"{len(data)} of {length} bytes"
        times = f"tried {self._attempts} times" if self._attempts > 1 else "tried once"
        message = f"cannot read {place}{at}: {reason}, {times}: check the server and the network"
        raise self._lose(name, message, kind=OutageError)

    def _server(self) -> Transport:
        transport = self._transport
        if transport is None:
            transport = self._transport = connect(self._url, self._timeout)
        return transport

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise StoreError(f"{self.location} was opened in another process: open it anew with its arguments()")

    def hint(self, name: str, offset: int, length: int) -> None:
        if length <= 0 or not self._cache.writable or os.getpid() != self._process:
            return
        if self._hints is None:
            self._hints = _Hints(self._follow)
        if not self._hints.add((name, offset, length)):
            self._count(hints_dropped=1)

    def _follow(self, name: str, offset: int, length: int) -> None:
        """Fetch what a hint names and the cache lacks."""
        needs = {block: (low, high) for block, low, high in self._spans(offset, length)}
        missing = {block: need for block, need in needs.items() if not self._cache.covers(_key(name, block), *need)}
        self._obtain(name, missing, ahead=False)

    def forget(self, name: str, offset: int, length: int) -> None:
        self._cache.drop(_key(name, None))
        for block, _, _ in self._spans(offset, length):
            self._cache.drop(_key(name, block))

    def close(self) -> None:
        """End threads and connections; a later read opens them anew. Kept blocks stay."""
        if self._hints is not None:
            self._hints.stop()
        self._hints = None
        self._transport = None  # its connections close when the last request has ended


class _Hints:
    """Threads that follow hints. Started at the first one, and one at a time, as long as hints wait."""

    def __init__(self, follow: Callable[[str, int, int], None]):
        self._follow = follow
        self._queue: queue.Queue[tuple[str, int, int] | None] = queue.Queue(HINTS)
        self._threads = 0
        self._stopped = False

    def add(self, hint: tuple[str, int, int]) -> bool:
        """False if too many wait already."""
        try:
            if self._threads < HINT_THREADS:
                threading.Thread(target=self._work, name="hints", daemon=True).start()
                self._threads += 1
            self._queue.put_nowait(hint)
        except (queue.Full, RuntimeError):  # RuntimeError: no more threads
            return False
        return True

    def stop(self) -> None:
        """Threads end after what they are doing; waiting hints are dropped."""
        self._stopped = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        with contextlib.suppress(queue.Full):
            for _ in range(self._threads):
                self._queue.put_nowait(None)

    def _work(self) -> None:
        while (hint := self._queue.get()) is not None and not self._stopped:
            try:
                self._follow(*hint)
            except Exception as error:  # a hint never fails; a read of the same bytes will
                log.debug("hint not followed: %s", error)


def _make(folder: Path) -> None:
    """Make the cache folder. Raises StoreError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        reason = f"cannot make the cache folder {folder}: {error.strerror}"
        raise StoreError(f"{reason}: give another with cache_dir") from None


def _lacking(kept: tuple[int, bytes] | None, need: Span, whole: int) -> Span:
    """The bytes of a block to fetch, so that together with the kept ones they are one stretch that holds `need`.

    `whole`: the block's size if its other bytes will soon be needed too, otherwise 0.
    """
    if kept is None:
        return (0, whole) if whole else need
    start, end = kept[0], kept[0] + len(kept[1])
    if start <= need[0] and need[1] <= end:
        return start, start
    if need[0] < start and need[1] > end:
        return need
    if need[0] < start:
        return (0 if whole else need[0]), start
    return end, whole or need[1]


def _join(first: int, data: bytes, low: int, new: bytes) -> tuple[int, bytes]:
    """Two stretches that touch as one; otherwise the new one."""
    if first + len(data) == low:
        return first, data + new
    if low + len(new) == first:
        return low, new + data
    return low, new


def _key(name: str, block: int | None) -> str:
    """The cache's name of a block, or of a whole file."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:24]
    return f"{digest}-{'all' if block is None else block}"
