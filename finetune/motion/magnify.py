"""Motion magnification: the second of two frames redrawn as if its motion from the first were larger or smaller."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from finetune.motion import digest
from finetune.motion.flow import FlowConfig, compute
from finetune.motion.flow_methods import Flow, Image
from shards.errors import FlickerError, UsageError
from shards.files import sha256

VERSION = 1
"""Raised when magnification of unchanged parameters changes its values."""
NETWORK = "torchscript:"
TOLERANCE = 0.1  # px: a pixel whose source is known to this is solved


@dataclass(frozen=True)
class MagnifyConfig:
    """How motion is magnified. Raises UsageError: unknown estimator, or no iterations."""

    estimator: str = "flow"
    """`flow`, or `torchscript:FILE`: a network of the user's, e.g. an export of MagNet (see `by_network`)"""
    flow: FlowConfig = field(default_factory=FlowConfig)
    """for the estimator `flow`: how the motion is measured"""
    iterations: int = 20
    """for the estimator `flow`: steps that look for the source of each pixel"""

    def __post_init__(self) -> None:
        if self.estimator != "flow" and not self.estimator.startswith(NETWORK):
            raise UsageError(f"magnification: estimator '{self.estimator}' is not known: give flow or {NETWORK}FILE")
        if self.iterations < 1:
            raise UsageError(f"magnification: {self.iterations} iterations: give 1 or more")

    @property
    def network(self) -> Path | None:
        """The user's TorchScript file, if that is the estimator."""
        return None if self.estimator == "flow" else Path(self.estimator.removeprefix(NETWORK))

    def key(self) -> str:
        """For caches: changes with the parameters and VERSION, and with the content of a network's file."""
        if self.network is None:
            return digest("magnify", VERSION, {"flow": self.flow.key(), "iterations": self.iterations})
        return digest("magnify", VERSION, {"network": sha256(_file(self.network))})


@dataclass(frozen=True)
class Magnified:
    """A magnified frame, and how much of it is a guess."""

    image: Image
    """RGB uint8 [H W 3]"""
    uncertain: float
    """share (0..1) of pixels without one source that was found: see `warp`"""


def magnify(reference: Image, other: Image, factor: float, config: MagnifyConfig = MagnifyConfig()) -> Image:
    """`other` with its motion from `reference` multiplied by `factor`: RGB uint8 [H W 3], the size of the given two.

    factor 1 gives `other` itself, 2 twice the displacement, 0 `other`'s colours where they were in `reference`.
    Raises UsageError: a factor below 0; FlickerError: sizes differ, or the network's file is at fault.
    """
    return magnified(reference, other, factor, config).image


def magnified(reference: Image, other: Image, factor: float, config: MagnifyConfig = MagnifyConfig()) -> Magnified:
    """As `magnify`, with the share of pixels that are a guess (0 for a network, which does not tell)."""
    if not (math.isfinite(factor) and factor >= 0):
        raise UsageError(f"magnification by {factor}: give a factor of 0 or more (1: unchanged)")
    if config.network is not None:
        return Magnified(by_network(reference, other, factor, config.network), 0.0)
    flow = compute(reference, other, config.flow)
    image, certain = warp(other, flow, factor, config.iterations)
    return Magnified(image, float(1 - certain.mean()))


def warp(other: Image, flow: Flow, factor: float, iterations: int = 20) -> tuple[Image, NDArray[np.bool_]]:
    """Redraw `other` (uint8 [H W 3] or [H W]) with `flow` [H W 2], reference to `other`, multiplied by `factor`.

    The pixel y of the result shows the point x of the reference with x + factor · flow(x) = y, found by damped
    fixed-point iteration, in the colour that it has in `other`, at y - (factor - 1) · flow(x) (cubic interpolation).
    So every pixel has a colour of `other`. Holes: where the motion tears, what lies between is stretched over them.
    Beyond the edge, flow and colours of the edge repeat. Occlusion: where the magnified motion folds, several points
    belong at y, and which of them is in front is not known; one of them is shown.

    The second result, bool [H W], is True where y has one source, found within TOLERANCE px.
    """
    flow = np.asarray(flow, np.float32)
    height, width = flow.shape[:2]
    if other.shape[:2] != (height, width) or min(height, width) < 2:
        sizes = f"a frame of {list(other.shape)} with flow of {list(flow.shape)}"
        raise FlickerError(f"magnification: {sizes}: give both one size, 2 px or more")
    pixels = np.dstack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)))
    moved = flow  # the flow of the point that is shown at each pixel
    for _ in range(iterations):
        moved = (moved + _look_up(flow, pixels - factor * moved, cv2.INTER_LINEAR)) / 2
    again = _look_up(flow, pixels - factor * moved, cv2.INTER_LINEAR)
    certain = (factor * np.linalg.norm(again - moved, axis=-1) <= TOLERANCE) & ~_covered(flow, factor, pixels)
    if factor == 1:
        return other.copy(), certain
    return np.asarray(_look_up(other, pixels - (factor - 1) * moved, cv2.INTER_CUBIC), np.uint8), certain


def _covered(flow: Flow, factor: float, pixels: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Pixels on which several points land, bool [H W]: where those go that the motion turns over, widened by 1."""
    down, across = (factor * np.asarray(np.gradient(flow, axis=axis)) for axis in (0, 1))
    turned = (1 + across[..., 0]) * (1 + down[..., 1]) <= down[..., 0] * across[..., 1]
    height, width = flow.shape[:2]
    covered = np.zeros((height, width), np.uint8)
    x, y = np.rint(pixels + factor * flow)[turned].T.astype(int)
    covered[y.clip(0, height - 1), x.clip(0, width - 1)] = 1
    return cv2.dilate(covered, np.ones((3, 3), np.uint8)) > 0


def _look_up(image: NDArray[Any], at: NDArray[np.float32], method: int) -> NDArray[Any]:
    """`image` at the points `at` [H W 2]; edges repeat."""
    at = np.asarray(at, np.float32)
    return cv2.remap(image, at[..., 0], at[..., 1], method, borderMode=cv2.BORDER_REPLICATE)


def by_network(reference: Image, other: Image, factor: float, path: Path) -> Image:
    """The frame that a TorchScript file of the user's makes: RGB uint8 [H W 3].

    It is called as network(reference, other, factor): two float32 [1 3 H W], RGB in 0..1, and float32 [1]; it
    returns float [1 3 H W] in 0..1 (values beyond are cut). `factor` multiplies the motion: Oh et al. 2018 write
    (1 + α) for it, so that an export of their network must take α = factor - 1, and -1..1 for the images.

    Raises FlickerError naming the file: missing, not TorchScript, it fails on these frames, or returns another thing.
    """
    if reference.shape != other.shape or reference.ndim != 3:
        shapes = f"{list(reference.shape)} and {list(other.shape)}"
        raise FlickerError(f"magnification: frames of shape {shapes}: give two RGB images of one size")
    network = _load(_file(path))
    planes = [torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float() / 255
              for frame in (reference, other)]  # fmt: skip
    try:
        with torch.inference_mode():
            found = network(*planes, torch.tensor([factor], dtype=torch.float32))
    except RuntimeError as error:
        where = f"{path} failed on frames {list(planes[0].shape)}"
        raise FlickerError(
            f"magnification: {where}: {_line(error)}: it must take (reference, other, factor)"
        ) from None
    if not isinstance(found, torch.Tensor) or found.shape != planes[0].shape or not found.is_floating_point():
        what = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise FlickerError(f"magnification: {path} returned {what}: give one float tensor {list(planes[0].shape)}")
    if not torch.isfinite(found).all():
        raise FlickerError(f"magnification: {path} returned values that are not finite: check the exported weights")
    return (found[0].permute(1, 2, 0).float().clamp(0, 1) * 255).round().byte().numpy()


def _file(path: Path) -> Path:
    """The path, if a file is there."""
    if not path.is_file():
        raise FlickerError(f"magnification: no file {path}: give {NETWORK}FILE, saved by torch.jit.save")
    return path


@lru_cache(maxsize=2)
def _load(path: Path) -> Any:
    """The network, loaded once per process."""
    try:
        return torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise FlickerError(
            f"magnification: {path} is not a TorchScript file ({_line(error)}): save it by torch.jit.save"
        ) from None


def _line(error: Exception) -> str:
    """The last line of a message, where TorchScript says what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:160]
