"""Sources to a shard folder: find, encode, shuffle, pack; every finished step survives a kill.

Stage 1 encodes each source into a file of its own under `OUT/.staging`; stage 2 deals the clips of all sources,
shuffled, over the shards; the manifest comes last and the staging folder goes. Run again after a kill, both
stages pass over what is finished. Neither stage holds more than one clip per worker in memory, besides a few
numbers per clip; OUT needs twice the space of the finished shards while it is written.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shards.encode import StageTask, skip_source, stage_source
from shards.errors import FlickerError, UsageError
from shards.files import read_json, write_json
from shards.pack import PackTask, pack_shard, plan_shards
from shards.pool import run_all
from shards.progress import Progress
from shards.schema import (
    VERSION,
    Manifest,
    Options,
    ShardInfo,
    SourceReport,
    read_manifest,
    write_manifest,
)
from shards.sources import Source, discover, identity
from shards.staging import read_summary, summary_path

log = logging.getLogger(__name__)


def write(
    sources: Sequence[str | Path] | str | Path,
    out: str | Path,
    *,
    size: int = 256,
    face: str = "none",
    quality: int = 95,
    clip_frames: int = 64,
    shard_bytes: int = 256 * 2**20,
    workers: int = 0,
    seed: int = 0,
    max_failed: float = 1.0,
    min_run: int = 6,
    folder_fps: float | None = None,
) -> Manifest:
    """Write video files and frame folders as shards under `out`; see `Options` for the settings and units.

    `workers` processes encode (0: this one); their number never changes a byte. Sources that cannot be used are
    skipped and reported in the manifest, unless their share is above `max_failed` (0 to 1). Calling it again
    with the same arguments continues an interrupted run, and does nothing once it is finished.

    Raises FlickerError: a source path that does not exist, nothing usable, too many failures, `out` holding
    shards of other sources or options, another run writing there, dlib missing for box or align, disk full.
    """
    options = Options(size, face, quality, clip_frames, shard_bytes, seed, min_run, folder_fps)
    if workers < 0 or not 0 <= max_failed <= 1:
        raise UsageError(f"workers {workers} must be 0 or more and max_failed {max_failed} a share, 0 to 1")
    if face != "none":
        from shards.faces import require

        require(face)
    directory = Path(out)
    found = discover([sources] if isinstance(sources, str | Path) else sources, exclude=directory)
    marks = [identity(source) for source in found]
    if (finished := _finished(directory, options, found, marks)) is not None:
        return finished
    try:
        return _write(directory, options, found, marks, workers, max_failed)
    except OSError as error:
        raise FlickerError(
            f"cannot write {error.filename or directory}: {error.strerror or error}: mend that and run again; "
            "what is finished is kept"
        ) from None


def _write(
    directory: Path, options: Options, found: list[Source], marks: list[str], workers: int, max_failed: float
) -> Manifest:
    """Both stages and the manifest."""
    with _staging(directory, options, found, marks) as staging:
        tasks = [StageTask(n, s, marks[n], options, staging) for n, s in enumerate(found)]
        reports = _stage(tasks, workers)
        _check_failures(reports, max_failed)
        staged = [(task.number, read_summary(staging, task.number)[1]) for task in tasks]
        shards = _pack(plan_shards(staged, options, directory, staging), workers)
        manifest = write_manifest(directory, options, shards, reports)
    shutil.rmtree(directory / ".staging", ignore_errors=True)
    return manifest


def _plan(options: Options, found: list[Source], marks: list[str]) -> dict[str, Any]:
    """What must be equal for a run to continue another."""
    listed = {source.name: mark for source, mark in zip(found, marks, strict=True)}
    return {"version": VERSION, "options": asdict(options), "sources": listed}


def _finished(directory: Path, options: Options, found: list[Source], marks: list[str]) -> Manifest | None:
    """The manifest of a folder that these very sources and options have filled. FlickerError if others did."""
    if not (directory / "manifest.json").exists():
        return None
    manifest = read_manifest(directory)
    listed = {source.name: source.identity for source in manifest.sources}
    _compare(
        {"version": VERSION, "options": manifest.options, "sources": listed}, _plan(options, found, marks), directory
    )
    for shard in manifest.shards:
        path = directory / shard.name
        if not path.exists() or path.stat().st_size != shard.bytes:
            raise FlickerError(f"{path} is missing or cut short: delete {directory} and write it again")
    shutil.rmtree(directory / ".staging", ignore_errors=True)  # left by a kill in the last moment
    return manifest


def _compare(old: dict[str, Any], new: dict[str, Any], directory: Path) -> None:
    """Raise FlickerError naming the first difference between two plans."""
    difference = None
    for name in sorted({*old["options"], *new["options"]}):
        was, now = old["options"].get(name), new["options"].get(name)
        if was != now:
            difference = f"{name} {was}, not {now}"
            break
    for name in sorted({*old["sources"], *new["sources"]}) if difference is None else []:
        if old["sources"].get(name) != new["sources"].get(name):
            change = "changed" if name in old["sources"] and name in new["sources"] else "added"
            difference = f"other sources ({name} was {change if name in new['sources'] else 'removed'})"
            break
    if difference is None and old["version"] != new["version"]:
        difference = f"format version {old['version']}"
    if difference:
        raise FlickerError(f"{directory} holds shards with {difference}: give another --out, or delete it")


@contextlib.contextmanager
def _staging(directory: Path, options: Options, found: list[Source], marks: list[str]) -> Iterator[Path]:
    """The staging folder, locked against a second run and checked to belong to this plan."""
    staging = directory / ".staging"
    plan_path, plan = staging / "plan.json", _plan(options, found, marks)
    try:
        if not plan_path.exists() and any(directory.glob("shard-*")):
            raise FlickerError(f"{directory} holds shards without a manifest: give another --out, or delete it")
        staging.mkdir(parents=True, exist_ok=True)
        lock = (staging / "lock").open("w")
    except OSError as error:
        raise FlickerError(f"cannot write to {directory}: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FlickerError(f"another run is writing {directory}: wait for it, or end it") from None
        if plan_path.exists():
            _compare(read_json(plan_path, "staging plan"), plan, directory)
        else:
            write_json(plan_path, plan)
        yield staging


def _stage(tasks: list[StageTask], workers: int) -> list[SourceReport]:
    """Stage 1: the reports of all sources, in order; finished ones are read back."""
    reports: dict[int, SourceReport] = {}
    open_tasks = []
    for task in tasks:
        if summary_path(task.staging, task.number).exists():
            reports[task.number] = read_summary(task.staging, task.number)[0]
        else:
            open_tasks.append(task)
    if reports:
        log.info("continuing: %d of %d sources are encoded already", len(reports), len(tasks))
    names = {task.source.name: task.number for task in tasks}
    frames = sum(report.frames for report in reports.values())
    skipped = sum(report.status != "ok" for report in reports.values())
    with Progress(len(tasks), "encoding", "sources", done=len(reports)) as progress:
        for report in run_all(stage_source, open_tasks, workers, _died):
            reports[names[report.name]] = report
            frames += report.frames
            skipped += report.status != "ok"
            if report.status != "ok":
                log.warning("skipped %s: %s", report.name, report.reason)
            progress.advance(frames=frames, skipped=skipped)
    return [reports[task.number] for task in tasks]


def _died(task: StageTask) -> SourceReport:
    """A source that ended its worker process twice."""
    return skip_source(task, "the process that read it died (a damaged file, or too little memory)")


def _check_failures(reports: list[SourceReport], max_failed: float) -> None:
    """Raise FlickerError when nothing is left, or too little."""
    failed = [report for report in reports if report.status != "ok"]
    if not failed:
        return
    first = f"{failed[0].name}: {failed[0].reason}"
    if len(failed) == len(reports):
        raise FlickerError(f"nothing usable: all {len(failed)} sources were skipped; the first, {first}")
    if len(failed) > max_failed * len(reports):
        raise FlickerError(
            f"{len(failed)} of {len(reports)} sources were skipped, more than max_failed {max_failed:g} allows; "
            f"the first, {first}; mend them, or run again with a higher --max_failed (finished work is kept)"
        )


def _pack(tasks: list[PackTask], workers: int) -> list[ShardInfo]:
    """Stage 2: all shards, in order."""
    infos: list[ShardInfo] = []
    with Progress(len(tasks), "packing", "shards") as progress:
        for info in run_all(pack_shard, tasks, workers if len(tasks) > 1 else 0, _no_shard):
            infos.append(info)
            progress.advance(frames=sum(info.frames for info in infos))
    return sorted(infos, key=lambda info: info.name)


def _no_shard(task: PackTask) -> ShardInfo:
    """A shard that cannot be done without."""
    raise FlickerError(f"the process that packed shard {task.number} died twice: free memory and run again")
