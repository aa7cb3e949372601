"""What the report tells about how the encoder was pretrained: read from the run directory that it comes from."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from finetune.reporting import charts

LOSSES = ("reconstruction", "loss")  # drawn over each other: the total lies close to the reconstruction
PROBE = "motion_auroc"
POINTS = 400  # of a curve; longer logs are thinned to so many of their lines
JPEG_QUALITY = 85


@dataclass(frozen=True)
class Pretraining:
    """The section's content, up to the step of the encoder's weights."""

    losses: dict[str, np.ndarray]
    """'step', 'reconstruction' and 'loss', each float64 [n]; n may be 0."""
    probes: list[tuple[int, float]]
    """(step, motion_auroc) in order of steps."""
    picture: str
    """The newest training pairs as a data URI ('': none)."""
    picture_step: int

    @property
    def chart(self) -> str:
        """The loss over steps as SVG, '' with fewer than two lines."""
        steps = self.losses["step"]
        if len(steps) < 2:
            return ""
        keep = np.unique(np.linspace(0, len(steps) - 1, POINTS).round().astype(int))
        values = [self.losses[name][keep] for name in LOSSES]
        low, high = min(0.0, *(float(line.min()) for line in values)), max(float(line.max()) for line in values)
        series = [("reconstruction", "accent-line", values[0]), ("total", "total-line", values[1])]
        top = math.ceil(max(high, 0.1) * 10) / 10
        return charts.curves(series, "pretraining loss", (low, top), across=steps[keep].astype(int), unit="step")


def read(encoder: str, step: object = None) -> Pretraining | None:
    """The pretraining behind the weights at `encoder`, or None where no log of it is found.

    Args:
        encoder: a run directory, or anything in its checkpoints/.
        step: of the weights. What was logged or drawn after it is left out: it tells of other weights.
    """
    run = run_directory(encoder)
    if run is None:
        return None
    last = step if isinstance(step, int) else None
    lines = read_log(run / "log.jsonl", last)
    drawn = [line for line in lines if all(name in line for name in LOSSES)]
    losses = {name: np.array([line[name] for line in drawn], np.float64) for name in ("step", *LOSSES)}
    probes = [(int(line["step"]), line[PROBE]) for line in lines if PROBE in line]
    if not drawn and not probes:
        return None
    picture_step, picture = newest_picture(run / "pictures", last)
    return Pretraining(losses, probes, picture, picture_step)


def run_directory(encoder: str) -> Path | None:
    """The run directory (it has a log.jsonl) that `encoder` is, or in whose checkpoints/ it lies."""
    path = Path(encoder).absolute()
    for folder in (path, *path.parents):
        inside = path.relative_to(folder).parts
        if inside[:1] in ((), ("checkpoints",)) and (folder / "log.jsonl").is_file():
            return folder
    return None


def read_log(path: Path, last: int | None = None) -> list[dict[str, float]]:
    """The log's lines up to step `last`, one per step and kind (losses, probe), in order of steps.

    Lines that are cut off or no figures are skipped: the run may be writing now. Figures that are not finite too.
    """
    lines: dict[tuple[float, bool], dict[str, float]] = {}
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        figures = dict(_finite(line)) if isinstance(line, dict) else {}
        if "step" in figures and (last is None or figures["step"] <= last):
            lines[figures["step"], PROBE in figures] = figures
    return [lines[key] for key in sorted(lines)]


def _finite(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The line's finite numbers."""
    for name, value in line.items():
        if isinstance(value, (int, float)) and abs(value) < 1e300:
            yield name, float(value)


def newest_picture(folder: Path, last: int | None = None) -> tuple[int, str]:
    """(N, JPEG data URI) of the newest readable step-N.png with N up to `last`; (0, '') without one."""
    numbers = {path.stem[len("step-") :]: path for path in folder.glob("step-*.png")}
    steps = {int(number): path for number, path in numbers.items() if number.isdecimal()}
    for step in sorted(steps, reverse=True):
        if last is None or step <= last:
            data = np.frombuffer(steps[step].read_bytes(), np.uint8)
            image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
            if image is not None:
                _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
                return step, "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()
    return 0, ""
