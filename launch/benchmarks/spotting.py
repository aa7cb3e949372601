"""Error of apex spotting against the true apex of simulated clips.

python -m launch.benchmarks.spotting --root SIM --truth SIM/ground_truth [--json OUT]

ROOT holds one folder per dataset (casme2, samm, smic), TRUTH one JSON file per dataset with each clip's annotated
onset, apex, offset and its true apex (a real number). Every clip is read from annotated onset to annotated offset.
Beside the methods stand the middle of the clip, which needs no frame at all, and the annotated apex. Landmarks are
found on the onset frame, never read from the truth. Figures on simulated clips are not results on real datasets.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.faces.landmarks import Landmarker, landmarker, locate
from finetune.frames import read_image
from finetune.motion import spotting
from launch.benchmarks.machine import describe
from launch.benchmarks.table import save, show
from launch.cli import parse, run
from shards.errors import FlickerError, UsageError
from shards.files import read_json
from shards.progress import Progress


@dataclass(frozen=True)
class Case:
    """One clip with its truth."""

    fps: float
    numbers: list[int]
    """real frame numbers from onset to offset"""
    frames: NDArray[np.uint8]
    """[T H W 3]"""
    points: NDArray[np.float64]
    """landmarks of the first frame, [68 2]"""
    source: str
    """how they were found"""
    apex: int
    """annotated, a real frame number"""
    true: float
    """true apex, a real number between frames"""


METHODS: dict[str, Callable[[Case], int]] = {
    "middle of the clip": lambda case: (len(case.numbers) - 1) // 2,
    "D&C-RoIs": lambda case: spotting.divide_and_conquer(case.frames, case.points, case.fps).index,
    "flow magnitude": lambda case: spotting.flow_magnitude(case.frames, case.points, case.fps).index,
    "annotated apex": lambda case: case.numbers.index(case.apex),
}


def load(root: Path, truth: Path, record: dict[str, Any], fps: float, backend: Landmarker) -> Case:
    """Read one clip of a truth file. Raises FlickerError: no folder of that name, or frames missing."""
    dataset = truth.stem
    folders = [path for path in (root / dataset).rglob(record["clip"]) if path.is_dir()]
    subject = int(re.findall(r"\d+", record["subject"])[0])
    folders = [path for path in folders if dataset != "casme2" or path.parent.name == f"sub{subject:02d}"]
    if len(folders) != 1:
        raise FlickerError(f"{truth}: clip {record['clip']} has {len(folders)} folders in {root / dataset}; give one")
    files = {int(re.findall(r"\d+", path.stem)[-1]): path for path in folders[0].iterdir()}
    numbers = sorted(number for number in files if record["onset"] <= number <= record["offset"])
    if record["apex"] not in numbers:
        raise FlickerError(f"{folders[0]}: no frame {record['apex']}, the annotated apex; complete the folder")
    frames = np.stack([read_image(files[number]) for number in numbers])
    found = locate(frames[0], backend, [partial(np.asarray, frame) for frame in frames[1:4]])
    return Case(fps, numbers, frames, found.points, found.source, record["apex"], record["true_apex"])


def errors(root: Path, truth: Path) -> tuple[dict[str, NDArray[np.float64]], dict[str, float], float]:
    """(absolute errors in frames by method [clips], CPU ms per clip by method, fps); prints how faces were found."""
    content = read_json(truth)
    fps, backend = float(content["fps"]), landmarker()
    off: dict[str, list[float]] = {name: [] for name in METHODS}
    spent = dict.fromkeys(METHODS, 0.0)
    sources: Counter[str] = Counter()
    with Progress(len(content["clips"]), truth.stem, "clips") as progress:
        for record in content["clips"]:
            case = load(root, truth, record, fps, backend)
            sources[case.source] += 1
            for name, method in METHODS.items():
                start = time.process_time()
                index = method(case)
                spent[name] += time.process_time() - start
                off[name].append(abs(case.numbers[index] - case.true))
            progress.advance()
    print(f"{truth.stem}: landmarks of the onset: " + ", ".join(f"{kind} {count}" for kind, count in sources.items()))
    times = {name: 1e3 * total / len(content["clips"]) for name, total in spent.items()}
    return {name: np.array(values) for name, values in off.items()}, times, fps


def row(name: str, off: NDArray[np.float64], fps: float, ms: float) -> list[Any]:
    """A line of the table."""
    within = float(np.mean(off <= 0.02 * fps)) * 100
    return [
        name,
        float(off.mean()),
        float(np.median(off)),
        float(off.max()),
        float(off.mean() / fps * 1e3),
        within,
        ms,
    ]


@dataclass
class SpottingConfig:
    """Settings of python -m launch.benchmarks.spotting."""

    root: str = ""
    """folder of the datasets' folders (casme2, samm, smic)"""
    truth: str = ""
    """folder of the datasets' truth files (casme2.json, ..)"""
    json: str = ""
    """file for the figures"""


def main(arguments: list[str]) -> None:
    """Measure, print the tables, write the figures."""
    command = "python -m launch.benchmarks.spotting"
    config = parse(SpottingConfig, arguments, command=command, description=__doc__ or "")
    if not config.root or not config.truth:
        raise UsageError("give --root DIR and --truth DIR; --help says what they hold")
    root, found = Path(config.root), truths(Path(config.root), Path(config.truth))
    head = ["method", "mean, frames", "median", "worst", "mean, ms", "% within 20 ms", "CPU ms per clip"]
    figures: dict[str, float] = {}
    for truth in found:
        off, times, fps = errors(root, truth)
        rows = [row(name, off[name], fps, times[name]) for name in METHODS]
        title = f"{truth.stem}: distance from the true apex ({len(off['D&C-RoIs'])} simulated clips, {fps:.0f} fps)"
        show(title, head, rows)
        for line in rows:
            figures |= {f"{truth.stem} {line[0]}, {what}": line[at] for what, at in (("frames", 1), ("ms", 4))}
    if config.json:
        save(config.json, figures, describe(), asdict(config))


def truths(root: Path, folder: Path) -> list[Path]:
    """The truth files with a true apex whose dataset is there. Raises FlickerError: none."""
    found = [path for path in sorted(folder.glob("*.json")) if (root / path.stem).is_dir()]
    found = [path for path in found if "true_apex" in (read_json(path).get("clips") or [{}])[0]]
    if not found:
        raise FlickerError(f"{folder}: no truth file with true_apex for a dataset in {root}; see --help")
    return found


if __name__ == "__main__":
    run(main)
