"""Example clips for the report: onset, apex, difference and DMA change map of the worst predictions, and some right.

They are drawn once, when the run is made, and stored in it (`examples/`): reports read them there.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from finetune.material import Material
from finetune.motion import drawing
from finetune.prepare import Prepared
from finetune.reporting.predictions import Predictions
from finetune.validation import PRIVATE
from shards.files import atomic_path, read_json, write_json

FOLDER = "examples"
WORST, RIGHT = 8, 4
SIDE = 168  # pixels of a picture in the report
DIFFERENCE_GAIN = 6.0


@dataclass(frozen=True)
class Example:
    """One clip and how it was recognised, with its pictures as data URIs."""

    clip: str
    truth: str
    predicted: str
    probability: float
    aus: str
    pictures: tuple[tuple[str, str], ...]
    """(caption, data URI)."""

    @property
    def correct(self) -> bool:
        """Whether the prediction is right."""
        return self.truth == self.predicted


def store(prepared: Prepared, predictions: Predictions, out: Path) -> None:
    """Draw the example clips into out/examples: JPEG files and examples.json, for this report and later ones.

    A report that compares runs then needs no dataset. Pictures of an earlier start are replaced.
    """
    folder = out / FOLDER
    for old in folder.glob("*.jpg"):
        old.unlink()
    entries: list[dict[str, Any]] = []
    chosen = choose(prepared, predictions)
    changes = _changes(prepared, [row for row, _, _ in chosen])
    for place, ((row, predicted, probability), change) in enumerate(zip(chosen, changes, strict=True)):
        clip, files = prepared.clips[row], []
        for number, (caption, image) in enumerate(pictures(prepared.material, row, change)):
            files.append([caption, f"{place:02d}-{number}.jpg"])
            with atomic_path(folder / files[-1][1]) as temporary:
                temporary.write_bytes(_jpeg(image))
        label = prepared.scheme.classes[prepared.samples.labels[row]]
        entry = {"clip": clip.id, "truth": label, "predicted": prepared.scheme.classes[predicted]}
        entries.append(entry | {"probability": probability, "aus": "+".join(map(str, clip.aus)), "pictures": files})
    write_json(folder / "examples.json", entries)


def load(out: Path) -> list[Example]:
    """The examples stored in a run, wrong ones first; [] for a run that stored none."""
    folder = out / FOLDER
    if not (folder / "examples.json").is_file():
        return []
    return [
        Example(
            **{key: entry[key] for key in ("clip", "truth", "predicted", "probability", "aus")},
            pictures=tuple(
                (caption, _uri((folder / Path(name).name).read_bytes())) for caption, name in entry["pictures"]
            ),
        )
        for entry in read_json(folder / "examples.json", "examples of a run")
    ]


def choose(prepared: Prepared, predictions: Predictions) -> list[tuple[int, int, float]]:
    """(row of the samples, predicted class, its probability) of the clips to show.

    The WORST surest wrong predictions in strict order, then up to RIGHT sure right ones, of different classes and
    subjects first.
    Clips that must not be published are never shown.
    """
    place = {name: row for row, name in enumerate(prepared.samples.ids)}

    def shown(right: bool) -> list[tuple[int, int, float]]:
        rows = [(place[predictions.ids[row]], label, sure) for row, label, sure in predictions.surest(right)]
        return [row for row in rows if PRIVATE not in prepared.clips[row[0]].flags]

    labels, subjects = prepared.samples.labels.tolist(), prepared.samples.subjects
    keys = [(f"class {label}", subject) for label, subject in zip(labels, subjects, strict=True)]
    return shown(False)[:WORST] + _varied(shown(True), keys, RIGHT)


def _varied(
    rows: list[tuple[int, int, float]], keys: list[tuple[str, str]], count: int
) -> list[tuple[int, int, float]]:
    """Up to `count` rows, each the surest of those whose class and subject were shown least so far."""
    left, shown = list(rows), Counter[str]()
    chosen: list[tuple[int, int, float]] = []
    while left and len(chosen) < count:
        best = min(range(len(left)), key=lambda i: (sum(shown[key] for key in keys[left[i][0]]), i))
        chosen.append(left.pop(best))
        shown.update(keys[chosen[-1][0]])
    return chosen


def _changes(prepared: Prepared, rows: list[int]) -> list[np.ndarray | None]:
    """What DMA saw of each clip [g g], for heads that can tell; else None."""
    tell = getattr(prepared.head, "changes", None)
    if tell is None:
        return [None] * len(rows)
    arrays = prepared.material.arrays
    inputs = {name: torch.from_numpy(value[rows]).to(prepared.device) for name, value in arrays.items()}
    return list(tell(inputs).cpu().numpy())


def pictures(material: Material, row: int, change: np.ndarray | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """(caption, RGB uint8 [S S 3]) of one clip, from whatever inputs the head reads."""
    arrays = material.arrays
    if "pair" in arrays or "sequence" in arrays:
        onset, apex = _frames(arrays, row)
        difference = np.abs(apex.astype(np.float32) - onset.astype(np.float32)).mean(-1) * DIFFERENCE_GAIN
        yield "onset", _scaled(onset)
        yield "apex", _scaled(apex)
        yield f"|difference| × {DIFFERENCE_GAIN:.0f}", _heat(_scaled(difference.clip(0, 255).astype(np.uint8)))
        if change is not None:
            yield "DMA change map", overlay(_scaled(apex), change)
    if "flow" in arrays:
        flow = arrays["flow"][row]
        flow = flow[len(flow) // 2] if flow.ndim == 4 else flow  # of several frames the apex's, in the middle
        yield "flow onset → apex", _scaled(drawing.hsv(np.ascontiguousarray(flow[..., :2])))


def _frames(arrays: Mapping[str, np.ndarray], row: int) -> tuple[np.ndarray, np.ndarray]:
    """Onset and apex, RGB uint8 [S S 3]."""
    if "pair" in arrays:
        return arrays["pair"][row, 0], arrays["pair"][row, 1]
    return arrays["sequence"][row, 0], arrays["sequence"][row, int(arrays["sequence.apex"][row])]


def overlay(frame: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The change map [g g] over a grey version of the frame uint8 [S S 3].

    The map's 5th to 99.5th percentile spans the scale; unchanged areas stay grey, so that the face remains visible.
    """
    low, high = np.percentile(change, (5, 99.5))
    level = np.clip((change - low) / max(high - low, 1e-9), 0, 1).astype(np.float32)
    level = np.clip(cv2.resize(level, frame.shape[1::-1], interpolation=cv2.INTER_CUBIC), 0, 1)[..., None]
    grey = cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    heat = _heat((level[..., 0] * 255).astype(np.uint8))
    strength = 0.85 * level
    return (grey * (1 - strength) + heat * strength).astype(np.uint8)


def _heat(grey: np.ndarray) -> np.ndarray:
    """uint8 [S S] to RGB in the inferno colours."""
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def _scaled(image: np.ndarray) -> np.ndarray:
    """The image at the report's picture size."""
    return cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA if len(image) > SIDE else cv2.INTER_CUBIC)


def _jpeg(image: np.ndarray) -> bytes:
    """RGB uint8 as JPEG."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return data.tobytes()


def _uri(data: bytes) -> str:
    """JPEG bytes as a data URI."""
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()
