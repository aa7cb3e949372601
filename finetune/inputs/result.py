"""Prepared inputs as arrays, and the report of how they came about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from finetune.clips import Clip
from finetune.inputs import entries
from finetune.inputs.base import MAIN, Recipe
from shards.errors import FlickerError
from shards.progress import duration

Arrays = np.ndarray | list[np.ndarray]


@dataclass
class Report:
    """What `prepare` did. `text()` prints it; `as_dict()` goes into results.json."""

    clips: int = 0
    """Asked for."""
    prepared: int = 0
    """Clips of which an entry was made now."""
    reused: int = 0
    """Clips whose entries were all there."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Clip -> why it is in no array."""
    bad: list[str] = field(default_factory=list)
    """Images that were left out of clips that are in: 'CLIP: reason'."""
    sources: dict[str, int] = field(default_factory=dict)
    """Clips per way in which the face was found (finetune.faces.landmarks.SOURCES)."""
    fallbacks: dict[str, list[str]] = field(default_factory=dict)
    """Way -> its clips, for every way but the first."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Phase -> seconds of all processes together; 'wall' is the whole of it as it passed."""
    bytes: int = 0
    """Of all entries on disk."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def text(self) -> str:
        """The report as lines of text."""
        kept = self.clips - len(self.left_out)
        lines = [
            f"inputs: {kept} of {self.clips} clips ({self.prepared} prepared in {duration(self.seconds['wall'])}, "
            f"{self.reused} reused), {self.bytes / 1e6:,.1f} MB"
        ]
        if self.sources:
            lines.append("  faces    " + ", ".join(f"{name} {count}" for name, count in self.sources.items()))
        lines += [f"  face by {way}: {', '.join(clips)}" for way, clips in self.fallbacks.items()]
        lines += [f"  image left out of {line}" for line in self.bad]
        lines += [f"  clip left out {clip}: {reason}" for clip, reason in self.left_out.items()]
        return "\n".join(lines)


class Columns(Mapping[str, Arrays]):
    """Name -> array of all clips, read from the entries when first asked for, and kept.

    A recipe `name` gives its main array under `name` and others under `name.other`, e.g. 'sequence.index'. Each is
    [n ...] where the clips' shapes agree, otherwise a list of n arrays.
    """

    def __init__(self, recipes: Mapping[str, Recipe], paths: Sequence[Mapping[str, Path]]):
        self._recipes, self.paths = recipes, paths
        self._read: dict[str, Arrays] = {}
        self._names = {key: name for name, recipe in recipes.items() for key in (name, *_others(name, recipe))}

    def __getitem__(self, key: str) -> Arrays:
        if key not in self._names:
            raise KeyError(key)
        if key not in self._read:
            name = self._names[key]
            rows = [self.clip(name, row) for row in range(len(self.paths))]
            for column in [key for key, owner in self._names.items() if owner == name]:
                self._read[column] = _stack([row[column] for row in rows])
        return self._read[key]

    def clip(self, name: str, row: int) -> dict[str, np.ndarray]:
        """The arrays of one recipe and clip, by column, without reading others. Raises FlickerError if damaged."""
        arrays = self._recipes[name].unpack(entries.read(self.paths[row][name]))
        return {name if member == MAIN else f"{name}.{member}": value for member, value in arrays.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class Inputs:
    """The inputs of `clips`, in their order; `arrays` reads them without opening an image."""

    clips: list[Clip]
    """Those asked for, without those that were left out."""
    arrays: Columns
    report: Report
    digest: str
    """SHA-256 of clips, names and all arrays' bytes, known without reading them: what a fold's result depends on."""


def _others(name: str, recipe: Recipe) -> list[str]:
    """Columns of a recipe besides the main one."""
    return [f"{name}.{member}" for member in recipe.members if member != MAIN]


def _stack(rows: list[np.ndarray]) -> Arrays:
    """[n ...] where the shapes agree; the rows are given up one by one, so that memory never holds them twice."""
    if len({row.shape for row in rows}) != 1:
        return rows
    stacked = np.empty((len(rows), *rows[0].shape), rows[0].dtype)
    for place in reversed(range(len(rows))):
        stacked[place] = rows.pop()
    return stacked


def refuse(left_out: Mapping[str, str], clips: int, limit: float) -> None:
    """Raise FlickerError where more than the share `limit` of the clips is left out."""
    if len(left_out) > limit * clips:
        some = "; ".join(f"{clip}: {reason}" for clip, reason in list(left_out.items())[:3])
        more = f"; and {len(left_out) - 3} more" if len(left_out) > 3 else ""
        raise FlickerError(
            f"inputs: {len(left_out)} of {clips} clips cannot be prepared, more than the limit of {limit:.1%}: "
            f"{some}{more}"
        )
