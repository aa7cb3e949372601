"""Byte ranges to pixels: read, check and decode the frames of a batch. Runs in the reader or in its workers.

Imports no torch: a worker starts in a quarter of a second and takes 60 MB.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence

import numpy as np
import simplejpeg
from crc32c import crc32c as checksum
from numpy.typing import NDArray

from shards.errors import FlickerError
from shards.schema import shard_name
from shards.store import OutageError, Store, StoreError

Bad = tuple[int, int, str]
"""(row, which of the two frames, reason)"""
NO_SLOT = -1
PLACES = 1024  # shards whose names are remembered


class BadFrameError(FlickerError):
    """A frame that cannot be read, whose checksum differs, or that does not decode."""


class Fetcher:
    """Frames of one or several shard sets, decoded into given memory.

    Args:
        stores: one per set.
        counts: shards of each set; shard numbers run on from one set to the next.
        size: side of the frames, px; stored frames of another size are resized.
        held: frames that can be kept decoded (decode-once mode), 0: none.
    """

    def __init__(self, stores: Sequence[Store], counts: Sequence[int], size: int, held: int = 0):
        self.stores, self.size = stores, size
        self._first = [0, *itertools.accumulate(counts)][:-1]
        self._places: dict[int, tuple[Store, str]] = {}
        self._held = np.empty((held, size, size, 3), np.uint8) if held else None
        self._tags: list[tuple[int, int] | None] = [None] * held

    def fill(self, where: NDArray[np.int64], slots: NDArray[np.int32] | None, target: NDArray[np.uint8]) -> list[Bad]:
        """Decode pairs into `target`; what could not be had is returned and its pixels are undefined.

        Raises OutageError where a server does not answer.

        Args:
            where: int64 [4 n 2], rows shard, offset, length, CRC32C.
            slots: int32 [n 2], where a frame is kept decoded (NO_SLOT: not); None: nothing is kept.
            target: uint8 [n 2 S S 3].
        """
        bad: list[Bad] = []
        for row, pair in enumerate(where.transpose(1, 2, 0).tolist()):
            for which, (shard, offset, length, crc) in enumerate(pair):
                try:
                    slot = NO_SLOT if slots is None else int(slots[row, which])
                    if slot == NO_SLOT:
                        self.read(shard, offset, length, crc, target[row, which])
                    else:
                        target[row, which] = self._once(slot, shard, offset, length, crc)
                except BadFrameError as error:
                    bad.append((row, which, str(error)))
        return bad

    def _once(self, slot: int, shard: int, offset: int, length: int, crc: int) -> NDArray[np.uint8]:
        """The decoded frame in `slot`; decoded now if another one, or none, is there."""
        assert self._held is not None
        tag = (shard, offset)
        if self._tags[slot] != tag:
            self._tags[slot] = None
            self.read(shard, offset, length, crc, self._held[slot])
            self._tags[slot] = tag
        return self._held[slot]  # type: ignore[no-any-return]

    def read(self, shard: int, offset: int, length: int, crc: int, target: NDArray[np.uint8]) -> None:
        """One frame into `target` (uint8 [S S 3]). Raises BadFrameError, OutageError."""
        store, name = self._place(shard)
        data = self._bytes(store, name, offset, length)
        if checksum(data) != crc:
            store.forget(name, offset, length)
            data = self._bytes(store, name, offset, length) if store.remote else data
            if checksum(data) != crc:
                raise BadFrameError("its checksum differs")
        try:
            self._decode(data, target)
        except ValueError as error:
            raise BadFrameError(f"it does not decode: {error}") from None

    def hint(self, ranges: NDArray[np.int64]) -> None:
        """Say what will be read soon: int64 [n 3], rows shard, offset, length."""
        for shard, offset, length in ranges.tolist():
            store, name = self._place(shard)
            store.hint(name, offset, length)

    def close(self) -> None:
        """Close all files and connections."""
        for store in self.stores:
            store.close()

    def _place(self, shard: int) -> tuple[Store, str]:
        """The store of a shard, and the shard's name there."""
        if (known := self._places.get(shard)) is None:
            number = bisect.bisect_right(self._first, shard) - 1
            known = self.stores[number], f"{shard_name(shard - self._first[number])}.tar"
            if len(self._places) >= PLACES:
                self._places.clear()
            self._places[shard] = known
        return known

    @staticmethod
    def _bytes(store: Store, name: str, offset: int, length: int) -> bytes | memoryview:
        try:
            return store.view(name, offset, length)
        except OutageError:
            raise
        except StoreError as error:
            raise BadFrameError(str(error)) from None

    def _decode(self, data: bytes | memoryview, target: NDArray[np.uint8]) -> None:
        """JPEG to RGB; resized where the stored frame has another size. Raises ValueError."""
        try:
            if simplejpeg.decode_jpeg(data, "RGB", buffer=target).shape == target.shape:
                return
        except ValueError:  # damaged, or larger than the target: which of them, decoding once more tells
            pass
        from shards.crop import resize  # imports OpenCV, which a worker often does without

        target[:] = resize(simplejpeg.decode_jpeg(data, colorspace="RGB"), self.size)
