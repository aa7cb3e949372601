"""Whole runs of every protocol on tiny flow maps, and runs that are killed."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune import loso, parts
from finetune.fold import run_fold
from finetune.prepare import prepare
from finetune.reporting import report
from finetune.results import Results
from shards.errors import FlickerError
from tests.finetune.kills import quick, write_maps


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps of nine people of three datasets, two clips each."""
    root = tmp_path_factory.mktemp("maps") / "set"
    write_maps(root, subjects=9)
    return root


def finished(root: Path, out: Path, **protocol: Any) -> tuple[Results, list[dict[str, str]]]:
    """The results and predictions.csv."""
    results = loso.run(quick(root, out, **protocol))
    assert results is not None
    with (out / "predictions.csv").open(encoding="utf-8") as file:
        return results, list(csv.DictReader(file))


def test_the_composite_is_scored_by_dataset_and_as_an_ensemble(maps: Path, tmp_path: Path) -> None:
    results, rows = finished(maps, tmp_path / "run", seeds=[0, 1], ensemble=True, inner_splits=2)
    assert list(results.parts) == ["casme2", "samm", "smic"] and (results.clips, results.subjects) == (18, 9)
    stored = json.loads((tmp_path / "run/results.json").read_text())
    for dataset, part in stored["parts"].items():
        assert (part["clips"], part["subjects"]) == (6, 3)
        for name, scores in part["selections"].items():
            own = [row for row in rows if row["dataset"] == dataset and row["selection"] == name]
            assert scores["accuracy"] == pytest.approx(sum(int(row["correct"]) for row in own) / 12)
    assert stored["ensemble"]["last"]["seeds"] == 2
    assert all(len(fold.held_subjects) == 2 for fold in results.folds)


@pytest.mark.parametrize(
    ("protocol", "names", "tested"),
    [
        ({"kind": "kfold", "folds": 3}, ["part 1 of 3", "part 2 of 3", "part 3 of 3"], "casme2 samm smic"),
        ({"kind": "lodo", "inner_splits": 0}, ["dataset casme2", "dataset samm", "dataset smic"], "casme2 samm smic"),
        (
            {"kind": "cross", "train_on": ["casme2"], "test_on": ["samm"]},
            ["casme2->samm", "samm->casme2"],
            "casme2 samm",
        ),
        (
            {"kind": "cross", "train_on": ["casme2", "smic"], "test_on": ["samm"], "reverse": False},
            ["casme2+smic->samm"],
            "samm",
        ),
    ],
)
def test_every_protocol_runs_and_predicts_each_clip_once(
    maps: Path,
    tmp_path: Path,
    protocol: dict[str, Any],
    names: list[str],
    tested: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if " " in tested:  # a report takes longer than the folds: it is written for the fold of one dataset alone
        monkeypatch.setattr(report, "write", lambda *_: None)
    results, rows = finished(maps, tmp_path / "run", **protocol)
    assert [fold.subject for fold in results.folds] == names
    assert {row["dataset"] for row in rows} == set(tested.split())
    count = Counter((row["id"], row["selection"]) for row in rows)
    assert len(count) == 3 * results.clips == 18 * len(tested.split()) and set(count.values()) == {1}
    assert set(results.parts) == (set(tested.split()) if " " in tested else set())
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run/folds").glob("*.json")}
    monkeypatch.setattr(report, "write", lambda *_: None)
    again, _ = finished(maps, tmp_path / "run", **protocol)
    assert again.selections == results.selections and len(before) == len(names)
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run/folds").glob("*.json")}


def test_folds_of_another_protocol_never_mix(maps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "write", lambda *_: None)
    kfold: dict[str, Any] = {"kind": "kfold", "folds": 3}
    finished(maps, tmp_path, **kfold)
    changes: list[tuple[dict[str, Any], str]] = [
        ({}, r"protocol.kind kfold -> absent"),
        ({"kind": "kfold", "folds": 4}, r"protocol.folds 3 -> 4"),
        ({**kfold, "inner_splits": 0}, r"protocol.inner_splits 1 -> 0"),
        ({"kind": "lodo"}, r"protocol.kind kfold -> lodo"),
    ]
    for protocol, words in changes:
        with pytest.raises(FlickerError, match=rf"changed: .*{words}"):
            loso.run(quick(maps, tmp_path, **protocol))
    finished(maps, tmp_path, **kfold, seeds=[0, 1], ensemble=True)  # more seeds and an ensemble change no fold


def test_predictions_that_are_not_complete_or_not_unique_are_refused(maps: Path, tmp_path: Path) -> None:
    config = quick(maps, tmp_path, kind="cross", train_on=["casme2"], test_on=["samm"], reverse=False)
    prepared = prepare(config, quiet=True)
    ((fold, _),) = loso.plan(config, prepared)
    whole = run_fold(fold, prepared.samples, prepared.head.readout, config.train, 0, prepared.device)
    assert loso.summarise(config, prepared, [whole], {}).clips == 6
    less = parts.only(whole, "samm")
    lists: list[list[Any]] = [less.ids, less.truth, *less.probabilities.values()]
    for values in lists:
        values.pop()
    with pytest.raises(FlickerError, match="1 clips have no prediction, first samm/"):
        loso.summarise(config, prepared, [less], {})
    with pytest.raises(FlickerError, match="predicted twice"):
        loso.summarise(config, prepared, [whole, less], {})
    other = replace(whole, ids=[name.replace("samm", "casme2") for name in whole.ids])
    with pytest.raises(FlickerError, match="6 predictions are of unknown clips"):
        loso.summarise(config, prepared, [whole, other], {})


def test_the_usual_protocol_is_stored_as_ever(maps: Path, tmp_path: Path) -> None:
    """Its folds do not depend on the other protocols' keys: those of earlier runs are used."""
    one, other = (prepare(quick(maps, tmp_path, **keys), quiet=True) for keys in ({}, {"folds": 7, "reverse": False}))
    assert one.digest == other.digest
    assert {key for key in one.identity if key.startswith("protocol.")} == {
        "protocol.inner_splits",
        "protocol.inner_share",
        "protocol.inner_seed",
    }


def killed(repository: Path, folder: Path, subjects: int, kills: int) -> list[int]:
    """Kill a run so many times; folds there at each kill. The end is that of a run that was not killed."""
    write_maps(folder / "set", subjects)
    words = [sys.executable, "-m", "tests.finetune.kills", folder / "set", folder, kills, 1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        list(map(str, words)), cwd=repository, env=environment, capture_output=True, text=True, timeout=500
    )
    assert run.returncode == 0, run.stderr[-2000:]
    tables = [(folder / name / "predictions.csv").read_bytes() for name in ("killed", "whole")]
    assert tables[0] == tables[1] and tables[0].count(b"\n") == 1 + 3 * 2 * subjects
    scores = [json.loads((folder / name / "results.json").read_text())["selections"] for name in ("killed", "whole")]
    assert scores[0] == scores[1]
    return list(json.loads(run.stdout))


def test_a_run_killed_three_times_ends_with_the_same_predictions(repository: Path, tmp_path: Path) -> None:
    counts = killed(repository, tmp_path, subjects=15, kills=3)
    assert len(counts) == 3 and counts == sorted(counts)


@pytest.mark.slow
def test_68_folds_killed_twenty_times_end_with_the_same_predictions(repository: Path, tmp_path: Path) -> None:
    counts = killed(repository, tmp_path, subjects=68, kills=20)
    assert len(counts) == 20 and counts == sorted(counts) and 0 < counts[-1] <= 68
