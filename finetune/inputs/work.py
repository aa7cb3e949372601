"""What a worker process does: all missing entries of one clip."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import cv2

from finetune.clips import Clip
from finetune.inputs import entries, views
from finetune.inputs.base import Given, Recipe
from finetune.inputs.entries import Note
from finetune.inputs.gather import Clock, Gathered, gather
from shards.errors import FlickerError

if TYPE_CHECKING:
    from finetune.faces.interface import FacePoints


@dataclass(frozen=True)
class Task:
    """A clip, the entries that it lacks, and its landmarks where one of them needs them."""

    clip: Clip
    recipes: Mapping[str, tuple[Recipe, Path]]
    face: FacePoints | None = None
    """In the apex frame's pixels."""

    @property
    def needs_points(self) -> bool:
        """Whether an entry is made with landmarks."""
        return any(recipe.needs_points for recipe, _ in self.recipes.values())


@dataclass
class Outcome:
    """What became of a task."""

    clip: str
    failure: str = ""
    """Why the clip is left out; '' where it is not."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Per phase: read, crop, every recipe's name, write."""


def work(task: Task) -> Outcome:
    """Make and write the entries of a clip. One thread: the processes are the parallelism.

    Raises CannotWrite; whatever else is wrong with a clip is told in the outcome.
    """
    clock = Clock()
    try:
        with one_thread():
            recipes = [recipe for recipe, _ in task.recipes.values()]
            found = gather(task.clip, recipes, task.face.points if task.face else None, clock)
            for name, (recipe, path) in task.recipes.items():
                _make(task, found, name, recipe, path, clock)
    except entries.CannotWrite:
        raise
    except FlickerError as error:
        return Outcome(task.clip.id, str(error), dict(clock))
    return Outcome(task.clip.id, seconds=dict(clock))


def died(task: Task) -> Outcome:
    """For a clip whose process died twice."""
    return Outcome(task.clip.id, "a worker process died over this clip (out of memory?); try fewer workers")


def _make(task: Task, found: Gathered, name: str, recipe: Recipe, path: Path, clock: Clock) -> None:
    """One entry."""
    view = (recipe.face, recipe.size)
    points, source = None, ""
    if recipe.needs_points:
        assert task.face is not None, "landmarks are located before the work starts"
        points, source = views.transformed(found.places[view], task.face.points), task.face.source
    with clock(name):
        arrays = recipe.make(Given(found.clip, found.images[view], points))
    with clock("write"):
        note = Note(task.clip.id, recipe.kind, source, found.bad)
        entries.write(path, arrays, recipe.coded, note)


@contextmanager
def one_thread() -> Iterator[None]:
    """OpenCV, and torch where it is loaded, work in one thread until the block ends."""
    torch = sys.modules.get("torch")
    threads = cv2.getNumThreads(), torch.get_num_threads() if torch else 1
    cv2.setNumThreads(0)
    if torch:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads[0])
        if torch:
            torch.set_num_threads(threads[1])
