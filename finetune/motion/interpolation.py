"""Frames between frames: the middle of two, and SLSTT's recursive queue around the apex (SLSTT, 4.2.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from finetune.motion import flow, tim
from finetune.motion.flow_methods import Dis
from shards.errors import FlickerError, UsageError
from shards.frames import Image

if TYPE_CHECKING:
    import torch

ESTIMATORS = ("flow", "linear", "tim", "torchscript:FILE")
FLOW = flow.FlowConfig("dis", dis=Dis(finest_scale=1))
"""better than Farnebäck on large motion, and faster"""
VERSION = 1
"""Raised when frames of unchanged parameters change; part of the keys of prepared inputs."""
FIXED_POINT_STEPS = 3
"""iterations that move a flow field to the middle frame's own pixels"""
TRUST = 0.5
"""px: disagreement of the two flows at which a pixel's source counts for e^-1/2 of a consistent one"""
NOISE = 4.0
"""squared grey levels by which frames differ that show the same"""
MULTIPLE = 64
"""sides that a TorchScript network is given are padded to this multiple, as RIFE's pyramid needs"""

Middle = Callable[[Image, Image], Image]


@dataclass(frozen=True)
class Interpolated:
    """A clip with frames added between the given ones."""

    frames: NDArray[np.uint8]
    """[N H W 3]"""
    times: NDArray[np.float64]
    """when each frame is, in given frames counted from 0, ascending [N]; whole numbers are given frames"""
    apex: int
    """place of the given apex among them"""


def around_apex(frames: NDArray[np.uint8], apex: int, count: int, estimator: str = "flow") -> Interpolated:
    """Add frames, nearest to the apex first, until there are `count` (SLSTT, 4.2.2).

    `frames` uint8 [T H W 3], `apex` its index. Where `count` or more are given nothing is added and all stay.
    A single frame has nothing beside it: it is returned alone. "tim" takes the curve through the whole clip instead
    of the middle of two neighbours.
    """
    return _fill(frames, apex, queue(len(frames), apex, max(0, count - len(frames))), estimator)


def window(frames: NDArray[np.uint8], apex: int, count: int = 11, estimator: str = "flow") -> Interpolated:
    """Exactly `count` frames with the apex at place count // 2 (SLSTT, 4.3.1: 11).

    The given frames next to the apex where a side has enough; otherwise all of that side, and frames added between
    them by the queue. A side without any frame (apex at the clip's end) repeats the apex.
    """
    last = len(frames) - 1
    before, after = count // 2, count - count // 2 - 1
    left = queue(apex + 1, apex, max(0, before - apex))
    right = [(a + apex, m + apex, b + apex) for a, m, b in queue(last - apex + 1, 0, max(0, after - last + apex))]
    filled = _fill(frames, apex, left + right, estimator)
    keep = np.clip(filled.apex + np.arange(-before, after + 1), 0, len(filled.times) - 1)
    return Interpolated(filled.frames[keep], filled.times[keep], before)


def queue(length: int, apex: int, missing: int) -> list[tuple[float, float, float]]:
    """The times to add, in order: (before, new, after), `new` the middle of its two neighbours at that moment.

    One pass over the clip's gaps gives a-0.5, a+0.5, a-1.5, a+1.5, .. (when a side is at its end the other goes on
    alone); further passes do the same on the clip as it then is: a-0.25, a+0.25, a-0.75, .. (SLSTT, 4.2.2).
    """
    times = [float(at) for at in range(length)]
    added: list[tuple[float, float, float]] = []
    while len(added) < missing and length > 1:
        gaps = list(pairwise(times))
        gaps.sort(key=lambda gap: (abs((gap[0] + gap[1]) / 2 - apex), gap[0]))
        new = [(a, (a + b) / 2, b) for a, b in gaps[: missing - len(added)]]
        added += new
        times = sorted(times + [middle for _, middle, _ in new])
    return added


def _fill(frames: NDArray, apex: int, new: list[tuple[float, float, float]], estimator: str) -> Interpolated:
    """The clip with the frames at the queue's times."""
    if not 0 <= apex < len(frames):
        raise ValueError(f"apex {apex} is outside the clip's frames 0..{len(frames) - 1}")
    known: dict[float, Image] = {float(at): frame for at, frame in enumerate(frames)}
    if estimator == "tim" and new:
        wanted = [middle for _, middle, _ in new]
        known |= dict(zip(wanted, _bytes(tim.interpolate(frames, wanted)), strict=True))
    elif new:
        estimate = choose(estimator)
        for before, middle_time, after in new:
            known[middle_time] = estimate(known[before], known[after])
    times = sorted(known)
    return Interpolated(np.stack([known[at] for at in times]), np.array(times), times.index(float(apex)))


def middle(first: Image, second: Image, estimator: str = "flow") -> Image:
    """The frame half-way between two (RGB uint8 [H W 3]); see `choose` for the estimators."""
    return choose(estimator)(first, second)


def choose(estimator: str) -> Middle:
    """A function from two frames to their middle, by name.

    "flow": `by_flow`; "linear": the mean; "tim": the same, since TIM's curve through two frames passes through it;
    "torchscript:FILE": a network of the user's (see `load_network`). Raises UsageError for any other name.
    """
    kind, _, path = estimator.partition(":")
    if kind == "torchscript" and path:
        network = load_network(Path(path))
        return lambda first, second: _by_network(network, path, first, second)
    known: dict[str, Middle] = {"flow": by_flow, "linear": by_mean, "tim": by_mean}
    if estimator not in known:
        raise UsageError(f"no interpolation estimator '{estimator}'; known: {', '.join(ESTIMATORS)}")
    return known[estimator]


def by_mean(first: Image, second: Image) -> Image:
    """Linear blending."""
    return _bytes((first.astype(np.float32) + second) / 2)


def by_flow(first: Image, second: Image) -> Image:
    """Both frames warped half-way along the optical flow between them, and blended by how far they can be trusted.

    Each of the two flows (first to second and back) is carried to the middle frame's pixels, so that the moving
    pixel that passes there at half time is looked up on either side; of the two motions found for a pixel the one
    under which the frames agree counts more. Where the flows contradict one another in one frame (what is seen
    there is hidden in the other) that frame loses weight. Where the warped frames agree no better than the frames
    as they are, the flow explains nothing and the mean takes over, in proportion.
    """
    forward, backward = flow.compute(first, second, FLOW), flow.compute(second, first, FLOW)
    halves = _at_half_time(forward), _at_half_time(backward)
    doubts = (
        _sample(_disagreement(forward, backward), -halves[0] / 2),
        _sample(_disagreement(backward, forward), -halves[1] / 2),
    )
    trust = [np.exp(-np.square(doubt / TRUST) / 2) + 1e-3 for doubt in doubts]
    start, end = first.astype(np.float32), second.astype(np.float32)
    by_forward, by_backward = _warped(start, end, halves[0]), _warped(start, end, -halves[1])
    better = _share(_difference(*by_backward, 1.5), _difference(*by_forward, 1.5))
    warped = [better * a + (1 - better) * b for a, b in zip(by_forward, by_backward, strict=True)]
    seen = _share(trust[0], trust[1])
    moved = seen * warped[0] + (1 - seen) * warped[1]
    explained = _share(_difference(start, end, 3.0), _difference(warped[0], warped[1], 3.0))
    return _bytes(explained * moved + (1 - explained) * (start + end) / 2)


def _warped(start: NDArray, end: NDArray, shift: NDArray[np.float32]) -> tuple[NDArray, NDArray]:
    """Both frames at half time, if the middle frame's pixels move by `shift` [H W 2] from first to second."""
    return _sample(start, -shift / 2, cv2.INTER_CUBIC), _sample(end, shift / 2, cv2.INTER_CUBIC)


def _share(mine: NDArray, other: NDArray) -> NDArray:
    """mine / (mine + other) [H W 1]."""
    return (mine / (mine + other))[..., None]


def _difference(first: NDArray[np.float32], second: NDArray[np.float32], near: float) -> NDArray[np.float32]:
    """Squared difference about each pixel (Gaussian of `near` px), squared grey levels [H W]; at least NOISE."""
    return cv2.GaussianBlur(np.square(first - second).mean(axis=-1), (0, 0), near) + NOISE


def _at_half_time(field: NDArray[np.float32]) -> NDArray[np.float32]:
    """The flow of what passes each pixel half-way: v(x) = field(x - v(x) / 2), by fixed point. [H W 2]"""
    half = field
    for _ in range(FIXED_POINT_STEPS):
        half = _sample(field, -half / 2)
    return half


def _disagreement(there: NDArray[np.float32], back: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far from itself a pixel ends after going there and back, px [H W]."""
    return np.linalg.norm(there + _sample(back, there), axis=-1).astype(np.float32)


def _sample(image: NDArray, shift: NDArray, method: int = cv2.INTER_LINEAR) -> NDArray:
    """`image` [H W ...] looked up at each pixel plus its shift [H W 2] = (right, down) px; edges repeat."""
    height, width = shift.shape[:2]
    across, down = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(image, across + shift[..., 0], down + shift[..., 1], method, borderMode=cv2.BORDER_REPLICATE)


def _bytes(image: NDArray) -> NDArray[np.uint8]:
    """Rounded to uint8."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


@lru_cache(maxsize=2)
def load_network(path: Path) -> torch.jit.ScriptModule:
    """A TorchScript file that takes two float32 [1 3 H W] in 0..1 and returns their middle, e.g. an export of RIFE.

    Sides are padded to multiples of 64 by repeating edge pixels, and the result is cut. Raises FlickerError if the
    file cannot be loaded.
    """
    import torch  # takes seconds, and only this needs it: worker processes import this module

    if not path.is_file():
        raise FlickerError(f"no file {path} for the interpolation network; give torchscript:FILE")
    try:
        return torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise FlickerError(f"{path} is not a TorchScript file ({_line(error)}); save it by torch.jit.save") from None


def _by_network(network: torch.jit.ScriptModule, path: str, first: Image, second: Image) -> Image:
    """The middle by a user's network."""
    import torch

    height, width = first.shape[:2]
    edges = (0, -height % MULTIPLE, 0, -width % MULTIPLE)
    pair = [cv2.copyMakeBorder(image, *edges, cv2.BORDER_REPLICATE) for image in (first, second)]
    planes = [torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 for image in pair]  # [1 3 H W]
    try:
        with torch.inference_mode():
            found = network(*planes)
    except (RuntimeError, torch.jit.Error) as error:
        raise FlickerError(f"{path} failed on frames of {width} x {height} px: {_line(error)}") from None
    wanted = tuple(planes[0].shape)
    if not isinstance(found, torch.Tensor) or tuple(found.shape) != wanted or not found.is_floating_point():
        what = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise FlickerError(f"{path} returned {what}, not one float tensor of shape {list(wanted)}; wrap the model so")
    if not torch.isfinite(found).all():
        raise FlickerError(f"{path} returned values that are not finite; check the exported weights")
    return _bytes(found[0, :, :height, :width].permute(1, 2, 0).float().numpy() * 255)


def _line(error: Exception) -> str:
    """The last line of a message, where TorchScript says what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:160]
