"""The picture sheet of a dataset check: onset, apex and what changed, for clips of all classes and subjects."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from finetune.clips import Clip
from finetune.frames import read_image
from finetune.validation import PRIVATE
from shards.errors import FlickerError
from shards.files import atomic_path

SIDE = 200  # height of a picture, pixels
GAIN = 6.0  # by which differences are enlarged
COLUMNS = 3  # clips side by side


def choose(clips: Sequence[Clip], count: int) -> list[Clip]:
    """Up to `count` clips that may be shown, emotions and subjects shown least so far first."""
    left = [clip for clip in clips if PRIVATE not in clip.flags and clip.frames]
    shown: Counter[str] = Counter()
    chosen: list[Clip] = []
    while left and len(chosen) < count:
        keys = [(f"emotion {clip.emotion}", f"subject {clip.dataset}/{clip.subject}") for clip in left]
        best = min(range(len(left)), key=lambda i: (sum(shown[key] for key in keys[i]), i))
        shown.update(keys[best])
        chosen.append(left.pop(best))
    return chosen


def write(path: Path, clips: Sequence[Clip], count: int = 24) -> tuple[int, list[str]]:
    """Draw the sheet as JPEG; returns (clips drawn, those whose pictures cannot be read: 'id: reason').

    Each clip shows onset, apex and their absolute difference times GAIN, faces as published (no alignment).
    """
    rows, unread = [], []
    for clip in choose(clips, count):
        try:
            rows.append((clip, _pictures(clip)))
        except FlickerError as error:
            unread.append(f"{clip.id}: {error}")
    if rows:
        _draw(path, rows)
    return len(rows), unread


def _pictures(clip: Clip) -> np.ndarray:
    """Onset, apex, difference side by side: RGB uint8 [SIDE 3·W 3]."""
    onset, apex = (_scaled(read_image(clip.frames[number])) for number in (clip.onset, clip.apex))
    change = np.abs(apex.astype(np.float32) - onset.astype(np.float32)).mean(-1) * GAIN
    heat = cv2.applyColorMap(change.clip(0, 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return np.concatenate([onset, apex, cv2.cvtColor(heat, cv2.COLOR_BGR2RGB)], axis=1)


def _scaled(image: np.ndarray) -> np.ndarray:
    """RGB uint8 [H W 3] to [SIDE W 3]."""
    width = round(image.shape[1] * SIDE / image.shape[0])
    return cv2.resize(image, (width, SIDE), interpolation=cv2.INTER_AREA)


def _draw(path: Path, rows: Sequence[tuple[Clip, np.ndarray]]) -> None:
    """The pictures with captions, COLUMNS clips to a line."""
    columns = min(COLUMNS, len(rows))
    lines = math.ceil(len(rows) / columns)
    figure = Figure(figsize=(4.2 * columns, 1.75 * lines + 0.4), layout="constrained")
    figure.suptitle(f"onset · apex · |difference| × {GAIN:.0f}", fontsize=9)
    for place, (clip, picture) in enumerate(rows):
        axes = figure.add_subplot(lines, columns, place + 1)
        axes.imshow(picture)
        axes.set_axis_off()
        units = "+".join(map(str, clip.aus))
        milliseconds = 1000 * (clip.apex - clip.onset) / clip.fps
        axes.set_title(
            f"{clip.subject}/{clip.clip}  {clip.emotion} {f'AU {units}' if units else ''}\n"
            f"frames {clip.onset} → {clip.apex} ({milliseconds:.0f} ms)",
            fontsize=7,
        )
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130, format="jpeg")
