"""Decode-once mode: where each frame of a window is kept between its first use and its last."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from shards.fetch import NO_SLOT


def keep(where: NDArray[np.int64], slots: int) -> NDArray[np.int32]:
    """A slot for every use of every frame, int32 [steps n 2].

    A frame has one slot from its first use to its last; a frame that is used once has none, nor has a use for which
    no slot is free.

    Args:
        where: int64 [4 steps n 2], rows shard, offset, length, CRC32C; in the order of use.
        slots: how many there are.
    """
    uses = where[0].reshape(-1) << 44 | where[1].reshape(-1)
    _, frame, count = np.unique(uses, return_inverse=True, return_counts=True)
    left = count.tolist()
    free = list(range(slots))  # a heap: low numbers first, so that memory that was never needed is never touched
    at: dict[int, int] = {}
    result = np.full(len(uses), NO_SLOT, np.int32)
    for use, number in enumerate(frame.reshape(-1).tolist()):
        left[number] -= 1
        if number not in at and left[number] and free:
            at[number] = heapq.heappop(free)
        if number in at:
            result[use] = at[number]
            if not left[number]:
                heapq.heappush(free, at.pop(number))
    return result.reshape(where.shape[1:])
