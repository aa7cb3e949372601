"""Image files as arrays, and whole frames fitted into a square."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import simplejpeg

from shards.errors import FlickerError

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
