"""Writing synthetic data: frame folders and videos that are complete or absent, and the note of the settings."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from shards.errors import FlickerError
from shards.files import atomic_path, read_json, write_json
from shards.synthetic_scene import Scene

Array = np.ndarray
SETTINGS = ".synthetic.json"
"""File in an output folder that tells which settings it was drawn with."""


def claim(out: Path, settings: dict[str, Any]) -> None:
    """Note `settings` in `out`. Raises FlickerError if `out` holds other files, or data of other settings."""
    settings = json.loads(json.dumps(settings))
    note = out / SETTINGS
    if note.exists():
        before = read_json(note, "settings of synthetic data")
        differing = [key for key in sorted({*before, *settings}) if before.get(key) != settings.get(key)]
        if differing:
            what = ", ".join(differing)
            raise FlickerError(
                f"{out} holds synthetic data of other settings ({what}): remove it, or write elsewhere"
            )
        return
    if out.is_dir() and any(out.iterdir()):
        raise FlickerError(f"{out} is not empty and holds no synthetic data: give another folder")
    write_json(note, settings)


@contextlib.contextmanager
def _atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`; rename it to `path` when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_frames(folder: Path, scene: Scene, names: list[str], which: list[int], quality: int) -> None:
    """Write the frames `which` of `scene` as JPEG files `names` in a new `folder`."""
    with _atomic_folder(folder) as temporary:
        for name, index in zip(names, which, strict=True):
            (temporary / name).write_bytes(_jpeg(scene.frame(index), quality))


def _jpeg(frame: Array, quality: int) -> bytes:
    done, data = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return data.tobytes()


def compress(frame: Array, quality: int) -> Array:
    """A frame (uint8 [H W 3] RGB) through JPEG and back."""
    return np.asarray(cv2.imdecode(np.frombuffer(_jpeg(frame, quality), np.uint8), cv2.IMREAD_COLOR))[..., ::-1]


def write_video(path: Path, scene: Scene, fps: float, crf: int) -> None:
    """Write all frames of `scene` as H.264 in one thread: the same bytes each time."""
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = scene.person.width, scene.person.height, "yuv420p"
        stream.codec_context.options = {"crf": str(crf), "preset": "veryfast"}
        stream.codec_context.thread_count = 1
        for index in range(len(scene.times)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(scene.frame(index), format="rgb24")))
        container.mux(stream.encode())
