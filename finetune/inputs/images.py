"""Recipes that keep frames: the onset-apex pair, and the sequence."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Numbers
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from finetune.clips import Clip
from finetune.inputs.base import MAIN, Given, Recipe, span
from finetune.motion.flow import PRESETS, FlowConfig
from finetune.motion.magnify import MagnifyConfig, magnify


@dataclass(frozen=True)
class Pair(Recipe):
    """Onset and apex: uint8 [2 S S 3] (Micron-BERT's head, FRL-DGT)."""

    VERSION: ClassVar[int] = 1
    kind: ClassVar[str] = "pair"
    coded: ClassVar[Mapping[str, tuple[int, ...]]] = {MAIN: (1, 2)}

    def numbers(self, clip: Clip) -> list[int]:
        """Onset and apex."""
        return sorted({clip.onset, clip.apex})

    def make(self, given: Given) -> dict[str, np.ndarray]:
        """Both frames."""
        return {MAIN: np.stack([given.images[given.clip.onset], given.images[given.clip.apex]])}


@dataclass(frozen=True)
class MagnifiedApex(Recipe):
    """The apex with its motion from the onset multiplied by `factor`: uint8 [S S 3], for copies of training clips.

    finetune.copies makes the copies; finetune.motion.magnify says how, and what a network of the user's must take.
    """

    factor: float = 2.0
    """0 or more; 1 is the apex itself."""
    estimator: str = "flow"
    """`flow`, or `torchscript:FILE`: a network of the user's (MagNet). Loading a TorchScript file runs its code."""
    flow: FlowConfig = PRESETS["fine"]
    """How the motion is measured for the estimator `flow`."""

    VERSION: ClassVar[int] = 1
    kind: ClassVar[str] = "magnified-apex"
    coded: ClassVar[Mapping[str, tuple[int, ...]]] = {MAIN: (0, 1)}

    def __post_init__(self) -> None:
        """Raises UsageError naming the value that is out of range."""
        super().__post_init__()
        self.require("factor", 0 <= self.factor < float("inf"))
        self.config()

    def config(self) -> MagnifyConfig:
        """The same for finetune.motion.magnify. Raises UsageError: unknown estimator."""
        return MagnifyConfig(self.estimator, self.flow)

    def depends(self) -> dict[str, Any]:
        """Version of the magnification; a network counts by its file's content. FlickerError: there is no file."""
        return {"magnify": self.config().key()}

    def numbers(self, clip: Clip) -> list[int]:
        """Onset and apex."""
        return sorted({clip.onset, clip.apex})

    def make(self, given: Given) -> dict[str, np.ndarray]:
        """The frame."""
        onset, apex = given.images[given.clip.onset], given.images[given.clip.apex]
        return {MAIN: magnify(onset, apex, self.factor, self.config())}


@dataclass(frozen=True)
class Sequence(Recipe):
    """Frames from onset to offset: uint8 [T S S 3], T <= `frames` (FDP, FRL-DGT-S, the pairs that train the DGM).

    Besides: `index` int32 [T], the frames' real numbers, and `apex` int32 [], the apex's place among them. Where the
    clip has more frames they are uniformly spaced, with onset, apex and offset always among them.
    """

    frames: int = 0
    """At most so many, 3 or more; 0: all of them."""

    VERSION: ClassVar[int] = 1
    kind: ClassVar[str] = "sequence"
    members: ClassVar[tuple[str, ...]] = (MAIN, "index", "apex")
    coded: ClassVar[Mapping[str, tuple[int, ...]]] = {MAIN: (0,)}

    def __post_init__(self) -> None:
        """Raises UsageError naming the value that is out of range."""
        super().__post_init__()
        self.require("frames", self.frames == 0 or self.frames >= 3)

    def numbers(self, clip: Clip) -> list[int]:
        """The chosen frames."""
        return spaced(span(clip), clip.apex, self.frames)

    def make(self, given: Given) -> dict[str, np.ndarray]:
        """The frames, their numbers, the apex's place."""
        numbers = self.numbers(given.clip)
        return {
            MAIN: np.stack([given.images[number] for number in numbers]),
            "index": np.array(numbers, np.int32),
            "apex": np.array(numbers.index(given.clip.apex), np.int32),
        }


def spaced(numbers: Numbers[int], apex: int, count: int) -> list[int]:
    """At most `count` (>= 3; 0: all) of `numbers` (ascending), uniformly spaced: both ends, and the apex.

    Where the apex is not among the uniform ones it takes the place of the inner one nearest to it.
    """
    if count == 0 or len(numbers) <= count:
        return list(numbers)
    places = np.round(np.linspace(0, len(numbers) - 1, count)).astype(int)
    at = numbers.index(apex)
    if at not in places:
        places[1 + int(np.abs(places[1:-1] - at).argmin())] = at
    return [numbers[place] for place in places]
