"""The record of one labelled clip, the same for every dataset."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

SAME_PEOPLE = {"smic_e": "smic"}
"""Dataset -> the one whose people it shows, under the same numbers: SMIC-HS-E holds longer clips of SMIC-HS."""


@dataclass(frozen=True)
class ActionUnit:
    """One facial action unit as coded: its FACS number, side and intensity where the coder gave them."""

    number: int
    side: str = ""
    """'L', 'R' (left, right), 'T', 'B' (top, bottom), or '' for both sides."""
    intensity: str = ""
    """'A' (trace) to 'E' (maximum), or '' where not coded."""

    def __str__(self) -> str:
        return f"{self.side}{self.number}{self.intensity}"


@dataclass(frozen=True)
class Clip:
    """One labelled micro-expression: onset, apex and offset are real frame numbers, both ends inclusive.

    `onset`, `apex` and `offset` are always keys of `frames` and `onset <= apex <= offset` holds; whatever
    had to be repaired for that is named in `flags`.
    """

    dataset: str
    """Name of the dataset, e.g. 'casme2'."""
    subject: str
    """The person, unique within the dataset, e.g. 'sub01'."""
    clip: str
    """The clip's name as published, e.g. 'EP02_01f'; unique within the subject."""
    onset: int
    apex: int
    offset: int
    emotion: str
    """The label as published: lower case, stripped, 'other' written 'others'."""
    aus: tuple[ActionUnit, ...] = ()
    objective: int | None = None
    """Objective class 1..7 (of the action units alone), where the dataset gives one."""
    fps: float = 200.0
    """Frames per second of the camera."""
    flags: tuple[str, ...] = ()
    """Repairs and peculiarities of this clip, e.g. 'apex-midpoint' (see finetune.validation.FLAGS)."""
    frames: dict[int, Path] = field(default_factory=dict, compare=False, repr=False)
    """Real frame number -> image file, ascending."""

    @property
    def id(self) -> str:
        """Unique over all datasets: 'casme2/sub01/EP02_01f'. Predictions are joined by it."""
        return f"{self.dataset}/{self.subject}/{self.clip}"

    @property
    def person(self) -> str:
        """The person, unique over all datasets: 'casme2/sub01'; who is left out where folds span datasets."""
        return f"{SAME_PEOPLE.get(self.dataset, self.dataset)}/{self.subject}"
