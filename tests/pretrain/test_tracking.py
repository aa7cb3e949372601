"""The run's diary."""

import json
from pathlib import Path

import pytest

from pretrain.tracking import Tracker


@pytest.fixture
def tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_RUN_ID", "known-id")
    monkeypatch.setenv("WANDB_RUN_GROUP", "a-group")
    return Tracker(tmp_path, {"lr": 1.0}, "flicker", None, active=True)


def _lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_wandbs_variables_are_honoured_and_lines_are_written(tracker: Tracker, tmp_path: Path) -> None:
    assert tracker.run_id == "known-id" and tracker._wandb.group == "a-group"
    tracker.log(1, {"loss": 2.0})
    tracker.close()
    assert _lines(tmp_path) == [{"step": 1, "loss": 2.0}]
    assert list((tmp_path / "wandb").glob("offline-run-*-known-id"))


def test_resuming_forgets_later_lines_and_one_cut_off_by_a_kill(tracker: Tracker, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        tracker.log(step, {"loss": 1.0})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    tracker.truncate(2)
    tracker.close()
    assert [line["step"] for line in _lines(tmp_path)] == [1, 2]


def test_a_failing_wandb_is_given_up_and_the_log_goes_on(tracker: Tracker, tmp_path: Path) -> None:
    class Broken:
        def log(self, *args: object, **kwargs: object) -> None:
            raise ConnectionResetError

    tracker._wandb.finish()
    tracker._wandb = Broken()
    tracker.log(1, {"loss": 1.0})
    tracker.log(2, {"loss": 1.0})
    tracker.close()
    assert [line["step"] for line in _lines(tmp_path)] == [1, 2]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, {}, "flicker", None, active=False)
    tracker.log(1, {"loss": 1.0})
    tracker.close()
    assert tracker.run_id is None and list(tmp_path.iterdir()) == []
