"""What launch.benchmarks.inputs measures, each row in a process of its own: `prepare`, and the bare calls."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from finetune import datasets
from finetune import frames as pictures
from finetune.clips import Clip
from finetune.faces import crops
from finetune.inputs import FlowMap, LongFlow, Pair, Recipe, Regions, prepare
from finetune.inputs import Sequence as Frames
from finetune.inputs.base import span
from finetune.inputs.gather import Clock
from finetune.motion import strain as strains
from launch.benchmarks import apart


@dataclass(frozen=True)
class Job:
    """One row."""

    row: str
    """direct, or the number of workers"""
    root: str
    dataset: str
    clips: int
    long_size: int
    cache: str


def recipes(long_size: int) -> dict[str, Recipe]:
    """What the five heads read."""
    return {
        "pair": Pair("aligned", 224),  # Micron-BERT, FRL-DGT
        "all frames": Frames("aligned", 72),  # FDP
        "16 frames": Frames("aligned", 224, frames=16),  # FRL-DGT-S, and the pairs that train its DGM
        "flow map": FlowMap("box", 224),  # HTNet
        "long flow": LongFlow("slstt", long_size),  # SLSTT
        "au boxes": Regions("aligned", 224),  # FRL-DGT
        "areas": Regions("box", 224),  # HTNet
    }


def chosen(job: Job) -> list[Clip]:
    """The first clips, spread over the subjects."""
    found, _ = datasets.load(job.dataset, job.root)
    return found[:: max(1, len(found) // job.clips)][: job.clips] if job.clips else found


def ours(job: Job) -> dict[str, Any]:
    """`prepare` into an empty cache, again, and all arrays read."""
    clips, made, cache = chosen(job), recipes(job.long_size), Path(job.cache)
    settings: dict[str, Any] = {"workers": int(job.row), "quiet": True, "limit": 0.05}
    before = cpu()
    report = prepare(clips, made, cache, **settings).report
    used = cpu() - before
    started = time.perf_counter()
    inputs = prepare(clips, made, cache, **settings)
    again = time.perf_counter() - started
    sizes = {name: sum(path.stat().st_size for path in _entries(inputs.arrays.paths, name)) for name in made}
    started = time.perf_counter()
    held = sum(_held(inputs.arrays[name]) for name in inputs.arrays)
    read = time.perf_counter() - started
    seconds = dict(report.seconds)
    wall = seconds.pop("wall")
    return {
        "clips": len(inputs.clips),
        "wall": wall,
        "cpu": used,
        "seconds": seconds,
        "again": again,
        "read": read,
        "bytes": sizes,
        "held": held,
        "sources": report.sources,
        "left out": len(report.left_out),
    }


def cpu() -> float:
    """Seconds of processor time of this process and of those that it has ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _entries(paths: Sequence[Any], name: str) -> list[Path]:
    """Files of a recipe."""
    return [places[name] for places in paths]


def _held(array: Any) -> int:
    """Bytes in memory."""
    return sum(row.nbytes for row in array)


def direct(job: Job) -> dict[str, Any]:
    """The calls of dlib and OpenCV that no preparation can do without, in a plain loop; nothing is written."""
    cv2.setNumThreads(0)
    clips, clock = chosen(job), Clock()
    import dlib

    from shards.faces import predictor_path

    started, before = time.perf_counter(), cpu()
    with clock("landmarks"):
        detector, predictor = dlib.get_frontal_face_detector(), dlib.shape_predictor(str(predictor_path()))
    skipped = 0
    for clip in clips:
        numbers = span(clip)
        with clock("read"):
            images = {number: pictures.read_image(clip.frames[number]) for number in numbers}
        with clock("landmarks"):
            points = _points(images[clip.apex], detector, predictor, dlib.rectangle)
        if points is None:
            skipped += 1
            continue
        _motion(clip, numbers, images, points, job.long_size, clock)
    wall = time.perf_counter() - started
    return {"clips": len(clips), "wall": wall, "cpu": cpu() - before, "seconds": dict(clock), "skipped": skipped}


def _points(image: np.ndarray, detector: Any, predictor: Any, rectangle: Any) -> np.ndarray | None:
    """Points [68 2]: the detector on the image, or where it finds none on a larger one; the predictor on 300 px."""
    found, factor = detector(image, 0), 1.0
    if not found:
        factor = max(2.0, 480 / min(image.shape[:2]))
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
        found = detector(image, 0)
    if not found:
        return None
    box = max(found, key=lambda one: one.area())
    scale = 300 / box.width()
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    edges = (round(edge * scale) for edge in (box.left(), box.top(), box.right(), box.bottom()))
    parts = predictor(grey, rectangle(*edges)).parts()
    return np.array([(point.x, point.y) for point in parts], np.float64) / scale / factor


def _motion(
    clip: Clip,
    numbers: list[int],
    images: dict[int, np.ndarray],
    points: np.ndarray,
    long_size: int,
    clock: Clock,
) -> None:
    """Crops and flow of one clip."""
    apex = numbers.index(clip.apex)
    near = numbers[max(0, apex - 5) : apex + 6]
    uniform = {numbers[round(place)] for place in np.linspace(0, len(numbers) - 1, min(16, len(numbers)))}
    ends = {clip.onset, clip.apex}
    wanted = (
        (crops.aligned(points, 72), numbers),
        (crops.aligned(points, 224), sorted(uniform | ends)),
        (crops.box(points, 224), sorted(ends)),
        (crops.slstt(points, long_size), sorted({clip.onset, *near})),
    )
    with clock("crop"):
        cut = [{number: crop.apply(images[number]) for number in those} for crop, those in wanted]
    with clock("flow"):
        strains.strain(_farneback(cut[2][clip.onset], cut[2][clip.apex]))
        for number in near:
            _farneback(cut[3][clip.onset], cut[3][number])


def _farneback(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """OpenCV's Farnebäck flow with SLSTT's parameters."""
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (first, second)]
    return cv2.calcOpticalFlowFarneback(*grey, None, 0.5, 3, 15, 3, 5, 1.2, 0)  # type: ignore[call-overload]


def run(job: Job) -> dict[str, Any]:
    """The row in a process of its own, in one thread each."""
    fault = f"measuring '{job.row}' failed"
    return dict(apart.run("launch.benchmarks.inputs_rows", asdict(job), 1, fault))


if __name__ == "__main__":
    given = Job(**json.loads(sys.argv[1]))
    apart.tell(direct(given) if given.row == "direct" else ours(given))
