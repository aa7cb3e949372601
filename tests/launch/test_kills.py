"""Runs killed again and again: they resume, lose nothing, repeat nothing and leave nothing behind.

Every run is a child of one process that has imported the command's modules, see forks.py.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.launch.forks import Forks, forks
from tests.launch.netns import free_port
from tests.launch.pretraining import arguments, losses_of, same
from tests.launch.test_hosts import weights_after

MARK = "FLICKER_TEST_KILLS"  # in the environment of every process of these runs


@pytest.fixture(scope="module")
def importer(repository: Path, environment: dict[str, str]) -> Iterator[Forks]:
    """The process that every run is a child of."""
    with forks(repository, {**environment, MARK: str(os.getpid())}) as server:
        yield server


class Folder:
    """A run's folder, looked at from outside while the run works in it."""

    def __init__(self, run: Path):
        self.run, self.checkpoints = run, run / "checkpoints"

    def steps(self) -> int:
        """Whole lines of the log."""
        log = self.run / "log.jsonl"
        return log.read_bytes().count(b"\n") if log.is_file() else 0

    def names(self) -> set[str]:
        """What is in the folder of checkpoints."""
        return {path.name for path in self.checkpoints.glob("*")}

    def latest(self) -> str:
        """The checkpoint that a restart would take, or nothing."""
        with contextlib.suppress(FileNotFoundError):
            return (self.checkpoints / "latest").read_text()
        return ""

    def caught(self) -> list[str]:
        """What a kill has interrupted, as far as the folder tells."""
        signs = {
            "a checkpoint": any("partial" in name for name in self.names()),
            "the move of latest": any(name.startswith(".latest") for name in self.names()),
            "between a checkpoint and latest": self._newest() > self._number(self.latest()),
            "a line of the log": self._log_is_cut(),
            "a conversion": any("universal" in path.name for path in self.checkpoints.rglob(".*")),
        }
        return [sign for sign, there in signs.items() if there] or ["none of these"]

    def leftovers(self) -> list[Path]:
        """What a finished run should not leave: temporary names, and checkpoints beyond those that are kept."""
        hidden = [path for path in self.run.rglob(".*") if "wandb" not in path.relative_to(self.run).parts]
        kept = sorted(self.checkpoints.glob("step-*"), key=lambda path: self._number(path.name))
        return hidden + kept[:-3] + [path for path in kept if "universal" in path.name]

    def _newest(self) -> int:
        return max((self._number(name) for name in self.names() if name.startswith("step-")), default=0)

    def _number(self, tag: str) -> int:
        digits = tag.removeprefix("step-")
        return int(digits) if digits.isdigit() else 0

    def _log_is_cut(self) -> bool:
        log = self.run / "log.jsonl"
        return log.is_file() and log.stat().st_size > 0 and not log.read_bytes().endswith(b"\n")


def _moments(chance: random.Random, folder: Folder) -> Callable[[float], bool]:
    """A random moment of a run to kill it at: a function of the seconds since its start that says whether it is now.

    Any time of the start-up; after some steps; while a checkpoint is written; while `latest` is moved.
    """
    kind = chance.choice(["time", "steps", "steps", "writing", "writing", "latest"])
    before, latest, names = folder.steps(), folder.latest(), folder.names()
    later = chance.uniform(0, 0.03)  # after the event
    limit = chance.uniform(0.2, 4) if kind == "time" else 60.0
    ahead = chance.randrange(1, 6)
    seen: list[float] = []

    def now(passed: float) -> bool:
        if kind == "steps":
            event = folder.steps() >= before + ahead
        elif kind == "writing":
            event = any(name not in names and not name.startswith(".latest") for name in folder.names())
        elif kind == "latest":
            event = any(name.startswith(".latest") for name in folder.names()) or folder.latest() != latest
        else:
            event = False
        if event:
            seen.append(passed)
        wait = 0.0 if kind == "latest" else later
        return passed > limit or bool(seen and passed >= seen[0] + wait)

    return now


def _kill_at(pids: list[int], moment: Callable[[float], bool], first: random.Random) -> None:
    """Kill one of these processes at a moment, and the others just after, as a machine that goes down does."""
    started = time.monotonic()
    while not moment(time.monotonic() - started) and _alive(pids[0]):
        time.sleep(0.0005)
    for pid in first.sample(pids, len(pids)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _alive(pid: int) -> bool:
    """Whether a process still runs (a zombie does not)."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def _steps(count: int) -> list[str]:
    """Arguments of a run that works for so many steps."""
    return ["--steps", str(count), "--checkpoint.every", "2"]


def _kill_often(importer: Forks, shards: Path, run: Path, kills: int, steps: int, chance: random.Random) -> Counter:
    """Start a run and kill it, so often, then let it end; what the kills have interrupted."""
    folder, log, caught = Folder(run), run.with_suffix(".txt"), Counter[str]()
    words = arguments(shards, run, *_steps(steps))
    for _ in range(kills):
        pid = importer.start(words, log)
        near_the_end = folder.steps() > steps - 20
        moment = _after(chance.uniform(0, 1)) if near_the_end else _moments(chance, folder)
        _kill_at([pid], moment, chance)
        assert importer.wait(pid) == -signal.SIGKILL, log.read_text()[-2000:]
        caught.update(folder.caught())
    assert importer.run(words, log) == 0, log.read_text()[-2000:]
    assert "Traceback" not in log.read_text() and "error:" not in log.read_text()
    return caught


def _after(limit: float) -> Callable[[float], bool]:
    """A moment so many seconds after the start."""
    return lambda passed: passed > limit


def _check(run: Path, whole: Path, steps: int) -> None:
    """The interrupted run is what the uninterrupted one is."""
    assert same(weights_after(run, steps), weights_after(whole, steps))
    assert losses_of(run) == losses_of(whole), "each step is in the log once"
    assert Folder(run).leftovers() == []
    assert _processes_left() == []


def _two_ranks(importer: Forks, words: list[str], logs: list[Path]) -> list[int]:
    """The process ids of a run's two ranks."""
    group = {"WORLD_SIZE": "2", "MASTER_PORT": str(free_port())}
    return [
        importer.start(words, log, RANK=str(rank), LOCAL_RANK=str(rank), **group) for rank, log in enumerate(logs)
    ]


def _processes_left(patience: float = 30) -> list[list[str]]:
    """Command lines of processes that outlive their runs: reader workers, wandb's service, git."""
    until = time.monotonic() + patience
    while True:
        left = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == str(os.getpid()) and process.status() != psutil.STATUS_ZOMBIE:
                    left.append(process.cmdline())
        left = [words for words in left if "tests.launch.forks" not in words]
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.2)


def _whole(importer: Forks, shards: Path, run: Path, steps: int) -> Path:
    """An uninterrupted run."""
    log = run.with_suffix(".txt")
    assert importer.run(arguments(shards, run, *_steps(steps)), log) == 0, log.read_text()[-2000:]
    return run


@pytest.mark.slow
def test_killed_a_few_times_a_run_ends_as_if_it_had_not_been(
    importer: Forks, small_shards: Path, tmp_path: Path
) -> None:
    whole = _whole(importer, small_shards, tmp_path / "whole", 24)
    _kill_often(importer, small_shards, tmp_path / "run", 3, 24, random.Random())
    _check(tmp_path / "run", whole, 24)


@pytest.mark.slow
def test_when_a_rank_is_killed_the_other_says_so_in_one_line(
    importer: Forks, small_shards: Path, tmp_path: Path
) -> None:
    run, logs = tmp_path / "run", [tmp_path / f"{rank}.txt" for rank in range(2)]
    pids = _two_ranks(importer, arguments(small_shards, run, *_steps(100000)), logs)
    _kill_at(pids[1:], lambda passed: Folder(run).steps() >= 4 or passed > 120, random.Random())
    assert [importer.wait(pid) for pid in pids] == [1, -signal.SIGKILL]
    text = logs[0].read_text()
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and errors[0].startswith("error: another rank has gone"), text[-2000:]
    assert "Traceback" not in text


@pytest.mark.slow
def test_killed_a_hundred_times_a_run_ends_as_if_it_had_not_been(
    importer: Forks, small_shards: Path, tmp_path: Path
) -> None:
    """Set FLICKER_KILLS for another number; about three seconds of processor time per kill."""
    kills = int(os.environ.get("FLICKER_KILLS", "100"))
    seed = random.randrange(10**6)
    started = time.monotonic()
    whole = _whole(importer, small_shards, tmp_path / "whole", 4 * kills)
    caught = _kill_often(importer, small_shards, tmp_path / "run", kills, 4 * kills, random.Random(seed))
    print(f"\n{kills} kills (seed {seed}) in {time.monotonic() - started:.0f} s interrupted: {dict(caught)}")
    _check(tmp_path / "run", whole, 4 * kills)
    assert {"a checkpoint", "none of these"} <= caught.keys(), "kills were aimed badly"


@pytest.mark.slow
def test_killed_while_it_goes_on_with_another_number_of_ranks(
    importer: Forks, small_shards: Path, tmp_path: Path
) -> None:
    """Two ranks are killed; the one that goes on alone is killed again and again before its first step."""
    run, steps, chance = tmp_path / "run", 24, random.Random()
    words, log = arguments(small_shards, run, *_steps(steps)), run.with_suffix(".txt")
    pids = _two_ranks(importer, words, [log, log])
    _kill_at(pids, lambda passed: Folder(run).steps() >= 9 or passed > 120, chance)
    assert [importer.wait(pid) for pid in pids] == [-signal.SIGKILL] * 2, log.read_text()[-2000:]
    assert Folder(run).latest(), "two ranks had written a checkpoint"
    shutil.copytree(run, tmp_path / "whole")
    started = time.monotonic()
    _whole(importer, small_shards, tmp_path / "whole", steps)
    needs = time.monotonic() - started
    kills, caught = 12, Counter[str]()
    for kill in range(kills):
        pid = importer.start(words, log)
        logged = Folder(run).steps()
        _kill_at([pid], _after(needs * chance.uniform(kill / kills, (kill + 1) / kills)), chance)
        importer.wait(pid)
        caught.update(Folder(run).caught())
        if Folder(run).steps() > logged:
            break
    print(f"\n{kill + 1} kills before the first step interrupted: {dict(caught)}")
    _whole(importer, small_shards, run, steps)
    _check(run, tmp_path / "whole", steps)
