"""Batches on the device one step ahead of their use, each with the reader's place after it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch

from shards import PairBatch, PairReader
from shards.errors import FlickerError


@dataclass
class Fed:
    """The pairs of one step."""

    pairs: PairBatch
    """frames and seeds are on the device"""
    waited: float
    """seconds this process stood still for them"""
    epoch: int
    reader: dict[str, Any]
    """the reader's state right after this batch, whatever has been read since"""


class Feed:
    """Batches without end, epoch after epoch, from where the reader stands.

    `take()` gives the next one; `read_ahead()`, called once a step's work is queued, reads and copies the one after
    it meanwhile. A checkpoint must hold `Fed.reader` of the step that was trained, not the reader's own state.
    """

    def __init__(self, reader: PairReader, device: torch.device):
        self._reader, self._batches = reader, _without_end(reader)
        self._copies = Copies(device) if device.type == "cuda" else None
        self._device = device
        self._next: Fed | FlickerError | None = None

    def take(self) -> Fed:
        """The next batch. Raises FlickerError where it cannot be read."""
        self.read_ahead()
        fed, self._next = self._next, None
        if isinstance(fed, FlickerError):
            raise fed
        assert fed is not None
        if self._copies is not None:
            self._copies.hand_over(fed.pairs)
        return fed

    def read_ahead(self) -> None:
        """Read the next batch and begin to copy it; what goes wrong is raised when it is taken."""
        if self._next is not None:
            return
        if self._copies is not None:
            self._copies.release()
        asked = time.perf_counter()
        try:
            pairs = next(self._batches)
        except FlickerError as error:
            self._next = error
            return
        waited = time.perf_counter() - asked
        state = self._reader.state_dict()
        self._next = Fed(self._to_device(pairs), waited, self._reader.epoch, state)

    @property
    def failed(self) -> bool:
        """Whether the next batch could not be read."""
        return isinstance(self._next, FlickerError)

    def close(self) -> None:
        """Let go of what was read ahead, before the reader is closed."""
        self._next = None
        if self._copies is not None:
            self._copies.close()

    def _to_device(self, pairs: PairBatch) -> PairBatch:
        if self._copies is not None:
            return self._copies.start(pairs)
        return _moved(pairs, pairs.frames.to(self._device), pairs.seeds.to(self._device))


class Copies:
    """Copies to a GPU on a stream of their own; their sources are held on to until they are done."""

    def __init__(self, device: torch.device):
        self._device, self._stream = device, torch.cuda.Stream(device)
        self._sources: deque[tuple[torch.cuda.Event, PairBatch]] = deque()

    def start(self, pairs: PairBatch) -> PairBatch:
        """Begin to copy a batch; the result may be used after `hand_over`."""
        sources = [x if x.is_pinned() else x.pin_memory() for x in (pairs.frames, pairs.seeds)]
        with torch.cuda.stream(self._stream):
            frames, seeds = (x.to(self._device, non_blocking=True) for x in sources)
        self._sources.append((self._stream.record_event(), pairs))
        return _moved(pairs, frames, seeds)

    def hand_over(self, moved: PairBatch) -> None:
        """Let the current stream use a batch: it waits for the copy, this process does not."""
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for x in (moved.frames, moved.seeds):
            x.record_stream(current)  # its memory is not used again before that stream is done with it

    def release(self) -> None:
        """Let go of the batches whose copies are done: the reader can fill their memory again."""
        while self._sources and self._sources[0][0].query():
            self._sources.popleft()

    def close(self) -> None:
        """Wait for the copies under way."""
        self._stream.synchronize()
        self.release()


def _without_end(reader: PairReader) -> Iterator[PairBatch]:
    while True:
        yield from reader


def _moved(pairs: PairBatch, frames: torch.Tensor, seeds: torch.Tensor) -> PairBatch:
    """The same pairs with their tensors elsewhere."""
    moved = copy(pairs)
    moved.frames, moved.seeds = frames, seeds
    return moved
