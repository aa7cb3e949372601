"""The loader of CAS(ME)³ part C: no apex, units between commas, and frames apart from part A's."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from finetune import datasets
from shards.errors import FlickerError
from tests.finetune.trees_more import CASME3_ONE as ONE
from tests.finetune.trees_more import (
    CASME3C,
    casme3_videos,
    frames,
    xlsx,
)
from tests.finetune.trees_more import casme3_book as book

load = partial(datasets.load, "casme3")
load_c = partial(datasets.load, "casme3c")


def rows_c() -> list[tuple[object, ...]]:
    """165 rows of 30 people with the published labels and every way of writing action units."""
    units = ["R4,5", "R2,7", 1, "4，11", "L1,10,11,38,", 12]
    labels = [
        label
        for label, number in {"negative": 99, "surprise": 30, "others": 20, "positive": 16}.items()
        for _ in range(number)
    ]
    return [
        (place % 30 + 1, place // 30 + 1, 100 * place + 10, 100 * place + 21, units[place % 6], label)
        for place, label in enumerate(labels)
    ]


@pytest.mark.parametrize(
    "layout", ["part_C/{:02d}/a/color", "part_C/part_C/{:02d}/color", "ME_C/{}", "spNO.{}/a/color"]
)
def test_part_c_loads_with_the_published_counts(tmp_path: Path, layout: str) -> None:
    xlsx(tmp_path / "CAS(ME)3_part_C_ME.xlsx", {"Sheet1": [CASME3C, *rows_c()]})
    for subject, _, onset, offset, *_ in rows_c():
        middle = (int(str(onset)) + int(str(offset))) // 2
        frames(tmp_path / layout.format(subject), [int(str(onset)), middle, int(str(offset))])
        frames(tmp_path / layout.format(subject).replace("color", "depth"), [1], "{}.png")
    clips, report = load_c(tmp_path)
    assert len(clips) == 165 and report.published == (165, 30) and report.subjects == 30
    assert report.labels == {"negative": 99, "surprise": 30, "others": 20, "positive": 16}
    assert [expected for _, _, expected in report.schemes] == [found for _, found, _ in report.schemes]
    written = {tuple(str(unit) for unit in clip.aus) for clip in clips}
    assert written == {("R4", "5"), ("R2", "7"), ("1",), ("4", "11"), ("L1", "10", "11", "38"), ("12",)}
    assert all(clip.apex == (clip.onset + clip.offset) // 2 and "apex-uncoded" in clip.flags for clip in clips)
    assert not [one for one in report.repairs if one.flag == "au-unread"]


def test_part_c_reads_a_folder_for_each_clip(tmp_path: Path) -> None:
    xlsx(
        tmp_path / "CAS(ME)3_part_C_ME.xlsx",
        {"Sheet1": [CASME3C, (1, 1, 10, 14, 4, "negative"), (1, 2, 90, 94, 4, "others")]},
    )
    frames(tmp_path / "ME_C/01/1/color", range(10, 15))
    frames(tmp_path / "ME_C/01/02/color", range(90, 95))
    clips, _ = load_c(tmp_path)
    assert [(clip.id, clip.apex) for clip in clips] == [("casme3c/01/1_10", 12), ("casme3c/01/2_90", 92)]


def test_parts_a_and_c_are_kept_apart(tmp_path: Path) -> None:
    book(tmp_path, [ONE])
    xlsx(tmp_path / "CAS(ME)3_part_C_ME.xlsx", {"Sheet1": [CASME3C, (1, 1, 355, 360, 4, "negative")]})
    casme3_videos(tmp_path, [ONE])
    with pytest.raises(FlickerError, match=r"no frames of CAS.*part C"):
        load_c(tmp_path)
    frames(tmp_path / "others/01/a/color", range(355, 361))  # numbers name people elsewhere, too
    frames(tmp_path / "part_C/01/a/color", range(355, 361))
    assert "part_C" in str(load_c(tmp_path)[0][0].frames[355]) and "part_A" in str(load(tmp_path)[0][0].frames[355])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("one", 1, 10, 14, 4, "negative"), "row 2: 'sub' is 'one'"),
        ((1, "", 10, 14, 4, "negative"), "row 2: 'count' is ''"),
        ((1, 1, 14, 10, 4, "negative"), "row 2 .*onset 14 is after offset 10"),
        ((1, 1, 10, None, 4, "negative"), "row 2 .*'offset' is ''"),
    ],
)
def test_a_bad_row_of_part_c_is_a_one_line_error(tmp_path: Path, row: tuple[object, ...], message: str) -> None:
    xlsx(tmp_path / "CAS(ME)3_part_C_ME.xlsx", {"Sheet1": [CASME3C, row]})
    frames(tmp_path / "part_C/01/a/color", range(10, 15))
    with pytest.raises(FlickerError, match=message):
        load_c(tmp_path)
