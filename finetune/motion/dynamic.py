"""Dynamic images: a clip as one picture, by approximate rank pooling (Bilen et al. 2016)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from finetune.motion import digest
from shards.errors import FlickerError, UsageError

Kind = Literal["exact", "linear"]
Range = Literal["raw", "unit", "uint8"]
VERSION = 1
"""Raised when a dynamic image of unchanged parameters changes its values."""


@dataclass(frozen=True)
class DynamicConfig:
    """Which dynamic image. Raises UsageError: unknown kind or range."""

    kind: Kind = "exact"
    """`exact` or `linear`: the coefficients (see `coefficients`)"""
    range: Range = "unit"
    """`raw`: the weighted sum; `unit`: its minimum and maximum over the image to 0..1; `uint8`: to 0..255"""

    def __post_init__(self) -> None:
        for name, known in (("kind", Kind), ("range", Range)):
            if getattr(self, name) not in get_args(known):
                choices = ", ".join(get_args(known))
                raise UsageError(f"dynamic image: {name} '{getattr(self, name)}' is not known: give one of {choices}")

    def key(self) -> str:
        """For caches: changes with the parameters and VERSION."""
        return digest("dynamic-image", VERSION, asdict(self))


def coefficients(count: int, kind: Kind = "exact") -> NDArray[np.float64]:
    """α_t for t = 1..T, T = `count`: float64 [T], of sum 0 (Bilen et al. 2016, section 3.1).

    exact: 2(T - t + 1) - (T + 1)(H_T - H_{t-1}), H_n the n-th harmonic number, H_0 = 0: the first step of rank
        pooling's gradient descent, frames taken as running means.
    linear: 2t - T - 1: the same with the frames themselves.

    Raises UsageError: unknown kind; FlickerError: no frames.
    """
    if count < 1:
        raise FlickerError(f"dynamic image of {count} frames: give one or more")
    if kind not in get_args(Kind):
        raise UsageError(f"dynamic image: kind '{kind}' is not known: give one of {', '.join(get_args(Kind))}")
    t = np.arange(1, count + 1, dtype=np.float64)
    if kind == "linear":
        return 2 * t - count - 1
    tail = np.cumsum(1 / t[::-1])[::-1]  # H_T - H_{t-1}
    return 2 * (count - t + 1) - (count + 1) * tail


def dynamic_image(frames: NDArray[Any], config: DynamicConfig = DynamicConfig()) -> NDArray[Any]:
    """Σ_t α_t I_t of frames [T H W 3] or [T H W], uint8 or float: the shape of one frame.

    float32 for the ranges `raw` (in the frames' unit) and `unit`, uint8 (rounded) for `uint8`. Minimum and maximum
    are those of the whole image, all channels together. Frames that are all equal give zeros. Raises as
    `coefficients`.
    """
    weights = coefficients(len(frames), config.kind)
    change = frames[1:].astype(np.float32) - frames[0]  # α sums to 0: the first frame drops out, without rounding
    image = np.tensordot(weights[1:].astype(np.float32), change, axes=1).astype(np.float32)
    if config.range == "raw":
        return image
    low, high = float(image.min()), float(image.max())
    unit = (image - np.float32(low)) / np.float32(high - low if high > low else 1)
    return unit if config.range == "unit" else np.rint(255 * unit).astype(np.uint8)
