"""The order of pairs: counter-based hashes, so that any step can be computed without those before it.

Every random choice is a hash of plain integers (seed, epoch, position, …). An epoch's anchors (frames with a partner)
form one sequence: the shards permuted, the clips of each shard permuted. Windows of whole global batches are cut from
it; each window is cut into up to 64 segments, each segment is shuffled, and every batch takes the same number of
anchors from each segment. So a batch is mixed over the whole window, while a rank, whose rows are neighbouring
segments, reads few clips.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from shards.errors import FlickerError, UsageError
from shards.index import REACH

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
# What a hash is for; a different last word gives an independent stream.
SHARDS, ANCHORS, DELTA, SAMPLE, REPLACE, PACK, CLIPS = range(1, 8)
SEGMENTS = 64  # at most, per window
NEARBY = 4  # replacements that are drawn from the window


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


def permutation(n: int, *words: int) -> I64:
    """A permutation of range(n) that depends on `words` only."""
    return np.argsort(mix(*words, np.arange(n)), kind="stable")


class Order:
    """Which anchor each row of each global batch is, as a pure function of (seed, epoch, step).

    Args:
        anchors: int64 [S], anchors of each shard.
        global_batch: pairs per step; the last incomplete batch of an epoch is left out.
        window_frames: anchors that are shuffled together, rounded to whole batches.

    Memory and time to set up grow with the number of shards only. Raises FlickerError below one batch of anchors.
    """

    def __init__(self, anchors: I64, *, seed: int, global_batch: int, window_frames: int):
        self.anchors, self.seed, self.global_batch = anchors.astype(np.int64), seed, global_batch
        self.total = int(self.anchors.sum())
        self.steps_per_epoch = self.total // global_batch
        self.window_batches = max(1, round(window_frames / global_batch))
        self.segments = math.gcd(global_batch, SEGMENTS)
        self._epoch: tuple[int, I64, I64] | None = None
        if self.steps_per_epoch == 0:
            raise FlickerError(
                f"{self.total} pairs are fewer than one global batch of {global_batch}: add data, or lower the batch"
            )

    def window_of(self, step: int) -> int:
        """The window that a step belongs to."""
        return step // self.window_batches

    def window_steps(self, window: int) -> range:
        """The steps of a window."""
        first = window * self.window_batches
        return range(first, min(first + self.window_batches, self.steps_per_epoch))

    @property
    def windows(self) -> int:
        """Windows of an epoch."""
        return -(-self.steps_per_epoch // self.window_batches)

    def window(self, epoch: int, window: int, rows: slice) -> I64:
        """Places in the epoch's sequence of the anchors of rows `rows` (start and stop set), [steps rows]."""
        steps = self.window_steps(window)
        per = self.global_batch // self.segments  # rows of a batch that one segment gives
        length = len(steps) * per
        row = np.arange(rows.start, rows.stop)
        low, high = rows.start // per, (max(rows.stop, 1) - 1) // per + 1
        base = steps.start * self.global_batch
        places = base + np.arange(low * length, high * length)
        keys = mix(self.seed, epoch, places, ANCHORS).reshape(high - low, length)
        shuffled = np.take_along_axis(places.reshape(keys.shape), np.argsort(keys, 1, kind="stable"), 1)
        nth = np.arange(len(steps))[:, None] * per + row % per  # [steps rows]
        return shuffled[row // per - low, nth]

    def shards_at(self, epoch: int, places: I64) -> tuple[I64, I64]:
        """(shard, number of the anchor within its shard's sequence) at places of an epoch, same shape."""
        held = self._epoch
        if held is None or held[0] != epoch:
            shards = permutation(len(self.anchors), self.seed, epoch, SHARDS)
            self._epoch = held = epoch, shards, np.cumsum(self.anchors[shards])
        _, shards, ends = held
        nth = np.searchsorted(ends, places, side="right")
        return shards[nth], places - (ends[nth] - self.anchors[shards[nth]])

    def replacement(self, epoch: int, position: int, attempt: int) -> int:
        """The place that stands in where the pair at `position` is unreadable.

        The first attempts stay in its window, whose indexes are at hand; later ones are drawn from the whole epoch,
        since a window may lie in one shard that is lost.
        """
        window = self.window_steps(self.window_of(position // self.global_batch))
        steps = window if attempt < NEARBY else range(self.steps_per_epoch)
        draw = int(mix(self.seed, epoch, position, attempt, REPLACE)[0] % np.uint64(len(steps) * self.global_batch))
        return steps.start * self.global_batch + draw

    def seeds(self, epoch: int, positions: I64) -> I64:
        """Seeds of the pairs at positions (step · global batch + row), 0 to 2^63 - 1."""
        return (mix(self.seed, epoch, positions, SAMPLE) >> np.uint64(1)).astype(np.int64)


def delta_bounds(rates: NDArray[np.float64], delta: tuple[float, float], unit: str) -> tuple[I64, I64]:
    """The lowest and highest δ in frames at each frame rate (1/s, NaN where unknown), two int64 of that shape.

    In `ms` the bounds are rounded inwards to whole frames; where no whole frame lies between them, the nearest
    one is taken, at least 1. Raises UsageError: bad bounds, above the index's reach; FlickerError: unknown rates.
    """
    low, high = delta
    if unit not in ("frames", "ms") or not 0 < low <= high or (unit == "frames" and low < 1):
        raise UsageError(f"delta {low} to {high} {unit} is not a range: give 1 <= low <= high in frames, or ms")
    if unit == "frames":
        if low != int(low) or high != int(high):
            raise UsageError(f"delta {low} to {high} frames must be whole frames")
        lows, highs = (np.full(rates.shape, int(value), np.int64) for value in delta)
    elif unknown := int(np.count_nonzero(~(rates > 0))):
        raise FlickerError(
            f"delta in ms needs frame rates, and {unknown} of {rates.size} groups of frames have none: "
            "write the shards with --folder_fps, or give delta in frames"
        )
    else:
        lows = np.maximum(np.ceil(low * rates / 1000 - 1e-6), 1).astype(np.int64)
        highs = np.floor(high * rates / 1000 + 1e-6).astype(np.int64)
        nearest = np.maximum(np.rint((low + high) / 2 * rates / 1000), 1).astype(np.int64)
        lows, highs = np.where(highs < lows, nearest, lows), np.where(highs < lows, nearest, highs)
    if highs.size and highs.max() > REACH:
        raise UsageError(f"delta {low:g} to {high:g} {unit} reaches {highs.max()} frames ahead; give {REACH} at most")
    return lows, highs
