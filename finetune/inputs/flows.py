"""Recipes that keep motion: the flow map of the apex, and the long-term flow around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from finetune.clips import Clip
from finetune.inputs import coding
from finetune.inputs.base import MAIN, Given, Recipe, span
from finetune.motion import flow as flows
from finetune.motion import strain as strains
from finetune.motion.flow import FlowConfig
from shards.files import sha256

NETWORK = "torchscript:"
FINEST = 1 / 512  # px: stored flow is off by at most half of it


@dataclass(frozen=True)
class FlowMap(Recipe):
    """Flow from onset to apex and its strain: float32 [grid grid 3] = u (right), v (down), strain (HTNet, 3.1).

    Flow and strain are computed on the crop of `size`, then averaged over the cells; u and v stay in pixels of that
    crop, strain has no unit.
    """

    grid: int = 28
    """Side of the map, cells."""
    flow: FlowConfig = flows.PRESETS["fine"]
    """Method and parameters of the flow."""
    strain: str = "symmetric"
    """Formula (finetune.motion.strain)."""

    VERSION: ClassVar[int] = 1
    kind: ClassVar[str] = "flow-map"

    def __post_init__(self) -> None:
        """Raises UsageError naming the value that is out of range."""
        super().__post_init__()
        self.require("grid", 2 <= self.grid <= self.size)
        self.require("strain", self.strain in strains.FORMULAS)

    def depends(self) -> dict[str, Any]:
        """Versions of flow and strain."""
        return {"flow": self.flow.key(), "strain": strains.VERSION}

    def numbers(self, clip: Clip) -> list[int]:
        """Onset and apex."""
        return sorted({clip.onset, clip.apex})

    def make(self, given: Given) -> dict[str, np.ndarray]:
        """The map."""
        clip = given.clip
        flow = flows.compute(given.images[clip.onset], given.images[clip.apex], self.flow)
        return {MAIN: strains.maps(flow, self.strain, self.grid)}


@dataclass(frozen=True)
class LongFlow(Recipe):
    """Flow from the onset to each of `frames` frames around the apex: float32 [frames S S 2], pixels (SLSTT, 3.1).

    The apex stands in the middle; where a clip has too few frames on a side they are interpolated, nearest to the
    apex first (SLSTT, 4.2.2). Stored as multiples of 1/512 px (coarser where the flow exceeds 64 px).
    """

    frames: int = 11
    """Odd."""
    flow: FlowConfig = flows.PRESETS["fine"]
    """Method and parameters of the flow."""
    interpolation: str = "flow"
    """Estimator of frames between frames (finetune.motion.interpolation)."""

    VERSION: ClassVar[int] = 1
    kind: ClassVar[str] = "long-flow"
    coded: ClassVar[Mapping[str, tuple[int, ...]]] = {MAIN: (1, 2)}

    def __post_init__(self) -> None:
        """Raises UsageError naming the value that is out of range."""
        super().__post_init__()
        self.require("frames", self.frames >= 1 and self.frames % 2 == 1)
        from finetune.motion import interpolation

        known = self.interpolation in interpolation.ESTIMATORS or self.interpolation.startswith(NETWORK)
        self.require("interpolation", known)

    def depends(self) -> dict[str, Any]:
        """Versions of flow and interpolation; a TorchScript estimator counts by its file's content."""
        from finetune.motion import interpolation

        found = {"flow": self.flow.key(), "interpolation": interpolation.VERSION}
        file = Path(self.interpolation.removeprefix(NETWORK))
        if self.interpolation.startswith(NETWORK) and file.is_file():
            found["network"] = sha256(file)
        return found

    def numbers(self, clip: Clip) -> list[int]:
        """The onset, and the frames around the apex; all of the clip's where the estimator looks at all of them."""
        return sorted({clip.onset, *self._near(clip)})

    def make(self, given: Given) -> dict[str, np.ndarray]:
        """The flow as multiples of a step."""
        from finetune.motion import interpolation

        near = self._near(given.clip)
        frames = np.stack([given.images[number] for number in near])
        window = interpolation.window(frames, near.index(given.clip.apex), self.frames, self.interpolation)
        onset = given.images[given.clip.onset]
        flow = flows.long_term(np.concatenate([onset[None], window.frames]), self.flow)[1:]
        return coding.to_fixed(flow, FINEST)

    def _near(self, clip: Clip) -> list[int]:
        """The frames that the window is made of, ascending, the apex among them."""
        numbers = span(clip)
        at, reach = numbers.index(clip.apex), self.frames // 2
        short = at < reach or len(numbers) - 1 - at < reach
        if short and self.interpolation == "tim":
            return numbers
        return numbers[max(0, at - reach) : at + reach + 1]

    def unpack(self, stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """float32 pixels."""
        return {MAIN: coding.from_fixed(stored)}
