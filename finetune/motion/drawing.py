"""Flow as a picture: hue for the direction, brightness for the length."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from finetune.motion.flow_methods import Flow
from shards.errors import UsageError

VERSION = 1
"""Raised when a drawing changes its values."""


def hsv(flow: Flow, scale: float | None = None) -> NDArray[np.uint8]:
    """Flow [... H W 2] drawn as RGB uint8 [... H W 3]: OpenCV's 8-bit HSV with full saturation, turned into RGB.

    Hue is ⌊a / 2⌋ of 0..179, a the angle of (u, v) in degrees 0..360, clockwise on the screen from the right: red
    moves right, green down and a little left, blue up and a little left. Value is, for the length m in px,
    scale None: ⌊255 (m - min) / (max - min)⌋ over each frame (SLSTT's release): the strength of the motion is lost,
        and a frame whose lengths are all equal is black;
    scale s: ⌊255 min(m / s, 1)⌋, s in px: the same in every frame.

    Raises UsageError: a scale that is not above 0.
    """
    if scale is not None and not 0 < scale < np.inf:
        raise UsageError(f"flow drawing: scale {scale}: give a length above 0 px, or none for each frame's own range")
    flow = np.asarray(flow, np.float32)
    u, v = flow[..., 0], flow[..., 1]
    degrees = np.degrees(np.arctan2(v, u)) % 360
    drawn = np.full((*u.shape, 3), 255, np.uint8)
    drawn[..., 0] = np.minimum(degrees / 2, 179)
    drawn[..., 2] = 255 * _share(np.hypot(u, v), scale)
    flat = cv2.cvtColor(drawn.reshape(-1, u.shape[-1], 3), cv2.COLOR_HSV2RGB)
    return np.asarray(flat, np.uint8).reshape(drawn.shape)


def _share(length: NDArray[np.float32], scale: float | None) -> NDArray[np.float32]:
    """Lengths [... H W] to 0..1."""
    if scale is not None:
        return np.minimum(length / np.float32(scale), 1)
    low = length.min(axis=(-2, -1), keepdims=True)
    width = length.max(axis=(-2, -1), keepdims=True) - low
    return (length - low) / np.where(width > 0, width, 1)
