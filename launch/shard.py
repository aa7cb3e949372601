"""Video files, frame folders and dataset roots to shards; checking of shards.

python launch/shard.py SOURCE... --out DIR [--face none|box|align] [--size 256] [--workers N]
python launch/shard.py casme3:PATH samm:PATH --exclude_subjects samm:6,casme3:216 --out DIR
python launch/shard.py --verify DIR
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # launch/ itself must not shadow the packages pretrain and finetune
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from launch.cli import parse, run
from shards.errors import FlickerError, UsageError

if TYPE_CHECKING:
    from shards.manifest import Manifest

LISTED = 20  # skipped sources that are printed


@dataclass
class ShardConfig:
    """Settings of launch/shard.py."""

    sources: list[str] = field(default_factory=list)
    """video files, frame folders, or folders that hold them at any depth; dataset roots as DATASET:PATH"""
    out: str = ""
    """folder for the shards; the same command again continues an interrupted run"""
    face: Literal["none", "box", "align"] = "none"
    """none: central square; box: square around the face; align: eyes, nose and mouth moved to fixed places"""
    track: Literal["fixed", "smooth"] = "fixed"
    """fixed: one crop per stretch of frames; smooth: a crop that follows a drifting head over seconds (box, align)"""
    size: int = 256
    """side of the stored frames, px"""
    workers: int = os.cpu_count() or 1
    """processes that encode (0: this one); does not change the result"""
    quality: int = 95
    """JPEG quality, 1 to 100 (4:2:0)"""
    clip_frames: int = 64
    """longest clip, frames"""
    shard_mb: int = 256
    """longest shard, MiB"""
    min_run: int = 6
    """runs of fewer consecutive frames are left out"""
    max_failed: float = 1.0
    """share of the sources that may be unusable, 0 to 1"""
    folder_fps: float | None = None
    """frame rate of frame folders, 1/s, where it is known (needed for a δ in ms)"""
    thin: float | None = None
    """static stretches longer than a clip are cut to one clip: successive frames differ by at most so many grey
    levels (0 to 255, mean over a thumbnail; none: keep all)"""
    dataset: str = ""
    """layout of the sources that have no DATASET: prefix: casme2, samm, smic, casme_sq or casme3"""
    exclude_subjects: str = ""
    """subjects left out: 1,2,15 or sub01 or samm:6 (where there are several datasets), or @FILE with one a line"""
    seed: int = 0
    """order of the clips over the shards"""
    verify: str = ""
    """check the shards in this folder instead"""


def main(arguments: list[str]) -> None:
    """Write shards, or verify them."""
    arguments = [re.sub(r"^--[a-z][a-z-]*", lambda m: "--" + m[0][2:].replace("-", "_"), a) for a in arguments]
    config = parse(
        ShardConfig,
        arguments,
        command="launch/shard.py",
        description="Video files, frame folders and dataset roots to shards.",
        positional="sources",
    )
    if config.verify:
        if config.sources or config.out:
            raise UsageError("--verify DIR takes neither sources nor --out")
        _verify(config.verify)
    elif not config.sources or not config.out:
        raise UsageError("give SOURCE... and --out DIR, or --verify DIR; --help lists everything")
    else:
        _write(config)


def _verify(location: str) -> None:
    """Print what is wrong, or the counts."""
    from shards.manifest import read_manifest
    from shards.verification import verify

    if problems := verify(location):
        for problem in problems:
            print(problem)
        raise FlickerError(f"{location}: {len(problems)} problems: restore the files, or write the folder again")
    print(f"{location}: all good: {_counts(read_manifest(location))}")


def _write(config: ShardConfig) -> None:
    """Write the shards and say what came of it."""
    from shards.trees import read_subjects
    from shards.writer import write

    done = (Path(config.out) / "manifest.json").exists()
    manifest = write(
        config.sources,
        config.out,
        size=config.size,
        face=config.face,
        quality=config.quality,
        clip_frames=config.clip_frames,
        shard_bytes=config.shard_mb * 2**20,
        workers=config.workers,
        seed=config.seed,
        max_failed=config.max_failed,
        min_run=config.min_run,
        folder_fps=config.folder_fps,
        thin=config.thin,
        track=config.track,
        dataset=config.dataset,
        exclude_subjects=read_subjects(config.exclude_subjects),
    )
    if done:
        print(f"nothing to do: {config.out} is finished")
    print(f"{config.out}: {_counts(manifest)}")
    _print_sources(manifest)
    print(f"coverage: {manifest.coverage(5):.1%} of the frames have a partner 5 to 11 frames on")
    print(f"check:  python launch/shard.py --verify {config.out}")
    print(
        "next:   deepspeed launch/pretrain.py --config launch/recipes/pretrain/micron_bert_paper.yaml "
        f"--data.shards {config.out}"
    )


def _counts(manifest: "Manifest") -> str:
    """One line of counts."""
    used = len(manifest.sources) - len(manifest.failures)
    return (
        f"{len(manifest.shards)} shards, {manifest.clips} clips, {manifest.frames} frames, "
        f"{manifest.bytes / 1e6:.1f} MB, from {used} of {len(manifest.sources)} sources"
    )


def _print_sources(manifest: "Manifest") -> None:
    """Who was left out, the skipped sources, the fallbacks, and the totals of what else happened."""
    if excluded := manifest.options["exclude_subjects"]:
        print(f"left out: {len(excluded)} subjects: {', '.join(excluded)}")
    skipped, fallbacks = manifest.failures, manifest.fallbacks
    for source in skipped[:LISTED]:
        print(f"skipped {source.name}: {source.reason}")
    if len(skipped) > LISTED:
        print(f"skipped {len(skipped) - LISTED} more: all are in {manifest.location}/failures.txt")
    for source in fallbacks[:LISTED]:
        print(f"read with PyAV {source.name}: {source.fallback}")
    if len(fallbacks) > LISTED:
        print(f"read with PyAV {len(fallbacks) - LISTED} more: all are in {manifest.location}/manifest.json")
    totals: dict[str, int] = {}
    for source in manifest.sources:
        for name, count in source.counts.items():
            totals[name] = totals.get(name, 0) + count
    if totals:
        print("counted: " + ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in totals.items()))


if __name__ == "__main__":
    run(main)
