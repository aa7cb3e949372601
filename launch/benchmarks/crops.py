"""Frames to measure with: face crops as JPEG files, cut and jittered from synthetic faces or from given videos."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from shards.errors import FlickerError
from shards.files import atomic_path, read_json, write_json
from shards.progress import Progress
from shards.synthetic_difficulty import Difficulty
from shards.synthetic_scene import Scene, film, make_event
from shards.video import VideoFrames

Array = np.ndarray
FOOTAGE = 16
"""Different faces (or stretches of the given videos) that all sources are cut from."""
STRETCH = 48
"""Frames of each."""
ROOM = 1.3
"""Side of the footage over that of a crop: what jitter and cut may use."""
QUALITY = 95
NOTE = "material.json"


@dataclass(frozen=True)
class Material:
    """What is on disk under `folder`: `frames/SOURCE/000001.jpg`, size × size px, JPEG q95 4:2:0."""

    folder: Path
    lengths: dict[str, int]
    """frames of each source"""
    jpeg_bytes: int

    @property
    def frames(self) -> int:
        """All frames."""
        return sum(self.lengths.values())

    def paths(self, source: str) -> list[Path]:
        """The files of a source, in order."""
        return [self.folder / "frames" / source / f"{n:06d}.jpg" for n in range(1, self.lengths[source] + 1)]


@dataclass(frozen=True)
class _Task:
    """One stretch of footage and the sources that are cut from it."""

    number: int
    lengths: dict[str, int]
    folder: Path
    size: int
    video: str


def draw_lengths(sources: int, shortest: int, typical: int, longest: int) -> dict[str, int]:
    """Frames per source: log-normal about `typical`, within the two limits."""
    rng = np.random.default_rng(1)
    drawn = np.exp(rng.normal(np.log(typical), 0.7, sources)).clip(shortest, longest)
    return {f"source{number:03d}": int(frames) for number, frames in enumerate(drawn)}


def make(folder: Path, lengths: dict[str, int], size: int, videos: list[str]) -> Material:
    """Write the frames where they are not there yet. Raises FlickerError if `folder` holds others."""
    settings = {"lengths": lengths, "size": size, "videos": videos}
    note = folder / NOTE
    if note.exists():
        before = read_json(note, "note of the benchmark's data")
        if {key: before.get(key) for key in settings} != settings:
            raise FlickerError(f"{folder} holds benchmark data of other settings: remove it, or give another --data")
        return Material(folder, lengths, int(before["bytes"]))
    names = list(lengths)
    footage = [*videos] or [""]
    tasks = [
        _Task(n, {s: lengths[s] for s in names[n::FOOTAGE]}, folder / "frames", size, footage[n % len(footage)])
        for n in range(min(FOOTAGE, len(names)))
    ]
    total = 0
    workers = ProcessPoolExecutor(min(os.cpu_count() or 1, 8), mp_context=get_context("spawn"))
    with workers, Progress(len(tasks), "frames to measure with", "stretches") as progress:
        for written in workers.map(_cut, tasks):
            total += written
            progress.advance()
    write_json(note, {**settings, "bytes": total})
    return Material(folder, lengths, total)


def _cut(task: _Task) -> int:
    """All sources of a stretch; returns their JPEG bytes."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng([7, task.number])
    stretch = _filmed(task, rng) if task.video else _drawn(task, rng)
    total = 0
    for source, frames in task.lengths.items():
        folder = task.folder / source
        folder.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(_camera(stretch, frames, task.size, rng), start=1):
            data = simplejpeg.encode_jpeg(image, QUALITY, "RGB", "420")
            (folder / f"{number:06d}.jpg").write_bytes(data)
            total += len(data)
    return total


def _drawn(task: _Task, rng: np.random.Generator, framing: float = 0.52) -> Array:
    """A synthetic face that moves, [t S S 3]; `framing`: px per face unit over S."""
    side = int(task.size * ROOM)
    looks = Difficulty(noise=0, amplitude_px=(side / 200, side / 200))
    person, style, centre = film(rng, side, side, framing, looks)
    smile = make_event(person, style, "12", (0.2, 0.6, 0.8, 1.3), looks.amplitude_px[1], rng)
    return Scene(person, np.arange(STRETCH) / 30, [smile], looks, rng, centre).frames()


def _filmed(task: _Task, rng: np.random.Generator) -> Array:
    """Consecutive frames of a video, their central square scaled, [t S S 3]."""
    side = int(task.size * ROOM)
    skip = int(rng.integers(0, 60))
    images = []
    for frame in itertools.islice(VideoFrames(Path(task.video)), skip, skip + STRETCH):
        height, width = frame.image.shape[:2]
        edge = min(height, width)
        top, left = (height - edge) // 2, (width - edge) // 2
        square = frame.image[top : top + edge, left : left + edge]
        images.append(cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA))
    if len(images) < 2:
        raise FlickerError(f"{task.video} has fewer than {skip + 2} frames: give longer videos")
    return np.stack(images)


def _camera(stretch: Array, frames: int, size: int, rng: np.random.Generator) -> Iterator[Array]:
    """`frames` crops [size size 3] of a stretch played to and fro, with a hand's unrest, own grain and light."""
    spare = stretch.shape[1] - size
    turn = np.deg2rad(rng.uniform(-8, 8))
    scale = rng.uniform(0.95, 1.2)
    start, speed = int(rng.integers(len(stretch))), rng.uniform(0.02, 0.1, 4)
    grain = rng.normal(128, rng.uniform(0.5, 4), (size + 61, size + 61, 3)).clip(0, 255).astype(np.uint8)
    gain = rng.uniform(0.8, 1.1)
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    period = 2 * len(stretch) - 2
    for number in range(frames):
        at = (start + number) % period
        image = stretch[min(at, period - at)]
        sway = 0.15 * spare * np.sin(speed[:2] * number) + 0.3 * np.sin(9 * speed[2:] * number)
        centre = np.full(2, (stretch.shape[1] - 1) / 2) + sway
        matrix = np.hstack([linear, ((size - 1) / 2 - linear @ centre)[:, None]])
        crop = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        top, left = rng.integers(0, 62, 2)
        yield cv2.addWeighted(
            crop, gain, np.ascontiguousarray(grain[top : top + size, left : left + size]), 1.0, -128
        )


def write_video(path: Path, frames: list[Array], *, gop: int = 250, crf: int = 18) -> None:
    """Frames as H.264, encoded in one thread."""
    import av

    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = gop
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"crf": str(crf), "preset": "veryfast"}
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def link_frames(folder: Path, material: Material, copies: int) -> None:
    """`many`: the frames of all sources and as many copies of them, by hard links."""
    for copy, source in itertools.product(range(copies + 1), material.lengths):
        target = folder / "many" / str(copy) / source
        if not target.exists():
            temporary = target.with_name(f".{source}")
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            for path in material.paths(source):
                (temporary / path.name).hardlink_to(path)
            temporary.replace(target)


def make_cameras(folder: Path, videos: int, frames: int, copies: int) -> None:
    """`camera/NAME.mp4`, 640 x 480 px, and `cameras/`: so many copies of each, which are sources of their own."""
    once, often = folder / "camera", folder / "cameras"
    if often.exists() and len(list(often.iterdir())) == videos * copies:
        return
    for number in range(videos):
        path = once / f"camera{number:02d}.mp4"
        if not path.exists():
            rng = np.random.default_rng([8, number])
            stretch = _drawn(_Task(number, {}, folder, 480, ""), rng, 0.3)
            images = _camera(stretch, frames, 480, rng)
            write_video(path, [cv2.copyMakeBorder(image, 0, 0, 80, 80, cv2.BORDER_REFLECT) for image in images])
        often.mkdir(exist_ok=True)
        for copy in range(copies):
            shutil.copyfile(path, often / f"camera{number:02d}-{copy}.mp4")
