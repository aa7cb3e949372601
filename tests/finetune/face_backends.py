"""Landmark backends that need no model, and clips for them: a "face" is a bright square on a dark ground."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from finetune.clips import Clip
from finetune.faces.interface import Box, FacePoints
from finetune.faces.template import TEMPLATE

LEAST = 40
"""px: smaller squares are not seen."""


class Squares:
    """Sees squares brighter than 150 of at least LEAST px; points are the template in what is bright in the box."""

    name = "squares"
    version = "1"

    def detect(self, image: np.ndarray) -> list[FacePoints]:
        bright = image[..., 0] > 150
        if not bright.any():
            return []
        ys, xs = np.nonzero(bright)
        width, height = int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1
        if min(width, height) < LEAST:
            return []
        box = (xs.min() - 0.5, ys.min() - 0.5, float(width), float(height))
        return [FacePoints(self.fit(image, box), box)]

    def fit(self, image: np.ndarray, box: Box) -> np.ndarray:
        ys, xs = np.nonzero(image[..., 0] > 60)
        if len(xs):
            low, high = np.array([xs.min(), ys.min()]), np.array([xs.max(), ys.max()])
        else:
            low, high = np.array(box[:2]), np.array(box[:2]) + box[2:]
        return low + TEMPLATE * (high - low)


class Newer(Squares):
    """The same under another version."""

    version = "2"


class Dying(Squares):
    """Ends its process."""

    def detect(self, image: np.ndarray) -> list[FacePoints]:
        os._exit(3)


def picture(side: int = 60, level: int = 250, place: tuple[int, int] = (30, 40), ground: int = 20) -> np.ndarray:
    """A square of `side` and grey `level` with its upper left pixel at `place` (x, y): uint8 [160 140 3]."""
    image = np.full((160, 140, 3), ground, np.uint8)
    image[place[1] : place[1] + side, place[0] : place[0] + side] = level
    return image


def clip(folder: Path, name: str, images: list[np.ndarray], apex: int = 0) -> Clip:
    """A clip of frames 1, 2, ... stored as PNG; `apex` counts from 0."""
    folder = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    frames = {}
    for number, image in enumerate(images, 1):
        frames[number] = folder / f"img{number}.png"
        assert cv2.imwrite(str(frames[number]), image[..., ::-1])
    return Clip("made", "sub01", name, 1, apex + 1, len(images), "others", frames=frames)
