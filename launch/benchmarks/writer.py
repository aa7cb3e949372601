"""launch/bench.py writer: our writer against decoding and encoding alone, and against a plain copy."""

from __future__ import annotations

import importlib.util
import itertools
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from statistics import median

from launch.benchmarks import crops, machine, table
from launch.benchmarks.reader import folder_for
from launch.benchmarks.rows import Job, run_apart
from launch.cli import parse
from shards.errors import UsageError
from shards.progress import Progress

ENCODE = {
    "encode_limit": "limit: decode, scale, encode, nothing else",
    "encode": "Flicker, in one process",
    "align": "Flicker, faces found and aligned, in one process",
    "encode_one": "Flicker, 1 worker",
    "encode_two": "Flicker, 2 workers",
}
COPY = {
    "disk": "limit: read every file, write its bytes",
    "copy": "Flicker, in one process",
    "copy_one": "Flicker, 1 worker",
    "copy_two": "Flicker, 2 workers",
    "tar_writer": "webdataset.TarWriter",
}


@dataclass
class WriterConfig:
    """Settings of launch/bench.py writer."""

    json: str = ""
    """file for the figures"""
    data: str = ""
    """folder for the frames and videos (1 GB and as much again while writing); kept (default: temporary)"""
    videos: tuple[str, ...] = ()
    """cut the copied frames from these videos instead of synthetic faces"""
    sources: int = 170
    """sources whose JPEG frames are copied, of 40 to 700 frames each"""
    size: int = 224
    """side of the stored frames, px"""
    cameras: int = 16
    """videos of 150 frames, 640 x 480 px, H.264, whose frames are encoded"""
    copies: int = 3
    """as many copies of videos and JPEG frames for the runs with workers: starting these should not count"""
    repeats: int = 3
    """times that everything is measured, in turn (aligning once)"""
    quick: bool = False
    """a few small frames, once: whether it works, not how fast"""


def main(arguments: list[str]) -> None:
    """Measure, print the tables, write the figures."""
    config = parse(WriterConfig, arguments, command="launch/bench.py writer", description=__doc__ or "")
    if config.repeats < 1 or config.sources < 2 or config.cameras < 1 or config.copies < 1:
        raise UsageError("give at least one of --repeats, --cameras, --copies, and two --sources")
    if config.quick:
        config = replace(config, sources=6, size=64, cameras=2, copies=1, repeats=1)
    about = machine.describe()
    with folder_for(config.data) as folder:
        lengths = crops.draw_lengths(config.sources, *((40, 50, 60) if config.quick else (40, 158, 700)))
        material = crops.make(folder, lengths, config.size, list(config.videos))
        crops.link_frames(folder, material, config.copies)
        crops.make_cameras(folder, config.cameras, 20 if config.quick else 150, config.copies)
        results = _interleave(config, material)
    about["load_after"] = machine.describe()["load"]
    figures = _figures(results, material)
    _print(results, material)
    if config.json:
        table.save(config.json, figures, about, asdict(config))


def _interleave(config: WriterConfig, material: crops.Material) -> dict[str, dict[str, list[float]]]:
    """Row -> cpu_s, wall_s, count -> one value per repeat."""
    rows = [row for row in (*ENCODE, *COPY) if row != "align" or _has_faces()]
    results: dict[str, dict[str, list[float]]] = {row: defaultdict(list) for row in rows}
    with Progress(config.repeats * len(rows), "measuring", "rows") as progress:
        for repeat, row in itertools.product(range(config.repeats), rows):
            if row == "align" and repeat:  # slow, and compared with nothing
                progress.advance(row=row)
                continue
            job = Job(row, str(material.folder), material.lengths, 64, 0, 0, config.size, repeat)
            for name, value in run_apart(job).items():
                results[row][name].append(value)
            progress.advance(row=row)
    return results


def _has_faces() -> bool:
    """Whether faces can be aligned here (dlib is an extra)."""
    return importlib.util.find_spec("dlib") is not None


def _per_frame(of: dict[str, list[float]], what: str) -> list[float]:
    """Seconds per frame of each repeat."""
    return [seconds / count for seconds, count in zip(of[what], of["count"], strict=True)]


def _figures(results: dict[str, dict[str, list[float]]], material: crops.Material) -> dict[str, float]:
    """The numbers of the JSON file."""
    megabytes = material.jpeg_bytes / material.frames / 1e6
    cpu = {row: _per_frame(of, "cpu_s") for row, of in results.items()}
    wall = {row: _per_frame(of, "wall_s") for row, of in results.items()}
    figures = {
        "vs_limit": table.ratio(cpu["encode"], cpu["encode_limit"]),
        "frames_per_s_per_core": 1 / median(cpu["encode"]),
        "workers_2x": table.ratio(wall["encode_two"], wall["encode_one"]),
        "copy_mb_s": megabytes / min(median(wall["copy"]), median(wall["copy_one"]), median(wall["copy_two"])),
        "copy_mb_s_per_core": megabytes / median(cpu["copy"]),
        "copy_vs_disk": table.ratio(wall["copy"], wall["disk"]),
        "copy_vs_tar_writer": table.ratio(cpu["copy"], cpu["tar_writer"]),
        "copy_workers_2x": table.ratio(wall["copy_two"], wall["copy_one"]),
    }
    if "align" in cpu:
        figures["align_frames_per_s_per_core"] = 1 / median(cpu["align"])
    return figures


def _print(results: dict[str, dict[str, list[float]]], material: crops.Material) -> None:
    """The tables."""
    for title, names, limit in (
        ("Encoding: 640 x 480 px H.264 to JPEG q95", ENCODE, "encode_limit"),
        ("Copying JPEG frames bit for bit", COPY, "disk"),
    ):
        rows = []
        for row, name in names.items():
            if row not in results:
                continue
            cpu, wall = _per_frame(results[row], "cpu_s"), _per_frame(results[row], "wall_s")
            of_limit = 100 * table.ratio(cpu, _per_frame(results[limit], "cpu_s")[: len(cpu)])
            mb = material.jpeg_bytes / material.frames / 1e6 / median(wall) if names is COPY else None
            per_core = 1 / median(cpu)
            rows.append((name, table.spread([1e6 * s for s in cpu]), per_core, of_limit, 1 / median(wall), mb))
        head = ("", "CPU µs/frame", "frames/s/core", "% of limit", "frames/s", "MB/s")
        table.show(title, head, rows)
