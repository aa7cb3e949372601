"""Synthetic faces on disk: unlabelled videos, a labelled set in CASME II's layout, and pairs with known motion.

Everything follows from the seed. The three outputs show different people even with one seed.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from shards.errors import UsageError
from shards.progress import Progress
from shards.synthetic_casme2 import write_casme2
from shards.synthetic_difficulty import Difficulty
from shards.synthetic_files import claim, compress, write_frames, write_video
from shards.synthetic_motion import EMOTION_AUS, draw_aus
from shards.synthetic_scene import Scene, film, make_event

__all__ = ["Difficulty", "motion_pairs", "write_casme2", "write_unlabelled"]

_VIDEO, _PAIR = 1, 3  # streams of random numbers; synthetic_casme2 uses 2
FRAMING = 0.52
"""Pixels per face unit over the picture's side: the face is about two thirds of the picture's width."""
PAIRS_PER_PERSON = 4


def write_unlabelled(
    out: Path,
    *,
    videos: int = 12,
    seconds: float = 8.0,
    fps: float = 30,
    size: int = 160,
    seed: int = 0,
    folders: int = 2,
    difficulty: Difficulty | None = None,
) -> None:
    """Write `videos` unlabelled videos of `size` x `size` pixels to `out`, each of another person.

    The last `folders` of them become folders of JPEG frames (`video_010/frame_00001.jpg`), the others H.264
    (`video_000.mp4`). Small facial movements follow one another with short rests. Each video appears complete
    or not at all; a second call with the same settings writes only what is missing.

    Raises UsageError: impossible sizes; FlickerError: `out` holds synthetic data of other settings.
    """
    difficulty = difficulty or Difficulty()
    frames = round(seconds * fps)
    if videos < 1 or not 0 <= folders <= videos or frames < 2:
        raise UsageError(f"{videos} videos, {folders} as folders, of {seconds} s at {fps} fps: nothing to write")
    if size % 2 or size < 48:
        raise UsageError(f"size {size}: H.264 needs an even size, and a face at least 48 pixels")
    settings = {"videos": videos, "seconds": seconds, "fps": fps, "size": size, "seed": seed, "folders": folders}
    claim(out, {"kind": "unlabelled", **settings, "difficulty": asdict(difficulty)})
    with Progress(videos, "synthetic videos", "video") as progress:
        for index in range(videos):
            name = f"video_{index:03d}"
            path = out / (name if index >= videos - folders else f"{name}.mp4")
            if not path.exists():
                rng = np.random.default_rng([seed, _VIDEO, index])
                scene = _spontaneous_scene(size, np.arange(frames) / fps, difficulty, rng)
                if path.suffix:
                    write_video(path, scene, fps, difficulty.crf)
                else:
                    names = [f"frame_{number:05d}.jpg" for number in range(1, frames + 1)]
                    write_frames(path, scene, names, list(range(frames)), difficulty.jpeg_quality)
            progress.advance()


def motion_pairs(
    count: int, *, size: int, seed: int, difficulty: Difficulty | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`count` onset/apex pairs and the exact facial motion in each.

    Returns frames uint8 [n 2 S S 3] RGB (onset, apex; JPEG-compressed as the written sets are) and
    displacement float32 [n S S 2] (x, y) in pixels, for each pixel of the onset frame. The head's own movement
    between the two frames and blinks are in the frames but not in the displacement. Pair i is the same whatever
    `count`; PAIRS_PER_PERSON consecutive pairs show one person.
    """
    difficulty = difficulty or Difficulty()
    frames = np.empty((count, 2, size, size, 3), np.uint8)
    displacement = np.empty((count, size, size, 2), np.float32)
    for index in range(count):
        if index % PAIRS_PER_PERSON == 0:
            rng = np.random.default_rng([seed, _PAIR, index // PAIRS_PER_PERSON])
            person, style, centre = film(rng, size, size, FRAMING, difficulty)
        rise = rng.uniform(0.15, 0.3)
        event = make_event(
            person, style, _any_aus(rng), (0.0, rise, 0.05, 2 * rise), difficulty.draw_amplitude(rng), rng
        )
        scene = Scene(person, np.array([0.0, rise]), [event], difficulty, rng, centre)
        frames[index] = [compress(frame, difficulty.jpeg_quality) for frame in scene.frames()]
        displacement[index] = scene.displacement(0, 1)
    return frames, displacement


def _spontaneous_scene(size: int, times: np.ndarray, difficulty: Difficulty, rng: np.random.Generator) -> Scene:
    """A person moving now and then, for an unlabelled video."""
    person, style, centre = film(rng, size, size, FRAMING, difficulty)
    events, at = [], rng.uniform(-0.2, 0.3)
    while at < times[-1]:
        rise, hold, fall = rng.uniform(0.12, 0.28), rng.uniform(0.0, 0.12), rng.uniform(0.15, 0.35)
        timing = (at, at + rise, hold, at + rise + hold + fall)
        events.append(make_event(person, style, _any_aus(rng), timing, difficulty.draw_amplitude(rng), rng))
        at = timing[3] + rng.exponential(0.2)
    return Scene(person, times, events, difficulty, rng, centre)


def _any_aus(rng: np.random.Generator) -> str:
    """An AU set of any emotion."""
    emotions = tuple(EMOTION_AUS)
    return draw_aus(emotions[rng.integers(len(emotions))], 0.0, rng, emotions)[0]
