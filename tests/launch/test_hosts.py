"""Many hosts: DeepSpeed's own launcher on each, without ssh; a rank is killed, a host is lost, one goes on alone.

Hosts are network namespaces, or addresses of the loopback interface where namespaces are not permitted (the test's
name says which): see netns.py. The run's folder stands for the shared file system.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.launch.netns import Host, free_port, hosts, permitted
from tests.launch.pretraining import SCRIPT, arguments, losses_of, same

STEPS = 60
TIMEOUT = 12.0  # engine.timeout, seconds
PATIENCE = 180.0  # for a machine that does much else at the same time
SILENT = r"rank (did not answer within engine.timeout|has gone \(.*Timed out)"
HERE = "namespaces" if permitted() else "loopback"
OTHER = pytest.param("loopback", marks=pytest.mark.slow)


def weights_after(run: Path, steps: int) -> dict[str, torch.Tensor]:
    """The weights of a run's checkpoint."""
    return load_file(run / "checkpoints" / f"step-{steps}" / "model.safetensors")


@pytest.fixture(params=[HERE] if HERE == "loopback" else [HERE, OTHER])
def two_hosts(request: pytest.FixtureRequest) -> Iterator[list[Host]]:
    """Two hosts that reach each other."""
    with hosts(2, namespaces=request.param == "namespaces") as both:
        yield both


@dataclass
class Job:
    """One run as a cluster starts it: a launcher on every host."""

    hosts: list[Host]
    slots: int
    shards: Path
    run: Path
    repository: Path
    environment: dict[str, str]

    def start(self, alone: Host | None = None) -> list[subprocess.Popen]:
        """DeepSpeed's launcher on every host, or on one alone."""
        used = [alone] if alone else self.hosts
        hostfile = self.run.with_name("hostfile")
        hostfile.write_text("".join(f"{host.address} slots={self.slots}\n" for host in used))
        port = str(free_port())
        words = ["deepspeed", "--hostfile", str(hostfile), "--no_ssh", "--master_port", port]
        words += ["--master_addr", used[0].address]
        more = ["--steps", str(STEPS), "--engine.timeout", str(TIMEOUT)]
        command = [SCRIPT, *arguments(self.shards, self.run, *more)]
        self.logs = [self.run.with_name(f"{time.monotonic_ns()}-{host.name}.txt") for host in used]
        environment = {**self.environment, "WANDB_MODE": "disabled"}
        return [
            host.start([*words, "--node_rank", str(rank), *command], environment, log, self.repository)
            for rank, (host, log) in enumerate(zip(used, self.logs, strict=True))
        ]

    def steps(self) -> int:
        """Steps that the log has."""
        log = self.run / "log.jsonl"
        return log.read_bytes().count(b"\n") if log.is_file() else 0

    def wait_for(self, step: int, launchers: list[subprocess.Popen]) -> None:
        """Until the log has a step."""
        until = time.monotonic() + PATIENCE
        while self.steps() < step:
            assert all(launcher.poll() is None for launcher in launchers), self.output()
            assert time.monotonic() < until, f"step {step} is not reached; {self.output()}"
            time.sleep(0.01)

    def errors(self, host: Host) -> list[str]:
        """What the ranks of a host told the user."""
        return [line for line in self._text(host).splitlines() if line.startswith("error: ")]

    def _text(self, host: Host) -> str:
        return "".join(log.read_text(errors="replace") for log in self.logs if log.name.endswith(f"-{host.name}.txt"))

    def output(self) -> str:
        """The end of every host's output."""
        return "\n".join(f"== {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in self.logs)


@pytest.fixture
def job(
    two_hosts: list[Host], small_shards: Path, tmp_path: Path, repository: Path, environment: dict[str, str]
) -> Job:
    """A run on two hosts with one rank each."""
    return Job(two_hosts, 1, small_shards, tmp_path / "run", repository, environment)


class Uninterrupted:
    """The same run in one process; it can be started while something else waits."""

    def __init__(self, shards: Path, run: Path, repository: Path, environment: dict[str, str]):
        self._run, self._repository = run, repository
        self._process: subprocess.Popen | None = None
        self._environment = {**environment, "WANDB_MODE": "disabled"}
        self._words = [sys.executable, SCRIPT, *arguments(shards, run, "--steps", str(STEPS))]

    def start(self) -> None:
        """Begin it, once."""
        if self._process is None:
            output = subprocess.DEVNULL
            self._process = subprocess.Popen(
                self._words, cwd=self._repository, env=self._environment, stdout=output, stderr=output
            )

    def result(self) -> Path:
        """Its folder, when it has ended."""
        self.start()
        assert self._process is not None and self._process.wait(PATIENCE) == 0
        return self._run


@pytest.fixture(scope="module")
def uninterrupted(
    small_shards: Path, tmp_path_factory: pytest.TempPathFactory, repository: Path, environment: dict[str, str]
) -> Uninterrupted:
    """One for all tests of this file."""
    return Uninterrupted(small_shards, tmp_path_factory.mktemp("uninterrupted") / "run", repository, environment)


def _wait(launchers: list[subprocess.Popen], job: Job) -> list[int]:
    """Exit codes of launchers, none of which may hang."""
    until = time.monotonic() + PATIENCE
    for launcher in launchers:
        try:
            launcher.wait(max(until - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            pytest.fail(f"a launcher hangs; {job.output()}")
    return [launcher.returncode for launcher in launchers]


def _gone_after(process: psutil.Process, since: float) -> float:
    """Seconds from a moment until a process ends."""
    psutil.wait_procs([process], timeout=PATIENCE)
    return time.monotonic() - since


def _kill_a_rank(job: Job, launchers: list[subprocess.Popen], step: int, which: int = 1) -> None:
    """SIGKILL to one rank's process: the whole job ends, and the ranks of the other host say why in one line each."""
    job.wait_for(step, launchers)
    ranks = [process for host in job.hosts for process in host.ranks(SCRIPT)]
    assert len(ranks) == len(job.hosts) * job.slots
    killed, killed_at = ranks[which], time.monotonic()
    other = job.hosts[0] if which >= job.slots else job.hosts[1]  # its launcher stopped none of its ranks
    survivor = other.ranks(SCRIPT)[0]
    killed.send_signal(signal.SIGKILL)
    print(f"\nrank killed: one of the other host ended {_gone_after(survivor, killed_at):.1f} s later")
    assert all(_wait(launchers, job)), "every launcher reports the failure"
    errors = job.errors(other)
    assert len(errors) >= 1 and all("rank has gone" in line for line in errors), job.output()
    assert "Traceback" not in job.output()


def _lose_a_host(
    job: Job,
    launchers: list[subprocess.Popen],
    step: int,
    lost: int = 1,
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """A host's link goes down and all its processes die: the other host gives it up after engine.timeout."""
    job.wait_for(step, launchers)
    survivor = job.hosts[1 - lost].ranks(SCRIPT)[0]
    cut_at = time.monotonic()
    job.hosts[lost].cut()
    if job.hosts[lost].namespace:
        job.hosts[lost].kill()
    meanwhile()
    assert _wait([launchers[1 - lost]], job)[0] != 0
    print(f"host lost: the other's process ended {_gone_after(survivor, cut_at):.1f} s later (limit {TIMEOUT:g} s)")
    job.hosts[lost].kill()
    errors = job.errors(job.hosts[1 - lost])
    assert len(errors) == job.slots and all(re.search(SILENT, line) for line in errors), errors


def _agree_to_rounding(run: Path, other: Path) -> None:
    """Losses and weights of two runs on different numbers of ranks."""
    for a, b in zip(losses_of(run), losses_of(other), strict=True):
        assert a == pytest.approx(b, rel=2e-4)
    pairs = zip(weights_after(run, STEPS).values(), weights_after(other, STEPS).values(), strict=True)
    assert max((a - b).abs().max().item() for a, b in pairs) < 2e-3


@pytest.mark.slow
def test_a_lost_host_does_not_change_what_the_other_ends_with_alone(job: Job, uninterrupted: Uninterrupted) -> None:
    _lose_a_host(job, job.start(), step=10, meanwhile=uninterrupted.start)
    assert 0 < job.steps() < STEPS, "it was interrupted"
    assert _wait(job.start(alone=job.hosts[0]), job) == [0], job.output()
    _agree_to_rounding(job.run, uninterrupted.result())


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1], ids=["the first host", "the second host"])
def test_a_rank_killed_then_a_host_lost_with_two_ranks_on_each(
    job: Job, uninterrupted: Uninterrupted, lost: int
) -> None:
    """The first host has rank 0 and the store that ranks meet at."""
    job.slots = 2
    _kill_a_rank(job, job.start(), step=6, which=3 * lost)
    _lose_a_host(job, job.start(), step=job.steps() + 6, lost=lost)
    assert _wait(job.start(alone=job.hosts[1 - lost]), job) == [0], job.output()
    _agree_to_rounding(job.run, uninterrupted.result())


@pytest.mark.slow
def test_restarted_on_as_many_ranks_the_weights_are_the_same_bit_for_bit(job: Job, tmp_path: Path) -> None:
    assert _wait(job.start(), job) == [0, 0], job.output()
    job.run.rename(tmp_path / "whole")
    _kill_a_rank(job, job.start(), step=10)
    _lose_a_host(job, job.start(), step=job.steps() + 6)
    if job.hosts[1].namespace:
        job.hosts[1].reconnect()
    assert _wait(job.start(), job) == [0, 0], job.output()
    assert losses_of(job.run) == losses_of(tmp_path / "whole")
    assert same(weights_after(job.run, STEPS), weights_after(tmp_path / "whole", STEPS))
