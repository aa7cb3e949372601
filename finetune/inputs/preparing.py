"""From labelled clips to prepared inputs: parallel over clips, resumable, read back without the images."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from finetune.clips import Clip
from finetune.faces.interface import FacePoints
from finetune.inputs import locating, result, store
from finetune.inputs.base import Recipe
from finetune.inputs.entries import read_note
from finetune.inputs.result import Columns, Inputs, Report
from finetune.inputs.store import Store
from finetune.inputs.work import Task, died, work
from shards.errors import UsageError
from shards.pool import Pool
from shards.progress import Progress

log = logging.getLogger(__name__)


def prepare(
    clips: Sequence[Clip],
    recipes: Mapping[str, Recipe],
    cache: Path,
    *,
    workers: int = 1,
    quiet: bool = False,
    limit: float = 0.0,
    backend: str = "dlib",
) -> Inputs:
    """Make what is missing of every recipe for every clip; the rest comes from `cache`.

    Entries are complete or absent, so a second start after any end continues where the first was; several processes
    may prepare into one cache. An image that cannot be read is left out of its clip; a clip whose onset or apex
    cannot be read is left out of the result. Both are reported.

    Args:
        clips: with unique ids.
        recipes: name -> recipe; the names are those of the arrays.
        cache: folder; may be deleted at any time when nothing runs.
        workers: processes; 1 works in this one.
        limit: share (0..1) of the clips that may be left out.
        backend: landmark backend (finetune.faces), for recipes that need landmarks.

    Raises:
        FlickerError: more clips left out than `limit`, after all others have been prepared; faces or cache, see
            finetune.faces.landmarks.locate_clips and `entries.write`.
        UsageError: arguments that make no sense.
    """
    _check(clips, recipes, limit)
    started = time.perf_counter()
    entries = Store(Path(cache) / "inputs", recipes, locating.identity(backend, recipes))
    paths = {clip.id: entries.paths(clip) for clip in clips}
    tasks = [task for clip in clips if (task := _task(clip, recipes, paths[clip.id])) is not None]
    report = Report(clips=len(clips), reused=len(clips) - len(tasks))
    find = partial(locating.locate, cache=Path(cache) / "landmarks", workers=workers, quiet=quiet, backend=backend)
    tasks = _located(tasks, find, report)
    entries.describe()
    _run(tasks, report, len(clips), workers, quiet)
    kept = [clip for clip in clips if clip.id not in report.left_out]
    report.prepared = len(clips) - report.reused - len(report.left_out)
    digest = store.survey({clip.id: paths[clip.id] for clip in kept}, report)
    report.seconds["wall"] = time.perf_counter() - started
    result.refuse(report.left_out, len(clips), limit)
    locating.refuse(report.fallbacks.get("template", []), len(clips))
    if not quiet:
        log.info("%s", report.text())
        log.info("next: recognisers read them from %s; the images are not needed again", cache)
    return Inputs(kept, Columns(recipes, [paths[clip.id] for clip in kept]), report, digest)


def _check(clips: Sequence[Clip], recipes: Mapping[str, Recipe], limit: float) -> None:
    """Raise UsageError for arguments that make no sense."""
    twice = [name for name, count in Counter(clip.id for clip in clips).items() if count > 1]
    if twice:
        raise UsageError(f"inputs: clip {twice[0]} is given twice; clip ids must be unique")
    if not clips or not recipes:
        raise UsageError("inputs: no clips, or no recipes, to prepare")
    if not 0 <= limit <= 1:
        raise UsageError(f"inputs: limit {limit} is out of range 0..1")
    for clip in clips:
        if not {clip.onset, clip.apex, clip.offset} <= set(clip.frames):
            raise UsageError(
                f"inputs: {clip.id} has no image of its onset, apex or offset; its dataset has none to give"
            )


def _task(clip: Clip, recipes: Mapping[str, Recipe], paths: Mapping[str, Path]) -> Task | None:
    """The entries that a clip lacks, or None where it lacks none."""
    missing = {name: (recipe, paths[name]) for name, recipe in recipes.items() if read_note(paths[name]) is None}
    return Task(clip, missing) if missing else None


def _located(tasks: list[Task], find: Callable[..., dict[str, FacePoints]], report: Report) -> list[Task]:
    """The tasks, with landmarks where a missing entry needs them; without those whose apex cannot be read."""
    started = time.perf_counter()
    faces = find([task.clip for task in tasks if task.needs_points], report.left_out)
    report.seconds["landmarks"] = time.perf_counter() - started
    locating.refuse([name for name, face in faces.items() if face.source == "template"], report.clips)
    kept = [task for task in tasks if task.clip.id not in report.left_out]
    return [replace(task, face=faces.get(task.clip.id)) for task in kept]


def _run(tasks: Sequence[Task], report: Report, clips: int, workers: int, quiet: bool) -> None:
    """Make what the tasks ask for."""
    seconds: Counter[str] = Counter()
    bar = Progress(clips, "inputs", "clips", done=clips - len(tasks), quiet=quiet or not tasks)
    with Pool(workers if workers > 1 else 0) as pool, bar as progress:
        for outcome in pool.run(work, tasks, died):
            seconds.update(outcome.seconds)  # type: ignore[arg-type]
            if outcome.failure:
                report.left_out[outcome.clip] = outcome.failure
            progress.advance(**({"left out": len(report.left_out)} if report.left_out else {}))
    report.seconds |= dict(seconds)
