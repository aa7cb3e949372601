"""What finds faces and their 68 points: the one interface, and the backends by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from shards.errors import FlickerError

Box = tuple[float, float, float, float]
"""A face's rectangle: x and y of its left and upper edge, width, height, px. An image spans (-0.5, -0.5, W, H)."""
SOURCES = ("detected", "enlarged", "equalised", "neighbour", "whole-image", "template")
"""How a face was found, in the order tried (see finetune.faces.chain); all but the first are fallbacks."""


@dataclass(frozen=True, eq=False)
class FacePoints:
    """A face in an image."""

    points: np.ndarray
    """float64 [68 2] (x, y), px, dlib's (iBUG's) order."""
    box: Box
    """The face's rectangle, brows to chin."""
    source: str = "detected"
    """One of SOURCES."""


class Landmarker(Protocol):
    """A backend. `name` and `version` go into cache keys: another version never reads the points of this one."""

    @property
    def name(self) -> str:
        """As in cache keys and reports."""
        ...

    @property
    def version(self) -> str:
        """Changes with anything that changes the points."""
        ...

    def detect(self, image: np.ndarray) -> list[FacePoints]:
        """Faces of an image (RGB uint8 [H W 3]) at its own scale, largest first."""
        ...

    def fit(self, image: np.ndarray, box: Box) -> np.ndarray:
        """The 68 points float64 [68 2] of the face in `box`."""
        ...


Factory = Callable[[], Landmarker]


def largest(faces: list[FacePoints]) -> FacePoints | None:
    """The first of `detect`'s answer. Raises FlickerError where a backend gives points of another shape."""
    if not faces:
        return None
    if faces[0].points.shape != (68, 2):
        raise FlickerError(f"a landmark backend gave points of shape {faces[0].points.shape}; 68 × 2 are needed")
    return faces[0]
