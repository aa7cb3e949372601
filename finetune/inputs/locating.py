"""Landmarks for the recipes that need them: once per clip, on the apex frame, by finetune.faces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune.clips import Clip
from finetune.faces import landmarks
from finetune.faces.interface import FacePoints
from finetune.inputs.base import Recipe
from shards.errors import FlickerError

GUESSED = landmarks.LIMIT
"""Share of the clips whose face may be the template: a guess that says nothing about the image."""


def identity(backend: str, recipes: Mapping[str, Recipe]) -> str:
    """Backend, its version and that of what finetune.faces makes of it, for keys; '' where no recipe needs one."""
    if not any(recipe.needs_points for recipe in recipes.values()):
        return ""
    found = landmarks.landmarker(backend)
    return f"{found.name} {found.version} format {landmarks.FORMAT}"


def locate(
    clips: Sequence[Clip], left_out: dict[str, str], *, cache: Path, workers: int, quiet: bool, backend: str
) -> dict[str, FacePoints]:
    """The face of every clip's apex frame, by clip id; clips whose apex cannot be read go into `left_out`."""
    if not clips:
        return {}
    found, report = landmarks.locate_clips(
        clips, "apex", cache=cache, workers=workers, quiet=quiet, backend=backend, limit=1.0
    )
    left_out |= report.unreadable
    return found


def refuse(guessed: Sequence[str], clips: int) -> None:
    """Raise FlickerError where the template had to do for more than GUESSED of the clips."""
    if len(guessed) > GUESSED * clips:
        raise FlickerError(
            f"inputs: no face found in the apex frame of {len(guessed)} of {clips} clips, more than {GUESSED:.0%}: "
            f"{', '.join(guessed[:3])}; look at them, or take a geometry that needs no landmarks (as-is-squash)"
        )
