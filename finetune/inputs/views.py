"""From a clip's frames to square crops: one transform per clip, with or without landmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from finetune import frames as pictures
from finetune.faces import crops
from shards.crop import Crop
from shards.errors import UsageError

AS_IS = "as-is-"
BY_POINTS: dict[str, Callable[[np.ndarray, int], Crop]] = {
    "slstt": crops.slstt,
    "aligned": crops.aligned,
    "box": crops.box,
}
FACES = ("as-is-squash", "as-is-crop", "as-is-pad", *BY_POINTS)
AS_IS_VERSION = 1


class Place(Protocol):
    """A clip's crop: `matrix` float64 [2 3] takes source pixel centres (x, y, 1) to the crop's."""

    @property
    def matrix(self) -> NDArray[np.float64]: ...

    def apply(self, image: np.ndarray) -> np.ndarray:
        """RGB uint8 [H W 3] to [S S 3]."""
        ...


@dataclass(frozen=True)
class AsIs:
    """The whole frame fitted into the square by finetune.frames.fit; `image_size` (w, h) of the clip's frames."""

    size: int
    how: pictures.Fit
    image_size: tuple[int, int]

    def apply(self, image: np.ndarray) -> np.ndarray:
        """RGB uint8 [H W 3] to [S S 3]."""
        return pictures.fit(image, self.size, self.how)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """Where `fit` puts source pixel centres, float64 [2 3]."""
        width, height = self.image_size
        if self.how == "squash":
            scaled = (self.size, self.size)
        else:
            scale = self.size / (min if self.how == "crop" else max)(width, height)
            scaled = (max(1, round(width * scale)), max(1, round(height * scale)))
        left, top = ((side - self.size) // 2 if self.how == "crop" else -((self.size - side) // 2) for side in scaled)
        sx, sy = scaled[0] / width, scaled[1] / height
        return np.array([[sx, 0, sx / 2 - 0.5 - left], [0, sy, sy / 2 - 0.5 - top]], np.float64)


def check(face: str) -> None:
    """Raise UsageError for an unknown geometry."""
    if face not in FACES:
        raise UsageError(f"no face geometry '{face}'; known: {', '.join(FACES)}")


def needs_points(face: str) -> bool:
    """Whether the geometry is drawn from landmarks."""
    return not face.startswith(AS_IS)


def versions(face: str) -> dict[str, Any]:
    """Versions of the code behind a geometry."""
    if not needs_points(face):
        return {"as-is": AS_IS_VERSION}
    return {"crops": crops.VERSION}


def place(face: str, size: int, image_size: tuple[int, int], points: np.ndarray | None) -> Place:
    """The crop of a clip whose frames have `image_size` (w, h) and whose apex frame has `points` [68 2]."""
    if not needs_points(face):
        return AsIs(size, cast(pictures.Fit, face.removeprefix(AS_IS)), image_size)
    if points is None:
        raise ValueError(f"geometry '{face}' without landmarks")
    return BY_POINTS[face](points, size)


def transformed(place: Place, points: np.ndarray) -> NDArray[np.float64]:
    """Points [N 2] of the source in the crop's pixels."""
    return np.asarray(points @ place.matrix[:, :2].T + place.matrix[:, 2], np.float64)
