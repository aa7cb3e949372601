"""One measurement in a process of its own: `python -m launch.benchmarks.rows JOB` prints its result as JSON."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from launch.benchmarks import apart
from launch.benchmarks.crops import Material
from launch.benchmarks.meter import Usage, memory_mb, usage

READERS = ("bounds", "peers", "flicker")
"""Modules whose functions yield batches; those of the others measure themselves."""
HOMES = {
    **dict.fromkeys(("limit", "decord"), "bounds"),
    **dict.fromkeys(("webdataset", "streaming", "loose"), "peers"),
    **dict.fromkeys(("inside", "ring", "ring_two", "pool"), "flicker"),
    **dict.fromkeys(("phases", "amounts"), "phases"),
    **dict.fromkeys(("start", "plan", "mixing"), "scale"),
    **dict.fromkeys(("encode_limit", "encode", "align", "encode_one", "encode_two"), "writing"),
    **dict.fromkeys(("copy", "copy_one", "copy_two", "tar_writer", "disk"), "writing"),
}
"""The module of each measurement; those without torch start faster."""


@dataclass(frozen=True)
class Job:
    """What a process is to measure."""

    row: str
    """a key of HOMES, or several with `+` between them"""
    folder: str
    """the material"""
    lengths: dict[str, int]
    batch: int
    pairs: int
    """measured; as many batches are read before, unmeasured, as `warm` says"""
    warm: int
    size: int
    seed: int
    amount: int = 0
    """frames to plan, or shards to open"""


@dataclass(frozen=True)
class Result:
    """What came of it, per pair unless said otherwise."""

    cpu_us: float
    """of the process and its workers"""
    wall_us: float
    read_bytes: float
    startup_s: float
    """from opening to the first batch, imports excluded"""
    memory_mb: float
    """the most that was in use after the first batch, less what was before opening"""
    sources: float
    """distinct sources in a batch, median"""


def measure(row: Callable[..., Any], job: Job) -> Result:
    """Open a row, read past its start, then measure whole batches."""
    material = Material(Path(job.folder), job.lengths, 0)
    before, opened = memory_mb(), time.perf_counter()
    batches = row(material, job.batch, job.size, job.seed)
    first = next(batches)
    startup = time.perf_counter() - opened
    distinct = [len(set(sources)) for sources in [first, *itertools.islice(batches, job.warm // job.batch)]]
    used = memory_mb()
    start, count = usage(), max(1, job.pairs // job.batch)
    for _ in range(count):
        next(batches)
    spent: Usage = usage() - start
    used = max(used, memory_mb()) - before
    distinct += [len(set(sources)) for sources in itertools.islice(batches, job.warm // job.batch)]
    batches.close()
    per = 1 / (count * job.batch)
    return Result(
        spent.cpu * per * 1e6, spent.wall * per * 1e6, spent.read * per, startup, used, float(median(distinct))
    )


def run_apart(job: Job) -> dict[str, Any]:
    """The result of a job, measured in a new process. Raises FlickerError with its last words if it fails."""
    return dict(apart.run("launch.benchmarks.rows", asdict(job), 1, f"the measurement of {job.row} failed"))


def main() -> None:
    """Measure the job that the command line holds."""
    job = Job(**json.loads(sys.argv[1]))
    result: dict[str, float] = {}
    for name in job.row.split("+"):
        module = importlib.import_module(f"launch.benchmarks.{HOMES[name]}")
        done = getattr(module, name)
        result |= asdict(measure(done, job)) if HOMES[name] in READERS else done(job)
    apart.tell(result)
    os._exit(0)  # workers that are still filling batches need not be waited for


if __name__ == "__main__":
    main()
