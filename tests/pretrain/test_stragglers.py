"""Times of phases, and every rank's figures side by side."""

from __future__ import annotations

import json
import threading
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretrain import ModelConfig, meters
from pretrain.lines import Lines
from pretrain.meters import DeviceClock, Meters, Phases
from pretrain.stragglers import Gather, Stragglers, gather_hosts


class Clock:
    """Time that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def mark(self) -> float:
        return self.now

    def seconds(self, marks: list[float]) -> list[float]:
        return [b - a for a, b in pairwise(marks)]


def run(phases: Phases, clock: Clock, *steps: list[tuple[str, float]], between: float = 0.0) -> None:
    for step in steps:
        for name, seconds in step:
            phases.begin(name)
            clock.now += seconds
        phases.end_step()
        clock.now += between


def test_phases_add_up_per_step_and_what_lies_between_steps_counts_for_none() -> None:
    clock = Clock()
    phases = Phases(clock)
    run(phases, clock, [("data", 1.0), ("forward", 2.0), ("backward", 3.0)], between=100.0)
    accumulated = [("data", 0.5), ("forward", 1.0), ("backward", 1.0), ("forward", 2.0), ("backward", 2.0)]
    run(phases, clock, accumulated, between=50.0)
    expected = [{"data": 1.0, "forward": 2.0, "backward": 3.0}, {"data": 0.5, "forward": 3.0, "backward": 3.0}]
    assert phases.read() == expected
    assert phases.read() == []
    run(phases, clock, [("data", 4.0)])
    assert phases.read() == [{"data": 4.0}], "a reading begins a new stretch"


def test_a_reading_amid_a_step_loses_nothing() -> None:
    clock = Clock()
    phases = Phases(clock)
    phases.begin("forward")
    clock.now = 2.0
    assert phases.read() == []
    phases.end_step()
    assert phases.read() == [{"forward": 2.0}]


@pytest.fixture
def cpu_meters(monkeypatch: pytest.MonkeyPatch) -> tuple[Meters, Clock]:
    clock = Clock()
    monkeypatch.setattr(meters, "peak_flops", lambda device: (1e12, "test"))
    monkeypatch.setattr(meters, "HostClock", lambda: clock)
    monkeypatch.setattr(meters.time, "perf_counter", lambda: clock.now)
    return Meters(ModelConfig(), torch.device("cpu"), 1), clock


def test_meters_tell_whole_steps_from_a_ranks_own_part(cpu_meters: tuple[Meters, Clock]) -> None:
    measured, clock = cpu_meters
    for wait, forward, backward in ((0.1, 0.2, 0.3), (0.3, 0.4, 0.7)):
        for name, seconds in (("data", wait), ("forward", forward), ("backward", backward)):
            measured.phase(name)
            clock.now += seconds
        measured.waited(wait)
        measured.counted(8)
        clock.now += 1.0  # a checkpoint
    figures = measured.read()
    assert figures["step_ms"] == pytest.approx(1000) and figures["step_ms_max"] == pytest.approx(1400)
    assert figures["own_ms"] == pytest.approx(500), "waiting and forward, without what others share"
    assert figures["data_wait"] == pytest.approx(0.1), "of all the time"
    assert figures["pairs_per_s"] == pytest.approx(4)


def test_meters_without_a_step_have_no_step_times(cpu_meters: tuple[Meters, Clock]) -> None:
    measured, clock = cpu_meters
    measured.phase("data")
    clock.now += 5
    measured.counted(1)
    measured.restart()
    assert "step_ms" not in measured.read(), "restart forgets"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_device_time_is_that_of_the_queue_and_marks_do_not_wait() -> None:
    clock = DeviceClock()
    phases = Phases(clock)
    a = torch.randn(4096, 4096, device="cuda")
    for _ in range(3):
        phases.begin("forward")
        for _ in range(50):
            a = a @ a * 1e-4
        phases.end_step()
    assert not torch.cuda.current_stream().query(), "still busy after the last mark"
    assert all(step["forward"] > 1e-3 for step in phases.read())


def together(ranks: int, work: Any) -> list[Any]:
    """`work(rank, gather)` on every rank, with a gather that really waits for all."""
    barrier, rows = threading.Barrier(ranks), [list[float]() for _ in range(ranks)]
    results: list[Any] = [None] * ranks

    def one(rank: int) -> None:
        def gather(own: list[float]) -> list[list[float]]:
            rows[rank] = own
            barrier.wait(5)
            found = [list(row) for row in rows]
            barrier.wait(5)
            return found

        results[rank] = work(rank, gather)

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return results


def figures(own: float, wait: float = 0.0, step: float = 100.0, longest: float = 100.0) -> dict[str, float]:
    return {"step_ms": step, "step_ms_max": longest, "own_ms": own, "data_wait": wait, "mfu": 0.3}


def test_the_slowest_rank_and_the_one_without_data_are_named_on_every_rank(tmp_path: Path) -> None:
    own = [figures(40), figures(50, wait=0.3), figures(40), figures(60, longest=250.0), figures(44)]
    found = together(5, lambda rank, gather: Stragglers(tmp_path, gather, rank).compare(10, own[rank]))
    assert all(values == found[0] for values in found)
    assert found[0] == {
        "step_ms": 100.0,
        "step_ms_max": 250.0,
        "data_wait_max": 0.3,
        "data_wait_rank": 1.0,
        "straggler_rank": 3.0,
        "straggler_excess": pytest.approx(60 / 44 - 1),
    }


def alone(hosts: list[str], rows: list[dict[str, float]]) -> Gather:
    """A gather that answers as `hosts`, then as ranks with these figures."""

    def gather(own: list[float]) -> list[list[float]]:
        if len(own) == 64:
            return [[*map(float, host.encode()), *[0.0] * (64 - len(host))] for host in hosts]
        return [[row[name] for name in ("step_ms", "step_ms_max", "own_ms", "data_wait")] for row in rows]

    return gather


def test_a_thousand_ranks_take_one_short_line(tmp_path: Path) -> None:
    rows = [figures(40 + rank % 7 / 10) for rank in range(1024)]
    rows[777] = figures(80, wait=0.05)
    ranks = Stragglers(tmp_path, alone([f"node-{rank // 8:03d}" for rank in range(1024)], rows), 0)
    assert len(ranks.compare(50, rows[0])) == 6
    text = (tmp_path / "ranks.jsonl").read_text()
    line = json.loads(text)
    assert len(text) < 1500 and line["step"] == 50
    assert line["slowest"][0] == {"rank": 777, "host": "node-097", "own_ms": 80, "step_ms": 100, "data_wait": 0.05}
    assert len(line["slowest"]) == 8 and line["own_ms"] == [40, 40.3, 40.6, 80]


def test_only_rank_zero_writes_and_without_a_measured_step_nobody_does(tmp_path: Path) -> None:
    rows = [figures(1), figures(2)]
    Stragglers(tmp_path, alone(["a", "b"], rows), 1).compare(1, rows[1])
    assert Stragglers(tmp_path, alone(["a", "b"], rows), 0).compare(1, {"mfu": 0.1}) == {}
    assert not list(tmp_path.iterdir())


def test_lines_after_the_step_of_a_resume_are_forgotten(tmp_path: Path) -> None:
    rows = [figures(1)]
    ranks = Stragglers(tmp_path, alone(["a"], rows), 0)
    for step in (10, 20, 30):
        ranks.compare(step, rows[0])
    with (tmp_path / "ranks.jsonl").open("a") as file:
        file.write('{"step": 4')
    ranks.truncate(20)
    ranks.compare(30, rows[0])
    lines = (tmp_path / "ranks.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [10, 20, 30]
    Lines(tmp_path / "absent").truncate(3)


@given(st.lists(st.text("abcdefghijklmnopqrstuvwxyz0123456789.-é", min_size=1, max_size=40), min_size=1, max_size=9))
def test_host_names_survive_as_numbers(names: list[str]) -> None:
    sent: list[list[float]] = []

    def collect(own: list[float]) -> list[list[float]]:
        sent.append(own)
        return sent

    for name in names:
        found = gather_hosts(collect, name)
    expected = [name.encode()[:64].decode(errors="replace") for name in names]
    assert found == expected and len({len(row) for row in sent}) == 1


def test_two_ranks_compare_with_each_other(tmp_path: Path) -> None:
    rows = [figures(30), figures(10)]
    found = Stragglers(tmp_path, alone(["a", "a"], rows), 0).compare(1, rows[0])
    assert SimpleNamespace(**found).straggler_rank == 0
    assert found["straggler_excess"] == pytest.approx(0.5), "the median of two is their mean"
