"""A look inside our reader: where the time goes, and what is read."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
from crc32c import crc32c as checksum

from launch.benchmarks.crops import Material
from launch.benchmarks.meter import usage
from launch.benchmarks.rows import Job
from shards import PairReader, read_manifest
from shards.fetch import Fetcher

LENGTH = 2  # row of the byte ranges that a Fetcher is asked for
TURNS = 3


def phases(job: Job) -> dict[str, float]:
    """CPU µs per pair of each part of the reader, by leaving parts out; medians of interleaved runs."""
    whole, no_decode, no_read, copied = [], [], [], []
    for turn in range(TURNS):
        whole.append(_timed(job, turn, 0))
        with patch.object(Fetcher, "_decode", _nothing):
            no_decode.append(_timed(job, turn, 0))
        with patch.object(Fetcher, "read", _nothing):
            no_read.append(_timed(job, turn, 0))
        with _bare_workers():
            copied.append(_timed(job, turn, 1))
    order, crc = median(no_read), 2 * _crc_us(job)
    return {
        "order_us": order,
        "read_us": median(no_decode) - order - crc,
        "crc_us": crc,
        "decode_us": median(whole) - median(no_decode),
        "transport_us": median(copied),
    }


def _nothing(*_: Any) -> None:
    """In place of a part that is left out."""


def _timed(job: Job, seed: int, workers: int) -> float:
    """CPU µs per pair of a reader, past its start."""
    reader = PairReader(
        read_manifest(Path(job.folder) / "shards"), seed=seed, global_batch=job.batch, workers=workers
    )
    steps = iter(reader)
    count = min(job.pairs // job.batch, reader.steps_per_epoch - 5)
    for _ in range(4):
        next(steps)
    start = usage()
    for _ in range(count):
        next(steps)
    spent = (usage() - start).cpu
    del steps
    reader.close()
    return spent / (count * job.batch) * 1e6


def _bare_workers() -> Any:
    """Reader processes that fill batches by copying one picture: neither reading nor decoding."""
    start = subprocess.Popen

    def bare(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        return start([word.replace("shards.worker", "launch.benchmarks.bare_worker") for word in command], **options)

    return patch("shards.workers.subprocess.Popen", bare)


def _crc_us(job: Job) -> float:
    """CPU µs of one frame's CRC32C."""
    material = Material(Path(job.folder), job.lengths, 0)
    frames = [path.read_bytes() for source in list(job.lengths)[:40] for path in material.paths(source)[:20]]
    start = usage()
    for _ in range(50):
        for data in frames:
            checksum(data)
    return (usage() - start).cpu / (50 * len(frames)) * 1e6


def amounts(job: Job) -> dict[str, float]:
    """Bytes read, opening included, over the bytes of the frames used; and what can serve as I_t."""
    used = 0

    def count(fetcher: Fetcher, where: np.ndarray, *rest: Any) -> Any:
        nonlocal used
        used += int(where[LENGTH].sum())
        return fill(fetcher, where, *rest)

    fill = Fetcher.fill
    with ExitStack() as stack:
        stack.enter_context(patch.object(Fetcher, "fill", count))
        stack.enter_context(patch.object(Fetcher, "_decode", _nothing))
        start = usage()
        reader = PairReader(read_manifest(Path(job.folder) / "shards"), seed=0, global_batch=job.batch)
        pairs = sum(job.batch for _ in reader)
        read = (usage() - start).read
    frames = sum(job.lengths.values())
    with_partner = sum(max(0, length - 5) for length in job.lengths.values())
    return {
        "bytes_per_used": read / used,
        "bytes_per_pair": read / pairs,
        "it_share": reader.coverage * frames / with_partner,
    }
