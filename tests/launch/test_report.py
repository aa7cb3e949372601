"""The command `launch/report.py`: reports of finished runs from their directories alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launch import cli
from launch.report import main
from tests.finetune import made_runs


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The command within this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["report.py", *words])
    try:
        cli.run(main)
    except SystemExit as stop:
        return int(str(stop.code))
    return 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two finished runs."""
    folder = tmp_path_factory.mktemp("runs")
    other = made_runs.folds(seed=3)
    return [str(made_runs.run(folder / "a")), str(made_runs.run(folder / "b", other, title="other"))]


def test_help_is_quick_and_says_what_it_takes(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(repository / "launch/report.py"), "--help"], capture_output=True, text=True, timeout=120
    )
    assert (
        done.returncode == 0
        and "--out" in done.stdout
        and "finished recognition runs" in " ".join(done.stdout.split())
    )


def test_two_runs_make_one_report(
    runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *runs, "--out", str(tmp_path / "both")) == 0
    assert capsys.readouterr().out.startswith(f"report: {tmp_path / 'both' / 'report.html'}")
    assert {path.name for path in (tmp_path / "both").iterdir()} == {
        "report.html",
        "report.md",
        "report.json",
        "report.tex",
    }
    text = (tmp_path / "both" / "report.html").read_text()
    assert "A: htnet, native" in text and "B: htnet, other" in text and "Tests between runs" in text


def test_one_run_is_reported_in_its_own_directory(runs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, runs[0]) == 0
    assert "Tests between runs" not in (Path(runs[0]) / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        ([], 2, "at least one finished run"),
        (["A", "B"], 2, "out: '' is missing"),
        (["A", "A", "--out", "x"], 2, "given twice"),
        (["A", "--ou", "x"], 2, "unknown config key 'ou'; did you mean 'out'"),
        (["/nowhere/run"], 1, "results of a run not found: /nowhere/run/results.json"),
    ],
)
def test_wrong_usage_is_one_line(
    words: list[str],
    code: int,
    error: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, *words) == code
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and told[0].startswith("error: ") and error in told[0]
