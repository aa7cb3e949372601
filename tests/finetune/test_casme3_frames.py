"""Frames of CAS(ME)³ part A: every layout, names in any case, several clips to a video, files that do not open."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune import datasets
from finetune.datasets import casme3_frames
from shards.errors import FlickerError
from tests.finetune.trees_more import (
    CASME3_BAD,
    casme3_clips,
    casme3_videos,
    frames,
    image,
)
from tests.finetune.trees_more import CASME3_ONE as ONE
from tests.finetune.trees_more import casme3_book as book

load = partial(datasets.load, "casme3")


@pytest.mark.parametrize(
    ("inside", "kind"),
    [
        ("part_A/data/part_A_split/part_A", "videos"),
        ("CASME3/part_A/data/part_A_split/part_A", "videos"),
        ("", "videos"),
        ("Part_A_ME_clip", "clips"),
        ("Part_A_ME_clip/Part_A_ME_clip", "clips"),
    ],
)
def test_every_layout_and_depth_never(tmp_path: Path, inside: str, kind: str) -> None:
    book(tmp_path, [ONE])
    (casme3_videos if kind == "videos" else casme3_clips)(tmp_path, [ONE], inside)
    for variant in ("auto", kind):
        clips, report = load(tmp_path, variant=variant)
        assert (clips[0].onset, clips[0].apex, clips[0].offset, clips[0].fps) == (355, 359, 362, 30.0)
        assert not report.repairs
        assert all(path.suffix == ".jpg" and "depth" not in path.parts for path in clips[0].frames.values())
        assert set(clips[0].frames) <= set(range(355, 363))  # of a whole video, the clip alone


def test_cut_clips_are_taken_before_videos(tmp_path: Path) -> None:
    book(tmp_path, [ONE])
    casme3_videos(casme3_clips(tmp_path, [ONE]), [ONE])
    assert load(tmp_path)[1].images.endswith("Part_A_ME_clip/frame")
    assert load(tmp_path, variant="videos")[1].images.endswith("part_A_split/part_A")


@pytest.mark.parametrize("folder", ["exception", "part_B", "part_C", "depth"])
def test_other_parts_and_exceptions_are_passed_over(tmp_path: Path, folder: str) -> None:
    book(tmp_path, [ONE])
    frames(tmp_path / folder / "spNO.1_a_355", range(355, 363))
    frames(tmp_path / folder / "spNO.1" / "a" / "color", range(355, 363))
    with pytest.raises(FlickerError, match="no frames of CAS"):
        load(tmp_path)


@pytest.mark.parametrize(
    "path", ["frame/spNo.14_j_1012", "frame/SPNO.14_J_1012", "spNo.14/j/Color", "spno.14/J/color"]
)
def test_folders_match_in_any_case(tmp_path: Path, path: str) -> None:
    book(tmp_path, [CASME3_BAD[-1]])
    frames(tmp_path / path, range(1012, 1039))
    clips, report = load(tmp_path)
    assert (clips[0].id, clips[0].emotion) == ("casme3/spNO.14/J_1012", "others")
    assert [one.flag for one in report.repairs] == ["folder-case"] and clips[0].flags == ("folder-case",)


def test_of_two_spellings_the_row_s_own_is_taken(tmp_path: Path) -> None:
    rows = [CASME3_BAD[-1]]
    book(tmp_path, rows)
    frames(tmp_path / "spNO.14" / "J" / "color", range(1012, 1039))
    frames(tmp_path / "spNO.14" / "j" / "color", range(1, 9))
    clips, report = load(tmp_path)
    assert not report.repairs and clips[0].frames[1012].parts[-3] == "J"


@settings(max_examples=25, deadline=None)
@given(
    number=st.integers(1, 250),
    video=st.sampled_from("abcdefghijklm"),
    onset=st.integers(1, 9999),
    typed=st.sampled_from([str, int, float, lambda value: f" {value} "]),
    prefix=st.sampled_from(["spNO.", "spNo.", "SPNO.", "spno. ", "sp NO."]),
    upper=st.booleans(),
)
def test_any_typing_of_cells_and_spelling_of_folders(
    number: int, video: str, onset: int, typed: object, prefix: str, upper: bool
) -> None:
    cells = [typed(value) for value in (onset, onset + 2, onset + 5)]  # type: ignore[operator]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        book(root, [(f"{prefix}{number}", video.upper() if upper else video, *cells, 4, "IV", " Others ")])
        frames(root / f"spNo.{number}_{video}_{onset}", range(onset, onset + 6))
        (clip,) = load(root)[0]
    assert (clip.subject, clip.onset, clip.apex, clip.offset) == (f"spNO.{number}", onset, onset + 2, onset + 5)
    assert (clip.emotion, clip.objective, [str(unit) for unit in clip.aus]) == ("others", 4, ["4"])


def test_a_video_with_several_clips_gives_each_its_own_name(tmp_path: Path) -> None:
    rows = [
        ("spNO.1", "e", "62", "68", "95", "R12", "I", "others"),
        ("spNO.1", "e", "96", "103", "107", "R12", "I", "happy"),
    ]
    book(tmp_path, rows)
    clips, _ = load(casme3_videos(tmp_path, rows))
    assert [clip.id for clip in clips] == ["casme3/spNO.1/e_62", "casme3/spNO.1/e_96"]
    assert [clip.emotion for clip in clips] == ["others", "happy"]
    assert min(clips[1].frames) == 96


def test_apex_at_onset_is_flagged_and_one_outside_becomes_the_middle(tmp_path: Path) -> None:
    rows = [(*ONE[:3], "355", *ONE[4:]), ("spNO.2", "b", "10", "40", "20", "4", "I", "sad")]
    book(tmp_path, rows)
    casme3_clips(tmp_path, [rows[0]])
    frames(tmp_path / "Part_A_ME_clip/frame/spNO.2_b_10", range(10, 21))
    clips, _ = load(tmp_path)
    assert set(clips[0].flags) == {"apex-at-onset"}
    assert clips[1].apex == 15 and "apex-midpoint" in clips[1].flags


def test_frames_that_do_not_open_count_as_missing(tmp_path: Path) -> None:
    rows = [
        ("spNO.3", "J", "495", "500", "510", "4", "I", "sad"),  # begins before the damaged frames
        ("spNO.3", "J", "520", "525", "530", "4", "I", "sad"),  # lies among them
        ("spNO.4", "j", "600", "605", "612", "4", "I", "fear"),  # here they open
        ("spNO.5", "j", "500", "505", "512", "4", "I", "fear"),  # not listed: never opened
    ]
    book(tmp_path, rows)
    casme3_videos(tmp_path, rows)
    for number in [*range(492, 498), 509, 510]:
        image(tmp_path / f"part_A/data/part_A_split/part_A/spNO.3/J/color/{number}.jpg")
    for number in range(597, 616):
        image(tmp_path / f"part_A/data/part_A_split/part_A/spNO.4/j/color/{number}.jpg")
    clips, report = load(tmp_path, max_missing=0.5)
    first, opens, unlisted = clips
    assert (first.onset, first.apex, first.offset) == (495, 497, 510)
    assert set(first.flags) == {"apex-nearest", "gaps"} and set(first.frames) == {495, 496, 497, 509, 510}
    assert not opens.flags and not unlisted.flags
    assert report.missing == ["spNO.3/J_520: no frame between onset and offset exists"]
    damaged = [one for one in report.repairs if one.flag == "unreadable"]
    assert [(one.clip, one.detail) for one in damaged] == [("spNO.3/j", "31 frames, 498 to 533")]


def test_the_lists_of_damaged_frames_have_the_published_length() -> None:
    assert [len(frames) for frames in casme3_frames.DAMAGED.values()] == [79, 42]
