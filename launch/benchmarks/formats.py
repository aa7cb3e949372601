"""The same frames in every peer's format, written once beside the JPEG files."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import simplejpeg

from launch.benchmarks.crops import Material, write_video
from launch.benchmarks.pairs import CLIP
from launch.benchmarks.streaming import import_streaming

SHARD_BYTES = 64 * 2**20
VIDEOS = 16
"""Sources that decord gets as mp4: it is slow, and opening a video takes memory."""


def shards(material: Material, size: int, workers: int) -> Path:
    """Our shards."""
    from shards import write

    folder = material.folder / "shards"
    if (folder / "manifest.json").exists():
        return folder
    write([material.folder / "frames"], folder, size=size, shard_bytes=SHARD_BYTES, workers=workers, folder_fps=30)
    return folder


def webdataset(material: Material) -> Path:
    """Plain tars of shuffled clips: the files of a clip, nothing else."""
    return _once(material.folder / "webdataset", lambda folder: _write_tars(material, folder))


def streaming(material: Material) -> Path:
    """MDS shards of shuffled clips: a blob of JPEGs and their lengths."""
    return _once(material.folder / "streaming", lambda folder: _write_mds(material, folder))


def videos(material: Material) -> Path:
    """Some of the sources as H.264, GOP 250."""
    return _once(material.folder / "videos", lambda folder: _write_videos(material, folder))


def _once(folder: Path, work: Callable[[Path], None]) -> Path:
    """A folder that is either complete or absent."""
    if not folder.exists():
        temporary = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        work(temporary)
        temporary.replace(folder)
    return folder


def _clips(material: Material) -> Iterator[tuple[str, int, list[bytes]]]:
    """(source, first frame, frames) of every clip, shuffled: in the order of the sources, batches would show one."""
    places = [(s, at) for s, frames in material.lengths.items() for at in range(0, frames, CLIP)]
    random.Random(3).shuffle(places)
    for source, at in places:
        yield source, at, [path.read_bytes() for path in material.paths(source)[at : at + CLIP]]


def _write_tars(material: Material, folder: Path) -> None:
    import webdataset

    with webdataset.ShardWriter(f"{folder}/clips-%06d.tar", maxsize=SHARD_BYTES, verbose=0) as writer:
        for source, at, frames in _clips(material):
            files = {f"{number:03d}.jpg": data for number, data in enumerate(frames)}
            writer.write({"__key__": f"{source}_{at:06d}", **files})


def _write_mds(material: Material, folder: Path) -> None:
    columns = {"source": "str", "lengths": "bytes", "frames": "bytes"}
    with import_streaming().MDSWriter(out=str(folder), columns=columns, size_limit=SHARD_BYTES) as writer:
        for source, _, frames in _clips(material):
            lengths = np.array([len(data) for data in frames], np.int32).tobytes()
            writer.write({"source": source, "lengths": lengths, "frames": b"".join(frames)})


def _write_videos(material: Material, folder: Path) -> None:
    for source in list(material.lengths)[:VIDEOS]:
        images = [simplejpeg.decode_jpeg(path.read_bytes()) for path in material.paths(source)]
        write_video(folder / f"{source}.mp4", images)
