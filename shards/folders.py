"""Frame folders: JPEG, PNG or BMP files whose names carry the frame numbers."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from shards.frames import Frame, Image, SourceError
from shards.sources import image_names

JPEG_START = b"\xff\xd8"
LARGEST = 1 << 28  # bytes of an image file
_DIGITS = re.compile(r"[0-9]+")


def frame_number(name: str) -> int | None:
    """The frame number in a file name: the last run of digits of its stem; None where there is none."""
    runs = _DIGITS.findall(name.rsplit(".", 1)[0])
    return int(runs[-1]) if runs else None


def number_files(names: Sequence[str]) -> tuple[list[tuple[int, str]], int]:
    """(number, name) pairs in numeric order, and how many names carry no number.

    Raises SourceError: two files with one number, or no numbers at all.
    """
    numbered: dict[int, str] = {}
    without = 0
    for name in sorted(names):
        number = frame_number(name)
        if number is None:
            without += 1
        elif number in numbered:
            raise SourceError(f"frame number {number} occurs twice: {numbered[number]} and {name}")
        else:
            numbered[number] = name
    if not numbered:
        raise SourceError("no file name carries a frame number (digits at the end of the stem)")
    return sorted(numbered.items()), without


class FolderFrames:
    """The frames of one folder, in numeric order. Damaged files are left out and counted.

    Keeps some 200 bytes per file of the folder.
    """

    decoder = ""
    fallback = ""

    def __init__(self, path: Path, fps: float | None):
        try:
            self.files, without = number_files(image_names(path))
        except OSError as error:
            raise SourceError(f"cannot be listed: {error.strerror}") from None
        self.path, self.fps = path, fps
        self.counts = Counter(files_without_number=without)

    def time(self, number: int) -> float | None:
        """Seconds from the first frame; None where the rate is unknown."""
        return None if self.fps is None else round((number - self.files[0][0]) / self.fps, 6)

    def __iter__(self) -> Iterator[Frame]:
        self.counts["unreadable_frames"] = 0
        with open_folder(self.path) as reader:
            for number, name in self.files:
                try:
                    yield read_frame(reader.read(name).tobytes(), name, number, self.time(number))
                except (OSError, ValueError):
                    self.counts["unreadable_frames"] += 1


def read_frame(data: bytes, name: str, number: int, time: float | None) -> Frame:
    """An image file's bytes as a decoded Frame; what it is, its first bytes tell. Raises ValueError if damaged."""
    if data.startswith(JPEG_START):
        frame = Frame(number, time, jpeg=data, file=name)
        _ = frame.image  # decodes the whole stream: a damaged file ends here
        return frame
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ValueError(f"{name} is not an image")
    return Frame(number, time, pixels=np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8))


def open_folder(path: Path) -> FileReader:
    """A FileReader. Raises SourceError where the folder cannot be opened."""
    try:
        return FileReader(path)
    except OSError as error:
        raise SourceError(f"cannot be opened: {error.strerror}") from None


class FileReader:
    """Reads whole files of one folder into one buffer, by names alone. Use as a context manager."""

    def __init__(self, folder: str | Path):
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._resize(1 << 16)

    def _resize(self, size: int) -> None:
        self._buffer = bytearray(size)
        self._view = memoryview(self._buffer)
        self._bytes = np.frombuffer(self._buffer, np.uint8)

    def read(self, name: str) -> Image:
        """A file's bytes, uint8 [n]; they stay until the next call. Raises OSError, ValueError if above LARGEST."""
        descriptor = os.open(name, os.O_RDONLY, dir_fd=self._folder)
        try:
            filled = os.readv(descriptor, [self._view])
            while filled == len(self._buffer):  # a file that ends within the buffer is whole
                self._grow(name)
                filled += os.readv(descriptor, [self._view[filled:]])
        finally:
            os.close(descriptor)
        return self._bytes[:filled]

    def _grow(self, name: str) -> None:
        """Four times the buffer, its contents kept."""
        if len(self._buffer) >= LARGEST:
            raise ValueError(f"{name} has more than {LARGEST} bytes")
        kept = bytes(self._buffer)
        self._resize(4 * len(kept))
        self._view[: len(kept)] = kept

    def __enter__(self) -> FileReader:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._folder)
