"""Apexes spotted where a dataset codes none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from finetune import apexes, datasets
from finetune.clips import Clip
from finetune.validation import Validation


@pytest.fixture(scope="module")
def smic(shared: Path) -> tuple[list[Clip], Validation]:
    """Four simulated clips of SMIC, which codes no apex."""
    clips, report = datasets.load("smic", shared / "data/sim/smic")
    return clips[:4], report


@pytest.mark.parametrize("method", ["flow", "dc"])
def test_apexes_are_spotted_once_and_reported(
    smic: tuple[list[Clip], Validation], method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, report = smic
    before = len(report.repairs)
    found = apexes.spot(clips, method, report, tmp_path, quiet=True)
    assert [clip.id for clip in found] == [clip.id for clip in clips]
    assert any(new.apex != old.apex for new, old in zip(found, clips, strict=True))
    for clip in found:
        assert clip.onset <= clip.apex <= clip.offset and clip.apex in clip.frames
        assert "apex-spotted" in clip.flags and not set(clip.flags) & set(apexes.UNCODED)
    assert len(report.repairs) == before + 4

    monkeypatch.setattr(apexes, "read_image", lambda path: pytest.fail(f"{path} was opened again"))
    monkeypatch.setattr(apexes, "locate_clips", lambda *_, **__: pytest.fail("faces were looked for again"))
    assert apexes.spot(clips, method, report, tmp_path, quiet=True) == found


def test_coded_apexes_and_very_short_clips_stay(smic: tuple[list[Clip], Validation], tmp_path: Path) -> None:
    clips, report = smic
    coded = replace(clips[0], flags=())
    short = replace(clips[1], apex=clips[1].onset, offset=clips[1].onset + 1)
    assert apexes.spot([coded, short], "flow", report, tmp_path, quiet=True) == [coded, short]
