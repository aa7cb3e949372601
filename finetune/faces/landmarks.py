"""The 68 landmarks of one frame per clip: over processes, cached, with every fallback counted.

The names that others need are all here: `landmarker`, `register`, `locate`, `locate_clips`, `FacePoints`, `SOURCES`.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from finetune.clips import Clip
from finetune.faces.backends import factory_of, landmarker, register
from finetune.faces.cache import FORMAT as FILE_FORMAT
from finetune.faces.cache import Entry, FaceCache
from finetune.faces.chain import VERSION as CHAIN_VERSION
from finetune.faces.chain import locate
from finetune.faces.interface import SOURCES, Box, FacePoints, Factory, Landmarker
from finetune.frames import read_image
from shards.errors import FlickerError
from shards.files import sha256
from shards.pool import Pool
from shards.progress import Progress

__all__ = [
    "FORMAT",
    "SOURCES",
    "Box",
    "FacePoints",
    "Landmarker",
    "Report",
    "landmarker",
    "locate",
    "locate_clips",
    "register",
]

FORMAT = f"{FILE_FORMAT}.{CHAIN_VERSION}"  # of what is found; for the keys of what is made from it
LIMIT = 0.05  # share of clips that may end at the template or have an image that cannot be read
STEPS = (1, -1, 2, -2, 4, -4, 8, -8)  # frames of the clip from the one looked at: its neighbours


@dataclass(frozen=True)
class Task:
    """One frame to look at."""

    clip: str
    image: Path
    neighbours: tuple[Path, ...]
    keys: tuple[str, str]
    """Cache entries of the image alone, and of it and its neighbours."""


@dataclass
class Report:
    """How the faces of a list of clips were found."""

    frame: str
    backend: str
    """Name and version."""
    counts: dict[str, int] = field(default_factory=dict)
    """Clips per source, in the chain's order."""
    clips: dict[str, list[str]] = field(default_factory=dict)
    """Ids of the clips per fallback that was used."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Id of each clip whose image cannot be read, and why; it has no face."""
    cached: int = 0
    """Clips that were read from the cache."""
    damaged: int = 0
    """Cache files that could not be read and were made again."""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def text(self) -> str:
        """The report as lines of text: clips per source, and which clips needed a fallback."""
        total = sum(self.counts.values())
        lines = [f"faces on {self.frame} frames ({self.backend}): {total} clips, {self.cached} from the cache"]
        for source, count in self.counts.items():
            names = self.clips.get(source, [])
            more = f", and {len(names) - 6} more" if len(names) > 6 else ""
            lines.append(f"  {source:<12}{count:>6}  {', '.join(names[:6])}{more}".rstrip())
        lines += [f"  unreadable  {name}: {reason}" for name, reason in self.unreadable.items()]
        if self.damaged:
            lines.append(f"  cache files that were damaged and made again: {self.damaged}")
        return "\n".join(lines)


def locate_clips(
    clips: Sequence[Clip],
    frame: Literal["apex", "onset"],
    *,
    cache: Path,
    workers: int,
    quiet: bool,
    backend: str = "dlib",
    limit: float = LIMIT,
) -> tuple[dict[str, FacePoints], Report]:
    """The face in the named frame of each clip, by clip id, and how it was found.

    Args:
        cache: folder of found faces, kept over runs; a run that is stopped goes on from it.
        workers: processes; 0 or 1: this one.
        limit: share of the clips that may end at the template, or have an image that cannot be read; the latter are
            not in the answer.

    Raises:
        FlickerError: a backend that is not installed; more clips than `limit` allows.
        UsageError: an unknown backend.
    """
    started, factory = time.monotonic(), factory_of(backend)
    first = factory()
    store = FaceCache(cache, first.name, first.version)
    report = Report(frame, f"{first.name} {first.version}")
    found: dict[str, FacePoints] = {}
    tasks = list(_open_tasks(clips, frame, store, found, report.unreadable))
    report.cached = len(found)
    done = len(clips) - len(tasks)
    with (
        Progress(len(clips), f"faces ({frame})", "clips", done=done, quiet=quiet) as progress,
        Pool(workers if workers > 1 else 0) as pool,
    ):
        for task, face in pool.run(partial(_look, factory), tasks, _died):
            if isinstance(face, str):
                report.unreadable[task.clip] = face
            else:
                _keep(store, task, face)
                found[task.clip] = face
            progress.advance()
    report.damaged, report.seconds = store.damaged, time.monotonic() - started
    _count(report, [(clip.id, found[clip.id].source) for clip in clips if clip.id in found])
    _refuse(report, len(clips), limit)
    return {clip.id: found[clip.id] for clip in clips if clip.id in found}, report


def _keep(store: FaceCache, task: Task, face: FacePoints) -> None:
    """Write what was found for the image alone, and where that is nothing, by its neighbours."""
    alone = SOURCES.index(face.source) < SOURCES.index("neighbour")
    store.write(task.keys[0], Entry(face if alone else None))
    if not alone:
        store.write(task.keys[1], Entry(face))


def _open_tasks(
    clips: Sequence[Clip],
    frame: Literal["apex", "onset"],
    store: FaceCache,
    found: dict[str, FacePoints],
    unreadable: dict[str, str],
) -> Iterator[Task]:
    """What the cache does not answer; its answers go into `found`."""
    for clip in clips:
        number = getattr(clip, frame)
        image, neighbours = clip.frames[number], tuple(_neighbours(clip, number))
        digest = _digest(image)
        if not digest:
            unreadable[clip.id] = f"cannot read {image}"
            continue
        alone = store.key(digest)
        entry = store.read(alone)
        if entry is not None and entry.face is not None:
            found[clip.id] = entry.face
            continue
        together = store.key(digest, *map(_digest, neighbours))
        other = store.read(together) if entry is not None else None
        if other is not None and other.face is not None:
            found[clip.id] = other.face
        else:
            yield Task(clip.id, image, neighbours, (alone, together))


def _neighbours(clip: Clip, number: int) -> Iterator[Path]:
    """The clip's frames about the one of this number, nearest first."""
    numbers = list(clip.frames)
    place = numbers.index(number)
    for step in STEPS:
        if 0 <= place + step < len(numbers):
            yield clip.frames[numbers[place + step]]


def _digest(path: Path) -> str:
    """SHA-256 of the image's file, '' where it cannot be read."""
    try:
        return sha256(path)
    except OSError:
        return ""


@lru_cache(maxsize=1)
def _backend(factory: Factory) -> Landmarker:
    """One backend per process; in a worker, OpenCV keeps to one thread."""
    if multiprocessing.parent_process() is not None:
        cv2.setNumThreads(1)
    return factory()


def _look(factory: Factory, task: Task) -> tuple[Task, FacePoints | str]:
    """In a worker: the face of one frame, or why its image cannot be read."""
    try:
        image = read_image(task.image)
    except FlickerError as error:
        return task, str(error)
    return task, locate(image, _backend(factory), [partial(_read, path, image) for path in task.neighbours])


def _read(path: Path, instead: np.ndarray) -> np.ndarray:
    """A neighbour, or the image itself (which shows no face) where the neighbour cannot be read."""
    try:
        return read_image(path)
    except FlickerError:
        return instead


def _died(task: Task) -> tuple[Task, FacePoints | str]:
    """The process that worked on this frame died, twice."""
    return task, f"the process that looked for a face in {task.image} died twice"


def _count(report: Report, sources: list[tuple[str, str]]) -> None:
    """Fill in the clips per source."""
    counts = Counter(source for _, source in sources)
    report.counts = {source: counts[source] for source in SOURCES if counts[source]}
    for source in list(report.counts):
        if source != SOURCES[0]:
            report.clips[source] = [name for name, found in sources if found == source]


def _refuse(report: Report, total: int, limit: float) -> None:
    """Raise FlickerError where too many clips ended at the template or could not be read."""
    names = report.clips.get("template", []) + list(report.unreadable)
    if names and len(names) > limit * total:
        raise FlickerError(
            f"no face found in the {report.frame} frame of {len(names)} of {total} clips ({len(names) / total:.0%}, "
            f"limit {limit:.0%}; {len(report.unreadable)} cannot be read), e.g. {', '.join(names[:3])}; "
            "look at them, leave the clips out or raise the limit"
        )
