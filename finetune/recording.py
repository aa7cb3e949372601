"""A recording without a label as a `Clip`: a video file or a folder of frames."""

from __future__ import annotations

import re
from pathlib import Path

import simplejpeg

from finetune.clips import Clip
from shards.errors import FlickerError
from shards.files import atomic_path
from shards.frames import SourceError
from shards.sources import image_names
from shards.video import VideoFrames

LONGEST = 4.0
"""Seconds: a micro-expression lasts half of one; more is a scene, not a clip."""


def from_video(path: Path, folder: Path, start: float = 0.0, end: float = 0.0) -> Clip:
    """The frames of a video between `start` and `end` (s; 0: to its end) as a clip; onset first, apex unknown.

    They are written as JPEG files (quality 100, no colour subsampling) into `folder`.

    Raises FlickerError: unreadable, a stretch that is empty, fewer than three frames, longer than LONGEST.
    """
    if not path.is_file():
        raise FlickerError(f"no such video: {path}; give a video file or a folder of frames")
    try:
        video = VideoFrames(path)
        rate = float(video.fps or 30.0)
        last = end or float(video.container.times[-1] - video.container.times[0])
        if not 0 <= start < last:
            raise FlickerError(f"{path}: no frames between {start} and {last} s; --start must lie before --end")
        _check_length(last - start, str(path))
        frames: dict[int, Path] = {}
        for frame in video:
            time = frame.time or 0.0
            if time > last + 0.5 / rate:
                break
            if time >= start - 0.5 / rate:
                frames[frame.number] = folder / f"{frame.number:06d}.jpg"
                with atomic_path(frames[frame.number]) as temporary:
                    temporary.write_bytes(simplejpeg.encode_jpeg(frame.pixels, quality=100, colorsubsampling="444"))
    except SourceError as error:
        raise FlickerError(f"{path} cannot be read: {error}") from None
    return _clip(path.stem, frames, rate, str(path))


def from_folder(path: Path, fps: float) -> Clip:
    """A folder of images, in the order of the last number in their names, as a clip; `fps` frames per second.

    Raises FlickerError: fewer than three images, or longer than LONGEST.
    """
    if fps <= 0:
        raise FlickerError(f"{path} is a folder of frames: give their rate, --fps 200")
    try:
        names = image_names(path)
    except OSError as error:
        raise FlickerError(f"cannot list {path}: {error.strerror}; give a video file or a folder of frames") from None
    frames = {number: path / name for number, name in enumerate(sorted(names, key=_place))}
    _check_length(len(frames) / fps, str(path))
    return _clip(path.name, frames, fps, str(path))


def _place(name: str) -> tuple[int, str]:
    """Where a frame belongs by its name: img9.jpg goes before img10.jpg."""
    digits = re.findall(r"\d+", Path(name).stem)
    return (int(digits[-1]) if digits else -1, name)


def _check_length(seconds: float, where: str) -> None:
    if seconds > LONGEST:
        raise FlickerError(
            f"{where}: {seconds:.1f} s is no micro-expression (40-500 ms); give the stretch to look at, at most "
            f"{LONGEST:.0f} s: --start SECONDS --end SECONDS"
        )


def _clip(name: str, frames: dict[int, Path], fps: float, where: str) -> Clip:
    """A record whose apex is not known."""
    if len(frames) < 3:
        raise FlickerError(f"{where}: {len(frames)} frames there; at least three are needed")
    numbers = sorted(frames)
    return Clip(
        dataset="recording",
        subject="person",
        clip=name,
        onset=numbers[0],
        apex=numbers[len(numbers) // 2],
        offset=numbers[-1],
        emotion="unknown",
        fps=fps,
        flags=("apex-uncoded",),
        frames=frames,
    )
