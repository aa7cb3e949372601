"""Checking a shard folder: checksums of files and frames, and whether tar, index and manifest agree."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from crc32c import crc32c as checksum

from shards.errors import FlickerError
from shards.files import sha256
from shards.index import BLOCK, ShardIndex, read_index
from shards.manifest import Manifest, read_manifest
from shards.progress import Progress
from shards.schema import ShardInfo, frame_member

END_OF_ARCHIVE = 2 * BLOCK


def verify(directory: str | Path) -> list[str]:
    """Everything that is wrong with a shard folder, one line each; an empty list if nothing is.

    Reads every byte. Checks the digests of the manifest and of the tails; for each shard and index that it exists
    and its size and SHA-256; for each frame and KEY.json its CRC32C and its tar header; that the tar ends where the
    index says; that the clips' successors exist; that webdataset alone finds all clips; that no shard is there which
    the manifest does not list.
    """
    directory = Path(directory)
    try:
        manifest = read_manifest(directory)
    except FlickerError as error:
        return [str(error)]
    problems: list[str] = []
    keys: dict[str, str] = {}
    successors: list[tuple[str, str, str]] = []
    try:
        manifest.tails()
    except FlickerError as error:
        problems.append(str(error))
    with Progress(len(manifest.shards), "verifying", "shards") as progress:
        for shard in manifest.shards:
            index, found = _check_index(directory, shard)
            problems += found
            problems += _check_tar(directory, shard, index)
            for key, following in zip(index.keys, index.next, strict=True) if index else []:
                if key in keys:
                    problems.append(f"{shard.index}: clip {key} is in {keys[key]} too")
                keys[key] = shard.name
                successors += [(shard.index, key, following)] if following else []
            progress.advance(problems=len(problems))
    problems += [
        f"{index}: clip {key} is continued by {following}, which is nowhere"
        for index, key, following in successors
        if following not in keys
    ]
    return problems + _strangers(manifest)


def _check_index(directory: Path, shard: ShardInfo) -> tuple[ShardIndex | None, list[str]]:
    """The index if it can be read, and what is wrong with it."""
    path = directory / shard.index
    if not path.exists():
        return None, [f"{shard.index} is missing"]
    problems = []
    if sha256(path) != shard.index_sha256:
        problems.append(f"{shard.index}: its SHA-256 differs from the manifest's")
    try:
        index = read_index(path.read_bytes(), shard.index)
    except FlickerError as error:
        return None, [*problems, str(error)]
    for what, one, two in (
        ("bytes", index.bytes, shard.bytes),
        ("SHA-256 of the tar", index.sha256, shard.sha256),
        ("clips", len(index), shard.clips),
        ("frames", len(index.length), shard.frames),
    ):
        if one != two:
            problems.append(f"{shard.index}: {what} {one}, the manifest says {two}")
    return index, problems


def _check_tar(directory: Path, shard: ShardInfo, index: ShardIndex | None) -> list[str]:
    """What is wrong with a tar file; its members are named where the index is readable."""
    path = directory / shard.name
    if not path.exists():
        return [f"{shard.name} is missing"]
    problems = []
    if (size := path.stat().st_size) != shard.bytes:
        what = "cut short" if size < shard.bytes else "too long"
        problems.append(f"{shard.name} is {what}: {size} bytes, not {shard.bytes}")
    whole = sha256(path) == shard.sha256
    if not whole:
        problems.append(f"{shard.name}: its SHA-256 differs from the manifest's")
    if index is not None:
        with path.open("rb") as file:
            members = [problem for clip in range(len(index)) for problem in _check_clip(file, index, clip)]
            members += _check_end(file, index, size)
        problems += [f"{shard.name}: {problem}" for problem in [*members, *_check_plain(path, index)]]
    return problems


def _members(index: ShardIndex, clip: int) -> Iterator[tuple[str, int, int, int]]:
    """(name, offset, length, CRC32C) of a clip's members, in tar order."""
    rows = slice(index.row[clip], index.row[clip + 1])
    columns = (column[rows].tolist() for column in (index.offset, index.length, index.crc))
    for position, (offset, length, crc) in enumerate(zip(*columns, strict=True)):
        yield frame_member(index.keys[clip], position), offset, length, crc
    yield f"{index.keys[clip]}.json", *index.meta(clip)


def _check_clip(file: BinaryIO, index: ShardIndex, clip: int) -> Iterator[str]:
    """What is wrong with the members of one clip; a clip that lies beyond the end is one problem."""
    for name, offset, length, crc in _members(index, clip):
        file.seek(max(0, offset - BLOCK))
        header, data = file.read(BLOCK), file.read(length)
        if len(data) < length:
            yield f"clip {index.keys[clip]} is cut off from {name} on"
            return
        if (fault := _header_fault(header, name, length)) is not None:
            yield f"{name}: {fault}"
        if checksum(data) != crc:
            yield f"{name}: its CRC32C differs from the index's"


def _header_fault(header: bytes, name: str, length: int) -> str | None:
    """What is wrong with a tar header; None if it names this member with this length."""
    try:
        member = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        return f"its tar header is damaged ({error})"
    if (member.name, member.size) != (name, length):
        return f"its tar header says {member.name}, {member.size} bytes; the index {length}"
    return None


def _check_end(file: BinaryIO, index: ShardIndex, size: int) -> list[str]:
    """Whether only the tar's zero end marks follow the last member."""
    if not len(index):
        return []
    offset, length, _ = index.meta(len(index) - 1)
    end = offset + -(-length // BLOCK) * BLOCK
    file.seek(end)
    tail = file.read(max(0, size - end))
    if len(tail) < END_OF_ARCHIVE or tail.strip(b"\0"):
        return [f"the tar does not end properly after its last member (byte {end})"]
    return []


def _check_plain(path: Path, index: ShardIndex) -> list[str]:
    """Whether webdataset, which knows no index, finds the same clips with all their frames."""
    import webdataset  # imports torch

    seen: dict[str, int] = {}
    fault = ""
    try:
        for sample in webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False):
            seen[sample["__key__"]] = sum(name.endswith("jpg") for name in sample)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        fault = f" and ends with an error ({(str(error).splitlines() or [type(error).__name__])[0]})"
    whole = sum(seen.get(key) == frames for key, frames in zip(index.keys, index.frames.tolist(), strict=True))
    if whole == len(index) == len(seen) and not fault:
        return []
    return [f"a plain webdataset reader finds {whole} of its {len(index)} clips{fault}"]


def _strangers(manifest: Manifest) -> list[str]:
    """Shards and indexes that the manifest does not list."""
    listed = {name for shard in manifest.shards for name in (shard.name, shard.index)}
    there = {path.name for path in manifest.directory.glob("shard-*") if path.suffix in (".tar", ".idx")}
    return [f"{name} is not in the manifest" for name in sorted(there - listed)]
