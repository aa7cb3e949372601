"""A labelled data set, as its annotations describe it, in memory for the probe of a pretraining run."""

from __future__ import annotations

import logging

import numpy as np

from finetune import datasets, schemes
from finetune.clips import Clip
from finetune.config import DataConfig
from finetune.frames import fit, read_image
from pretrain.labelled import LabelledSet
from shards.errors import FlickerError

log = logging.getLogger(__name__)


def read_labelled(root: str, image_size: int, dataset: str = "auto", scheme: str = "auto") -> LabelledSet:
    """Onset and apex of every clip of the scheme's classes; what cannot be read is listed in `left_out`, and said.

    Args:
        root: folder with the annotations and the frames, as published or as launch/synthesise.py writes it.
        image_size: side of the model's frames, pixels; the whole frame is scaled to it.
        dataset, scheme: as `data.dataset` and `data.scheme` of launch/finetune.py.

    Raises FlickerError: no annotations, no frames, fewer than two subjects or classes among what can be read.
    """
    config = DataConfig(root=root, dataset=dataset, scheme=scheme)
    found, validation = datasets.inspect(config)
    chosen = schemes.get(scheme, found, validation.dataset)
    clips, labels, _ = chosen.select(found)
    frames, kept, left_out = [], [], list(validation.missing)
    for row, clip in enumerate(clips):
        try:
            frames.append(_onset_and_apex(clip, image_size))
            kept.append(row)
        except FlickerError as error:
            left_out.append(f"{clip.subject}/{clip.clip}: {error}")
    if left_out:
        log.warning("probe: %d clips of %s cannot be read; first: %s", len(left_out), root, left_out[0])
    return LabelledSet(
        frames=np.stack(frames) if frames else np.empty((0, 2, image_size, image_size, 3), np.uint8),
        labels=np.array([labels[row] for row in kept], np.int64),
        subjects=tuple(clips[row].subject for row in kept),
        classes=chosen.classes,
        name=f"{dataset} in {root}",
        left_out=tuple(left_out),
    )


def _onset_and_apex(clip: Clip, size: int) -> np.ndarray:
    """uint8 [2 S S 3] RGB. Raises FlickerError naming a file that cannot be read."""
    return np.stack([fit(read_image(clip.frames[number]), size, "squash") for number in (clip.onset, clip.apex)])
