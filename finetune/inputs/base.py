"""What the recipes share: parameters that make a key, the frames they ask for, the arrays they make."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import cv2
import numpy as np

from finetune.clips import Clip
from finetune.inputs import entries, views
from shards.errors import UsageError

MAIN = "value"  # the array of an entry that goes by the recipe's own name


@dataclass(frozen=True)
class Given:
    """One clip as a recipe sees it."""

    clip: Clip
    """`frames` holds only those that can be read."""
    images: Mapping[int, np.ndarray]
    """Real frame number -> RGB uint8 [S S 3], all with the recipe's one crop."""
    points: np.ndarray | None
    """float64 [68 2] (x, y) of the apex frame in the crop's pixels, for recipes that need them."""


@dataclass(frozen=True)
class Recipe:
    """How one kind of input is made from a clip. Frozen, so that `key()` names what it makes."""

    face: str
    """Geometry: as-is-squash, as-is-crop, as-is-pad (no landmarks needed), slstt, aligned, box."""
    size: int
    """Side of the crop, pixels."""

    VERSION: ClassVar[int] = 0
    """Raised when the same parameters make something else."""
    kind: ClassVar[str] = ""
    members: ClassVar[tuple[str, ...]] = (MAIN,)
    """Arrays that `unpack` gives."""
    coded: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    """Arrays that are packed on disk, and the axes along which neighbours are alike."""

    def __post_init__(self) -> None:
        """Raises UsageError naming the recipe and the value that is out of range."""
        views.check(self.face)
        self.require("size", 8 <= self.size <= 4096)

    def require(self, name: str, fine: bool) -> None:
        """Raise UsageError unless `fine`."""
        if not fine:
            raise UsageError(f"input {self.kind}: {name} {getattr(self, name)!r} is out of range")

    @property
    def needs_points(self) -> bool:
        """Whether the clip's landmarks are needed."""
        return views.needs_points(self.face)

    def depends(self) -> dict[str, Any]:
        """Versions of the code that `make` calls; they are part of the key."""
        return {}

    def describe(self) -> dict[str, Any]:
        """Everything that decides what is made: kind, versions, parameters."""
        versions = {"recipe": self.VERSION, "entry": entries.FORMAT, "opencv": cv2.__version__}
        return {
            "kind": self.kind,
            "versions": versions | views.versions(self.face) | self.depends(),
            "parameters": asdict(self),
        }

    def key(self) -> str:
        """Digest of `describe()`."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()[:16]

    def numbers(self, clip: Clip) -> list[int]:
        """Real numbers of the frames that `make` reads, ascending."""
        raise NotImplementedError

    def make(self, given: Given) -> dict[str, np.ndarray]:
        """The arrays to store; MAIN is the one that goes by the recipe's name."""
        raise NotImplementedError

    def unpack(self, stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The arrays to hand out, from those stored."""
        return stored


def span(clip: Clip) -> list[int]:
    """Real numbers of the clip's frames from onset to offset, ascending."""
    return [number for number in sorted(clip.frames) if clip.onset <= number <= clip.offset]
