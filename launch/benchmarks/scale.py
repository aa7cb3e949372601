"""What grows with the data set, and what must not: start, memory, planning, mixing."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np

from launch.benchmarks.meter import memory_mb
from launch.benchmarks.rows import Job
from shards import PairReader, read_manifest, tails
from shards.fetch import Fetcher
from shards.manifest import Manifest, write_manifest
from shards.order import CLIPS, Order, permutation
from shards.schema import Options, known, shard_name

WINDOW = 131_072
"""The reader's default window, frames."""
VIDEOS = 1_300
"""The paper's, an assumed number."""
CLIP, SHARDS = 64, 512


def multiply(folder: Path, target: Path, shards: int) -> Manifest:
    """A set of so many shards, each a link to one of the set in `folder`."""
    if target.exists():
        return read_manifest(target)
    small = read_manifest(folder)
    rows = small.tails()
    temporary = target.with_name(f".{target.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    infos, parts = [], []
    for number in range(shards):
        original = small.shards[number % len(small.shards)]
        info = replace(original, name=f"{shard_name(number)}.tar", index=f"{shard_name(number)}.idx")
        for link, name in ((info.name, original.name), (info.index, original.index)):
            (temporary / link).symlink_to(folder.resolve() / name)
        here = rows.shard == number % len(small.shards)
        parts.append(
            tails.Tails(np.full(here.sum(), number, np.int32), rows.rate[here], rows.frames[here], rows.tail[here])
        )
        infos.append(info)
    options = Options(**known(Options, {**small.options, "exclude_subjects": ()}))
    write_manifest(temporary, options, infos, small.sources, tails.join(parts))
    temporary.replace(target)
    return read_manifest(target)


def start(job: Job) -> dict[str, float]:
    """Start-up to the first batch and memory of a reader, of `job.amount` shards."""
    import torch  # noqa: F401  what every training process has loaded

    source = Path(job.folder) / "shards"
    folder = Path(job.folder) / f"shards-{job.amount}"
    multiply(source, folder, job.amount)
    before, opened = memory_mb(), time.perf_counter()
    reader = PairReader(read_manifest(folder), seed=0, global_batch=job.batch, workers=1)
    steps = iter(reader)
    next(steps)
    startup = time.perf_counter() - opened
    for _ in range(32):
        next(steps)
    return {"startup_s": startup, "memory_mb": memory_mb() - before}


def plan(job: Job) -> dict[str, float]:
    """Planning `job.amount` frames: from the manifest to the first batch's ranges; the order of a whole epoch."""
    source = Path(job.folder) / "shards"
    small = read_manifest(source)
    shards = -(-job.amount * len(small.shards) // small.frames)
    folder = Path(job.folder) / f"shards-{shards}"
    manifest = multiply(source, folder, shards)
    first = []
    with patch.object(Fetcher, "fill", lambda *_: []):  # the frames themselves are not read
        for seed in range(5):
            opened = time.perf_counter()
            next(iter(PairReader(manifest, seed=seed, global_batch=job.batch)))
            first.append(time.perf_counter() - opened)
    rows = manifest.tails()
    anchors = rows.anchors(np.full(len(rows.shard), 5), shards)
    order = Order(anchors, seed=0, global_batch=job.batch, window_frames=WINDOW)
    opened = time.perf_counter()
    for window in range(order.windows):
        order.window(0, window, slice(0, job.batch))
    epoch = time.perf_counter() - opened
    return {"plan_8m_s": median(first), "order_8m_s": epoch, "planned_frames": float(manifest.frames)}


def mixing(job: Job) -> dict[str, float]:
    """Distinct videos in a batch of 64, simulated: `job.amount` frames of VIDEOS videos, clips dealt over SHARDS."""
    clips = job.amount // CLIP
    video = np.repeat(np.arange(VIDEOS), -(-clips // VIDEOS))[:clips]
    dealt = permutation(clips, 0)  # clips are shuffled over the shards when they are written
    members = np.array_split(video[dealt], SHARDS)
    anchors = np.array([len(part) * CLIP for part in members])
    order = Order(anchors, seed=job.seed, global_batch=64, window_frames=WINDOW)
    distinct = []
    for window in (0, order.windows // 2):
        shard, nth = order.shards_at(0, order.window(0, window, slice(0, 64)))  # [steps 64]
        shown = np.empty(shard.shape, np.int64)
        for number in np.unique(shard).tolist():
            clip = permutation(len(members[number]), job.seed, 0, number, CLIPS)
            here = shard == number
            shown[here] = members[number][clip[nth[here] // CLIP]]
        distinct += [len(np.unique(row)) for row in shown]
    return {"sources_per_batch_8m": float(median(distinct))}
