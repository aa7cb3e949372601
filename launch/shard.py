"""Video files and frame folders to shards; checking of shards.

python launch/shard.py SOURCE... --out DIR [--face none|box|align] [--size 256] [--workers N]
python launch/shard.py --verify DIR
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # launch/ itself must not shadow the packages pretrain and finetune
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import os
import re
from dataclasses import dataclass, field
from typing import Literal

from launch.cli import parse, run
from shards.errors import FlickerError, UsageError
from shards.schema import Manifest


@dataclass
class ShardConfig:
    """Settings of launch/shard.py."""

    sources: list[str] = field(default_factory=list)
    """video files, frame folders, or folders that hold them at any depth"""
    out: str = ""
    """folder for the shards; the same command again continues an interrupted run"""
    face: Literal["none", "box", "align"] = "none"
    """none: central square; box: square around the face; align: eyes, nose and mouth moved to fixed places"""
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
        description="Video files and frame folders to shards.",
        positional="sources",
    )
    if config.verify:
        if config.sources or config.out:
            raise UsageError("--verify DIR takes neither sources nor --out")
        _verify(Path(config.verify))
    elif not config.sources or not config.out:
        raise UsageError("give SOURCE... and --out DIR, or --verify DIR; --help lists everything")
    else:
        _write(config)


def _verify(directory: Path) -> None:
    """Print what is wrong, or the counts."""
    from shards.schema import read_manifest
    from shards.verification import verify

    if problems := verify(directory):
        for problem in problems:
            print(problem)
        raise FlickerError(f"{directory}: {len(problems)} problems: restore the files, or write the folder again")
    print(f"{directory}: all good: {_counts(read_manifest(directory))}")


def _write(config: ShardConfig) -> None:
    """Write the shards and say what came of it."""
    import numpy as np

    from shards.index import load_frames
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
    )
    index = load_frames(manifest)
    coverage = float((index.remaining(np.arange(len(index))) >= 5).mean())
    if done:
        print(f"nothing to do: {config.out} is finished")
    print(f"{config.out}: {_counts(manifest)}")
    _print_sources(manifest)
    print(f"coverage: {coverage:.1%} of the frames have a partner 5 to 11 frames on")
    print(f"check:  python launch/shard.py --verify {config.out}")
    print(
        "next:   deepspeed launch/pretrain.py --config launch/recipes/pretrain/micron_bert_paper.yaml "
        f"--data.shards {config.out}"
    )


def _counts(manifest: Manifest) -> str:
    """One line of counts."""
    used = len(manifest.sources) - len(manifest.failures)
    return (
        f"{len(manifest.shards)} shards, {manifest.clips} clips, {manifest.frames} frames, "
        f"{manifest.bytes / 1e6:.1f} MB, from {used} of {len(manifest.sources)} sources"
    )


def _print_sources(manifest: Manifest) -> None:
    """The skipped sources, the fallbacks, and the totals of what else happened."""
    for source in manifest.failures:
        print(f"skipped {source.name}: {source.reason}")
    for source in manifest.fallbacks:
        print(f"read with PyAV {source.name}: {source.fallback}")
    totals: dict[str, int] = {}
    for source in manifest.sources:
        for name, count in source.counts.items():
            totals[name] = totals.get(name, 0) + count
    if totals:
        print("counted: " + ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in totals.items()))


if __name__ == "__main__":
    run(main)
