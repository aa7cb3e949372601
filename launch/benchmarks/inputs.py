"""python -m launch.benchmarks.inputs: preparing the inputs of all five heads, against the bare dlib and OpenCV calls.

Every row is measured in a process of its own, one thread per process, after all images have been read once. The
times of rows with workers include starting them. On a busy machine only processor time means anything. Nothing is
extrapolated: rates are of the clips that were prepared.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from launch.benchmarks import inputs_rows, machine, table
from launch.benchmarks.inputs_rows import Job
from launch.cli import parse, run
from shards.errors import UsageError
from shards.progress import Progress

DIRECT = "direct"


@dataclass
class InputsConfig:
    """Settings of python -m launch.benchmarks.inputs."""

    root: str = ""
    """folder of a labelled dataset"""
    dataset: str = "casme2"
    """its loader, as data.dataset of launch/finetune.py"""
    clips: int = 0
    """clips to prepare, spread over the dataset (0: all)"""
    workers: tuple[int, ...] = (1, 2)
    """numbers of processes to measure"""
    long_size: int = 224
    """side of the frames that long-term flow is computed on, px"""
    repeats: int = 1
    """times that everything is measured, in turn; medians are shown"""
    json: str = ""
    """file for the figures"""


def main(arguments: list[str]) -> None:
    """Measure, print the tables, write the figures."""
    words = re.sub(r"--workers((?: \d+)+)", _list, " ".join(arguments)).split(" ") if arguments else []
    description = __doc__ or ""
    config = parse(InputsConfig, words, command="python -m launch.benchmarks.inputs", description=description)
    if not config.root or not config.workers or min(config.workers) < 1 or config.repeats < 1 or config.clips < 0:
        raise UsageError("give --root DIR, at least one of --workers and of --repeats, and no negative --clips")
    about = machine.describe()
    results = _measure(config)
    about["load_after"] = machine.describe()["load"]
    _print(results)
    if config.json:
        table.save(config.json, _figures(results), about, asdict(config))


def _list(words: re.Match[str]) -> str:
    """`--workers 1 2` as one value."""
    return f"--workers=[{','.join(words[1].split())}]"


def _measure(config: InputsConfig) -> dict[str, list[dict[str, Any]]]:
    """Row -> what each repeat found."""
    rows = [DIRECT, *map(str, config.workers)]
    results: dict[str, list[dict[str, Any]]] = {row: [] for row in rows}
    settings = (config.root, config.dataset, config.clips, config.long_size)
    for clip in inputs_rows.chosen(Job(DIRECT, *settings, "")):
        for path in clip.frames.values():
            path.read_bytes()
    with Progress(config.repeats * len(rows), "measuring", "rows") as progress:
        for _ in range(config.repeats):
            for row in rows:
                with tempfile.TemporaryDirectory(prefix="flicker-inputs-") as cache:
                    results[row].append(inputs_rows.run(Job(row, *settings, cache)))
                progress.advance(row=row)
    return results


def _of(found: list[dict[str, Any]], name: str) -> float:
    """Median over the repeats."""
    return float(median(one[name] for one in found))


def _phase(found: list[dict[str, Any]], phase: str) -> float | None:
    """Milliseconds of all processes per clip, median over the repeats."""
    values = [1e3 * one["seconds"][phase] / one["clips"] for one in found if phase in one["seconds"]]
    return float(median(values)) if values else None


def _title(row: str) -> str:
    """A row for people."""
    return "limit: the calls alone, one process" if row == DIRECT else f"Flicker, workers {row}"


def _print(results: dict[str, list[dict[str, Any]]]) -> None:
    """The tables."""
    direct = {what: _of(results[DIRECT], what) / _of(results[DIRECT], "clips") for what in ("wall", "cpu")}
    ours = [row for row in results if row != DIRECT]
    lines = []
    for row, found in results.items():
        wall, used, clips = (_of(found, name) for name in ("wall", "cpu", "clips"))
        shares = [direct["wall"] * clips / wall, used / clips, direct["cpu"] * clips / used]
        rest = [None, None] if row == DIRECT else [_of(found, "again"), _of(found, "read")]
        lines.append([_title(row), int(clips), wall, clips / wall, *shares, *rest])
    head = ["", "clips", "s", "clips/s", "x limit", "CPU s/clip", "x limit", "again, s", "arrays, s"]
    table.show("preparing the inputs of five heads", head, lines)
    phases = list(dict.fromkeys(phase for found in results.values() for phase in found[0]["seconds"]))
    rows = [[phase, *(_phase(found, phase) for found in results.values())] for phase in phases]
    table.show("ms per clip, all processes together", ["phase", *map(_title, results)], rows)
    first = results[ours[0]][0]
    sizes = [[name, round(held / first["clips"])] for name, held in first["bytes"].items()]
    sizes.append(["all", round(sum(first["bytes"].values()) / first["clips"])])
    sizes.append(["all, as arrays in memory", round(first["held"] / first["clips"])])
    table.show("bytes per clip", ["input", "bytes"], sizes)
    print(
        f"\nfaces: {first['sources']}; clips left out: {first['left out']}; limit without a face: {_skipped(results)}"
    )


def _skipped(results: dict[str, list[dict[str, Any]]]) -> int:
    """Clips in which the plain calls found no face."""
    return int(results[DIRECT][0]["skipped"])


def _figures(results: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """The numbers of the JSON file."""
    direct = results[DIRECT]
    figures = {"limit_clips_per_s": _of(direct, "clips") / _of(direct, "wall")}
    for row, found in results.items():
        label = "limit" if row == DIRECT else f"workers_{row}"
        figures[f"{label}_cpu_s_per_clip"] = _of(found, "cpu") / _of(found, "clips")
        for phase in found[0]["seconds"]:
            figures[f"{label}_{phase.replace(' ', '_')}_ms"] = _phase(found, phase) or 0.0
        if row != DIRECT:
            rate = _of(found, "clips") / _of(found, "wall")
            figures[f"{label}_clips_per_s"] = rate
            figures[f"{label}_vs_limit"] = rate / figures["limit_clips_per_s"]
            cpu = figures["limit_cpu_s_per_clip"] / figures[f"{label}_cpu_s_per_clip"]
            figures[f"{label}_cpu_vs_limit"] = cpu
            figures[f"{label}_again_s"], figures[f"{label}_arrays_s"] = _of(found, "again"), _of(found, "read")
            figures["bytes_per_clip"] = sum(found[0]["bytes"].values()) / found[0]["clips"]
    return figures


if __name__ == "__main__":
    run(main)
