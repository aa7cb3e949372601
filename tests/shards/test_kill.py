"""SIGKILL at random moments: the same command finishes the same bytes, and what was finished stays as it was."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.shards.material import contents, make_folder, make_video


@pytest.fixture
def command(repository, tmp_path):
    """The real command on folders to copy, folders to encode and a video; returns the started process."""
    for number in range(6):
        make_folder(tmp_path / f"in/copy{number}", range(40), size=(96, 96), scenes=[number % 2] * 40)
        make_folder(tmp_path / f"in/encode{number}", range(30), size=(100, 120), suffix=".bmp")
    make_video(tmp_path / "in/video.mp4", 40)

    def start(out, workers):
        arguments = ["in", "--out", out, "--size", 96, "--clip_frames", 8, "--shard_mb", 1, "--workers", workers]
        return subprocess.Popen(
            [sys.executable, repository / "launch/shard.py", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def finished(out):
    """What says of itself that it is complete, with its inode and time."""
    staged = [path for path in (out / ".staging").glob("source-*") if path.suffix == ".staged"]
    shards = [path for index in out.glob("shard-*.idx") for path in (index, index.with_suffix(".tar"))]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in [*staged, *shards]}


def kill_after(process, out, steps):
    """SIGKILL once `steps` more sources or shards are finished than at the start. Returns what was finished then."""
    start = count(out)
    while process.poll() is None and count(out) < start + steps:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.3)  # the workers end by themselves
    return finished(out)


def count(out):
    return len(list((out / ".staging").glob("source-*"))) + 10 * len(list(out.glob("shard-*.idx")))


@pytest.mark.parametrize(("seed", "kills"), [(0, 4), *(pytest.param(n, 15, marks=pytest.mark.slow) for n in (1, 2))])
def test_killed_again_and_again_nothing_finished_is_lost_or_rewritten(command, tmp_path, seed, kills):
    whole = command("whole", 0)
    assert whole.wait() == 0, whole.stderr.read()
    rng = random.Random(seed)
    out, before = tmp_path / "out", {}
    for _ in range(kills):
        now = kill_after(command("out", rng.choice([0, 1, 2])), out, rng.choice([0, 1, 2, 3, 5]))
        if (out / "manifest.json").exists():
            break
        assert before.items() <= now.items()
        before = now
    assert before, "no kill hit a finished source"
    last = command("out", 2)
    assert last.wait() == 0, last.stderr.read()
    kept = {path: state for path, state in before.items() if path.parent == out}
    assert kept.items() <= finished(out).items()
    assert contents(out) == contents(tmp_path / "whole")
