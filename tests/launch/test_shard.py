"""launch/shard.py as a person runs it: output, exit codes, one-line errors, a kill in the middle."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.shards.material import contents, make_folder, make_video


@pytest.fixture
def shard(repository, tmp_path):
    """Run the command in a folder of its own; returns the finished process."""

    def run(*arguments, wait=True):
        command = [sys.executable, repository / "launch/shard.py", *map(str, arguments)]
        options = {"cwd": tmp_path, "text": True, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
        if wait:
            return subprocess.run(command, capture_output=True, **options)
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)

    return run


def test_writes_verifies_and_says_what_came_of_it(shard, tmp_path):
    make_video(tmp_path / "in/a.mp4")
    make_folder(tmp_path / "in/b", [*range(10), *range(20, 32)])
    (tmp_path / "in/c.mp4").write_bytes(b"nothing")
    done = shard("in", "--out", "out", "--size", 32, "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert "1 shards, 3 clips, 62 frames" in done.stdout and "from 2 of 3 sources" in done.stdout
    assert "skipped in/c.mp4: unreadable video: Invalid data" in done.stdout
    assert "counted: gaps 1" in done.stdout
    assert "coverage: 75.8% of the frames" in done.stdout
    assert "next:   deepspeed launch/pretrain.py" in done.stdout
    again = shard("in", "--out", "out", "--size", 32)
    assert again.returncode == 0 and again.stdout.startswith("nothing to do: out is finished")
    good = shard("--verify", "out")
    assert (good.returncode, good.stdout.split(": ")[1]) == (0, "all good")
    tar = tmp_path / "out/shard-000000.tar"
    data = bytearray(tar.read_bytes())
    data[5000] ^= 1
    tar.write_bytes(data)
    bad = shard("--verify", "out")
    assert bad.returncode == 1
    assert "shard-000000.tar: its SHA-256 differs" in bad.stdout and "error: out: " in bad.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "give SOURCE... and --out DIR"),
        (("in",), 2, "give SOURCE... and --out DIR"),
        (("in", "--out", "out", "--verify", "out"), 2, "takes neither"),
        (("in", "--out", "out", "--sise", "3"), 2, "did you mean 'size'?"),
        (("in", "--out", "out", "--face", "nose"), 2, "face"),
        (("in", "--out", "out", "--quality", "0"), 2, "quality 0 is out of range; give 1 to 100"),
        (("nowhere", "--out", "out"), 1, "source not found: "),
        (("in", "--out", "out"), 1, "nothing usable: all 1 sources were skipped; the first, in: empty folder"),
        (("--verify", "nowhere"), 1, "problems"),
    ],
)
def test_errors_take_one_line_and_an_exit_code(shard, tmp_path, arguments, code, message):
    (tmp_path / "in").mkdir()
    done = shard(*arguments)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.returncode, len(errors)) == (code, 1), done.stderr
    assert message in errors[0]
    assert "Traceback" not in done.stderr


def test_dashes_and_underscores_both_do(shard, tmp_path):
    make_folder(tmp_path / "in", range(10))
    assert shard("in", "--out=out", "--size=32", "--clip-frames", 8, "--min_run=2", "--workers=0").returncode == 0
    options = json.loads((tmp_path / "out/manifest.json").read_text())["options"]
    assert (options["size"], options["clip_frames"], options["min_run"]) == (32, 8, 2)


def test_killed_at_any_time_the_same_command_finishes_the_same_bytes(shard, tmp_path):
    for number in range(5):
        make_video(tmp_path / f"in/{number}.mp4", 60)
    assert shard("in", "--out", "whole", "--size", 128).returncode == 0
    command = ("in", "--out", "out", "--size", 128, "--workers", 0)
    kept = 0
    for _ in range(20):
        process = shard(*command, wait=False)
        _wait_for_more(tmp_path / "out/.staging", kept, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = len(list((tmp_path / "out/.staging").glob("source-*.staged")))
        assert now >= kept
        kept = now
        if kept >= 3:
            break
    assert kept > 0
    assert shard(*command).returncode == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def _wait_for_more(staging, kept, process):
    """Until another source is finished."""
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        if len(list(staging.glob("source-*.staged"))) > kept:
            return
        time.sleep(0.01)
