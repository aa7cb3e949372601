"""The images of a clip, each read once and cropped for every recipe that wants it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from finetune import frames as pictures
from finetune.clips import Clip
from finetune.inputs import views
from finetune.inputs.base import Recipe
from finetune.inputs.views import Place
from shards.errors import FlickerError

View = tuple[str, int]  # face, size


class Clock(Counter[str]):
    """Seconds per phase."""

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count the block's time."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self[phase] += time.perf_counter() - started  # type: ignore[assignment]


@dataclass
class Gathered:
    """A clip's crops. `clip` has only the frames that could be read."""

    clip: Clip
    places: dict[View, Place]
    images: dict[View, dict[int, np.ndarray]]
    bad: list[str] = field(default_factory=list)
    """Images that could not be read, with the reason."""


def gather(clip: Clip, recipes: Sequence[Recipe], points: np.ndarray | None, clock: Clock) -> Gathered:
    """Read what the recipes ask for, the apex first; `points` [68 2] are the apex frame's landmarks.

    A frame that cannot be read, or whose size is not the apex's, is left out and the recipes ask again without it;
    where it is the offset, the last frame before it takes its place. Raises FlickerError for the onset or the apex.
    """
    apex = _read(clip, clip.apex, None, clock)
    size = (apex.shape[1], apex.shape[0])
    places = {view: views.place(*view, size, points) for view in dict.fromkeys((r.face, r.size) for r in recipes)}
    found = Gathered(clip, places, {view: {} for view in places})
    _crop(found, clip.apex, apex, list(places), clock)
    while plan := _plan(found, recipes):
        for number, where in sorted(plan.items()):
            if not _take(found, number, where, apex.shape, clock):
                break  # the recipes choose again
    return found


def without(clip: Clip, number: int) -> Clip:
    """The clip without one of its frames, which is neither onset nor apex."""
    frames = {key: path for key, path in clip.frames.items() if key != number}
    return replace(clip, frames=frames, offset=max(key for key in frames if key <= clip.offset))


def _plan(found: Gathered, recipes: Sequence[Recipe]) -> dict[int, list[View]]:
    """The frames that recipes ask for and that are not there yet, and the views that want them."""
    plan: dict[int, list[View]] = {}
    for recipe in recipes:
        view = (recipe.face, recipe.size)
        for number in recipe.numbers(found.clip):
            if number not in found.images[view] and view not in plan.setdefault(number, []):
                plan[number].append(view)
    return {number: where for number, where in plan.items() if where}


def _take(found: Gathered, number: int, where: Sequence[View], shape: tuple[int, ...], clock: Clock) -> bool:
    """Read and crop one frame; where that fails it is left out of the clip. Raises FlickerError for the onset."""
    try:
        image = _read(found.clip, number, shape, clock)
    except FlickerError as error:
        if number == found.clip.onset:
            raise
        found.bad.append(f"{found.clip.id}: {error}")
        found.clip = without(found.clip, number)
        return False
    _crop(found, number, image, where, clock)
    return True


def _read(clip: Clip, number: int, shape: tuple[int, ...] | None, clock: Clock) -> np.ndarray:
    """One frame, uint8 [H W 3]. Raises FlickerError where it cannot be read, or has another shape than `shape`."""
    path = clip.frames[number]
    with clock("read"):
        image = pictures.read_image(path)
    if shape is not None and image.shape != shape:
        got, apex = (f"{side[1]} x {side[0]}" for side in (image.shape, shape))
        raise FlickerError(f"image {path} is {got} px, the clip's apex {apex} px; replace the file")
    return image


def _crop(found: Gathered, number: int, image: np.ndarray, where: Sequence[View], clock: Clock) -> None:
    """Keep the crops of an image for the views that want it."""
    with clock("crop"):
        for view in where:
            found.images[view][number] = found.places[view].apply(image)
