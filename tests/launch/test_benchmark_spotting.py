"""The benchmark of apex spotting on a single clip, and its one-line errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.benchmarks import spotting
from shards.errors import FlickerError, UsageError
from shards.files import read_json, write_json


def test_a_clip_is_measured_by_every_method(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("dlib")
    truth = read_json(shared / "data/sim/ground_truth/smic.json")
    (tmp_path / "truth").mkdir()
    write_json(tmp_path / "truth/smic.json", truth | {"clips": truth["clips"][:1]})
    words = [
        "--root",
        str(shared / "data/sim"),
        "--truth",
        str(tmp_path / "truth"),
        "--json",
        str(tmp_path / "out.json"),
    ]
    spotting.main(words)
    shown = capsys.readouterr().out
    assert all(name in shown for name in spotting.METHODS) and "1 simulated clips, 100 fps" in shown
    figures = read_json(tmp_path / "out.json")["figures"]
    true, annotated = truth["clips"][0]["true_apex"], truth["clips"][0]["apex"]
    assert figures["smic annotated apex, frames"] == pytest.approx(abs(annotated - true), abs=1e-4)
    assert figures["smic annotated apex, ms"] == pytest.approx(10 * abs(annotated - true), abs=1e-3)


def test_missing_settings_and_data_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give --root DIR and --truth DIR"):
        spotting.main([])
    with pytest.raises(FlickerError, match="no truth file with true_apex"):
        spotting.main(["--root", str(tmp_path), "--truth", str(tmp_path)])
    write_json(tmp_path / "smic.json", {"fps": 100, "clips": [{"clip": "s1_ne_01", "subject": "s1", "true_apex": 3}]})
    (tmp_path / "smic").mkdir()
    with pytest.raises(FlickerError, match="clip s1_ne_01 has 0 folders"):
        spotting.main(["--root", str(tmp_path), "--truth", str(tmp_path)])
