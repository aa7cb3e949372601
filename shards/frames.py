"""One frame on its way from a source to a shard."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from shards.errors import FlickerError

Image = NDArray[np.uint8]
THUMBNAIL = 32  # longest side of the grey picture that cuts are sought on
SMALLEST = 24  # shortest side of a JPEG's thumbnail: 1/8 of the scale is cheapest, and is 28 px for 224 px frames


class SourceError(FlickerError):
    """One source cannot be used (unreadable, truncated, empty, no face): it is reported and skipped."""


@dataclass
class Frame:
    """A frame with its real number in the source; a JPEG's pixels are decoded on first use.

    Give either `pixels` (uint8 [H W 3], RGB) or `jpeg` (the file's own bytes).
    """

    number: int
    time: float | None = None
    """seconds from the start of the source"""
    gap: bool = False
    """frames are missing between this one and the one before"""
    pixels: Image | None = None
    jpeg: bytes | None = None
    file: str = ""
    """name of the file in the source's folder that `jpeg` are the bytes of"""

    @cached_property
    def image(self) -> Image:
        """uint8 [H W 3], RGB. Raises ValueError if the JPEG is damaged."""
        if self.pixels is not None:
            return self.pixels
        assert self.jpeg is not None
        return simplejpeg.decode_jpeg(self.jpeg, colorspace="RGB")

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height, px."""
        return self.image.shape[1], self.image.shape[0]

    @cached_property
    def thumbnail(self) -> Image:
        """Grey, uint8 [THUMBNAIL THUMBNAIL]: of 64×64 pixels, as averaging them all can cost more than a decode."""
        points = cv2.resize(self.image, (2 * THUMBNAIL, 2 * THUMBNAIL), interpolation=cv2.INTER_NEAREST)
        small = cv2.resize(points, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)


def jpeg_thumbnail(data: bytes | Image) -> Image:
    """A JPEG's thumbnail, decoded at a small scale: grey, uint8 [h w], sides 24 to 32 px (more in long pictures).

    Decodes the whole stream: ValueError where it is found to be damaged.
    """
    grey = simplejpeg.decode_jpeg(data, colorspace="GRAY", min_height=SMALLEST, min_width=SMALLEST)[..., 0]
    if max(grey.shape) <= THUMBNAIL:
        return np.asarray(grey, np.uint8)
    return np.asarray(cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA), np.uint8)


def difference(one: Image, two: Image) -> float:
    """Mean absolute difference of two thumbnails of one shape, grey levels."""
    return cv2.norm(one, two, cv2.NORM_L1) / one.size
