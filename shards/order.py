"""The order of pairs: counter-based hashes, so that any step can be computed without those before it.

Every random choice is a hash of plain integers (seed, epoch, position, …); nothing here keeps state except a
cache of shuffled windows.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shards.errors import FlickerError
from shards.index import FrameIndex

U64 = NDArray[np.uint64]
# What a hash is for; a different last word gives an independent stream.
SHARDS, ANCHORS, DELTA, SAMPLE, REPLACE, PACK = range(1, 7)


def splitmix64(x: U64) -> U64:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014) on uint64 arrays, any shape."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def mix(*words: int | np.ndarray) -> U64:
    """Hash non-negative integers to uint64; arrays broadcast, so `mix(seed, epoch, np.arange(n))` gives [n]."""
    state = np.zeros(1, np.uint64)
    for word in words:
        state = splitmix64(state ^ np.asarray(word).astype(np.uint64).reshape(-1))
    return state


def permutation(n: int, *words: int) -> NDArray[np.int64]:
    """A permutation of range(n) that depends on `words` only."""
    return np.argsort(mix(*words, np.arange(n)), kind="stable")


@dataclass(frozen=True)
class Pairs:
    """The pairs of some positions of an epoch; arrays [B]."""

    first: NDArray[np.int64]
    """frame ids of I_t (rows of the FrameIndex)"""
    delta: NDArray[np.int32]
    """frames from I_t to its partner, whose id is first + delta"""
    seeds: NDArray[np.int64]
    """one seed per pair, a hash of (seed, epoch, position)"""


class Order:
    """Global batches of pairs as a pure function of (index, seed, global_batch, delta, window; epoch, step).

    Each epoch permutes the shards, cuts them into windows of `window_shards`, and shuffles the anchors (frames
    with a partner at δ) of each window; batches are cut from that sequence and may cross windows; the last
    incomplete batch is dropped. δ is drawn per (epoch, frame) from the part of [low, high] that the run allows.
    """

    def __init__(
        self,
        index: FrameIndex,
        *,
        seed: int,
        global_batch: int,
        delta: tuple[float, float],
        delta_unit: str,
        window_shards: int,
    ):
        self.index, self.seed, self.global_batch, self.window_shards = index, seed, global_batch, window_shards
        self._low, self._high = delta_bounds(index, delta, delta_unit)
        every = np.arange(len(index))
        frames = np.flatnonzero(index.remaining(every) >= self._low[index.run_of(every)])
        shard = index.shard_of(frames)
        self.anchors = frames[np.argsort(shard, kind="stable")].astype(np.uint32)  # [A], grouped by shard
        counts = np.bincount(shard, minlength=index.shards)
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self.coverage = len(frames) / max(len(index), 1)
        self.steps_per_epoch = len(frames) // global_batch
        self._windows: OrderedDict[tuple[int, int], NDArray[np.uint32]] = OrderedDict()
        if self.steps_per_epoch == 0:
            raise FlickerError(
                f"{len(frames)} pairs with δ in {delta} {delta_unit} are fewer than one global batch of "
                f"{global_batch}: add data, or lower the batch"
            )

    def pairs(self, epoch: int, step: int, rows: slice = slice(None)) -> Pairs:
        """Rows `rows` of global batch `step` of `epoch`."""
        positions = np.arange(step * self.global_batch, (step + 1) * self.global_batch)[rows]
        first = self._anchors_at(epoch, positions)
        return Pairs(first, self._deltas(epoch, first), self._seeds(epoch, positions))

    def replacement(self, epoch: int, position: int, attempt: int) -> tuple[int, int]:
        """(frame id, δ) that stands in where the pair at `position` is unreadable; drawn from all anchors."""
        draw = mix(self.seed, epoch, position, attempt, REPLACE)[0] % np.uint64(len(self.anchors))
        first = self.anchors[int(draw) : int(draw) + 1].astype(np.int64)
        return int(first[0]), int(self._deltas(epoch, first)[0])

    def _deltas(self, epoch: int, first: NDArray[np.int64]) -> NDArray[np.int32]:
        """δ of each anchor, [B]."""
        run = self.index.run_of(first)
        low = self._low[run]
        high = np.minimum(self._high[run], self.index.remaining(first))
        draw = mix(self.seed, epoch, first, DELTA) % (high - low + 1).astype(np.uint64)
        return (low + draw.astype(np.int64)).astype(np.int32)

    def _seeds(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Seeds of each position, [B], 0 to 2^63 - 1."""
        return (mix(self.seed, epoch, positions, SAMPLE) >> np.uint64(1)).astype(np.int64)

    def _anchors_at(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Frame ids at ascending positions of the epoch's sequence."""
        shards = permutation(self.index.shards, self.seed, epoch, SHARDS)
        sizes = (self._starts[shards + 1] - self._starts[shards]).astype(np.int64)
        ends = np.cumsum(sizes)[self.window_shards - 1 :: self.window_shards]
        if len(ends) * self.window_shards < len(shards):
            ends = np.append(ends, sizes.sum())
        first = np.empty(len(positions), np.int64)
        window_of = np.searchsorted(ends, positions, side="right")
        for window in np.unique(window_of):
            here = window_of == window
            start = ends[window - 1] if window else 0
            first[here] = self._window(epoch, int(window), shards)[positions[here] - start]
        return first

    def _window(self, epoch: int, window: int, shards: NDArray[np.int64]) -> NDArray[np.uint32]:
        """The shuffled anchors of one window of shards; the last three windows stay in memory."""
        if (epoch, window) not in self._windows:
            members = shards[window * self.window_shards : (window + 1) * self.window_shards]
            frames = np.concatenate([self.anchors[self._starts[s] : self._starts[s + 1]] for s in members])
            keys = mix(self.seed, epoch, frames, ANCHORS)
            self._windows[epoch, window] = frames[np.argsort(keys, kind="stable")]
            while len(self._windows) > 3:
                self._windows.popitem(last=False)
        return self._windows[epoch, window]


def delta_bounds(
    index: FrameIndex, delta: tuple[float, float], unit: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The lowest and highest δ of each run in frames, two int64 [R].

    In `ms` the bounds are rounded inwards to whole frames at the run's own rate; where no whole frame lies
    between them, the nearest one is taken, at least 1. Raises FlickerError on bad bounds or unknown rates.
    """
    low, high = delta
    if unit not in ("frames", "ms") or not 0 < low <= high or (unit == "frames" and low < 1):
        raise FlickerError(f"delta {low} to {high} {unit} is not a range: give 1 <= low <= high in frames, or ms")
    if unit == "frames":
        if low != int(low) or high != int(high):
            raise FlickerError(f"delta {low} to {high} frames must be whole frames")
        return (np.full(index.runs, int(value), np.int64) for value in delta)  # type: ignore[return-value]
    if unknown := int(np.count_nonzero(~(index.fps > 0))):
        raise FlickerError(
            f"delta in ms needs frame rates, and {unknown} of {index.runs} runs have none: "
            "write the shards with --folder_fps, or give delta in frames"
        )
    lows = np.maximum(np.ceil(low * index.fps / 1000 - 1e-6), 1).astype(np.int64)
    highs = np.floor(high * index.fps / 1000 + 1e-6).astype(np.int64)
    nearest = np.maximum(np.rint((low + high) / 2 * index.fps / 1000), 1).astype(np.int64)
    empty = highs < lows
    return np.where(empty, nearest, lows), np.where(empty, nearest, highs)
