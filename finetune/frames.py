"""Onset and apex frames of labelled clips as arrays, in the geometry that the encoder expects."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import simplejpeg

from finetune.clips import Clip
from shards.errors import FlickerError
from shards.progress import Progress

Fit = Literal["squash", "crop", "pad"]
JPEG_START = b"\xff\xd8\xff"


def read_image(path: Path) -> np.ndarray:
    """An image file as RGB uint8 [H W 3] (grey images are repeated). Raises FlickerError naming the file."""
    try:
        data = path.read_bytes()
        if data[:3] == JPEG_START:
            return simplejpeg.decode_jpeg(data, colorspace="RGB")
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, ValueError, cv2.error) as error:
        raise FlickerError(f"cannot read the image {path}: {error}; replace the file") from None
    if image is None:
        raise FlickerError(f"cannot read the image {path}: no image data; replace the file")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def fit(image: np.ndarray, size: int, how: Fit) -> np.ndarray:
    """RGB uint8 [H W 3] to [size size 3].

    'squash' scales both sides independently (keeps the whole face), 'crop' scales the short side and cuts the
    middle (as unlabelled frames are sharded without a face box), 'pad' scales the long side and repeats the border.
    """
    height, width = image.shape[:2]
    if height == width == size:
        return image
    if how == "squash":
        return _resize(image, size, size)
    scale = size / (min if how == "crop" else max)(height, width)
    image = _resize(image, max(1, round(width * scale)), max(1, round(height * scale)))
    height, width = image.shape[:2]
    if how == "crop":
        top, left = (height - size) // 2, (width - size) // 2
        return np.ascontiguousarray(image[top : top + size, left : left + size])
    top, left = (size - height) // 2, (size - width) // 2
    return cv2.copyMakeBorder(image, top, size - height - top, left, size - width - left, cv2.BORDER_REPLICATE)


def _resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Area averaging downwards, linear interpolation upwards."""
    shrink = width < image.shape[1] or height < image.shape[0]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)


def load_frames(
    clips: Sequence[Clip], names: Sequence[str], size: int, how: Fit, *, workers: int = 4, quiet: bool = False
) -> dict[str, np.ndarray]:
    """The named frames of each clip, e.g. ('onset', 'apex'): name -> RGB uint8 [n size size 3].

    Raises FlickerError naming the file of a frame that cannot be read.
    """
    jobs = [clip.frames[getattr(clip, name)] for name in names for clip in clips]
    with ThreadPoolExecutor(workers) as pool, Progress(len(jobs), "frames", "frames", quiet=quiet) as progress:
        images = []
        for image in pool.map(lambda path: fit(read_image(path), size, how), jobs):  # decoders release the GIL
            images.append(image)
            progress.advance()
    stacked = np.stack(images).reshape(len(names), len(clips), size, size, 3)
    return dict(zip(names, stacked, strict=True))


def mirrored(frames: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same frames, left and right exchanged."""
    return {name: np.ascontiguousarray(value[:, :, ::-1]) for name, value in frames.items()}


def digest(frames: dict[str, np.ndarray]) -> str:
    """SHA-256 of the frames' names, shapes and bytes."""
    total = hashlib.sha256()
    for name, value in sorted(frames.items()):
        total.update(f"{name}{value.shape}{value.dtype}".encode())
        total.update(np.ascontiguousarray(value).data)
    return total.hexdigest()
