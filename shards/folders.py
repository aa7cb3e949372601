"""Frame folders: JPEG, PNG or BMP files whose names carry the frame numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from shards.frames import Frame, SourceError
from shards.sources import image_names

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
    """The frames of one folder, in numeric order. Damaged files are left out and counted."""

    decoder = ""
    fallback = ""

    def __init__(self, path: Path, fps: float | None):
        try:
            self._files, without = number_files(image_names(path))
        except OSError as error:
            raise SourceError(f"cannot be listed: {error.strerror}") from None
        self.path, self.fps = path, fps
        self.counts = Counter(files_without_number=without)

    def __iter__(self) -> Iterator[Frame]:
        self.counts["unreadable_frames"] = 0
        first = self._files[0][0]
        for number, name in self._files:
            time = None if self.fps is None else round((number - first) / self.fps, 6)
            try:
                yield read_frame(self.path / name, number, time)
            except (OSError, ValueError):
                self.counts["unreadable_frames"] += 1


def read_frame(path: Path, number: int, time: float | None) -> Frame:
    """One image file as a Frame; what it is, its first bytes tell. Raises OSError, ValueError if damaged."""
    data = path.read_bytes()
    if simplejpeg.is_jpeg(data):
        frame = Frame(number, time, jpeg=data)
        _ = frame.size, frame.thumbnail  # decodes the whole stream: a damaged file ends here
        return frame
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ValueError(f"{path} is not an image")
    return Frame(number, time, pixels=np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8))
