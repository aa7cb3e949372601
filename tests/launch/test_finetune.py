"""The command `launch/finetune.py`: help, check, run, resume, exit codes and one-line errors."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import pytest
import yaml

from finetune.heads import HEADS
from finetune.validation import SIMULATED_MARKS
from launch import cli
from launch.finetune import NEXT, RECIPE, main
from shards.synthetic import write_casme2

Call = Callable[..., "Done"]


def quick(folder: Path) -> list[str]:
    """Arguments of a run of seconds, its prepared inputs in `folder`."""
    short = ["--train.epochs", "3", "--protocol.seeds", "[0]", "--data.scheme", "present", "--device", "cpu"]
    return [*short, "--data.workers", "1", "--data.cache", str(folder / "prepared")]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny synthetic CASME II: 3 subjects, 3 clips each."""
    root = tmp_path_factory.mktemp("command") / "CASME2"
    classes = ("happiness", "disgust", "surprise")
    write_casme2(root, subjects=3, clips_per_subject=3, classes=classes, size=(64, 72), keyframes_only=True)
    return root


def command(repository: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the real command from elsewhere, as a user does."""
    return subprocess.run(
        [sys.executable, str(repository / "launch/finetune.py"), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", **environment},
        timeout=120,
    )


@dataclass
class Done:
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Call:
    """The command within this process: the same code without the seconds that importing torch takes."""

    def run(*arguments: str, **environment: str) -> Done:
        caplog.clear()
        with monkeypatch.context() as patch, caplog.at_level(logging.INFO):
            patch.setattr(sys, "argv", ["finetune.py", *arguments])
            patch.setenv("WANDB_MODE", "disabled")
            for name, value in environment.items():
                patch.setenv(name, value)
            try:
                cli.run(main)
                code = 0
            except SystemExit as stop:
                code = int(str(stop.code))
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err + caplog.text)

    return run


def test_help_shows_defaults(repository: Path) -> None:
    done = command(repository, "--help")
    assert done.returncode == 0
    for words in ("--encoder", "--data.root", "default: 60", "as a share of train.lr"):
        assert words in " ".join(done.stdout.split())


def test_summary_lists_every_head_beside_what_its_paper_states(call: Call) -> None:
    done = call("--summary", "true", "--backbone.preset", "tiny", "--head.htnet.depths", "[1,1,1]")
    assert done.returncode == 0, done.stderr
    rows = [line.split()[:2] for line in done.stdout.splitlines() if line[:1].strip()]
    assert {tuple(row) for row in rows} >= {(name, "plugged") for name in HEADS} | {("htnet", "native")}
    assert "438,510,000" in done.stdout and "GFLOP/clip" in done.stdout


def test_check_prints_what_was_found_and_counts(call: Call, labelled: Path, tmp_path: Path) -> None:
    done = call("--check", str(labelled), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "9 of 9 clips found" in done.stdout and "C2-5" in done.stdout and "published" in done.stdout
    sheet = cv2.imread(str(tmp_path / "check" / "pairs.jpg"))
    assert sheet.shape[0] > 300 and sheet.std() > 20
    assert "9 of 9" in (tmp_path / "check" / "report.txt").read_text()


def test_check_fails_after_the_report_where_frames_are_missing(call: Call, labelled: Path, tmp_path: Path) -> None:
    root = tmp_path / "CASME2"
    shutil.copytree(labelled, root)
    shutil.rmtree(next((root / "Cropped" / "sub01").iterdir()))
    done = call("--check", str(root), "--out", str(tmp_path / "out"))
    assert done.returncode == 1 and "8 of 9 clips found" in done.stdout
    assert done.stderr.strip().startswith("error: 1 of 9 rows") and len(done.stderr.strip().splitlines()) == 1


def test_a_run_ends_with_the_report_and_a_second_one_continues(
    repository: Path, call: Call, labelled: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    arguments = [
        "--data.root",
        str(labelled),
        "--out",
        str(out),
        *quick(tmp_path),
        "--backbone.compare_random",
        "true",
    ]
    first = command(repository, *arguments)
    assert first.returncode == 0, first.stderr
    control = json.loads((out / "random-encoder" / "results.json").read_text())["selections"]["last"]["uf1"]
    *_, compared, _, report, following = first.stdout.strip().splitlines()
    assert compared == f"  random initialisation: last UF1 {control:.3f}"
    assert report == f"report: {out / 'report.html'}"
    assert following.startswith("next, on real data: python launch/finetune.py --config launch/recipes/")
    assert "as published, leaks" in first.stdout and "simulated data" in first.stdout
    assert (out / "report.html").is_file() and (out / "random-encoder" / "results.json").is_file()
    assert yaml.safe_load((out / "config.yaml").read_text())["train"]["epochs"] == 3
    second = call(*arguments)
    assert second.returncode == 0 and "3 of 3 folds are already done" in second.stderr
    assert second.stdout == first.stdout


def test_real_data_needs_no_hint_about_real_data(call: Call, labelled: Path, tmp_path: Path) -> None:
    root = tmp_path / "CASME2"
    shutil.copytree(labelled, root)
    for mark in SIMULATED_MARKS:
        (root / mark).unlink(missing_ok=True)
    done = call("--data.root", str(root), "--out", str(tmp_path / "run"), *quick(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1].startswith("report: ") and "last UF1" not in done.stdout


def test_the_hint_names_a_recipe_that_exists(repository: Path) -> None:
    assert (repository / RECIPE).is_file() and RECIPE in NEXT


def test_a_saved_config_gives_the_same_run(call: Call, labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert call("--data.root", str(labelled), "--out", str(out), *quick(tmp_path)).returncode == 0
    again = call("--config", str(out / "config.yaml"), "--out", str(tmp_path / "again"))
    assert again.returncode == 0, again.stderr
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("run", "again"))
    assert one["selections"] == two["selections"] and one["digest"] == two["digest"]


def test_ranks_under_a_launcher_share_the_folds(call: Call, labelled: Path, tmp_path: Path) -> None:
    arguments = ["--data.root", str(labelled), "--out", str(tmp_path / "run"), *quick(tmp_path)]
    one = call(*arguments, "--local_rank=1", RANK="1", WORLD_SIZE="2", LOCAL_RANK="1")
    assert one.returncode == 0 and "report" not in one.stdout
    zero = call(*arguments, "--local_rank=0", RANK="0", WORLD_SIZE="2", LOCAL_RANK="0")
    assert zero.returncode == 0 and "report: " in zero.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--train.epocs", "3"], 2, "unknown config key 'train.epocs'; did you mean 'train.epochs'"),
        (["--train.epochs", "many"], 2, "train.epochs"),
        (["--train.epochs", "0", "--data.root", "ROOT"], 2, "train.epochs: 0 is out of range"),
        (["--data.scheme", "C2-6", "--data.root", "ROOT"], 2, "no scheme 'C2-6'"),
        ([], 2, "data.root: '' is missing"),
        (["--data.root", "/nowhere/CASME2"], 1, "no such folder"),
        (["--data.root", "ROOT", "--encoder", "/nowhere/run"], 1, "/nowhere/run"),
        (["--config", "/nowhere/recipe.yaml"], 2, "/nowhere/recipe.yaml"),
    ],
)
def test_wrong_usage_is_one_line_and_an_exit_code(
    call: Call, labelled: Path, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    given = [str(labelled) if word == "ROOT" else word for word in arguments]
    done = call(*given, "--out", str(tmp_path / "run"))
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == code, done.stderr
    assert len(errors) == 1 and words in errors[0] and "Traceback" not in done.stderr


def test_the_recipes_are_read_without_a_surprise(repository: Path) -> None:
    from finetune.config import FinetuneConfig
    from launch.cli import parse

    recipes = sorted((repository / "launch/recipes/finetune").glob("*.yaml"))
    assert {path.stem for path in recipes} >= {"casme2_micron", "demo"}
    for path in recipes:
        config = parse(FinetuneConfig, ["--config", str(path)], command="finetune.py", description="")
        assert config.head.name in HEADS and config.protocol.seeds, path
        assert f"--config launch/recipes/finetune/{path.name}" in path.read_text() or path.stem == "demo"


@pytest.mark.slow
def test_deepspeed_spreads_the_folds_over_ranks(repository: Path, labelled: Path, tmp_path: Path, call: Call) -> None:
    words = ["--data.root", str(labelled), *quick(tmp_path)]
    assert call(*words, "--out", str(tmp_path / "one")).returncode == 0
    done = subprocess.run(
        [
            "deepspeed",
            "--num_gpus",
            "2",
            "--master_port",
            "29681",
            "launch/finetune.py",
            *words,
            "--out",
            tmp_path / "two",
        ],
        cwd=repository,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    one, two = ((tmp_path / name / "predictions.csv").read_text() for name in ("one", "two"))
    assert one == two and "report:" in done.stdout
