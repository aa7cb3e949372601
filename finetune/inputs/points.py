"""The recipe that keeps where things are in a face: landmarks, action unit boxes, areas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from finetune.clips import Clip
from finetune.faces import regions
from finetune.inputs.base import MAIN, Given, Recipe


@dataclass(frozen=True)
class Regions(Recipe):
    """Landmarks float64 [68 2] (x, y) in the crop's pixels (FRL-DGT, HTNet).

    Besides: `boxes` int32 [9 4] (x, y, w, h) in the crop's pixels (faces.regions.au_boxes), and `areas` float64
    [4 2], centres on a `grid` x `grid` map of the crop (faces.regions.areas). Landmarks are needed whatever the
    geometry.
    """

    side: int = 90
    """Side of an action unit's box, pixels of the crop (FRL-DGT, 4.1)."""
    grid: int = 28
    """Side of the map that `areas` lie on, cells (HTNet, 4.2)."""

    VERSION: ClassVar[int] = 1
    kind: ClassVar[str] = "regions"
    members: ClassVar[tuple[str, ...]] = (MAIN, "boxes", "areas")

    def __post_init__(self) -> None:
        """Raises UsageError naming the value that is out of range."""
        super().__post_init__()
        self.require("side", 1 <= self.side <= self.size)
        self.require("grid", 2 <= self.grid <= self.size)

    @property
    def needs_points(self) -> bool:
        """Always."""
        return True

    def depends(self) -> dict[str, Any]:
        """The regions' version."""
        return {"regions": regions.VERSION}

    def numbers(self, clip: Clip) -> list[int]:
        """The apex, whose size places the crop."""
        return [clip.apex]

    def make(self, given: Given) -> dict[str, np.ndarray]:
        """Landmarks, boxes, areas."""
        assert given.points is not None
        return {
            MAIN: given.points,
            "boxes": regions.au_boxes(given.points, (self.size, self.size), self.side),
            "areas": regions.areas(given.points, self.size, self.grid),
        }
