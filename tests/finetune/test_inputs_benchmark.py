"""The benchmark of prepared inputs runs and says what it promises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.benchmarks import inputs
from launch.benchmarks.inputs_rows import recipes
from shards.errors import UsageError


def test_wrong_usage_is_told() -> None:
    for words in ([], ["--root", "x", "--repeats", "0"], ["--root", "x", "--workers", "0", "1"]):
        with pytest.raises(UsageError, match="--root DIR"):
            inputs.main(words)


@pytest.mark.slow
def test_it_measures_all_inputs_against_the_calls_alone(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("dlib")
    root, out = shared / "data" / "sim" / "casme2", tmp_path / "figures.json"
    inputs.main(["--root", str(root), "--clips", "2", "--workers", "1", "2", "--json", str(out)])
    figures = json.loads(out.read_text())["figures"]
    for name in ("limit_clips_per_s", "workers_1_vs_limit", "workers_2_clips_per_s", "workers_2_arrays_s"):
        assert figures[name] > 0
    assert figures["bytes_per_clip"] > 100_000
    shown = capsys.readouterr().out
    assert all(name in shown for name in recipes(224)) and "clips left out: 0" in shown
