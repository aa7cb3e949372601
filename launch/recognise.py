"""Recognise the micro-expression in a recording: its apex, its emotion, and a picture of what the recogniser saw.

python launch/recognise.py VIDEO --checkpoint RUN --out DIR                      # at most four seconds of video
python launch/recognise.py VIDEO --start 12.4 --end 13.1 --checkpoint RUN --out DIR
python launch/recognise.py FRAMES/ --fps 200 --checkpoint RUN --out DIR          # a folder of frames

RUN is a recognition run made with `launch/finetune.py ... --save_recogniser true`. The first frame is taken for the
onset. A recogniser has no known score on people it was trained on; on others, its run's report says what to expect.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # launch/ itself must not shadow the packages pretrain and finetune
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from dataclasses import dataclass, field

from launch.cli import parse, run
from shards.errors import UsageError


@dataclass
class RecogniseConfig:
    """Settings of launch/recognise.py."""

    recording: list[str] = field(default_factory=list)
    """A video file or a folder of frames"""
    checkpoint: str = ""
    """Recognition run directory with a recogniser in it"""
    out: str = "runs/recognised"
    """Folder for result.json, recognised.png and the frames"""
    start: float = 0.0
    """Where the stretch to look at begins, seconds (videos)"""
    end: float = 0.0
    """Where it ends, seconds; 0: with the video"""
    fps: float = 0.0
    """Frames per second of a folder of frames"""


def main(arguments: list[str]) -> None:
    """Load, recognise, draw, print."""
    config = parse(
        RecogniseConfig,
        arguments,
        command="launch/recognise.py",
        description=__doc__ or "",
        positional="recording",
    )
    if len(config.recording) != 1 or not config.checkpoint:
        raise UsageError("give one VIDEO or folder of frames, and --checkpoint RUN")
    from finetune import recogniser, recording
    from finetune.recognising import draw, recognise
    from shards.files import write_json

    path, out = Path(config.recording[0]), Path(config.out)
    trained = recogniser.load(config.checkpoint)
    if path.is_dir():
        clip = recording.from_folder(path, config.fps)
    else:
        clip = recording.from_video(path, out / "frames", config.start, config.end)
    found = recognise(trained, clip, out / "prepared")
    write_json(out / "result.json", found.as_dict() | {"recording": str(path), "recogniser": trained.about})
    draw(found, out / "recognised.png")
    print(f"apex: frame {found.clip.apex}, {1000 * found.as_dict()['apex_s']:.0f} ms after the first")
    for name, value in zip(found.classes, found.probabilities, strict=True):
        print(f"{value:6.1%}  {name}{'  <-' if name == found.label else ''}")
    if trained.about["simulated"]:
        print("the recogniser was trained on simulated data: on real faces it means nothing")
    print(f"picture: {out / 'recognised.png'}")


if __name__ == "__main__":
    run(main)
