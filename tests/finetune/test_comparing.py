"""Several runs in one report: read back, tested where their clips are the same, listed where not."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from finetune.fold import SELECTIONS
from finetune.reporting import comparing, finished, predictions, report, sheets_compared
from finetune.reporting.tables_out import Sheet, latex, markdown
from shards.errors import FlickerError
from tests.finetune import made_runs

COMPOSITE = {"dataset": "megc2019", "scheme": "MEGC2019"}
BETTER = {"last": 0.9, "inner": 0.9, "oracle": 0.95}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories: two runs on the same clips, one of them with more seeds, and one on other clips."""
    folder = tmp_path_factory.mktemp("runs")
    better = made_runs.folds(seed=1, seeds=(0, 1, 2), skill=BETTER)
    return {
        "plain": made_runs.run(folder / "plain", **COMPOSITE),
        "better": made_runs.run(folder / "better", better, title="better", **COMPOSITE),
        "fewer": made_runs.run(folder / "fewer", made_runs.folds(people=5), title="fewer"),
    }


def test_a_run_read_back_has_the_figures_it_had(runs: dict[str, Path]) -> None:
    run = finished.read(runs["better"])
    stored = json.loads((runs["better"] / "results.json").read_text())
    for selection, scores in stored["selections"].items():
        for name in ("uf1", "uar", "accuracy", "war", "weighted_f1"):
            ours = run.figures["scores"][selection][name]
            assert ours["mean"] == pytest.approx(scores[name]) and ours["std"] == pytest.approx(scores[f"{name}_std"])
            assert ours["low"] <= ours["mean"] <= ours["high"]
            assert run.figures["fold_means"][selection][name] == pytest.approx(scores["fold_means"][name])
        assert run.figures["confusion"][selection] == scores["confusion"]
    assert run.figures["optimism"]["uf1"] == pytest.approx(stored["optimism_uf1"])
    assert len(run.results.folds) == 6 * 3 and not run.examples


def test_runs_on_the_same_clips_are_tested(runs: dict[str, Path]) -> None:
    read = [finished.read(runs[name]) for name in ("plain", "better")]
    last, inner = comparing.tests(read)
    assert (last["selection"], inner["selection"]) == ("last", "inner") and not last["refused"]
    assert last["seeds"] == 2 and last["exact"] and last["permutations"] == 2**6
    assert last["differences"]["uf1"] < 0 and last["p"]["uf1"] == last["holm"] < 0.1
    low, high = last["intervals"]["uf1"]
    assert low <= last["differences"]["uf1"] <= high < 0


def test_holm_counts_the_pairs_that_were_tested(runs: dict[str, Path]) -> None:
    read = [finished.read(runs[name]) for name in ("plain", "better", "fewer", "plain")]
    rows = [row for row in comparing.tests(read) if row["selection"] == "last"]
    done = [row for row in rows if not row["refused"]]
    assert len(rows) == 6 and len(done) == 3
    smallest = min(done, key=lambda row: row["p"]["uf1"])
    assert smallest["holm"] == pytest.approx(min(1, 3 * smallest["p"]["uf1"]))


def test_runs_on_other_clips_are_listed_and_not_tested(runs: dict[str, Path], tmp_path: Path) -> None:
    path = report.write_folders([runs["plain"], runs["fewer"]], tmp_path)
    page = path.read_text(encoding="utf-8")
    assert "not tested: other clips (30 against 25, 5 of them in one run only)" in page
    assert "A: htnet, native" in page and "B: htnet, fewer" in page


def test_runs_called_the_same_show_their_folders(runs: dict[str, Path]) -> None:
    read = [finished.read(runs[name]) for name in ("plain", "better", "plain")]
    assert sheets_compared.names(read) == ["A: htnet, native (plain)", "B: htnet, better", "C: htnet, native (plain)"]


def test_the_four_files_agree(runs: dict[str, Path], tmp_path: Path) -> None:
    report.write_folders([runs["plain"], runs["better"]], tmp_path)
    stored = json.loads((tmp_path / "report.json").read_text())
    table, tex = (tmp_path / "report.md").read_text(), (tmp_path / "report.tex").read_text()
    page = (tmp_path / "report.html").read_text()
    for run in stored["runs"]:
        shown = f"{run['scores']['last']['uf1']['mean']:.3f}"
        assert shown in page and shown in table and shown in tex
    published = stored["runs"][0]["published"]
    (own,) = [row for row in published if row["whose"] == "paper" and not row["part"] and row["uf1"] == 0.8603]
    assert own["method"] == "HTNet" and any("on the test subject (a leak)" in text for text in own["differs"])
    assert {row["paper"] for row in published if row["whose"] == "others"} >= {"htnet", "frl_dgt", "slstt"}
    assert "| paper |" in table and "0.860" in table and "epoch: on the test subject (a leak)" in table
    assert tex.count(r"\toprule") == tex.count(r"\bottomrule") == tex.count(r"\end{table}") >= 3
    for block in re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", tex, re.S):
        rows = [line for line in block[1].splitlines() if line.endswith(r"\\")]
        assert rows and all(len(re.findall(r"(?<!\\)&", row)) == len(block[0]) - 1 for row in rows)


def test_findings_parts_and_ensemble_are_shown(tmp_path: Path) -> None:
    made = made_runs.folds(datasets=("casme2", "samm"), people=3)
    finding = {"name": "pretraining on test subjects", "what": "sub01 was seen", "severity": "leak"}
    ensemble = {"last": {"uf1": 0.1234, "uar": 0.2, "accuracy": 0.3, "war": 0.3, "weighted_f1": 0.25}}
    parts = {"samm": {"ensemble": {name: {"uf1": 0.4321, "uar": 0.5} for name in SELECTIONS}}}
    more = {"findings": [finding], "ensemble": ensemble, "parts": parts, "dataset": "several", "scheme": "MEGC2019"}
    page = report.write_folders([made_runs.run(tmp_path / "run", made, **more)], tmp_path / "out").read_text()
    for words in (
        "pretraining on test subjects",
        "sub01 was seen",
        "0.123",
        "mean of the seeds",
        "Datasets of the run",
    ):
        assert words in page
    assert page.index("sub01 was seen") < page.index("Last epoch, the headline")
    run = finished.read(tmp_path / "run")
    assert run.figures["parts"]["samm"]["clips"] == 15 and run.figures["subjects"] == 6
    alone = run.predictions.of_dataset("samm")
    assert alone.counts("last").sum() == 15 * 2 and set(alone.subjects) == {f"samm/sub{n:02d}" for n in range(3)}


def rewrite(run: Path, change: str) -> None:
    """Damage predictions.csv."""
    path = run / "predictions.csv"
    rows = list(csv.reader(path.open(encoding="utf-8")))
    rows = {
        "missing": rows[:1] + rows[2:],
        "twice": [*rows, rows[1]],
        "other": [[cell.replace(made_runs.CLASSES[0], "x") for cell in row] for row in rows],
        "moved": [rows[0], *([*row[:11], *np.roll(row[11:], 1)] for row in rows[1:])],
    }[change]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("missing", "1 clips have no prediction"),
        ("twice", "is predicted twice"),
        ("other", "is not a predictions.csv of these classes"),
        ("moved", "by predictions.csv, .* by results.json"),
    ],
)
def test_incomplete_or_double_predictions_are_refused(tmp_path: Path, change: str, words: str) -> None:
    run = made_runs.run(tmp_path / "run")
    rewrite(run, change)
    with pytest.raises(FlickerError, match=words):
        finished.read(run)


def test_folds_of_other_seeds_or_settings_stay_out(tmp_path: Path) -> None:
    run = made_runs.run(tmp_path / "run")
    fold = json.loads((run / "folds" / "sub00-seed0.json").read_text())
    for name, values in (("sub00-seed9", {"seed": 9}), ("old", {"digest": "e" * 32})):
        (run / "folds" / f"{name}.json").write_text(json.dumps(fold | values))
    assert len(finished.read(run).results.folds) == 12


def test_a_run_without_folds_has_no_curves(tmp_path: Path) -> None:
    run = made_runs.run(tmp_path / "run")
    for path in (run / "folds").iterdir():
        path.unlink()
    page = report.write_folders([run], tmp_path / "out").read_text()
    assert "Training</h2>" not in page and "Calibration</h2>" in page


def test_predictions_of_folds_are_those_of_the_file(tmp_path: Path) -> None:
    made = made_runs.folds()
    run = made_runs.run(tmp_path / "run", made)
    one, two = (
        predictions.from_folds(made, made_runs.CLASSES),
        predictions.read(run / "predictions.csv", made_runs.CLASSES),
    )
    assert one.same_clips(two) == "" and one.folds == two.folds and one.seeds == two.seeds
    assert all(np.array_equal(one.probabilities[name], two.probabilities[name]) for name in one.probabilities)


def test_tables_survive_odd_text() -> None:
    sheet = Sheet("a_b & 5 %", ("x", "n"), [["p|q\\r {s}", "±1 ≥ 2"]], "note #1", key="k", notes=("(1) <i>",))
    text = latex(sheet)
    assert r"a\_b \& 5 \%" in text and r"\textbackslash{}r \{s\}" in text and r"$\pm$1" in text and r"\#1" in text
    assert r"p\|q" in markdown(sheet) and "- (1) &lt;i&gt;" in markdown(sheet)
    assert sheet.only((1,)).head == ("n",) and sheet.only((1,)).texts == ()
