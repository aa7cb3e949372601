"""Byte ranges to pixels: read, check and decode the frames of a batch. Runs in the reader or in its workers."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray

from shards.crop import resize
from shards.errors import FlickerError
from shards.frames import Image

OPEN_FILES = 128
ATTEMPTS = 3


class BadFrameError(Exception):
    """A frame whose bytes fail their checksum or do not decode."""


@dataclass(frozen=True)
class Ranges:
    """Where the 2B frames of a batch lie: int64 arrays [B 2]."""

    shard: NDArray[np.int64]
    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    crc: NDArray[np.int64]


@dataclass(frozen=True)
class Fetched:
    """Pixels of a batch, and the frames that could not be had: (row, which of the two, reason)."""

    frames: torch.Tensor
    """uint8 [B 2 H W 3]"""
    bad: list[tuple[int, int, str]]
    fault: str = ""
    """a fault that ends reading (a file that cannot be read), one line"""


class Fetcher:
    """Reads frames by byte range. Each process opens its own files."""

    def __init__(self, paths: list[Path], image_size: int):
        self.paths, self.image_size = paths, image_size
        self._files: OrderedDict[int, int] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        return {"paths": self.paths, "image_size": self.image_size, "_files": OrderedDict()}

    def __getitem__(self, ranges: Ranges) -> Fetched:
        """A batch; never raises FlickerError (a worker's traceback would hide it): see `Fetched.fault`."""
        shape = (len(ranges.shard), 2, self.image_size, self.image_size, 3)
        frames = torch.empty(shape, dtype=torch.uint8)
        if torch.utils.data.get_worker_info() is not None:
            frames.share_memory_()  # decoded where it will be sent from
        pixels = frames.numpy()
        bad = []
        try:
            for row in range(shape[0]):
                for which in range(2):
                    try:
                        self.read(ranges, row, which, pixels[row, which])
                    except BadFrameError as error:
                        bad.append((row, which, str(error)))
        except FlickerError as error:
            return Fetched(frames[:0], [], str(error))
        return Fetched(frames, bad)

    def read(self, ranges: Ranges, row: int, which: int, target: Image) -> None:
        """One frame into `target` (uint8 [S S 3]). Raises BadFrameError, FlickerError."""
        place = (row, which)
        data = self._pread(int(ranges.shard[place]), int(ranges.length[place]), int(ranges.offset[place]))
        if google_crc32c.value(data) != int(ranges.crc[place]):
            raise BadFrameError("its checksum differs")
        try:
            self._decode(data, target)
        except ValueError as error:
            raise BadFrameError(f"it does not decode: {error}") from None

    def _decode(self, data: bytes, target: Image) -> None:
        """JPEG to RGB; resized where the stored frame has another size."""
        if simplejpeg.decode_jpeg_header(data)[:2] == target.shape[:2]:
            simplejpeg.decode_jpeg(data, colorspace="RGB", buffer=target)
        else:
            target[:] = resize(simplejpeg.decode_jpeg(data, colorspace="RGB"), self.image_size)

    def _pread(self, shard: int, length: int, offset: int) -> bytes:
        """`length` bytes at `offset` of a shard, in up to three attempts."""
        reason = ""
        for attempt in range(ATTEMPTS):
            try:
                data = os.pread(self._file(shard), length, offset)
                if len(data) == length:
                    return data
                reason = f"{len(data)} of {length} bytes"
            except OSError as error:
                reason = str(error.strerror)
                self._close(shard)
            time.sleep(0.05 * 4**attempt)
        raise FlickerError(
            f"cannot read {self.paths[shard]} at byte {offset}: {reason}: "
            "check the file with launch/shard.py --verify"
        )

    def _file(self, shard: int) -> int:
        """An open file descriptor; the least recently used one is closed above 128."""
        if shard not in self._files:
            self._files[shard] = os.open(self.paths[shard], os.O_RDONLY | os.O_CLOEXEC)
            if len(self._files) > OPEN_FILES:
                self._close(next(iter(self._files)))
        self._files.move_to_end(shard)
        return self._files[shard]

    def _close(self, shard: int) -> None:
        if (descriptor := self._files.pop(shard, None)) is not None:
            os.close(descriptor)

    def close(self) -> None:
        """Close all files."""
        for shard in list(self._files):
            self._close(shard)

    def __del__(self) -> None:
        self.close()
