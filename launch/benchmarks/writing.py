"""Ways to write shards, measured one by one in processes of their own."""

from __future__ import annotations

import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import simplejpeg

from launch.benchmarks.crops import QUALITY, Material
from launch.benchmarks.rows import Job

CLIP = 64


def _timed(work: Callable[[Path], int], beside: Path) -> dict[str, float]:
    """CPU (this process and those it waited for), wall time, and what `work` counts; its output is removed."""
    target = Path(tempfile.mkdtemp(prefix=".written-", dir=beside))
    cpu, opened = _cpu(), time.perf_counter()
    try:
        count = work(target)
        return {"count": count, "cpu_s": _cpu() - cpu, "wall_s": time.perf_counter() - opened}
    finally:
        shutil.rmtree(target)


def _cpu() -> float:
    """Seconds, user and system."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(of.ru_utime + of.ru_stime for of in used)


def encode_limit(job: Job) -> dict[str, float]:
    """Decode in order, cut the central square, scale, encode: frames that go nowhere."""
    import decord

    cv2.setNumThreads(1)

    def work(_: Path) -> int:
        count = 0
        for path in sorted((Path(job.folder) / "camera").glob("*.mp4")):
            for frame in decord.VideoReader(str(path), num_threads=1):
                image = frame.asnumpy()
                height, width = image.shape[:2]
                side = min(height, width)
                top, left = (height - side) // 2, (width - side) // 2
                square = image[top : top + side, left : left + side]
                scaled = cv2.resize(square, (job.size, job.size), interpolation=cv2.INTER_AREA)
                simplejpeg.encode_jpeg(scaled, QUALITY, "RGB", "420")
                count += 1
        return count

    return _timed(work, Path(job.folder))


def _write(job: Job, source: str, workers: int, face: str = "none") -> dict[str, float]:
    """`shards.write` of a folder of sources."""
    from shards import write

    def work(target: Path) -> int:
        options = {"size": job.size, "workers": workers, "shard_bytes": 64 * 2**20, "face": face}
        return write([Path(job.folder) / source], target / "shards", **options).frames  # type: ignore[arg-type]

    return _timed(work, Path(job.folder))


def tar_writer(job: Job) -> dict[str, float]:
    """Plain webdataset: the JPEG files of each clip to one tar."""
    import webdataset

    material = Material(Path(job.folder), job.lengths, 0)

    def work(target: Path) -> int:
        with webdataset.TarWriter(str(target / "clips.tar")) as writer:
            for source in job.lengths:
                paths = material.paths(source)
                for at in range(0, len(paths), CLIP):
                    files = {f"{n:03d}.jpg": path.read_bytes() for n, path in enumerate(paths[at : at + CLIP])}
                    writer.write({"__key__": f"{source}_{at:06d}", **files})
        return material.frames

    return _timed(work, Path(job.folder))


def disk(job: Job) -> dict[str, float]:
    """Read every JPEG file and write its bytes to one file."""
    material = Material(Path(job.folder), job.lengths, 0)

    def work(target: Path) -> int:
        with (target / "all").open("wb", buffering=1 << 20) as file:
            for source in job.lengths:
                for path in material.paths(source):
                    file.write(path.read_bytes())
        return material.frames

    return _timed(work, Path(job.folder))


def encode(job: Job) -> dict[str, float]:
    """Our writer, in one process."""
    return _write(job, "camera", 0)


def align(job: Job) -> dict[str, float]:
    """Our writer, in one process, faces found and aligned."""
    return _write(job, "camera", 0, face="align")


def encode_one(job: Job) -> dict[str, float]:
    """One worker."""
    return _write(job, "cameras", 1)


def encode_two(job: Job) -> dict[str, float]:
    """Two workers."""
    return _write(job, "cameras", 2)


def copy(job: Job) -> dict[str, float]:
    """JPEG files of the stored size, in one process."""
    return _write(job, "many", 0)


def copy_one(job: Job) -> dict[str, float]:
    """One worker."""
    return _write(job, "many", 1)


def copy_two(job: Job) -> dict[str, float]:
    """Two workers."""
    return _write(job, "many", 2)
