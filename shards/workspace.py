"""The folder being written: whose it is, what is finished, and that one run writes it at a time."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shards.errors import FlickerError
from shards.files import read_json, write_json
from shards.manifest import MANIFEST, Manifest, read_manifest
from shards.schema import TAILS, VERSION, Options
from shards.sources import Source
from shards.staging import read_summary, staged_path

log = logging.getLogger(__name__)
STAGING = ".staging"
FAILURES = "failures.txt"


def finished(directory: Path, options: Options, found: Sequence[Source], marks: Sequence[str]) -> Manifest | None:
    """The manifest of a folder that these very sources and options have filled. FlickerError if others did."""
    if not (directory / MANIFEST).exists():
        return None
    manifest = read_manifest(directory)
    listed = {source.name: source.identity for source in manifest.sources}
    was = {"version": VERSION, "options": manifest.options, "sources": listed}
    _compare(was, _plan(options, found, marks), directory)
    sizes = {directory / shard.name: shard.bytes for shard in manifest.shards}
    there = [*(directory / shard.index for shard in manifest.shards), directory / TAILS]
    for path in [*sizes, *there]:
        if not path.exists() or path.stat().st_size != sizes.get(path, path.stat().st_size):
            raise FlickerError(f"{path} is missing or cut short: delete {directory} and write it again")
    shutil.rmtree(directory / STAGING, ignore_errors=True)  # left by a kill in the last moment
    return manifest


@contextlib.contextmanager
def opened(directory: Path, options: Options, found: Sequence[Source], marks: Sequence[str]) -> Iterator[Path]:
    """The staging folder, locked against a second run and checked to belong to these sources and options.

    A source that was skipped, or not yet read, may have changed since (somebody mended it), as long as no shard is
    written. Raises FlickerError: other sources or options, another run, shards of unknown origin, no permission.
    """
    staging = directory / STAGING
    plan = staging / "plan.json"
    try:
        if not plan.exists() and any(directory.glob("shard-*")):
            raise FlickerError(f"{directory} holds shards without a manifest: give another --out, or delete it")
        staging.mkdir(parents=True, exist_ok=True)
        lock = (staging / "lock").open("w")
    except OSError as error:
        raise FlickerError(f"cannot write to {directory}: {error.strerror}") from None
    with lock:
        _lock(lock.fileno(), directory)
        _sweep(directory, staging)
        now = _plan(options, found, marks)
        if plan.exists():
            was = read_json(plan, "staging plan")
            _forget_mended(was, directory, staging, found, marks)
            _compare(was, now, directory)
        write_json(plan, now)
        yield staging


def close(directory: Path) -> None:
    """Remove the staging folder."""
    shutil.rmtree(directory / STAGING, ignore_errors=True)


def _lock(lock: int, directory: Path) -> None:
    """Raise FlickerError if another run holds the lock."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FlickerError(f"another run is writing {directory}: wait for it, or end it") from None
    except OSError as error:  # some network file systems know no locks
        log.warning("%s cannot be locked (%s): start no second run on it", directory, error.strerror)


def _sweep(directory: Path, staging: Path) -> None:
    """Remove what a killed run left half-written."""
    of_names = [path for name in (MANIFEST, TAILS, FAILURES) for path in directory.glob(f".{name}.*")]
    for path in [*staging.glob(".*"), *of_names]:
        path.unlink(missing_ok=True)


def _plan(options: Options, found: Sequence[Source], marks: Sequence[str]) -> dict[str, Any]:
    """What must be equal for a run to continue another."""
    listed = {source.name: mark for source, mark in zip(found, marks, strict=True)}
    return {"version": VERSION, "options": options.record(), "sources": listed}


def _forget_mended(
    was: dict[str, Any], directory: Path, staging: Path, found: Sequence[Source], marks: Sequence[str]
) -> None:
    """Take changed sources that nothing was made of into the old plan `was`, to be read (again)."""
    old = was["sources"]
    if old.keys() != {source.name for source in found} or any(directory.glob("shard-*")):
        return
    for number, (source, mark) in enumerate(zip(found, marks, strict=True)):
        if old[source.name] != mark:
            staged = staged_path(staging, number)
            if not staged.exists() or read_summary(staging, number)[0].status != "ok":
                staged.unlink(missing_ok=True)
                old[source.name] = mark


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
