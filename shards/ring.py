"""Reused shared memory for batches: workers decode into it, batches are views of it, nothing is copied.

A fresh batch in fresh memory costs page faults worth half a decode. The memory is anonymous (memfd), so a container's
small /dev/shm does not limit it.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections import deque

import numpy as np
from numpy.typing import NDArray


class Ring:
    """Slots of one batch each, uint8 [batch 2 size size 3]. A slot is free, being filled, or leased to a batch."""

    def __init__(self, slots: int, batch: int, size: int):
        self.shape = (slots, batch, 2, size, size, 3)
        self.descriptor = os.memfd_create("flicker-ring")
        os.ftruncate(self.descriptor, int(np.prod(self.shape)))
        self.slots = attach(self.descriptor, self.shape)
        self._free = deque(range(slots))
        weakref.finalize(self, os.close, self.descriptor)

    @property
    def free(self) -> int:
        """Slots that nobody uses."""
        return len(self._free)

    def take(self) -> int:
        """A free slot, to be filled."""
        return self._free.popleft()

    def give(self, slot: int) -> None:
        """Hand back a slot that was taken."""
        self._free.append(slot)

    def lease(self, slot: int) -> NDArray[np.uint8]:
        """The slot's memory; the slot is handed back when the last view of the returned array is gone."""
        view: NDArray[np.uint8] = self.slots[slot]
        weakref.finalize(view, self._free.append, slot).atexit = False
        return view


def attach(descriptor: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The ring behind a file descriptor, as another process sees it."""
    memory = mmap.mmap(descriptor, int(np.prod(shape)))
    return np.frombuffer(memory, np.uint8).reshape(shape)
