"""A labelled synthetic dataset in CASME II's layout: `Cropped/subXX/EPxx_yy/reg_imgN.jpg` and the workbook."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl

from shards.errors import UsageError
from shards.files import atomic_path, write_json
from shards.progress import Progress
from shards.synthetic_difficulty import Difficulty
from shards.synthetic_files import claim, write_frames
from shards.synthetic_motion import EMOTION_AUS, UNITS, Style, draw_aus
from shards.synthetic_scene import Person, Scene, film, make_event

WORKBOOK = "CASME2-coding-20140508.xlsx"
COLUMNS = ("Subject", "Filename", None, "OnsetFrame", "ApexFrame", "OffsetFrame", None, "Action Units",
           "Estimated Emotion")  # fmt: skip
FPS = 200
FRAMING = 0.66
"""Pixels per face unit over the picture's width: the crop holds little but the face."""
_STREAM = 2  # of random numbers; shards.synthetic uses 1 and 3


def write_casme2(
    root: Path,
    *,
    subjects: int = 6,
    clips_per_subject: int = 12,
    classes: Sequence[str] = ("happiness", "disgust", "surprise", "repression", "others"),
    size: tuple[int, int] = (140, 170),
    seed: int = 0,
    difficulty: Difficulty | None = None,
    keyframes_only: bool = False,
    ground_truth: Path | None = None,
) -> None:
    """Write a labelled set to `root` exactly as CASME II lies on disk (200 fps, unpadded absolute frame numbers).

    Each subject shows each of `classes` about equally often. `size` is (width, height) in pixels. Clips hold a
    few frames before onset and after offset, or, with `keyframes_only`, the annotated onset, apex and offset
    alone. `ground_truth`, a file outside `root`, receives the true frames, amplitudes and units as JSON.
    Clips appear complete or not at all, the workbook last; a second call with the same settings writes only
    what is missing.

    Raises UsageError: unknown class, impossible sizes; FlickerError: `root` holds data of other settings.
    """
    difficulty, classes = difficulty or Difficulty(), tuple(classes)
    _check(root, subjects, clips_per_subject, classes, size, ground_truth)
    settings = {"subjects": subjects, "clips_per_subject": clips_per_subject, "classes": classes, "size": size}
    settings |= {"seed": seed, "keyframes_only": keyframes_only, "difficulty": asdict(difficulty)}
    claim(root, {"kind": "casme2", **settings})
    clips: list[_Clip] = []
    with Progress(subjects * clips_per_subject, "synthetic clips", "clip") as progress:
        for subject in range(1, subjects + 1):
            rng = np.random.default_rng([seed, _STREAM, subject])
            person, style, centre = film(rng, *size, FRAMING, difficulty)
            for clip in _plan(subject, clips_per_subject, classes, difficulty, rng):
                folder = root / "Cropped" / f"sub{subject:02d}" / clip.name
                _film_clip(folder, clip, person, style, centre, difficulty, keyframes_only)
                clips.append(clip)
                progress.advance()
    if ground_truth is not None:
        write_json(ground_truth, {"fps": FPS, "clips": [clip.truth() for clip in clips]})
    _write_workbook(root / WORKBOOK, clips)


def _check(
    root: Path, subjects: int, clips: int, classes: tuple[str, ...], size: tuple[int, int], ground_truth: Path | None
) -> None:
    """Refuse what cannot be written."""
    unknown = [name for name in classes if name not in EMOTION_AUS]
    if unknown or len(set(classes)) < 2 or len(set(classes)) < len(classes):
        raise UsageError(f"classes {list(classes)}: give two or more different ones of {list(EMOTION_AUS)}")
    if not 1 <= subjects <= 99 or not 1 <= clips <= 200:
        raise UsageError(f"{subjects} subjects with {clips} clips each: 1 to 99 subjects, 1 to 200 clips")
    if min(size) < 48:
        raise UsageError(f"size {size[0]} x {size[1]}: a face needs at least 48 pixels")
    if ground_truth is not None and ground_truth.resolve().is_relative_to(root.resolve()):
        raise UsageError(f"ground truth {ground_truth} lies inside the dataset {root}: give a file outside")


@dataclass
class _Clip:
    """One clip to film, labelled `emotion`, showing the units of the class `shown`. Frame numbers are absolute."""

    subject: int
    name: str
    emotion: str
    shown: str
    aus: str
    first: int
    onset: int
    apex: int
    offset: int
    last: int
    true: tuple[int, int, int]
    """Onset, apex, offset as the face does them."""
    seed: list[int]
    amplitude_px: float
    gains: dict[str, float] | None = None

    def row(self) -> tuple[Any, ...]:
        """The workbook's row; a single unit is a number there, as in the original."""
        aus = int(self.aus) if self.aus.isdigit() else self.aus
        subject = f"{self.subject:02d}"
        return (subject, self.name, None, self.onset, self.apex, self.offset, None, aus, self.emotion)

    def truth(self) -> dict[str, Any]:
        """What really happens in the clip, for a JSON file."""
        keys = ("name", "emotion", "shown", "aus", "true", "amplitude_px", "gains")
        return {"subject": f"{self.subject:02d}"} | {key: getattr(self, key) for key in keys}


def _plan(
    subject: int, count: int, classes: tuple[str, ...], difficulty: Difficulty, rng: np.random.Generator
) -> list[_Clip]:
    """`count` clips of one subject, in the order of their names."""
    emotions = [classes[i] for _ in range(-(-count // len(classes))) for i in rng.permutation(len(classes))][:count]
    takes = rng.choice(18 * 20, count, replace=False)  # episode 2 to 19, take 1 to 20
    clips = []
    for emotion, take in zip(emotions, sorted(takes), strict=True):
        name = f"EP{take // 20 + 2:02d}_{take % 20 + 1:02d}" + ("f" if rng.random() < 0.5 else "")
        aus, shown = draw_aus(emotion, difficulty.overlap, rng, classes)
        true = np.cumsum([rng.integers(20, 300), rng.integers(18, 46), rng.integers(20, 56)])
        onset, apex, offset = (int(n) for n in true + np.rint(rng.normal(0, difficulty.apex_error, 3)).astype(int))
        onset = max(onset, 1)
        apex = max(apex, onset + 1)
        offset = max(offset, apex + 1)
        first, last = max(1, onset - int(rng.integers(2, 9))), offset + int(rng.integers(2, 9))
        clips.append(
            _Clip(
                subject, name, emotion, shown, aus, first, onset, apex, offset, last,
                true=(int(true[0]), int(true[1]), int(true[2])),
                seed=[int(n) for n in rng.integers(2**31, size=2)],
                amplitude_px=difficulty.draw_amplitude(rng),
            )
        )  # fmt: skip
    return clips


def _film_clip(
    folder: Path,
    clip: _Clip,
    person: Person,
    style: Style,
    centre: tuple[float, float],
    difficulty: Difficulty,
    keyframes_only: bool,
) -> None:
    """Write the clip's frames unless they are there; notes the units' amplitudes in `clip`."""
    rng = np.random.default_rng(clip.seed)
    times = np.arange(clip.first, clip.last + 1) / FPS
    onset, apex, offset = (number / FPS for number in clip.true)
    hold = 0.1 * (offset - apex)
    event = make_event(person, style, clip.aus, (onset, apex, hold, offset), clip.amplitude_px, rng)
    clip.gains = {
        f"{'L' if side > 0 else 'R'}{au}": round(float(gain * person.scale), 4)
        for (au, side), gain in zip(UNITS, event.gains, strict=True)
        if gain
    }
    if folder.exists():
        return
    start = rng.uniform(times[0] - 0.2, times[-1])
    stray = draw_aus(list(EMOTION_AUS)[rng.integers(len(EMOTION_AUS))], 0.0, rng, ())[0]
    timing = (start, start + rng.uniform(0.1, 0.3), 0.05, start + 0.6)
    amplitude = rng.uniform(0, difficulty.distractor_px)
    events = [event, make_event(person, style, stray, timing, amplitude, rng)]
    scene = Scene(person, times, events, difficulty, rng, centre)
    numbers = [clip.onset, clip.apex, clip.offset] if keyframes_only else list(range(clip.first, clip.last + 1))
    names = [f"reg_img{number}.jpg" for number in numbers]
    write_frames(folder, scene, names, [number - clip.first for number in numbers], difficulty.jpeg_quality)


def _write_workbook(path: Path, clips: list[_Clip]) -> None:
    """The coding workbook, the same bytes for the same clips."""
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Sheet1"
    sheet.append(COLUMNS)
    for clip in clips:
        sheet.append(clip.row())
    buffer = io.BytesIO()
    book.save(buffer)
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as target,
        zipfile.ZipFile(buffer) as source,
    ):
        for name in source.namelist():  # the time of saving lies in the entries' dates and in core.xml
            data = re.sub(rb"(<dcterms:\w+ [^>]*>)[^<]*", rb"\g<1>2014-05-08T00:00:00Z", source.read(name))
            target.writestr(zipfile.ZipInfo(name, (2014, 5, 8, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
