"""How many frames of each shard have how many frames after them: enough to count the pairs of a data set.

A frame can serve as I_t with δ when at least δ frames follow it in its run. `tails.safetensors` counts, per shard and
frame rate, the frames that fewer than REACH frames follow; so the length of an epoch is known without an index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from shards.errors import FlickerError
from shards.index import REACH, ShardIndex


def rate(fps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Frame rates to three significant digits (29.97 is 30.0): what δ in ms is counted with. NaN stays."""
    with np.errstate(divide="ignore", invalid="ignore"):
        digits = 2 - np.floor(np.log10(fps))
        return np.where(fps > 0, np.round(fps * 10.0**digits) / 10.0**digits, np.nan)


@dataclass(frozen=True)
class Tails:
    """Rows [G], one per shard and frame rate, shards ascending."""

    shard: NDArray[np.int32]
    rate: NDArray[np.float64]
    """1/s, NaN where unknown"""
    frames: NDArray[np.int64]
    """frames of that rate in the shard"""
    tail: NDArray[np.uint32]
    """[G REACH]: how many of them exactly 0, 1, … frames follow"""

    def anchors(self, low: NDArray[np.int64], shards: int) -> NDArray[np.int64]:
        """Frames of each shard with at least `low` [G] (1 to REACH) frames after them, [shards]."""
        rows = self.frames.astype(np.int64)
        for least in np.unique(low).tolist():
            here = low == least
            rows[here] -= self.tail[here, :least].sum(1, dtype=np.int64)
        return np.bincount(self.shard, weights=rows, minlength=shards).astype(np.int64)


def count(number: int, index: ShardIndex) -> Tails:
    """The rows of one shard."""
    rates, group = np.unique(rate(index.fps), return_inverse=True, equal_nan=True)
    group = group.reshape(-1)
    steps = np.zeros((len(rates), REACH + 1), np.int64)
    last = index.after  # frames after the clip's last one; its first has frames - 1 more
    np.add.at(steps, (group, np.minimum(last, REACH)), 1)
    np.add.at(steps, (group, np.minimum(last + index.frames, REACH)), -1)
    frames = np.bincount(group, weights=index.frames, minlength=len(rates)).astype(np.int64)
    tail = np.cumsum(steps, 1)[:, :REACH].astype(np.uint32)
    return Tails(np.full(len(rates), number, np.int32), rates, frames, tail)


def join(parts: Sequence[Tails]) -> Tails:
    """The rows of all shards, in the given order."""
    names = ("shard", "rate", "frames", "tail")
    return Tails(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def encode(tails: Tails) -> bytes:
    """The file's bytes."""
    return safetensors.numpy.save(
        {"shard": tails.shard, "rate": tails.rate, "frames": tails.frames, "tail": tails.tail}
    )


def decode(data: bytes, name: str) -> Tails:
    """The file's bytes as Tails. Raises FlickerError naming `name` where they are damaged."""
    try:
        columns = safetensors.numpy.load(data)
        tails = Tails(columns["shard"], columns["rate"], columns["frames"], columns["tail"])
        if tails.tail.shape != (len(tails.shard), REACH) or len(tails.rate) != len(tails.frames):
            raise ValueError(f"shape {tails.tail.shape}")
        return tails
    except (SafetensorError, KeyError, ValueError) as error:
        raise FlickerError(f"{name} is damaged ({error}): write the folder again") from None
