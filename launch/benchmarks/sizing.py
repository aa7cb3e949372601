"""Disk, time and workers for 8 M, 100 M and 1 B frames, from measured rates.

python -m launch.benchmarks.sizing READER.json WRITER.json prints the tables of docs/data.md.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

from shards.files import read_json

FRAMES = {"8 M frames": 8e6, "100 M frames": 1e8, "1 B frames": 1e9}
CORES = 16
"""That write at once."""
DEMANDS = {"the paper's (A100)": 96.5, "H200, 50 % MFU": 1285.0}
"""Pairs per second that a GPU takes, at the paper's size."""
HOUR, DAY = 3600.0, 86400.0


def rates(reader: dict[str, Any], writer: dict[str, Any]) -> list[tuple[str, str]]:
    """(what, measured value)."""
    read, written = reader["figures"], writer["figures"]
    frame = read["bytes_per_pair"] / read["bytes_per_used"] / 2
    machine = reader["machine"]
    pool = read["decode_once_vs_limit"] / read["vs_limit"] * read["pairs_per_s_per_core"]
    aligned = written.get("align_frames_per_s_per_core")
    return [
        ("machine", f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']:.0f} GB"),
        ("bytes per frame", f"{frame / 1e3:.1f} kB, stored {read['storage_ratio']:.3f}× (tar, index, manifest)"),
        ("reading, per core", f"{read['pairs_per_s_per_core']:,.0f} pairs/s; decode once {pool:,.0f}"),
        ("encoding from 640 x 480 px video, per core", f"{written['frames_per_s_per_core']:,.0f} frames/s"),
        ("the same, faces found and aligned", f"{aligned:,.0f} frames/s" if aligned else "-"),
        ("copying JPEG frames, per core", f"{written['copy_mb_s_per_core']:,.0f} MB/s"),
    ]


def sizes(reader: dict[str, Any], writer: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """(what, one value per number of frames)."""
    read, written = reader["figures"], writer["figures"]
    stored = read["bytes_per_pair"] / read["bytes_per_used"] / 2 * read["storage_ratio"]
    encoding = {"encoded": written["frames_per_s_per_core"], "aligned": written.get("align_frames_per_s_per_core")}
    rows = [("disk (twice that while writing)", [_bytes(n * stored) for n in FRAMES.values()])]
    for name, rate in encoding.items():
        if rate:
            rows.append((f"writing, {name}, {CORES} cores", [_time(n / rate / CORES) for n in FRAMES.values()]))
    for name, demand in DEMANDS.items():
        workers = math.ceil(demand / read["pairs_per_s_per_core"])
        rows.append((f"workers per GPU at {demand:,.0f} pairs/s ({name})", [str(workers)] * len(FRAMES)))
        rows.append((f"an epoch on 8 such GPUs ({name})", [_time(n / demand / 8) for n in FRAMES.values()]))
    return rows


def _bytes(number: float) -> str:
    """GB or TB."""
    return f"{number / 1e12:.2g} TB" if number >= 1e12 else f"{number / 1e9:.0f} GB"


def _time(seconds: float) -> str:
    """Minutes, hours or days."""
    if seconds >= 2 * DAY:
        return f"{seconds / DAY:.1f} days"
    return f"{seconds / HOUR:.1f} h" if seconds >= HOUR else f"{seconds / 60:.0f} min"


def main(arguments: list[str]) -> None:
    """Print both tables as Markdown."""
    reader, writer = (read_json(Path(name), "figures of launch/bench.py") for name in arguments)
    print("| rate | value |\n|---|---|")
    for what, value in rates(reader, writer):
        print(f"| {what} | {value} |")
    print(f"\n| | {' | '.join(FRAMES)} |\n|{'---|' * (len(FRAMES) + 1)}")
    for what, values in sizes(reader, writer):
        print(f"| {what} | {' | '.join(values)} |")


if __name__ == "__main__":
    main(sys.argv[1:])
