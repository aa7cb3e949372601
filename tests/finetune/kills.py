"""A run that is killed again and again, for the test of resuming: one process imports, and forks the runs.

As a module: `python -m tests.finetune.kills ROOT OUT KILLS SEED` runs to the end in OUT/whole, and in OUT/killed with
so many kills before; it prints, as JSON, how many folds there were at each kill.
"""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from finetune import loso
from finetune.config import DataConfig, FinetuneConfig, HeadConfig, ProtocolConfig, TrainConfig
from finetune.options.htnet import HTNetOptions
from finetune.reporting import report

LANDMARKS = ("left_eye", "right_eye", "mouth_left", "mouth_right")
POINTS = (8, 9, 19, 9, 9, 20, 18, 20)
MOST = 3
"""Folds that a run may finish before it is killed, at most, and those it is about to finish."""


def write_maps(root: Path, subjects: int, clips: int = 2) -> None:
    """Random flow maps that say their class, of people of three datasets."""
    rng = np.random.default_rng(0)
    head = ["dataset", "subject", "clip", "label", *(f"{part}_{axis}" for part in LANDMARKS for axis in "xy")]
    people = [(("casme2", "samm", "smic")[number % 3], number) for number in range(subjects)]
    rows = [(name, who, f"c{who}_{clip}", (who + clip) % 3, *POINTS) for name, who in people for clip in range(clips)]
    maps = rng.integers(0, 128, (len(rows), 28, 28, 3), dtype=np.uint8)
    for row, (_, _, _, label, *_) in enumerate(rows):
        maps[row, ..., label] += 60
    root.mkdir(parents=True, exist_ok=True)
    with (root / "clips.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])
    np.savez(root / "maps.npz", maps=maps)


def quick(root: Path, out: Path, **protocol: object) -> FinetuneConfig:
    """A run on such maps whose folds take a tenth of a second."""
    return FinetuneConfig(
        out=str(out),
        device="cpu",
        data=DataConfig(root=str(root)),
        head=HeadConfig(name="htnet", htnet=HTNetOptions(dim=3, depths=[1, 1, 1])),
        train=TrainConfig(epochs=1, batch=0),
        protocol=ProtocolConfig(**{"seeds": [0], **protocol}),  # type: ignore[arg-type]
    )


def start(config: FinetuneConfig) -> int:
    """Run in a child; its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        loso.run(config)
        os._exit(0)
    finally:
        os._exit(1)


def done(out: Path) -> dict[str, int]:
    """Folds that are whole, and when each was written."""
    whole = [path for path in (out / "folds").glob("*.json") if not path.name.startswith(".")]
    return {path.name: path.stat().st_mtime_ns for path in whole}


def main(root: Path, out: Path, kills: int, seed: int) -> list[int]:
    """Folds there at each kill. Each was written once."""
    report.write = lambda *_: Path()  # it takes longer than the folds
    rng = random.Random(seed)
    counts: list[int] = []
    written: dict[str, int] = {}
    killed, whole = quick(root, out / "killed"), quick(root, out / "whole")
    for _ in range(kills):
        pid, goal = start(killed), len(written) + rng.randint(0, MOST)
        while len(done(out / "killed")) < goal:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.15))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "the run ended before it was killed"
        now = done(out / "killed")
        assert written.items() <= now.items(), "a fold that was done was made again"
        written = now
        counts.append(len(written))
    for config in (killed, whole):
        _, status = os.waitpid(start(config), 0)
        assert status == 0
    assert written.items() <= done(out / "killed").items()
    return counts


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
