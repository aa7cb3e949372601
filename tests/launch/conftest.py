"""Runs of the real commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shards import write
from shards.synthetic import write_unlabelled
from tests.launch.forks import Forks, forks

Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """One thread per process, no wandb account, the repository's own interpreter first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ranks = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    inherited = {name: value for name, value in os.environ.items() if name not in ranks}
    return {**inherited, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "PATH": path}


@pytest.fixture(scope="session")
def command(repository: Path, environment: dict[str, str]) -> Run:
    """`command("launch/pretrain.py", "--run", ...)` runs a script; `launcher=[...]` goes before it."""

    def run(*words: str | Path, launcher: list[str] | None = None, timeout: float = 240, **env: str):
        return subprocess.run(
            [*(launcher or [sys.executable]), *map(str, words)],
            cwd=repository,
            env={**environment, **env},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def server(repository: Path, environment: dict[str, str]) -> Iterator[Forks]:
    """A process that has imported what commands need."""
    with forks(repository, environment) as found:
        yield found


@pytest.fixture(scope="session")
def forked(server: Forks) -> Run:
    """`forked("launch/pretrain.py", "--run", ...)`: as `command`, without the seconds that imports take."""
    return server.command


@pytest.fixture(scope="session")
def small_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of three short synthetic videos, 48 px."""
    folder = tmp_path_factory.mktemp("small")
    write_unlabelled(folder / "video", videos=3, seconds=2.0, size=96, folders=1)
    write([folder / "video"], folder / "shards", size=48)
    return folder / "shards"


def read_log(run: Path) -> list[dict]:
    """A run's log.jsonl."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def deepspeed(ranks: int, port: int) -> list[str]:
    """DeepSpeed's launcher with so many ranks on this machine."""
    return ["deepspeed", "--num_gpus", str(ranks), "--master_port", str(port)]


@pytest.fixture(scope="module")
def whole(command: Run, small_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted pretraining run of one process."""
    from tests.launch.pretraining import SCRIPT, arguments

    run = tmp_path_factory.mktemp("whole") / "run"
    done = command(SCRIPT, *arguments(small_shards, run))
    assert done.returncode == 0, done.stderr
    return run
