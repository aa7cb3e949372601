"""Small labelled clips for the tests of prepared inputs, and a landmark backend that needs no model."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from finetune.clips import Clip
from finetune.faces.interface import Box, FacePoints
from finetune.faces.template import TEMPLATE


def texture(seed: int, height: int = 60, width: int = 50) -> np.ndarray:
    """A smooth random picture, uint8 [H W 3]."""
    noise = np.random.default_rng(seed).random((height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)  # type: ignore[call-overload]


def shifted(image: np.ndarray, by: float) -> np.ndarray:
    """What is at x appears at x + by."""
    matrix = np.array([[1, 0, by], [0, 1, 0]], np.float64)
    return cv2.warpAffine(image, matrix, image.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def make_clip(folder: Path, name: str, seed: int, length: int = 15, apex: int = 7, first: int = 46) -> Clip:
    """A clip of PNG frames that move to the right by 0.2 px per frame up to the apex, then back."""
    folder = folder / name
    folder.mkdir(parents=True)
    image, frames = texture(seed), {}
    for at in range(length):
        moved = shifted(image, 0.2 * (apex - abs(at - apex)))
        frames[first + at] = folder / f"reg_img{first + at}.png"
        cv2.imwrite(str(frames[first + at]), cv2.cvtColor(moved, cv2.COLOR_RGB2BGR))
    return Clip("casme2", "sub01", name, first, first + apex, first + length - 1, "happiness", frames=frames)


class Fixed:
    """The mean shape in the image's middle, found wherever the corner pixel is not dark."""

    name = "fixed"
    version = "1"

    def detect(self, image: np.ndarray) -> list[FacePoints]:
        """One face, or none."""
        if image[0, 0].max() < 40:
            return []
        box = (10.0, 10.0, 30.0, 40.0)
        return [FacePoints(self.fit(image, box), box)]

    def fit(self, image: np.ndarray, box: Box) -> np.ndarray:
        """The same points from any box."""
        return TEMPLATE * 36 + 10


class Unsure(Fixed):
    """As Fixed, but what it fits in one box has nothing to do with what it fits in another."""

    name = "unsure"

    def fit(self, image: np.ndarray, box: Box) -> np.ndarray:
        """Points anywhere."""
        return np.random.default_rng(abs(int(1000 * sum(box)))).random((68, 2)) * 40
