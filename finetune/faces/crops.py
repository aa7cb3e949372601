"""Crops of a clip by its landmarks: one transform per clip, the same for all of its frames."""

from __future__ import annotations

from math import floor

import numpy as np

from finetune.faces.template import TEMPLATE
from shards.crop import Crop, square
from shards.errors import FlickerError
from shards.faces import similarity

VERSION = 1  # goes up when a crop changes


def slstt(points: np.ndarray, size: int, *, turn: bool = True) -> Crop:
    """The square of SLSTT (4.2.1), rotated and moved only, then resized to `size`.

    Its centre is point 30. The line through points 27-30 (here: least squares) becomes vertical. Its side is
    s = (y8 - y19) + (y8 - y57) (SLSTT, eq. 16), with y taken along that line, so that a tilted head keeps its size.

    Args:
        points: float64 [68 2], px; SLSTT takes those of the apex frame.
        turn: False: as the release crops, an upright square with whole-pixel edges and y of the image.

    Raises FlickerError for points that are no face.
    """
    down = _down(points[27:31]) if turn else np.array([0.0, 1.0])
    along = points @ down
    side = float((along[8] - along[19]) + (along[8] - along[57]))
    if not side >= 2:
        raise FlickerError(f"landmarks that are no face: SLSTT's square would have a side of {side:.1f} px")
    if not turn:
        corner = points[30] - side / 2
        return square(floor(corner[0]), floor(corner[1]), round(side), size)
    scale = size / side
    right = np.array([down[1], -down[0]])
    linear = scale * np.array([right, down])
    return Crop(size, np.column_stack([linear, (size - 1) / 2 - linear @ points[30]]))


def _down(line: np.ndarray) -> np.ndarray:
    """Unit vector [2] along points [N 2], from the first to the last: their principal axis."""
    axis = np.linalg.svd(line - line.mean(axis=0))[2][0]
    return axis if axis @ (line[-1] - line[0]) >= 0 else -axis


def aligned(points: np.ndarray, size: int, margin: float = 0.1) -> Crop:
    """The similarity (turn, scale, shift) that moves points [68 2] closest to the mean shape (least squares).

    "Aligned via similarity transformation, in which facial shape is preserved" (FDP, 4.1.3: 72 px); "calibrate the
    face to a fixed position and size" (FRL-DGT, 3.2.2). Chosen here: the template (template.py), all 68 points alike,
    and `margin`, the share of `size` left free above the brows and below the chin.
    """
    targets = (margin + TEMPLATE * (1 - 2 * margin)) * size - 0.5
    return Crop(size, similarity(points, targets))


def box(points: np.ndarray, size: int, margin: float = 0.1) -> Crop:
    """The upright square about the points [68 2], with `margin` of its side left free about their larger extent."""
    low, high = points.min(axis=0), points.max(axis=0)
    side = max(8, round(float((high - low).max()) / (1 - 2 * margin)))
    x, y = np.round((low + high) / 2 - (side - 1) / 2)
    return square(int(x), int(y), side, size)


def map_points(crop: Crop, points: np.ndarray) -> np.ndarray:
    """Points [N 2] of the source in the crop's pixels, float64 [N 2]."""
    return points @ crop.matrix[:, :2].T + crop.matrix[:, 2]
