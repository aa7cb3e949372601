"""Geometry: from a source frame to the stored square, by one transform per run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from shards.frames import Image


@dataclass(frozen=True)
class Crop:
    """A square cut out (and scaled), or a similarity transform, from source to stored pixels.

    `matrix` [2 3] maps source pixel centres (x, y, 1) to stored ones. `square` (x, y, side) in whole source
    pixels is set for plain crops, which are scaled by area averaging; it may reach over the frame's edge.
    """

    size: int
    matrix: NDArray[np.float64]
    square: tuple[int, int, int] | None = None
    shrink: int = 0
    """block that is averaged before the warp, px; 0: as the matrix asks"""

    @property
    def block(self) -> int:
        """Whole source pixels per stored pixel: a linear warp that shrinks by 2 or more would alias."""
        return max(1, int(1 / float(np.hypot(self.matrix[0, 0], self.matrix[1, 0]))))

    def apply(self, image: Image) -> Image:
        """Cut `image` (uint8 [H W 3]); returns uint8 [size size 3]. Beyond the edge its last pixels repeat."""
        if self.square is not None:
            return resize(_cut(image, *self.square), self.size)
        matrix, shrink = self.matrix, self.shrink or self.block
        if shrink >= 2:
            image, matrix = _shrink(image, matrix, shrink)
        side = (self.size, self.size)
        return np.asarray(
            cv2.warpAffine(image, matrix, side, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.uint8
        )

    def is_identity(self, image_size: tuple[int, int]) -> bool:
        """Whether a frame of this width and height is stored as it is."""
        return self.square == (0, 0, self.size) and image_size == (self.size, self.size)

    def record(self) -> dict[str, Any]:
        """For KEY.json: `crop` [x, y, w, h] or null, and the `transform`."""
        box = None if self.square is None else [*self.square, self.square[2]]
        return {"crop": box, "transform": np.round(self.matrix, 6).tolist()}


def square(x: int, y: int, side: int, size: int) -> Crop:
    """The crop of a square, scaled to size × size."""
    scale = size / side
    shift = [-(x - 0.5) * scale - 0.5, -(y - 0.5) * scale - 0.5]
    return Crop(size, np.array([[scale, 0, shift[0]], [0, scale, shift[1]]]), (x, y, side))


def centre(image_size: tuple[int, int], size: int) -> Crop:
    """The largest central square of a frame of this width and height."""
    width, height = image_size
    side = min(width, height)
    return square((width - side) // 2, (height - side) // 2, side, size)


def resize(image: Image, size: int) -> Image:
    """To size × size: area averaging down, linear up; untouched if it has that size already."""
    if image.shape[:2] == (size, size):
        return image
    down = min(image.shape[:2]) > size
    method = cv2.INTER_AREA if down else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size, size), interpolation=method), np.uint8)


def _cut(image: Image, x: int, y: int, side: int) -> Image:
    """The square, with edge pixels repeated where it reaches over the frame."""
    height, width = image.shape[:2]
    left, top = max(0, -x), max(0, -y)
    right, bottom = max(0, x + side - width), max(0, y + side - height)
    inside = image[max(0, y) : min(height, y + side), max(0, x) : min(width, x + side)]
    if not (left or top or right or bottom):
        return np.ascontiguousarray(inside)
    return np.asarray(cv2.copyMakeBorder(inside, top, bottom, left, right, cv2.BORDER_REPLICATE), np.uint8)


def _shrink(image: Image, matrix: NDArray[np.float64], factor: int) -> tuple[Image, NDArray[np.float64]]:
    """Average factor × factor blocks (edges cut to whole blocks) and adapt the matrix."""
    height, width = image.shape[0] // factor, image.shape[1] // factor
    small = cv2.resize(image[: height * factor, : width * factor], (width, height), interpolation=cv2.INTER_AREA)
    offset = (factor - 1) / 2  # centre of the first block, source px
    adapted = matrix.copy()
    adapted[:, 2] = matrix[:, :2] @ [offset, offset] + matrix[:, 2]
    adapted[:, :2] = matrix[:, :2] * factor
    return np.asarray(small, np.uint8), adapted
