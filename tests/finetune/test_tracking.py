"""Recognition runs in wandb: one run, its tables, its id; nothing at all where it is disabled."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.config import FinetuneConfig
from finetune.reporting import tracking
from pretrain.tracking import Tracker
from shards.errors import FlickerError
from tests.finetune import made_runs


class Told:
    """A tracker that keeps what it is told."""

    made: list[Told]

    def __init__(self, run: Path, config: dict[str, Any], project: str, run_id: str | None, **more: Any):
        self.run_id, self.more, self.said = run_id or "new", more, dict[str, Any]()
        Told.made.append(self)

    def show(self, values: dict[str, float], step: int | None = None) -> None:
        self.said.setdefault("steps", {})[step] = values

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        self.said[name] = (columns, rows)

    def confusion(self, name: str, counts: np.ndarray, classes: list[str]) -> None:
        self.said[name] = counts

    def summary(self, values: dict[str, Any]) -> None:
        self.said["summary"] = values

    def close(self) -> None:
        self.said["closed"] = True


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Told]:
    """The trackers made, instead of wandb's."""
    Told.made = []
    monkeypatch.setattr("pretrain.tracking.Tracker", Told)
    monkeypatch.setenv("WANDB_MODE", "offline")
    return Told.made


def test_a_run_tells_curves_folds_and_confusion(told: list[Told], tmp_path: Path) -> None:
    results = made_runs.results(tmp_path, made_runs.folds())
    assert tracking.log(results, FinetuneConfig()) == "new"
    (run,) = told
    assert run.more == {"active": True, "group": "casme2 C2-3"}
    assert run.said["steps"][4] == pytest.approx({"loss": 0.5, "inner/uf1": 0.3, "test/accuracy": 0.5})
    columns, rows = run.said["folds"]
    assert len(rows) == 12 and all(len(row) == len(columns) for row in rows) and rows[0][:3] == ["sub00", 0, 5]
    assert run.said["confusion last"].sum() == 60
    assert run.said["summary"]["last/uf1"] == results.selections["last"]["uf1"] and run.said["closed"]


def test_a_continued_run_keeps_its_id(told: list[Told], tmp_path: Path) -> None:
    results = made_runs.results(tmp_path, made_runs.folds())
    tracking.log(results, FinetuneConfig())
    (tmp_path / tracking.ID_FILE).write_text(json.dumps({"id": "earlier"}))
    assert tracking.log(results, FinetuneConfig()) == "earlier"
    assert json.loads((tmp_path / tracking.ID_FILE).read_text()) == {"id": "earlier"}


def test_disabled_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setitem(sys.modules, "pretrain.tracking", None)  # importing it would fail
    assert tracking.log(made_runs.results(tmp_path, made_runs.folds()), FinetuneConfig()) is None
    assert not list(tmp_path.iterdir())


def test_a_wandb_that_does_not_start_is_a_warning(
    told: list[Told], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise FlickerError("wandb cannot start: no account")

    monkeypatch.setattr("pretrain.tracking.Tracker", refuse)
    assert tracking.log(made_runs.results(tmp_path, made_runs.folds()), FinetuneConfig()) is None
    assert "no account; the run itself is complete" in caplog.text


def test_wandb_itself_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one test that starts wandb, offline."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_RUN_GROUP", "an-experiment")
    groups, failures = [], []
    close, tell = Tracker.close, Tracker._tell

    def closed(self: Tracker, exit_code: int = 0) -> None:
        groups.append(self._wandb.group)
        close(self, exit_code)

    def strict(self: Tracker, action: Any) -> None:
        tell(self, action)
        failures.append(self._wandb is None)

    monkeypatch.setattr(Tracker, "close", closed)
    monkeypatch.setattr(Tracker, "_tell", strict)
    run_id = tracking.log(made_runs.results(tmp_path, made_runs.folds()), FinetuneConfig())
    assert groups == ["an-experiment"] and len(failures) > 8 and not any(failures)
    assert list((tmp_path / "wandb").glob(f"offline-run-*-{run_id}"))
    assert list((tmp_path / "wandb").rglob("*.table.json"))
    assert tracking.stored_id(tmp_path) == run_id
