"""Shard folders without pictures: manifest, indexes and empty tars of the right size."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shards import Manifest, tails
from shards.index import REACH, After, ClipEntry, encode_index, member_bytes, read_index
from shards.manifest import write_manifest
from shards.schema import Options, ShardInfo, SourceReport, shard_name


@dataclass(frozen=True)
class Run:
    """Consecutive frames of a source."""

    source: str
    frames: int
    first: int = 0
    fps: float | None = 30.0


def make_bare(root: Path, runs: Sequence[Run], clip_frames: int = 64, shards: int = 3, seed: int = 0) -> Manifest:
    """The clips of `runs` dealt at random over `shards` shards."""
    root.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    lengths = [draw.integers(300, 3000, run.frames) for run in runs]
    clips = [
        (number, start, min(start + clip_frames, run.frames))
        for number, run in enumerate(runs)
        for start in range(0, run.frames, clip_frames)
    ]
    dealt = draw.permutation(len(clips)) % shards
    place: dict[tuple[int, int], tuple[int, int]] = {}
    ends = [0] * shards
    for (run, start, end), shard in zip(clips, dealt.tolist(), strict=True):
        place[run, start] = shard, ends[shard]
        ends[shard] += int(member_bytes(lengths[run][start:end]).sum()) + 1024
    infos, counts = [], []
    for shard in range(shards):
        mine = [clip for clip, of in zip(clips, dealt.tolist(), strict=True) if of == shard]
        entries = [_entry(runs, lengths, clip_frames, place, *clip) for clip in mine]
        info, index = _write(root, shard, ends[shard] + 1024, entries)
        infos.append(info)
        counts.append(tails.count(shard, index))
    reports = [SourceReport(name, "video", "x") for name in sorted({run.source for run in runs})]
    return write_manifest(root, Options(clip_frames=clip_frames, min_run=1), infos, reports, tails.join(counts))


def crc(run: int, frame: int) -> int:
    """A stand-in that names the frame."""
    return run * 1_000_000 + frame


def _entry(
    runs: Sequence[Run],
    lengths: Sequence[np.ndarray],
    clip_frames: int,
    place: dict[tuple[int, int], tuple[int, int]],
    run: int,
    start: int,
    end: int,
) -> ClipEntry:
    pieces, at, left = [], end, REACH
    while left and at < runs[run].frames:
        stop = min(at + min(clip_frames, left), runs[run].frames)
        shard, offset = place[run, at]
        pieces.append(After(shard, offset, lengths[run][at:stop].tolist(), [crc(run, f) for f in range(at, stop)]))
        left, at = left - (stop - at), at + clip_frames
    return ClipEntry(
        key=f"r{run:03d}_{start:06d}",
        source=runs[run].source,
        fps=runs[run].fps,
        first=runs[run].first + start,
        start=place[run, start][1],
        lengths=lengths[run][start:end].tolist(),
        crc32c=[crc(run, f) for f in range(start, end)],
        meta_length=100,
        meta_crc=0,
        next=f"r{run:03d}_{end:06d}" if end < runs[run].frames else None,
        after=pieces,
    )


def _write(root: Path, shard: int, size: int, entries: list[ClipEntry]) -> tuple[ShardInfo, object]:
    name = shard_name(shard)
    data = encode_index(name, size, "0" * 64, entries)
    (root / f"{name}.idx").write_bytes(data)
    with (root / f"{name}.tar").open("wb") as file:
        file.truncate(size)
    frames = sum(len(entry.lengths) for entry in entries)
    index = read_index(data, name)
    digest = hashlib.sha256(data).hexdigest()
    return ShardInfo(f"{name}.tar", f"{name}.idx", size, "0" * 64, digest, len(entries), frames), index
