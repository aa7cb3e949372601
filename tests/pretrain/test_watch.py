"""Alerts: told when something is wrong, once, and not otherwise."""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.watch import NO_COLLAPSE, Alerts, Limits, Watch


class Owner:
    """Collects what is told, with a clock that the test moves."""

    def __init__(self, run: Path, **options: Any):
        self.now, self.told = 0.0, list[tuple[str, str]]()
        self.watch = Watch(self.hear, run, clock=lambda: self.now, interval=0, **options)

    def hear(self, title: str, text: str) -> None:
        self.told.append((title, text))

    @property
    def titles(self) -> list[str]:
        return [title for title, _ in self.told]

    def lines(self, count: int, **figures: float) -> None:
        for line in range(count):
            self.watch.figures(line, figures)

    def steps(self, count: int, seconds: float) -> None:
        for step in range(count):
            self.now += seconds
            self.watch.step(step + 1)
            self.look()

    def look(self) -> None:
        self.watch._stalls.look()


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    return Owner(tmp_path)


def test_a_good_run_is_left_alone(owner: Owner) -> None:
    rng = np.random.default_rng(0)
    for step in range(500):
        loss = 0.1 + math.exp(-step / 50) * (1 + 0.1 * rng.standard_normal())
        figures = {"loss": loss, "cls_spread": 0.3, "data_wait": 0.02, "straggler_rank": 1.0, "straggler_excess": 0.1}
        owner.watch.figures(step, figures)
    owner.steps(500, 0.5)
    assert owner.told == []


def test_collapse_is_told_once_an_hour_with_how_often_it_was(owner: Owner) -> None:
    owner.lines(30, cls_spread=0.001)
    assert owner.titles == ["collapse"] and "0.0010" in owner.told[0][1]
    owner.now = 3601
    owner.lines(1, cls_spread=0.001)
    assert owner.titles == ["collapse", "collapse"] and "29 more times" in owner.told[1][1]


def test_collapse_can_be_left_out_for_batches_of_one_face(tmp_path: Path) -> None:
    owner = Owner(tmp_path, limits=Limits(cls_spread=NO_COLLAPSE))
    owner.lines(3, cls_spread=0.0)
    assert not owner.told


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named_and_does_not_disturb_the_median(owner: Owner, value: float) -> None:
    owner.lines(20, loss=1.0)
    owner.lines(20, loss=value, lr=1.0)
    assert (
        owner.titles == ["not finite"] and "loss" in owner.told[0][1] and "lr" not in owner.told[0][1].split(";")[0]
    )
    owner.lines(1, loss=1.0)
    assert owner.titles == ["not finite"]


def test_one_spike_is_a_spike_and_three_lines_are_divergence(owner: Owner) -> None:
    owner.lines(20, loss=1.0)
    owner.lines(1, loss=1.6)
    assert owner.titles == ["loss spike"] and "1.6" in owner.told[0][1]
    owner.lines(5, loss=1.0)
    owner.lines(2, loss=2.0)
    assert owner.titles == ["loss spike"]
    owner.lines(1, loss=3.0)
    assert owner.titles == ["loss spike", "divergence"]


def test_the_first_lines_are_too_few_to_know(owner: Owner) -> None:
    owner.lines(1, loss=5.0)
    owner.lines(8, loss=0.1)
    owner.lines(1, loss=9.0)
    assert not owner.told


def test_a_noisy_loss_does_not_diverge(owner: Owner) -> None:
    rng = np.random.default_rng(1)
    for step in range(300):
        owner.watch.figures(step, {"loss": float(rng.exponential(1.0))})
    assert owner.titles.count("divergence") == 0


@given(st.floats(-10, 10), st.floats(0.5, 100))
def test_any_level_of_the_loss_will_do(level: float, jump: float) -> None:
    owner = Owner(Path("unused"))
    owner.lines(20, loss=level)
    owner.lines(1, loss=level + 0.49 * abs(level))
    assert not owner.told
    owner.lines(1, loss=level + (0.51 + jump) * abs(level) + 1e-3)
    assert owner.titles == ["loss spike"]


def test_waiting_for_data_is_told_after_several_lines_in_a_row(tmp_path: Path) -> None:
    owner = Owner(tmp_path, workers=2, hosts=("a", "b", "c"))
    for _ in range(3):
        owner.lines(4, data_wait=0.0, data_wait_max=0.4, data_wait_rank=2.0)
        owner.lines(1, data_wait=0.0, data_wait_max=0.05, data_wait_rank=2.0)
    assert not owner.told
    owner.lines(9, data_wait=0.0, data_wait_max=0.4, data_wait_rank=2.0)
    assert owner.titles == ["waiting for data"]
    assert (
        "rank 2 (c)" in owner.told[0][1] and "data.workers (now 2)" in owner.told[0][1] and "40%" in owner.told[0][1]
    )


def test_one_process_without_ranks_can_wait_for_data_too(owner: Owner) -> None:
    owner.lines(5, data_wait=0.3)
    assert owner.titles == ["waiting for data"]


def test_a_straggler_is_the_same_rank_for_several_lines(tmp_path: Path) -> None:
    owner = Owner(tmp_path, hosts=("a", "b"))
    for line in range(20):
        owner.watch.figures(line, {"straggler_rank": line % 2, "straggler_excess": 0.5})
    assert not owner.told
    owner.lines(5, straggler_rank=1.0, straggler_excess=0.5)
    assert owner.titles == ["straggler"] and "rank 1 (b)" in owner.told[0][1] and "50%" in owner.told[0][1]


def test_only_rank_zero_speaks_of_figures(tmp_path: Path) -> None:
    other = Owner(tmp_path, rank=3)
    other.lines(9, loss=math.nan, cls_spread=0.0, data_wait=1.0)
    assert not other.told


@pytest.mark.parametrize("seconds, limit", [(0.05, 60), (2.9, 60), (4.0, 80), (30.0, 600)])
def test_a_stall_is_twenty_median_steps_and_a_minute_at_least(tmp_path: Path, seconds: float, limit: float) -> None:
    owner = Owner(tmp_path)
    owner.now += 1000
    owner.watch.step(0)  # the first step compiles
    owner.steps(30, seconds)
    owner.now += limit - 0.01
    owner.look()
    assert not owner.told
    owner.now += 0.02
    owner.look()
    assert owner.titles == ["stall"] and "after step 30" in owner.told[0][1]


def test_a_stall_is_told_once_its_end_is_said_and_the_next_is_told_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    owner = Owner(tmp_path, rank=5)
    owner.steps(10, 1.0)
    owner.now += 100
    for _ in range(50):
        owner.look()
        owner.now += 5
    assert owner.titles == ["stall"] and caplog.text.count("no step has ended") == 1
    owner.watch.step(11)
    assert "rank 5 goes on: step 11 ended after 350 s" in caplog.text
    owner.now += 100
    owner.look()
    assert owner.titles == ["stall"] and caplog.text.count("no step has ended") == 2, "logged, alerted once an hour"


def test_stacks_of_all_threads_are_written(tmp_path: Path) -> None:
    owner, leave = Owner(tmp_path, rank=7), threading.Event()

    def waits_in_vain() -> None:
        leave.wait(30)

    thread = threading.Thread(target=waits_in_vain)
    thread.start()
    owner.steps(2, 1.0)
    owner.now += 61
    owner.look()
    leave.set()
    thread.join()
    text = (tmp_path / "stall-rank-7.txt").read_text()
    assert "waits_in_vain" in text and "test_stacks_of_all_threads_are_written" in text
    assert "no step has ended for 61 s" in text.splitlines()[0]
    assert [path.name for path in tmp_path.iterdir()] == ["stall-rank-7.txt"], "nothing half written"


def test_a_folder_that_cannot_be_written_hides_no_stall(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    owner = Owner(tmp_path / "file")
    owner.steps(2, 1.0)
    owner.now += 61
    owner.look()
    assert owner.titles == ["stall"] and "cannot be written" in owner.told[0][1]


def test_the_first_step_and_checkpoints_may_take_longer_and_count_for_no_step(tmp_path: Path) -> None:
    owner = Owner(tmp_path)
    owner.now += 1700
    owner.look()
    assert not owner.told, "compiling"
    owner.steps(5, 1.0)
    with owner.watch.busy("a checkpoint"):
        owner.now += 1700
        owner.look()
    owner.look()
    owner.steps(1, 1.0)
    assert not owner.told and max(owner.watch._stalls._times) == 1.0
    with owner.watch.busy("a checkpoint"):
        owner.now += 1900
        owner.look()
    assert owner.titles == ["stall"] and "during a checkpoint" in owner.told[0][1]


def test_an_endless_first_step_is_a_stall(owner: Owner) -> None:
    owner.now += 1801
    owner.look()
    assert owner.titles == ["stall"] and "after step 0" in owner.told[0][1]


def test_alerts_of_different_kinds_do_not_hold_each_other_back() -> None:
    told: list[str] = []
    alerts = Alerts(lambda title, text: told.append(title), 10.0, lambda: 0.0)
    assert [alerts.tell(title, "") for title in "abab"] == [True, True, False, False] and told == ["a", "b"]


def test_the_thread_finds_a_stall_by_itself_and_ends_when_closed(tmp_path: Path) -> None:
    told: list[str] = []
    quick = replace(Limits(), stall=0.0, stall_steps=0.0)
    watch = Watch(lambda title, text: told.append(title), tmp_path, limits=quick, interval=0.01)
    watch.step(1)
    deadline = time.monotonic() + 20
    while not told and time.monotonic() < deadline:
        time.sleep(0.01)
    watch.close()
    assert told == ["stall"] and not watch._thread.is_alive()
    watch.close()
