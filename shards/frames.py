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
THUMBNAIL = 32  # side of the grey picture that cuts are sought on


class SourceError(FlickerError):
    """One source cannot be used (unreadable, truncated, empty, no face): it is reported and skipped."""


@dataclass
class Frame:
    """A frame with its real number in the source; pixels are decoded on first use.

    Give either `pixels` (uint8 [H W 3], RGB) or `jpeg` (the file's own bytes).
    """

    number: int
    time: float | None = None
    """seconds from the start of the source"""
    gap: bool = False
    """frames are missing between this one and the one before"""
    pixels: Image | None = None
    jpeg: bytes | None = None

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
        if self.pixels is not None:
            return self.pixels.shape[1], self.pixels.shape[0]
        height, width = simplejpeg.decode_jpeg_header(self.jpeg)[:2]
        return width, height

    @cached_property
    def thumbnail(self) -> NDArray[np.float32]:
        """Grey [THUMBNAIL THUMBNAIL], 0 to 255. Decodes the whole JPEG stream: ValueError if it is damaged."""
        if self.pixels is not None:
            step = max(1, min(self.pixels.shape[:2]) // (3 * THUMBNAIL))  # averaging every pixel costs a decode
            grey = cv2.cvtColor(self.pixels[::step, ::step].copy(), cv2.COLOR_RGB2GRAY)
        else:
            grey = simplejpeg.decode_jpeg(
                self.jpeg, colorspace="GRAY", min_height=THUMBNAIL, min_width=THUMBNAIL, min_factor=8
            )[..., 0]
        return cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32)
