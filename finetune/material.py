"""The clips of a run as arrays, whatever they are made from: images through finetune.inputs, or ready-made maps."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from finetune import inputs
from finetune.clips import Clip
from finetune.config import DataConfig
from finetune.datasets import flow_maps
from finetune.inputs import Recipe
from shards.errors import FlickerError, UsageError

PLACES = ("boxes", "areas")
"""Columns of the recipe `Regions` that a head may ask for by their own name."""


@dataclass(frozen=True)
class Material:
    """What the folds share of the data: row i of every array belongs to clip i."""

    clips: list[Clip]
    arrays: dict[str, np.ndarray]
    """Input name -> [n ...], as finetune.heads.base.Head describes them."""
    report: dict[str, object] = field(default_factory=dict)
    """How the inputs came about (finetune.inputs.Report), for results.json."""
    text: str = ""
    """The same for people."""
    known_digest: str = ""
    """Digest of the arrays where it is known without reading them all."""

    def digest(self) -> str:
        """SHA-256 of the arrays' names, shapes and bytes (of prepared inputs: of the entries they were read from)."""
        if self.known_digest:
            return self.known_digest
        total = hashlib.sha256()
        for name, value in sorted(self.arrays.items()):
            total.update(f"{name}{value.shape}{value.dtype}".encode())
            total.update(np.ascontiguousarray(value).data)
        return total.hexdigest()


def from_images(
    clips: Sequence[Clip], recipes: Mapping[str, Recipe], config: DataConfig, quiet: bool = False
) -> Material:
    """Inputs prepared from the clips' images, or read from `config.cache` where they were prepared before.

    Raises FlickerError: more clips than the share `max_missing` whose images cannot be used.
    """
    found = inputs.prepare(
        clips, recipes, Path(config.cache), workers=config.workers, quiet=quiet, limit=config.max_missing
    )
    arrays: dict[str, np.ndarray] = {}
    for name in recipes:
        if name in PLACES:
            arrays[name] = _stacked(found.arrays[f"{name}.{name}"])
            continue
        arrays[name] = _stacked(found.arrays[name])
        arrays |= {key: _stacked(found.arrays[key]) for key in found.arrays if key.startswith(f"{name}.")}
    return Material(found.clips, arrays, found.report.as_dict(), found.report.text(), found.digest)


def _stacked(values: np.ndarray | list[np.ndarray]) -> np.ndarray:
    """[n T ...] of arrays whose first axis differs: shorter ones repeat their last row."""
    if isinstance(values, np.ndarray):
        return values
    longest = max(len(value) for value in values)
    return np.stack([np.concatenate([value, np.repeat(value[-1:], longest - len(value), 0)]) for value in values])


def from_flow_maps(
    clips: Sequence[Clip], maps: flow_maps.FlowMaps, recipes: Mapping[str, Recipe], root: str
) -> Material:
    """Ready-made flow maps as the inputs 'flow' and 'areas'.

    Raises UsageError for a head that reads anything else, FlickerError where the table has no landmarks.
    """
    if others := sorted(set(recipes) - {"flow", "areas"}):
        raise UsageError(f"data.dataset: flow-maps hold no images, and this head reads {', '.join(others)}")
    if "areas" in recipes and maps.areas is None:
        columns = ", ".join(flow_maps.LANDMARKS)
        raise FlickerError(f"{root}: the table has no landmarks, which this head needs; add the columns {columns}")
    place = {clip.id: row for row, clip in enumerate(maps.clips)}
    rows = [place[clip.id] for clip in clips]
    arrays = {"flow": maps.maps[rows]}
    if "areas" in recipes and maps.areas is not None:
        arrays["areas"] = maps.areas[rows].astype(np.float32)
    return Material(list(clips), {name: arrays[name] for name in recipes})
