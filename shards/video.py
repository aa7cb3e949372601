"""Video files: decord, read in order only and checked against the container; PyAV where the two disagree.

decord 0.6 is exact when read in order, but it shows frames that an edit list hides and knows nothing of
truncation. So PyAV lists the container's packets first (no decoding): how many frames are to be shown and
when. decord is used when its own list says the same; otherwise PyAV decodes, and the reason is reported.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import decord
import numpy as np
from numpy.typing import NDArray

from shards.frames import Frame, Image, SourceError

decord.logging.set_level(decord.logging.QUIET)
DROPPED = 1.6  # an interval longer than this many usual ones means that frames are missing
AROUND = 15  # frames on each side that say what is usual


class DecoderDisagreesError(Exception):
    """decord returned other frames than the container lists."""


@dataclass(frozen=True)
class Container:
    """What a video's container says, without decoding."""

    times: NDArray[np.float64]
    """when each frame is shown, s, ascending, [T]"""
    fps: float
    """1 / the median interval; the container's own rate where the two agree"""
    breaks: NDArray[np.bool_]
    """frames are missing before this one, [T]"""
    by_order: bool = False
    """the packets carry no usable times: frames are numbered in the order in which they are decoded"""

    def number(self, time: float) -> int:
        """The number of the frame shown at `time` (s); -1 where none is."""
        tolerance = 0.25 / self.fps
        number = int(np.searchsorted(self.times, time - tolerance))
        return number if number < len(self.times) and abs(self.times[number] - time) <= tolerance else -1


def read_container(path: Path) -> Container:
    """List the frames that a video is to show. Raises SourceError: unreadable, truncated, no video, too short."""
    try:
        with av.open(str(path)) as file:
            if not file.streams.video:
                raise SourceError("no video stream in it")
            stream = file.streams.video[0]
            listed = [(packet.pts, packet.is_discard) for packet in file.demux(stream) if packet.size]
            declared, base, length = stream.frames, stream.time_base, _length(file, stream)
            average = float(stream.average_rate or 0)
            untimed = file.format.name == "avi" and stream.codec_context.codec.reorder
            shown = [pts for pts, hidden in listed if not hidden]
    except (av.FFmpegError, OSError, ValueError) as error:
        raise SourceError(f"unreadable video: {_reason(error)}") from None
    by_order = bool(untimed or base is None or any(pts is None for pts in shown))
    times = _decoded_times(path) if by_order else np.array(sorted(shown), np.float64) * float(base)
    if len(times) < 2:
        raise SourceError(f"{len(times)} frames in the video")
    fps, breaks = _rate(times)
    if average and abs(average / fps - 1) < 0.02:  # Matroska rounds its times to ms
        fps = round(average, 6)
    short = length - (times[-1] - times[0] + 1 / fps)
    if short > max(3 / fps, 0.25) and (declared == 0 or len(listed) < declared):
        raise SourceError(f"truncated video: it should last {length:.2f} s, the last {short:.2f} s are missing")
    return Container(times, fps, breaks, by_order)


def _length(file: Any, stream: Any) -> float:
    """How long the container says that the video lasts, s; 0 where it does not say."""
    if stream.duration is not None and stream.time_base is not None:
        if file.format.name == "avi" and stream.average_rate:  # a cut AVI's duration is a guess, its count is not
            return float(stream.frames / stream.average_rate)
        return float(stream.duration * stream.time_base)
    if found := re.match(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "")):  # Matroska
        return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])
    alone = len(file.streams) == 1 and file.duration is not None
    return file.duration / av.time_base if alone else 0.0


def _reason(error: Exception) -> str:
    """FFmpeg's message without the path."""
    return (str(getattr(error, "strerror", None) or error).splitlines() or [type(error).__name__])[0]


def _decoded_times(path: Path) -> NDArray[np.float64]:
    """Times of all frames by decoding, for containers whose packets carry none (AVI with B-frames)."""
    try:
        with av.open(str(path)) as file:
            times = [frame.time for frame in file.decode(video=0)]
    except (av.FFmpegError, OSError) as error:
        raise SourceError(f"unreadable video: {_reason(error)}") from None
    if any(time is None for time in times):
        raise SourceError("the video's frames carry no timestamps")
    return np.array(sorted(times), np.float64)


def _rate(times: NDArray[np.float64]) -> tuple[float, NDArray[np.bool_]]:
    """Frames per second by the median interval, and where an interval is too long for its surroundings."""
    intervals = np.diff(times)
    positive = intervals[intervals > 0]
    if not len(positive):
        raise SourceError("all frames of the video carry one timestamp")
    padded = np.pad(intervals, AROUND, mode="edge")
    usual = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * AROUND + 1), axis=1)
    breaks = np.concatenate([[False], intervals > DROPPED * np.maximum(usual, 1e-9)])
    return round(float(1 / np.median(positive)), 6), breaks


class VideoFrames:
    """The frames of one video in order, whichever decoder reads them.

    `decoder` is "decord" or "pyav"; `fallback` says why it is the latter. Iterating again starts anew.
    Raises SourceError when neither can read the file, at construction or on the way.
    """

    def __init__(self, path: Path, force_pyav: str = ""):
        self.path, self.container = path, read_container(path)
        self.fps: float | None = self.container.fps
        self._opened: tuple[decord.VideoReader, Image] | None = None
        self.fallback = force_pyav or self._disagreement()
        self.decoder = "pyav" if self.fallback else "decord"
        self.counts: Counter[str] = Counter()

    def _disagreement(self) -> str:
        """Why decord cannot be trusted with this file; empty if it lists the container's frames and times."""
        times = self.container.times
        try:
            reader = decord.VideoReader(str(self.path), num_threads=1)
            count = len(reader)
            starts = np.sort(np.asarray(reader.get_frame_timestamp(range(count)), np.float64)[:, 0])
        except (decord.DECORDError, RuntimeError, IndexError, StopIteration) as error:
            return f"decord cannot open it: {_reason(error)[-120:]}"
        if count != len(times):
            return f"decord lists {count} frames, the container shows {len(times)}"
        first = reader.next().asnumpy()
        if not _alike(first, self.path):
            return "decord's first frame is not PyAV's"  # e.g. turned frames whose rows are padded
        worst = float(np.abs(starts - times).max())
        if worst > 1e-3:
            return f"decord's timestamps are up to {worst:.3f} s off the container's"
        self._opened = reader, first
        return ""

    def __iter__(self) -> Iterator[Frame]:
        self.counts.clear()
        pictures = self._pyav() if self.fallback else self._decord()
        start = self.container.times[0]
        last = -1
        for number, image in pictures:
            missing = bool(self.container.breaks[last + 1 : number + 1].any()) or number != last + 1
            time = round(float(self.container.times[number] - start), 6)
            self.counts["unreadable_frames"] += number - last - 1
            yield Frame(number, time, gap=missing and last >= 0, pixels=image)
            last = number
        self.counts["unreadable_frames"] += len(self.container.times) - 1 - last

    def _decord(self) -> Iterator[tuple[int, Image]]:
        """(number, RGB) by decord. Raises DecoderDisagreesError if it does not return what it listed."""
        number = -1
        try:
            opened, self._opened = self._opened, None  # the first pass goes on where the comparison ended
            reader = opened[0] if opened else decord.VideoReader(str(self.path), num_threads=1)
            for number in range(len(reader)):
                yield number, opened[1] if opened and number == 0 else reader.next().asnumpy()
        except (decord.DECORDError, RuntimeError, StopIteration) as error:
            raise DecoderDisagreesError(f"decord stopped at frame {number}: {_reason(error)[-120:]}") from None

    def _pyav(self) -> Iterator[tuple[int, Image]]:
        """(number, RGB) by PyAV, numbered by timestamp; frames that are not to be shown are passed over."""
        last = -1
        try:
            with av.open(str(self.path)) as file:
                for frame in self._decodable(file):
                    number = last + 1 if self.container.by_order else self.container.number(frame.time)
                    if last < number < len(self.container.times):
                        yield number, _upright(frame)
                        last = number
        except (av.FFmpegError, OSError) as error:
            raise SourceError(f"unreadable video after frame {last}: {_reason(error)}") from None

    def _decodable(self, file: Any) -> Iterator[av.VideoFrame]:
        """Decoded frames; after a damaged packet all frames up to the next key frame are left out."""
        damaged = False
        for packet in file.demux(file.streams.video[0]):
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                if self.container.by_order:
                    raise SourceError(f"damaged, and without timestamps to go on by: {_reason(error)}") from None
                damaged = True
                self.counts["damaged_packets"] += 1
                continue
            for frame in frames:
                damaged = damaged and not frame.key_frame
                if not damaged and not frame.is_corrupt and frame.time is not None:
                    yield frame


def _alike(image: Image, path: Path) -> bool:
    """Whether `image` is the first frame that PyAV decodes, up to rounding."""
    try:
        with av.open(str(path)) as file:
            first = _upright(next(file.decode(video=0)))
    except (av.FFmpegError, StopIteration):
        return False
    return image.shape == first.shape and float(np.abs(image.astype(np.int16) - first).mean()) < 3


def _upright(frame: av.VideoFrame) -> Image:
    """RGB [H W 3], turned as the container asks (decord turns by itself, PyAV does not)."""
    image = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image
