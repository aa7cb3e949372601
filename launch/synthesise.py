"""Write synthetic faces: unlabelled videos to pretrain on, a labelled set in CASME II's layout to evaluate on."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # launch/ itself must not shadow the packages pretrain and finetune
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import logging
from dataclasses import dataclass, field

from launch.cli import parse, run
from shards.errors import UsageError
from shards.synthetic_difficulty import Difficulty


@dataclass
class Config:
    """What to write, and where."""

    out: str = ""
    """Folder to write to: OUT/videos and OUT/casme2. Required."""
    videos: int = 12
    """Unlabelled videos; 0: write none."""
    seconds: float = 8.0
    """Length of each video, seconds."""
    fps: float = 30.0
    """Their frame rate, frames a second."""
    size: int = 160
    """Their width and height, pixels."""
    folders: int = 2
    """How many of the videos become folders of JPEG frames, not H.264."""
    subjects: int = 6
    """People in the labelled set; 0: write no labelled set."""
    clips_per_subject: int = 12
    """Labelled clips of each of them."""
    classes: tuple[str, ...] = ("happiness", "disgust", "surprise", "repression", "others")
    """Emotions in the labelled set, two to five of these."""
    width: int = 140
    """Width of the labelled set's frames, pixels."""
    height: int = 170
    """Height of the labelled set's frames, pixels."""
    keyframes_only: bool = False
    """Write the annotated onset, apex and offset of each labelled clip alone."""
    seed: int = 0
    """Everything follows from it."""
    ground_truth: bool = False
    """Also write OUT/casme2_ground_truth.json: true frames, units and amplitudes."""
    difficulty: Difficulty = field(default_factory=Difficulty)
    """How hard the data is."""


def main(arguments: list[str]) -> None:
    """Write what the command line asks for."""
    config = parse(Config, arguments, command="synthesise.py", description=__doc__ or "")
    if not config.out:
        raise UsageError("--out DIR is missing: say where to write")
    from shards.synthetic import write_casme2, write_unlabelled

    out = Path(config.out)
    if config.videos:
        write_unlabelled(
            out / "videos",
            videos=config.videos,
            seconds=config.seconds,
            fps=config.fps,
            size=config.size,
            seed=config.seed,
            folders=min(config.folders, config.videos),
            difficulty=config.difficulty,
        )
        logging.info("unlabelled videos: %s", out / "videos")
    if config.subjects:
        write_casme2(
            out / "casme2",
            subjects=config.subjects,
            clips_per_subject=config.clips_per_subject,
            classes=config.classes,
            size=(config.width, config.height),
            seed=config.seed,
            difficulty=config.difficulty,
            keyframes_only=config.keyframes_only,
            ground_truth=out / "casme2_ground_truth.json" if config.ground_truth else None,
        )
        logging.info("labelled set: %s", out / "casme2")


if __name__ == "__main__":
    run(main)
