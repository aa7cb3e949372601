"""launch/bench.py reader: our reader against the other ways to read the same frames, in one run."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from launch.benchmarks import crops, formats, machine, streaming, table
from launch.benchmarks.rows import Job, run_apart
from launch.cli import parse
from shards.errors import UsageError
from shards.progress import Progress

TITLES = {
    "limit": "limit: two decodes per pair, nothing else",
    "inside": "Flicker, in the training process",
    "ring": "Flicker, 1 worker",
    "ring_two": "Flicker, 2 workers",
    "pool": "Flicker, decode once, 1 worker",
    "webdataset": "webdataset clips, DataLoader, 1 worker",
    "streaming": "MosaicML Streaming clips, DataLoader, 1 worker",
    "loose": "loose JPEG files, PIL, DataLoader, 1 worker",
    "decord": "decord random access to mp4, in process",
}
FRAMES = 8_000_000
"""The paper's."""
PEERS = ("webdataset", "streaming", "loose", "decord")
SLOW = {"decord": 40, "loose": 2}
"""These measure that many times fewer pairs."""
PARTS = {
    "order_us": "order and batch",
    "read_us": "read",
    "crc_us": "CRC32C",
    "decode_us": "decode",
    "transport_us": "reader without read and decode, pictures copied, 1 worker",
}


@dataclass
class ReaderConfig:
    """Settings of launch/bench.py reader."""

    json: str = ""
    """file for the figures"""
    data: str = ""
    """folder for the frames and their copies in every format (2.5 GB); kept and used again (default: temporary)"""
    videos: tuple[str, ...] = ()
    """cut the frames from these videos instead of synthetic faces"""
    sources: int = 170
    """sources, of 40 to 700 frames each, 158 typically"""
    size: int = 224
    """side of the frames, px"""
    batch: int = 64
    """pairs per batch"""
    pairs: int = 8192
    """pairs measured per row and repeat (decord a fortieth, loose files half, decode once an epoch)"""
    repeats: int = 3
    """times that every row is measured, all rows in turn"""
    peers: tuple[str, ...] = PEERS
    """which others to measure"""
    shards: int = 50_000
    """shards of the data set that start-up and memory are measured with"""
    quick: bool = False
    """a few small frames, once: whether it works, not how fast"""


def main(arguments: list[str]) -> None:
    """Measure, print the tables, write the figures."""
    config = parse(ReaderConfig, arguments, command="launch/bench.py reader", description=__doc__ or "")
    if config.pairs < config.batch or config.repeats < 1 or config.sources < 2:
        raise UsageError("give --pairs of at least a batch, --repeats of at least 1, --sources of at least 2")
    if unknown := sorted(set(config.peers) - set(PEERS)):
        raise UsageError(f"unknown peer {unknown[0]}: give some of {', '.join(PEERS)}")
    if config.quick:
        config = replace(config, sources=6, size=64, batch=16, pairs=96, repeats=1, shards=300)
    about = machine.describe(streaming.PLACE)
    with folder_for(config.data) as folder:
        material, peers = _prepare(config, folder)
        results = _interleave(config, material, peers)
        look = replace(_job(config, material, "phases+amounts+mixing+plan"), amount=10**5 if config.quick else FRAMES)
        start = _job(config, material, "start")
        parts = {
            "look": run_apart(look),
            "large": run_apart(replace(start, amount=config.shards)),
            "small": {} if config.quick else run_apart(replace(start, amount=8)),
        }
        parts["storage"] = {"storage_ratio": _stored(folder / "shards") / material.jpeg_bytes}
    about["load_after"] = machine.describe()["load"]
    figures = _figures(results, parts)
    _print(config, material, results, parts, figures)
    for line in _absent(config, peers):
        print(line)
    if config.json:
        table.save(config.json, figures, about, asdict(config))


@contextlib.contextmanager
def folder_for(data: str) -> Iterator[Path]:
    """The folder that was asked for, or a temporary one."""
    if data:
        Path(data).mkdir(parents=True, exist_ok=True)
        yield Path(data)
        return
    with tempfile.TemporaryDirectory(prefix="flicker-bench-") as temporary:
        yield Path(temporary)


def _prepare(config: ReaderConfig, folder: Path) -> tuple[crops.Material, list[str]]:
    """Frames and formats; which peers can be measured."""
    limits = (40, 50, 60) if config.quick else (40, 158, 700)
    lengths = crops.draw_lengths(config.sources, *limits)
    material = crops.make(folder, lengths, config.size, list(config.videos))
    formats.shards(material, config.size, 2)
    peers = [peer for peer in PEERS if peer in config.peers and (peer != "streaming" or streaming.available())]
    makers = {"webdataset": formats.webdataset, "streaming": formats.streaming, "decord": formats.videos}
    for peer in peers:
        if peer in makers:
            logging.info("writing the frames for %s", peer)
            makers[peer](material)
    return material, peers


def _job(config: ReaderConfig, material: crops.Material, row: str, seed: int = 0) -> Job:
    """The job of one row and repeat."""
    pairs, batch = config.pairs, config.batch
    if row == "pool":  # whole epochs: frames are decoded at their first use, so the early batches cost more
        pairs = sum(max(0, frames - 5) for frames in material.lengths.values()) // batch * batch
    if row in SLOW:
        pairs, batch = max(pairs // SLOW[row], 16), 16 if row == "decord" else batch
    return Job(row, str(material.folder), material.lengths, batch, pairs, min(1024, pairs), config.size, seed)


def _interleave(
    config: ReaderConfig, material: crops.Material, peers: list[str]
) -> dict[str, dict[str, list[float]]]:
    """Row -> what was measured -> one value per repeat."""
    rows = ["limit", "inside", "ring", "pool", "ring_two", *peers]
    results: dict[str, dict[str, list[float]]] = {row: defaultdict(list) for row in rows}
    with Progress(config.repeats * len(rows), "measuring", "rows") as progress:
        for repeat in range(config.repeats):
            for row in rows:
                for name, value in run_apart(_job(config, material, row, repeat)).items():
                    results[row][name].append(value)
                progress.advance(row=row)
    return results


def _stored(folder: Path) -> int:
    """Bytes of a shard folder."""
    return sum(path.stat().st_size for path in folder.iterdir())


def _figures(results: dict[str, dict[str, list[float]]], parts: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The numbers of the JSON file."""
    cpu = {row: values["cpu_us"] for row, values in results.items()}
    figures = {
        "vs_limit": table.ratio(cpu["ring"], cpu["limit"]),
        "inside_vs_limit": table.ratio(cpu["inside"], cpu["limit"]),
        "decode_once_vs_limit": table.ratio(cpu["pool"], cpu["limit"]),
        "pairs_per_s_per_core": 1e6 / median(cpu["ring"]),
        "sources_per_batch": median(results["ring"]["sources"]),
        "startup_s": median(results["ring"]["startup_s"]),
        "memory_mb": max(results["ring"]["memory_mb"]),
        "decode_once_memory_mb": max(results["pool"]["memory_mb"]),
        "workers_2x": table.ratio(results["ring_two"]["wall_us"], results["ring"]["wall_us"]),
        "workers_2x_cpu": table.ratio(cpu["ring"], cpu["ring_two"]),
    }
    for peer in PEERS:
        if peer in cpu:
            figures[f"vs_{peer}"] = table.ratio(cpu["ring"], cpu[peer])
    if "webdataset" in cpu:
        figures["decode_once_vs_webdataset"] = table.ratio(cpu["pool"], cpu["webdataset"])
    for part in ("look", "storage"):
        figures |= parts[part]
    for part in ("large", "small"):
        figures |= {f"{name}_{part}": value for name, value in parts[part].items()}
    return figures


def _print(
    config: ReaderConfig,
    material: crops.Material,
    results: dict[str, dict[str, list[float]]],
    parts: dict[str, dict[str, Any]],
    figures: dict[str, float],
) -> None:
    """The tables."""
    limit = results["limit"]["cpu_us"]
    rows = []
    for row, of in results.items():
        cpu = of["cpu_us"]
        rows.append(
            (
                TITLES[row],
                table.spread(cpu),
                1e6 / median(cpu),
                100 * table.ratio(cpu, limit),
                1e6 / median(of["wall_us"]),
                median(of["startup_s"]),
                float(max(of["memory_mb"])),
                None if row in ("limit", "decord") else median(of["sources"]),
            )
        )
    head = ("", "CPU µs/pair", "pairs/s/core", "% of limit", "pairs/s", "start s", "MB", f"sources/{config.batch}")
    frames = f"{material.frames:,} frames of {config.sources} sources, {config.size} px, "
    table.show(f"{frames}{material.jpeg_bytes / material.frames / 1e3:.1f} kB each", head, rows)
    table.show("Where the CPU time goes", ("", "µs/pair"), [(PARTS[key], parts["look"][key]) for key in PARTS])
    table.show("Amounts", ("", ""), [(name, figures[name]) for name in _AMOUNTS if name in figures])


_AMOUNTS = (
    "bytes_per_pair",
    "bytes_per_used",
    "storage_ratio",
    "it_share",
    "workers_2x",
    "workers_2x_cpu",
    "plan_8m_s",
    "order_8m_s",
    "sources_per_batch_8m",
    "startup_s_large",
    "memory_mb_large",
    "memory_mb_small",
)


def _absent(config: ReaderConfig, peers: list[str]) -> list[str]:
    """What could not be measured, and how to have it."""
    if "streaming" in config.peers and "streaming" not in peers:
        return [f"\nvs_streaming is left out: {streaming.MISSING}"]
    return []
