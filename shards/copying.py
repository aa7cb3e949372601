"""Frame folders that need no change: every file is read once, and few are decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import simplejpeg
from crc32c import crc32c as checksum
from numpy.typing import NDArray

from shards.folders import FileReader, FolderFrames, open_folder
from shards.frames import Image, jpeg_thumbnail
from shards.runs import jumps, sparse_cuts

TICK = 64  # frames between signs of life
JPEG_START, JPEG_END = (0xFF, 0xD8), (0xFF, 0xD9)
COLOURS = ("YCbCr", "Gray", "RGB")  # others are rare: such a folder is decoded


@dataclass(frozen=True)
class FolderScan:
    """A folder of JPEG frames [N] that are stored as they are."""

    numbers: NDArray[np.int64]
    lengths: NDArray[np.uint32]
    """bytes"""
    crc32c: NDArray[np.uint32]
    runs: list[tuple[int, int]]
    """first position and the one after the last"""


def scan(folder: FolderFrames, size: int, counts: Counter[str], tick: Callable[[int], None]) -> FolderScan | None:
    """Look through a folder; None where not every file is a faultless JPEG of size × size, which is to be decoded.

    Of every file: that it can be read, its header, that it ends as a JPEG does, its CRC32C. Only the frames that
    `sparse_cuts` asks for are decoded: flipped bits in the others go unnoticed, as they mostly do in a decoder.
    `counts` gains gaps and cuts; `tick` hears of frames read. Raises SourceError: the folder cannot be opened.
    """
    with open_folder(folder.path) as reader:
        lengths = np.empty(len(folder.files), np.uint32)
        crcs = np.empty(len(folder.files), np.uint32)
        for position, (_, name) in enumerate(folder.files):
            try:
                data = reader.read(name)
                if not _is_fit(data, size):
                    return None
            except (OSError, ValueError):
                return None
            lengths[position], crcs[position] = len(data), checksum(data.data)
            if position % TICK == TICK - 1:
                tick(TICK)
        numbers = np.array([number for number, _ in folder.files], np.int64)
        found = Counter[str]()
        try:
            runs = _runs(numbers, jumps(lengths), _thumbnails(folder, reader), found)
        except (OSError, ValueError):
            return None
    tick(len(numbers) % TICK)
    counts.update(found)
    return FolderScan(numbers, lengths, crcs, runs)


def _is_fit(data: Image, size: int) -> bool:
    """Whether a file's bytes are a whole JPEG of size × size. Raises ValueError for a damaged header."""
    if len(data) < 4 or (data[0], data[1]) != JPEG_START or (data[-2], data[-1]) != JPEG_END:
        return False
    height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    return height == width == size and colours in COLOURS


def _thumbnails(folder: FolderFrames, reader: FileReader) -> Callable[[int], Image]:
    """Position to thumbnail."""
    return lambda position: jpeg_thumbnail(reader.read(folder.files[position][1]))


def _runs(
    numbers: NDArray[np.int64],
    jumped: NDArray[np.int64],
    thumbnail: Callable[[int], Image],
    counts: Counter[str],
) -> list[tuple[int, int]]:
    """Where the runs begin and end: at gaps of the numbers and at cuts."""
    gaps = np.flatnonzero(np.diff(numbers) != 1) + 1
    counts["gaps"] += len(gaps)
    runs = []
    for first, end in pairwise([0, *gaps.tolist(), len(numbers)]):
        cuts = list(sparse_cuts(first, end, jumped, thumbnail))
        counts["cuts"] += len(cuts)
        runs += list(pairwise([first, *cuts, end]))
    return runs
