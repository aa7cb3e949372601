"""Apexes that a dataset does not code, spotted in the frames.

SMIC and CAS(ME)³ part C code none; HTNet (section 4.1) spots SMIC's by D&C-RoIs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from finetune.clips import Clip
from finetune.faces.landmarks import locate_clips
from finetune.frames import read_image
from finetune.inputs.store import fingerprint
from finetune.motion import spotting
from finetune.validation import Validation
from shards.errors import FlickerError
from shards.files import read_json, write_json
from shards.pool import Pool
from shards.progress import Progress

UNCODED = ("apex-uncoded", "apex-midpoint")
"""Flags of clips whose apex is only the middle."""
MOTION, LBP = spotting.Motion(), spotting.Lbp()
Task = tuple[Clip, np.ndarray, str]  # clip, landmarks [68 2] of its onset frame, method


def spot(
    clips: Sequence[Clip], method: str, report: Validation, cache: Path, *, workers: int = 1, quiet: bool = False
) -> list[Clip]:
    """The clips, with an apex by `method` ('flow' or 'dc') where none is coded; each is noted in `report`.

    What was found is kept in `cache`, by the clip's frames and the method's parameters. Raises FlickerError: no face
    in the onset frames of too many clips, or a frame that cannot be read.
    """
    wanted = [clip for clip in clips if set(clip.flags) & set(UNCODED) and clip.offset - clip.onset >= 2]
    paths = {clip.id: cache / "apexes" / f"{_key(clip, method)}.json" for clip in wanted}
    missing = [clip for clip in wanted if not paths[clip.id].exists()]
    if missing:
        faces, _ = locate_clips(missing, "onset", cache=cache / "landmarks", workers=workers, quiet=quiet)
        tasks = [(clip, faces[clip.id].points, method) for clip in missing if clip.id in faces]
        with (
            Pool(workers if workers > 1 else 0) as pool,
            Progress(len(wanted), "apexes", "clips", done=len(wanted) - len(tasks), quiet=quiet) as progress,
        ):
            for name, number in pool.run(_spotted, tasks, _died):
                write_json(paths[name], {"clip": name, "method": method, "apex": number})
                progress.advance()
    return [_with_apex(clip, paths[clip.id], report) if clip.id in paths else clip for clip in clips]


def _key(clip: Clip, method: str) -> str:
    """Digest of the clip's frames and the method's parameters."""
    parts = [fingerprint(clip), method, asdict(MOTION if method == "flow" else LBP), spotting.VERSION]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _spotted(task: Task) -> tuple[str, int]:
    """(clip id, the apex as a real frame number)."""
    clip, points, method = task
    numbers = [number for number in sorted(clip.frames) if clip.onset <= number <= clip.offset]
    frames = np.stack([read_image(clip.frames[number]) for number in numbers])
    if method == "flow":
        return clip.id, numbers[spotting.flow_magnitude(frames, points, clip.fps, MOTION).index]
    return clip.id, numbers[spotting.divide_and_conquer(frames, points, clip.fps, LBP).index]


def _died(task: Task) -> tuple[str, int]:
    """Stands in for a clip whose process ended."""
    raise FlickerError(
        f"{task[0].id}: the process that spotted its apex ended; try --data.workers 1, or --data.apex coded"
    )


def _with_apex(clip: Clip, path: Path, report: Validation) -> Clip:
    """The clip with the apex that was found; unchanged, with its flag, where its face was not."""
    if not path.exists():
        return clip
    apex = int(read_json(path, "a spotted apex")["apex"])
    flag = report.note(f"{clip.subject}/{clip.clip}", "apex-spotted", f"{clip.apex} -> {apex}")
    return replace(clip, apex=apex, flags=(*(name for name in clip.flags if name not in UNCODED), flag))
