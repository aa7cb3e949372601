"""Staged clips to shards: the plan (which clip goes where) and the tar and index files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from shards.files import sha256
from shards.index import ClipEntry, ShardIndex, encode_index, read_index
from shards.order import PACK, permutation
from shards.schema import Options, ShardInfo, frame_member, shard_name
from shards.staging import BLOCK, Clip, StagedClip, clips_path, read_clip

END_OF_ARCHIVE = 2 * BLOCK


@dataclass(frozen=True)
class PlannedClip:
    """One clip on its way from a staging file to a shard."""

    path: Path
    clip: StagedClip
    next: str | None = None
    next_shard: str | None = None


@dataclass(frozen=True)
class PackTask:
    """Everything a worker needs for one shard."""

    number: int
    clips: list[PlannedClip]
    directory: Path
    staging: Path


def plan_shards(
    staged: list[tuple[int, list[StagedClip]]], options: Options, directory: Path, staging: Path
) -> list[PackTask]:
    """Deal all clips, shuffled by the seed, over shards of at most `shard_bytes`, and link successors.

    `staged` holds (source number, its clips in order). The same clips and options give the same plan.
    """
    clips = [PlannedClip(clips_path(staging, number), clip) for number, of in staged for clip in of]
    order = permutation(len(clips), options.seed, PACK)
    shard_of: dict[str, int] = {}
    dealt: list[list[int]] = []
    room = 0
    for position in order.tolist():
        clip = clips[position].clip
        if not dealt or clip.tar_bytes > room:
            dealt.append([])
            room = options.shard_bytes - END_OF_ARCHIVE
        dealt[-1].append(position)
        room -= clip.tar_bytes
        shard_of[clip.key] = len(dealt) - 1
    linked = [_link(clips, position, shard_of) for position in range(len(clips))]
    return [
        PackTask(number, [linked[position] for position in members], directory, staging)
        for number, members in enumerate(dealt)
    ]


def _link(clips: list[PlannedClip], position: int, shard_of: dict[str, int]) -> PlannedClip:
    """The clip with its successor: the next one of the same source and run."""
    here = clips[position]
    if position + 1 == len(clips):
        return here
    after = clips[position + 1]
    if after.path != here.path or after.clip.run != here.clip.run:
        return here
    return PlannedClip(here.path, here.clip, after.clip.key, shard_name(shard_of[after.clip.key]))


def pack_shard(task: PackTask) -> ShardInfo:
    """Write one shard and its index, atomically; a finished one is only looked at. Raises OSError."""
    name = shard_name(task.number)
    tar, index = task.directory / f"{name}.tar", task.directory / f"{name}.idx"
    if not index.exists():
        _write_shard(task, name, tar, index)
    written = read_index(index)
    frames = sum(len(clip.numbers) for clip in written.clips)
    return ShardInfo(tar.name, index.name, written.bytes, written.sha256, sha256(index), len(written.clips), frames)


def _write_shard(task: PackTask, name: str, tar: Path, index: Path) -> None:
    """The tar first, then its index, whose presence says that both are complete."""
    temporary = task.staging / tar.name
    entries = _write_tar(temporary, task.clips)
    record = ShardIndex(name, temporary.stat().st_size, sha256(temporary), entries)
    temporary.replace(tar)
    temporary = task.staging / index.name
    temporary.write_bytes(encode_index(record))
    temporary.replace(index)


def _write_tar(path: Path, clips: list[PlannedClip]) -> list[ClipEntry]:
    """Write the samples with webdataset's TarWriter, every byte fixed by the content; returns where they lie."""
    import webdataset  # imports torch: seconds and 600 MB that only this step should cost

    entries = []
    with path.open("wb") as file:
        writer = webdataset.TarWriter(file, encoder=False, compress=False, mtime=0, user="", group="", mode=0o644)
        for planned in clips:
            clip = read_clip(planned.path, planned.clip.offset)
            start = writer.tarstream.offset
            writer.write(_sample(clip))
            entries.append(_entry(clip, planned, start))
            assert writer.tarstream.offset == start + planned.clip.tar_bytes
        writer.close()
    return entries


def _sample(clip: Clip) -> dict[str, object]:
    """A webdataset sample: `000.jpg`, `001.jpg`, …, `json`."""
    names = [frame_member("", position)[1:] for position in range(len(clip.frames))]
    return {"__key__": clip.key, "json": clip.meta_bytes, **dict(zip(names, clip.frames, strict=True))}


def _entry(clip: Clip, planned: PlannedClip, start: int) -> ClipEntry:
    """The index entry of a sample whose first tar header is at `start`; frames come first, then KEY.json."""
    lengths = [len(frame) for frame in clip.frames]
    *offsets, meta_offset = _data_offsets(start, [*lengths, len(clip.meta_bytes)])
    return ClipEntry(
        key=clip.key,
        source=clip.meta["source"],
        fps=clip.meta["fps"],
        numbers=clip.meta["numbers"],
        offsets=offsets,
        lengths=lengths,
        crc32c=clip.crc32c,
        meta=[meta_offset, len(clip.meta_bytes), google_crc32c.value(clip.meta_bytes)],
        next=planned.next,
        next_shard=planned.next_shard,
    )


def _data_offsets(start: int, sizes: list[int]) -> Iterator[int]:
    """Where the data of successive members begin."""
    for size in sizes:
        yield start + BLOCK
        start += BLOCK + -(-size // BLOCK) * BLOCK
