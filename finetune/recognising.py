"""One recording through a recogniser: face, apex, inputs, class, and a picture of it all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from finetune import material
from finetune.clips import Clip
from finetune.config import DataConfig
from finetune.faces.landmarks import locate_clips
from finetune.frames import read_image
from finetune.material import Material
from finetune.motion import spotting
from finetune.recogniser import Recogniser
from finetune.reporting import examples
from shards.errors import FlickerError
from shards.files import atomic_path


@dataclass(frozen=True)
class Recognised:
    """What was found in a recording."""

    clip: Clip
    """With its apex."""
    motion: np.ndarray
    """Motion since the first frame, px, one value per frame."""
    probabilities: np.ndarray
    """[C]"""
    classes: list[str]
    found: Material
    change: np.ndarray | None
    """How much each patch changed [g g], for recognisers that can tell."""

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.classes[int(np.argmax(self.probabilities))]

    def as_dict(self) -> dict[str, Any]:
        """For result.json."""
        clip = self.clip
        return {
            "label": self.label,
            "probabilities": dict(zip(self.classes, self.probabilities.round(6).tolist(), strict=True)),
            "onset": clip.onset,
            "apex": clip.apex,
            "offset": clip.offset,
            "apex_s": round((clip.apex - clip.onset) / clip.fps, 4),
            "fps": clip.fps,
            "motion_px": self.motion.round(4).tolist(),
            "inputs": self.found.report,
        }


def recognise(recogniser: Recogniser, clip: Clip, cache: Path) -> Recognised:
    """Spot the apex by flow since the first frame, prepare what the recogniser reads, and classify.

    Raises FlickerError: no face in the first frame, a frame that cannot be read.
    """
    faces, _ = locate_clips([clip], "onset", cache=cache / "landmarks", workers=1, quiet=True)
    if clip.id not in faces:
        raise FlickerError(f"{clip.clip}: no face found in its first frame; start where the face is seen")
    numbers = sorted(clip.frames)
    frames = np.stack([read_image(clip.frames[number]) for number in numbers])
    spotted = spotting.flow_magnitude(frames, faces[clip.id].points, clip.fps)
    clip = replace(clip, apex=numbers[spotted.index], flags=("apex-spotted",))
    found = material.from_images([clip], recogniser.recipes, DataConfig(cache=str(cache), workers=1), quiet=True)
    probabilities = recogniser.probabilities(found.arrays)[0]
    change = _change(recogniser, found.arrays)
    return Recognised(clip, spotted.score, probabilities, recogniser.classes, found, change)


def _change(recogniser: Recogniser, arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """What DMA saw [g g], for heads that can tell; else None."""
    tell = getattr(recogniser.model if recogniser.whole else recogniser.head, "changes", None)
    if tell is None:
        return None
    return np.asarray(tell({name: torch.from_numpy(value) for name, value in arrays.items()})[0])


def draw(found: Recognised, path: Path) -> None:
    """PNG: what the recogniser saw, motion over time with the apex, probabilities."""
    pictures = list(examples.pictures(found.found, 0, found.change))
    figure = Figure(figsize=(2.6 * max(len(pictures), 3), 5.2), layout="constrained")
    above, below = np.asarray(figure.subfigures(2, 1))
    for place, (caption, image) in enumerate(pictures):
        axes = above.add_subplot(1, len(pictures), place + 1)
        axes.imshow(image)
        axes.set_title(caption, fontsize=9)
        axes.set_axis_off()
    left, right = below.subplots(1, 2, width_ratios=[2, 1])
    seconds = np.array([number - found.clip.onset for number in sorted(found.clip.frames)]) / found.clip.fps
    left.plot(seconds * 1000, found.motion, color="tab:blue")
    apex = (found.clip.apex - found.clip.onset) / found.clip.fps * 1000
    left.axvline(apex, color="tab:red", linestyle="--", label=f"apex, frame {found.clip.apex}")
    left.set(xlabel="ms since the first frame", ylabel="motion, px")
    left.legend(fontsize=8)
    places = np.arange(len(found.classes))
    right.barh(places, found.probabilities, color="tab:blue")
    right.set_yticks(places, found.classes, fontsize=9)
    right.set(xlim=(0, 1), xlabel="probability")
    right.invert_yaxis()
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
