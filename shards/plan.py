"""From places in the order to frames: which clips a window's pairs lie in, and the byte ranges of their frames."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shards.decoded import keep
from shards.errors import FlickerError
from shards.index import ShardIndex, read_index
from shards.manifest import Manifest
from shards.order import CLIPS, DELTA, I64, Order, delta_bounds, mix, permutation
from shards.store import Store
from shards.tails import rate

OPEN_INDEXES = 32
GAP = 64 * 1024  # bytes between two frames that are still read ahead as one range
LONGEST = 4 * 2**20  # bytes of such a range


@dataclass(frozen=True)
class Window:
    """The pairs of one rank in one window of an epoch."""

    first_step: int
    shard: NDArray[np.int32]
    """[steps B]"""
    clip: NDArray[np.int32]
    """[steps B], within the shard"""
    position: NDArray[np.int32]
    """[steps B], of I_t within the clip"""
    delta: NDArray[np.int32]
    """[steps B], frames"""
    where: NDArray[np.int64]
    """[4 steps B 2]: shard, offset, length and CRC32C of I_t and of its partner"""
    slots: NDArray[np.int32] | None = None
    """[steps B 2]: where a frame stays decoded, in decode-once mode"""
    spans: tuple[NDArray[np.int64], ...] = ()
    """per part of the rows [n 3]: the byte ranges (shard, offset, length) that the window reads, by first use; left
    out where the window is read at once from a local disk"""

    def __len__(self) -> int:
        return len(self.shard)


class Planner:
    """The pairs of rows `rows` of every global batch over one shard set; a window ahead is prepared in a thread.

    `parts` are the shares of these rows that different processes read; `held` is how many decoded frames each of
    them can keep (0: none).

    Memory: the windows at hand (about 100 bytes a pair) and OPEN_INDEXES indexes, whatever the size of the set.
    Raises FlickerError: an index that is missing, damaged or not the manifest's.
    """

    def __init__(
        self,
        manifest: Manifest,
        store: Store,
        *,
        seed: int,
        global_batch: int,
        rows: slice,
        parts: list[slice],
        held: int,
        delta: tuple[float, float],
        delta_unit: str,
        window_frames: int,
        absent: frozenset[int] = frozenset(),
    ):
        self.manifest, self.store, self.rows, self.seed = manifest, store, rows, seed
        self.parts, self.held = parts, held
        self._range, self._unit = delta, delta_unit
        tails = manifest.tails(store)
        anchors = tails.anchors(self._bounds(tails.rate)[0], len(manifest.shards))
        anchors[list(absent)] = 0
        self.coverage = float(anchors.sum() / max(manifest.frames, 1))
        self.order = Order(anchors, seed=seed, global_batch=global_batch, window_frames=window_frames)
        self._indexes: OrderedDict[int, ShardIndex] = OrderedDict()
        self._windows: OrderedDict[tuple[int, int], Future[Window]] = OrderedDict()
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shard-plan")

    def _bounds(self, rates: NDArray[np.float64]) -> tuple[I64, I64]:
        return delta_bounds(rates, self._range, self._unit)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def step(self, epoch: int, step: int) -> tuple[Window, int]:
        """The window that holds a step, and the step's row in it; the next window is begun meanwhile."""
        number = self.order.window_of(step)
        window = self._ask(epoch, number, ahead=False).result()
        following = (epoch, number + 1) if number + 1 < self.order.windows else (epoch + 1, 0)
        self._ask(*following, ahead=True)
        return window, step - window.first_step

    def following(self, epoch: int, step: int) -> Window | None:
        """The window after the one of `step`, if it is ready."""
        number = self.order.window_of(step) + 1
        epoch, number = (epoch, number) if number < self.order.windows else (epoch + 1, 0)
        future = self._windows.get((epoch, number))
        return future.result() if future is not None and future.done() and not future.exception() else None

    def _ask(self, epoch: int, window: int, ahead: bool) -> Future[Window]:
        """A window, computed in the thread; the last three stay."""
        key = (epoch, window)
        if key not in self._windows:
            self._windows[key] = self._thread.submit(self._window, epoch, window, ahead or self.store.remote)
            while len(self._windows) > 3:
                self._windows.popitem(last=False)
        self._windows.move_to_end(key)
        return self._windows[key]

    def _window(self, epoch: int, window: int, listed: bool) -> Window:
        """A window; `listed`: with its spans."""
        places = self.order.window(epoch, window, self.rows)  # [steps B]
        found = self.resolve(epoch, places, self.order.window_steps(window).start)
        shares = [found.where[:, :, part] for part in self.parts]
        slots = np.concatenate([keep(share, self.held) for share in shares], 1) if self.held else None
        return replace(found, slots=slots, spans=tuple(spans(share) for share in shares) if listed else ())

    def resolve(self, epoch: int, places: I64, first_step: int = 0) -> Window:
        """The pairs at places [steps B] of an epoch."""
        shard, nth = (part.reshape(-1) for part in self.order.shards_at(epoch, places))
        clip, position, delta = (np.empty(len(shard), np.int32) for _ in range(3))
        where = np.empty((4, len(shard), 2), np.int64)
        for number in np.unique(shard).tolist():
            rows = np.flatnonzero(shard == number)
            index = self.index(number)
            clip[rows], position[rows] = self._anchors(epoch, number, index, nth[rows])
            at = clip[rows].astype(np.int64), position[rows].astype(np.int64)
            delta[rows] = self._delta(epoch, number, index, *at)
            where[:, rows, 0] = index.locate(number, *at)
            where[:, rows, 1] = index.locate(number, at[0], at[1] + delta[rows])
        shape = places.shape
        return Window(
            first_step,
            shard.astype(np.int32).reshape(shape),
            clip.reshape(shape),
            position.reshape(shape),
            delta.reshape(shape),
            where.reshape(4, *shape, 2),
        )

    def _anchors(self, epoch: int, number: int, index: ShardIndex, nth: I64) -> tuple[I64, I64]:
        """(clip, position) of the nth anchors of a shard: its clips permuted, the frames of each in order."""
        low, _ = self._bounds(rate(index.fps))
        counts = np.clip(index.after + index.frames - low, 0, index.frames)
        if counts.sum() != self.order.anchors[number]:
            raise FlickerError(f"{self._name(number)} is not of the manifest's shard: write again")
        order = permutation(len(index), self.seed, epoch, number, CLIPS)
        ends = np.cumsum(counts[order])
        at = np.searchsorted(ends, nth, side="right")
        return order[at], nth - (ends[at] - counts[order[at]])

    def _delta(self, epoch: int, number: int, index: ShardIndex, clip: I64, position: I64) -> I64:
        """δ of each anchor: drawn from the part of the bounds that the run allows."""
        low, high = self._bounds(rate(index.fps[clip]))
        high = np.minimum(high, index.after[clip] + index.frames[clip] - 1 - position)
        draw = mix(self.seed, epoch, number, index.row[clip] + position, DELTA)
        return low + (draw % (high - low + 1).astype(np.uint64)).astype(np.int64)

    def index(self, number: int) -> ShardIndex:
        """A shard's index; the last OPEN_INDEXES stay in memory."""
        with self._lock:
            held = self._indexes.get(number)
            if held is None:
                shard = self.manifest.shards[number]
                held = read_index(self.store.read_all(shard.index), self._name(number), shard.index_sha256)
                if (held.bytes, held.sha256) != (shard.bytes, shard.sha256):
                    raise FlickerError(f"{self._name(number)} is not of the manifest's shard: write again")
                self._indexes[number] = held
                while len(self._indexes) > OPEN_INDEXES:
                    self._indexes.popitem(last=False)
            return held

    def _name(self, number: int) -> str:
        return f"{self.manifest.name}/{self.manifest.shards[number].index}"

    def key(self, shard: int, clip: int, position: int) -> str:
        """`KEY/number` of a frame."""
        index = self.index(shard)
        return f"{index.keys[clip]}/{int(index.first[clip]) + position}"

    def source(self, shard: int, clip: int, position: int) -> str:
        """The source of a clip and the real number of a frame, for messages."""
        index = self.index(shard)
        return f"{index.sources[index.source[clip]]} frame {int(index.first[clip]) + position}"


def spans(where: NDArray[np.int64]) -> NDArray[np.int64]:
    """The byte ranges [n 3] (shard, offset, length) that cover the frames of `where` [4 …], by their first use."""
    shard, offset, length, _ = where.reshape(4, -1)
    order = np.lexsort((offset, shard))
    start, end = offset[order], (offset + length)[order]
    broken = np.ones(len(order), bool)
    broken[1:] = (np.diff(shard[order]) != 0) | (start[1:] > end[:-1] + GAP)
    broken[1:] |= start[1:] // LONGEST != start[:-1] // LONGEST
    heads = np.flatnonzero(broken)
    first_use = np.minimum.reduceat(order, heads) if len(heads) else heads
    reached = np.maximum.reduceat(end, heads) if len(heads) else heads
    found = np.stack([shard[order][heads], start[heads], reached - start[heads]], 1)
    return found[np.argsort(first_use, kind="stable")]
