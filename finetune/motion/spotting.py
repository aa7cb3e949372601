"""Apex spotting without learning: the frame in which the face differs most from the onset.

Both methods take the frames of one clip from its onset on, in one geometry, and the 68 landmarks of the first
frame. Defined for every clip: the onset itself is never the apex unless it is the only frame; of equal maxima the
earliest counts; where nothing moves at all the middle frame is taken; two frames give the second.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from finetune.motion import flow, head, lbp
from finetune.motion.flow_methods import Dis
from shards.errors import FlickerError

BROWS_EYES_MOUTH = ((*range(17, 22), *range(36, 42)), (*range(22, 27), *range(42, 48)), tuple(range(48, 68)))
"""landmarks of the three RoIs: eye and brow on the image's left, on its right, mouth (Liong et al. 2015)"""
EYES = (slice(36, 42), slice(42, 48))
VERSION = 1  # raised when the same frames give another apex
FLOW = flow.FlowConfig("dis", dis=Dis(finest_scale=1))
"""smaller errors of the apex on simulated clips than SLSTT's Farnebäck, and faster"""
AROUND, LEAST = 0.1, 32
"""of the face's box that is kept about it for its flow, and the smallest side of that, px"""
FLAT = 1e-9
"""a curve with a smaller range shows no motion"""


@dataclass(frozen=True)
class Spotted:
    """What a method found."""

    index: int
    """the apex, counted from the first frame"""
    score: NDArray[np.float64]
    """how much each frame differs from the first, [T]; its unit is the method's"""


@dataclass(frozen=True)
class Lbp:
    """Parameters of `divide_and_conquer`; the papers state none of them."""

    radius: int = 1
    """of the patterns, px"""
    blocks: int = 6
    """an RoI is divided into blocks × blocks, each with its own histogram"""
    blur: float = 1.0
    """standard deviation of the Gaussian that takes noise out of the frames first, px; 0: none"""
    margin: float = 0.15
    """about the landmarks of an RoI, of its longer side"""
    smooth: float = 0.01
    """standard deviation of the Gaussian over the curve, s; 0: none"""
    apart: float = 0.02
    """smallest distance between two peaks, s"""


@dataclass(frozen=True)
class Motion:
    """Parameters of `flow_magnitude`."""

    flow: flow.FlowConfig = FLOW
    face: int = 128
    """width that the face is shrunk to before the flow, px; smaller faces stay as they are"""
    cell: int = 2
    """flow is averaged over cells of this side, px of the shrunk face"""
    margin: float = 0.25
    """about the landmarks of an RoI, of its longer side"""
    lids: float = 2.0
    """eyes, enlarged so much about their centres, are left out: blinks; 0: they are kept"""
    smooth: float = 0.01
    """standard deviation of the Gaussian over time, s; 0: none"""
    returns: bool = True
    """the clip ends neutral (at the offset): motion left at its end is drift, taken out in proportion to time"""


def divide_and_conquer(
    frames: NDArray[np.uint8], points: NDArray[np.float64], fps: float = 200.0, options: Lbp = Lbp()
) -> Spotted:
    """D&C-RoIs (Liong et al.: Automatic apex frame spotting in micro-expression database, ACPR 2015; HTNet, 3.1).

    LBP histograms of both eyes with their brows and of the mouth are compared with the first frame's by

        d = Σ_i h1_i h2_i / √(Σ_i h1_i² · Σ_i h2_i²)   (HTNet, eq. 1);

    the score is the rate of difference 1 - d, the mean of the RoIs. Its peaks are found, the clip is halved, the half
    with the larger sum of peaks is kept, until one peak remains. Without a peak the largest score is taken.

    `frames` uint8 [T H W 3], `points` float64 [68 2] (x, y) px in them. Raises FlickerError: frames too small.
    """
    grey = np.stack([flow.grey(frame) for frame in frames])
    if options.blur > 0:
        grey = np.stack([np.asarray(cv2.GaussianBlur(frame, (0, 0), options.blur), np.uint8) for frame in grey])
    least = options.blocks + 2 * options.radius
    rates = []
    for left, top, right, bottom in regions(points, grey.shape[1:], options.margin, least):
        rates.append(_rate(lbp.histograms(grey[:, top:bottom, left:right], options.radius, options.blocks)))
    score = _smoothed(np.mean(rates, axis=0), options.smooth * fps)
    return Spotted(_settled(score, search(score, peaks(score, options.apart * fps))), score)


def _rate(histograms: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 - d of every frame's histogram [T B] and the first one's (HTNet, eq. 1)."""
    first = histograms[0]
    return 1 - histograms @ first / np.sqrt(np.square(first).sum() * np.square(histograms).sum(axis=1))


def peaks(score: NDArray[np.float64], apart: float = 1.0) -> list[int]:
    """Local maxima, never the ends (of a plateau its first frame); near a higher one (< `apart` frames) left out."""
    steps = np.diff(score)
    rising, level_or_falling = steps[:-1] > 0, steps[1:] <= 0
    tops = np.flatnonzero(rising & level_or_falling) + 1
    kept: list[int] = []
    for top in sorted(tops.tolist(), key=lambda at: (-score[at], at)):
        if all(abs(top - other) >= apart for other in kept):
            kept.append(top)
    return sorted(kept)


def search(score: NDArray[np.float64], tops: list[int]) -> int:
    """Divide and conquer: of two halves the one with the larger sum of peaks, the first where they are equal."""
    low, high = 0, len(score)
    while len(tops) > 1:
        middle = (low + high) // 2
        halves = [top for top in tops if top < middle], [top for top in tops if top >= middle]
        second = sum(score[halves[1]]) > sum(score[halves[0]])
        tops, low, high = (halves[1], middle, high) if second else (halves[0], low, middle)
    return tops[0] if tops else int(np.argmax(score))


def flow_magnitude(
    frames: NDArray[np.uint8],
    points: NDArray[np.float64] | None = None,
    fps: float = 200.0,
    options: Motion = Motion(),
) -> Spotted:
    """The largest motion since the first frame: mean length of the optical flow in both brows and the mouth.

    Flow from the first frame to each is freed from the head's similarity motion, smoothed over time, and freed from
    drift (`Motion.returns`); eyelids are left out. The score is in px of the given frames.

    `frames` uint8 [T H W 3], `points` float64 [68 2] (x, y) px in them; None: the whole frame is the face.
    """
    if points is not None:
        left, top, right, bottom = _box(points, frames.shape[1:3], AROUND, min(LEAST, *frames.shape[1:3]))
        frames, points = frames[:, top:bottom, left:right], points - [left, top]
    height, width = frames.shape[1:3]
    scale = min(1.0, options.face / max(np.ptp(points[:, 0]) if points is not None else width, 1.0))
    small = [_shrunk(flow.grey(frame), scale) for frame in frames]
    cells = (max(1, small[0].shape[1] // options.cell), max(1, small[0].shape[0] // options.cell))
    fields = np.zeros((len(frames), cells[1], cells[0], 2), np.float32)
    for index in range(1, len(frames)):
        cv2.resize(flow.compute(small[0], small[index], options.flow), cells, fields[index], 0, 0, cv2.INTER_AREA)
    grid = None if points is None else (points + 0.5) * [cells[0] / width, cells[1] / height] - 0.5
    fields = head.without_head(fields, _hull(grid, fields.shape[1:3]))
    fields = _smoothed(fields, options.smooth * fps)
    if options.returns:
        fields = _without_drift(fields)
    length = np.linalg.norm(fields, axis=-1) / scale  # [T h w]
    score = np.mean([length[:, part].mean(axis=1) for part in _parts(grid, fields.shape[1:3], options)], axis=0)
    return Spotted(_settled(score, int(np.argmax(score))), score)


def _shrunk(grey: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """The frame at `scale` (at most 1), by area averaging."""
    return np.asarray(cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def _without_drift(fields: NDArray) -> NDArray:
    """Fields [T ...] less a motion that grows in proportion to time up to the mean of the last (up to) three."""
    last = max(1, min(3, len(fields) // 4))
    share = np.arange(len(fields)) / max(1, len(fields) - 1)
    return fields - share.reshape(-1, *[1] * (fields.ndim - 1)) * fields[-last:].mean(axis=0)


def regions(
    points: NDArray[np.float64], shape: tuple[int, ...], margin: float, least: int
) -> list[tuple[int, int, int, int]]:
    """The three RoIs as (left, top, right, bottom) px within frames of `shape` (H, W), at least `least` px a side.

    Raises FlickerError where the frame is smaller than that.
    """
    height, width = shape
    if min(height, width) < least:
        raise FlickerError(f"apex spotting: frames of {width} x {height} px: give {least} px or more a side")
    return [_box(points[list(part)], shape, margin, least) for part in BROWS_EYES_MOUTH]


def _box(points: NDArray, shape: tuple[int, ...], margin: float, least: int) -> tuple[int, int, int, int]:
    """The points' box and `margin` of its longer side about it, cut to the frame: (left, top, right, bottom) px."""
    sides = np.array([shape[1], shape[0]])
    low, high = points.min(axis=0), points.max(axis=0)
    reach = margin * (high - low).max()
    start = np.clip(np.floor(low - reach), 0, sides - least).astype(int)
    end = np.clip(np.ceil(high + reach) + 1, start + least, sides).astype(int)
    return int(start[0]), int(start[1]), int(end[0]), int(end[1])


def _parts(grid: NDArray | None, shape: tuple[int, ...], options: Motion) -> list[NDArray[np.bool_]]:
    """Masks [h w] of the RoIs without the eyes; everything where no landmarks are given."""
    if grid is None:
        return [np.ones(shape, bool)]
    eyes = np.zeros(shape, np.uint8)
    for eye in (grid[part] for part in EYES):
        outline = eye.mean(axis=0) + (eye - eye.mean(axis=0)) * options.lids
        if options.lids > 0:
            cv2.fillConvexPoly(eyes, cv2.convexHull(np.rint(outline).astype(np.int32)), 1)
    masks = []
    for left, top, right, bottom in regions(grid, shape, options.margin, 1):
        mask = np.zeros(shape, bool)
        mask[top:bottom, left:right] = True
        masks.append(mask & (eyes == 0) if (mask & (eyes == 0)).any() else mask)
    return masks


def _hull(grid: NDArray | None, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The face [h w]: the hull of the landmarks; everything where none are given or none lie in the frame."""
    mask = np.zeros(shape, np.uint8)
    if grid is not None:
        cv2.fillConvexPoly(mask, cv2.convexHull(np.rint(grid).astype(np.int32)), 1)
    return mask > 0 if mask.sum() >= 4 else np.ones(shape, bool)


def _smoothed(curve: NDArray, sigma: float) -> NDArray:
    """Gaussian over the first axis, `sigma` frames; at the ends the weights that are left are scaled to 1."""
    if sigma <= 0:
        return curve
    at = np.arange(len(curve))
    weights = np.exp(-np.square((at[:, None] - at) / sigma) / 2)
    return np.tensordot(weights / weights.sum(axis=1, keepdims=True), curve, axes=1)


def _settled(score: NDArray[np.float64], index: int) -> int:
    """The index found, or by rule where the clip is too short or still (see above)."""
    if len(score) == 1:
        return 0
    if np.ptp(score) <= FLAT:
        return max(1, (len(score) - 1) // 2)
    return index if index > 0 else 1 + int(np.argmax(score[1:]))
