"""Sources to a shard folder: find, encode, shuffle, pack; every finished step survives a kill.

Stage 1 encodes each source into a file of its own under `OUT/.staging` (frames that are taken over unchanged are
only named there); stage 2 deals the clips of all sources, shuffled, over the shards; the manifest comes last and the
staging folder goes. Run again after a kill, both stages pass over what is finished.

Memory: each worker holds one clip, and a few numbers per file of the folder it reads; this process some 7 KB per
source and 80 bytes per clip (`shards.dealing`). OUT needs the space of the finished shards, and the same again
for frames that are encoded.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from shards import tails, workspace
from shards.dealing import PackTask, Plan, deal
from shards.encode import StageTask, skip_source, stage_source
from shards.errors import FlickerError, UsageError
from shards.files import write_text
from shards.manifest import Manifest, write_manifest
from shards.outlook import Outlook, Seen, frames_read, look_at
from shards.pack import Packed, pack_shard
from shards.pool import Pool
from shards.progress import Progress
from shards.schema import Options, SourceReport
from shards.sources import Source, discover, settings
from shards.staging import read_summary, staged_path
from shards.workspace import FAILURES

log = logging.getLogger(__name__)


def write(
    sources: Sequence[str | Path] | str | Path,
    out: str | Path,
    *,
    size: int = 256,
    face: str = "none",
    track: str = "fixed",
    quality: int = 95,
    clip_frames: int = 64,
    shard_bytes: int = 256 * 2**20,
    workers: int = 0,
    seed: int = 0,
    max_failed: float = 1.0,
    min_run: int = 6,
    folder_fps: float | None = None,
    thin: float | None = None,
    dataset: str = "",
    exclude_subjects: Sequence[str] = (),
) -> Manifest:
    """Write video files and frame folders as shards under `out`; see `Options` for the settings and units.

    `workers` processes encode (0: this one); their number never changes a byte. Sources that cannot be used are
    skipped, listed in `out/failures.txt` and reported in the manifest; once their share is certain to be above
    `max_failed` (0 to 1) the run stops. Calling it again with the same arguments continues an interrupted run, and
    does nothing once it is finished. `dataset` and `exclude_subjects`: see `shards.sources.discover`.

    Raises FlickerError: a source path that does not exist, nothing usable, too many failures, `out` holding
    shards of other sources or options, another run writing there, dlib missing for box or align, disk full, a
    source that changed while it was read.
    """
    paths = [sources] if isinstance(sources, str | Path) else sources
    name, excluded = settings(paths, dataset, exclude_subjects)
    options = Options(
        size, face, quality, clip_frames, shard_bytes, seed, min_run, folder_fps, thin, track, name, excluded
    )
    if workers < 0 or not 0 <= max_failed <= 1:
        raise UsageError(f"workers {workers} must be 0 or more and max_failed {max_failed} a share, 0 to 1")
    if face != "none":
        from shards.faces import require

        require(face, track)
    directory = Path(out)
    found = discover(paths, exclude=directory, dataset=dataset, exclude_subjects=exclude_subjects)
    with Pool(workers) as pool:
        seen = look_at(found, pool)
        if (manifest := workspace.finished(directory, options, found, [item.identity for item in seen])) is not None:
            return manifest
        try:
            return _write(directory, options, found, seen, pool, max_failed)
        except OSError as error:
            raise FlickerError(
                f"cannot write {error.filename or directory}: {error.strerror or error}: mend that and run again; "
                "what is finished is kept"
            ) from None


def _write(
    directory: Path, options: Options, found: list[Source], seen: list[Seen], pool: Pool, max_failed: float
) -> Manifest:
    """Both stages and the manifest."""
    marks = [item.identity for item in seen]
    with workspace.opened(directory, options, found, marks) as staging:
        _stage(found, seen, options, staging, pool, max_failed)
        plan, reports = _plan(len(found), staging, options)
        _tell_failures(directory, reports)
        _check_failures([report for report in reports if report.status != "ok"], len(reports), max_failed)
        folders = {number: source.path for number, source in enumerate(found) if source.kind == "folder"}
        packed = _pack(plan, directory, staging, folders, pool)
        infos, counts = [shard.info for shard in packed], tails.join([shard.tails for shard in packed])
        manifest = write_manifest(directory, options, infos, reports, counts)
    workspace.close(directory)
    return manifest


def _stage(
    found: list[Source], seen: list[Seen], options: Options, staging: Path, pool: Pool, max_failed: float
) -> None:
    """Stage 1: the sources that are not done yet, the longest first, so that none is left for the end.

    Raises FlickerError as soon as more than `max_failed` of all sources are certain to be skipped.
    """
    outlook, failed = Outlook(found, seen), list[SourceReport]()
    open_numbers, frames = [], 0
    for number, item in enumerate(seen):
        if not staged_path(staging, number).exists():
            open_numbers.append(number)
            continue
        report = read_summary(staging, number)[0]
        outlook.finish(report, item)
        frames += frames_read(report)
        failed += [report] if report.status != "ok" else []
    done = len(found) - len(open_numbers)
    if done:
        log.info("continuing: %d of %d sources are encoded already", done, len(found))
    open_numbers.sort(key=lambda number: -seen[number].cost(found[number].kind))
    tasks = (StageTask(n, found[n], seen[n].identity, options, staging) for n in open_numbers)
    with Progress(outlook.total, "encoding", "frames", done=frames) as progress:
        pool.heard = progress.advance
        for number, report in pool.run(_staged, tasks, _died):
            done += 1
            outlook.finish(report, seen[number])
            progress.expect(outlook.total)
            if report.status != "ok":
                log.warning("skipped %s: %s", report.name, report.reason)
                failed.append(report)
                if len(failed) > max_failed * len(found):
                    _tell_failures(staging.parent, failed)
                    _check_failures(failed, len(found), max_failed, so_far=done < len(found))
            progress.advance(0, sources=f"{done}/{len(found)}", skipped=len(failed))


def _staged(task: StageTask) -> tuple[int, SourceReport]:
    return task.number, stage_source(task)


def _died(task: StageTask) -> tuple[int, SourceReport]:
    """A source that ended its worker process twice."""
    return task.number, skip_source(task, "the process that read it died (a damaged file, or too little memory)")


def _plan(sources: int, staging: Path, options: Options) -> tuple[Plan, list[SourceReport]]:
    """The shards of all staged clips, and all reports, in order."""
    reports, columns = [], []
    for number in range(sources):
        report, staged = read_summary(staging, number)
        reports.append(report)
        columns.append(staged)
    return deal(columns, options), reports


def _tell_failures(directory: Path, reports: Sequence[SourceReport]) -> None:
    """`failures.txt`: name and reason of every skipped source, a line each; no file where there is none."""
    lines = sorted(f"{report.name}: {report.reason}\n" for report in reports if report.status != "ok")
    if lines:
        write_text(directory / FAILURES, "".join(lines))
    else:
        (directory / FAILURES).unlink(missing_ok=True)


def _check_failures(failed: Sequence[SourceReport], total: int, max_failed: float, so_far: bool = False) -> None:
    """Raise FlickerError when nothing is left, or too little."""
    if not failed:
        return
    first = f"{failed[0].name}: {failed[0].reason}"
    if len(failed) == total:
        raise FlickerError(f"nothing usable: all {total} sources were skipped; the first, {first}")
    if len(failed) > max_failed * total:
        raise FlickerError(
            f"{len(failed)} of {total} sources were skipped{' so far' if so_far else ''}, more than max_failed "
            f"{max_failed:g} allows; the first, {first}; all are in {FAILURES}; mend them, or run again with a "
            "higher --max_failed (finished work is kept)"
        )


def _pack(plan: Plan, directory: Path, staging: Path, folders: dict[int, Path], pool: Pool) -> list[Packed]:
    """Stage 2: all shards, in order."""
    packed: list[Packed] = []
    tasks = (plan.task(number, directory, staging, folders) for number in range(len(plan)))
    with Progress(plan.frames, "packing", "frames") as progress:
        workers = pool if len(plan) > 1 else Pool(0)
        workers.heard = progress.advance
        for shard in workers.run(pack_shard, tasks, _no_shard):
            packed.append(shard)
            progress.advance(0, shards=f"{len(packed)}/{len(plan)}")
    return sorted(packed, key=lambda shard: shard.number)


def _no_shard(task: PackTask) -> Packed:
    """A shard that cannot be done without."""
    raise FlickerError(f"the process that packed shard {task.number} died twice: free memory and run again")
