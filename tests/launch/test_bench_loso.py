"""launch/bench.py loso ends, and writes the figures others look for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.benchmarks import loso
from shards.errors import UsageError


def test_wrong_usage_is_told() -> None:
    for words in (["--repeats", "0"], ["--together", "0"], ["--folds", "-1"]):
        with pytest.raises(UsageError, match="--repeats"):
            loso.main(words)


@pytest.mark.slow
def test_it_measures_folds_together_against_folds_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.json"
    loso.main(["--quick=true", "--device", "cpu", "--json", str(out)])
    figures = json.loads(out.read_text())["figures"]
    assert figures["batched_vs_sequential"] > 0 and figures["together_s_per_fold"] > 0
    assert figures["max_logit_difference"] <= 1e-5 and figures["same_predictions"] >= 0.99
    assert "3 folds of 2 epochs" in capsys.readouterr().out
