"""The CASME II loader: the published table, every layout, and every row known to be wrong."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from finetune import datasets, schemes
from finetune.datasets import casme2
from finetune.validation import PRIVATE
from shards.errors import FlickerError
from tests.finetune import trees
from tests.finetune.trees import HEADER, Row, frames, sheets, tree, workbook

load = partial(datasets.load, "casme2")
ONE: Row = ("01", "EP02_01f", 46, 59, 86, 12, "happiness")
BOOK = "CASME2-coding-20140508.xlsx"
BOTH = {"2014": BOOK, "2019": "CASME2-coding-20190701.xlsx"}


@pytest.fixture(scope="module")
def table(shared: Path) -> list[dict[str, str]]:
    """The published table of CASME II (254 + 1 rows)."""
    return trees.published(shared, "casme2")


@pytest.fixture(scope="module")
def published(table: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both workbooks, and frames as released: doubled folder, two folders without rows, a cut clip."""
    return trees.casme2_tree(tmp_path_factory.mktemp("published") / "CASME2", table, BOTH)


@pytest.mark.parametrize("version", ["2014", "2019"])
def test_the_published_table_loads_with_the_published_counts(published: Path, version: str) -> None:
    clips, report = load(published, version)
    assert len(clips) == report.found == 255 and len({clip.subject for clip in clips}) == 26
    assert report.labels == casme2.PUBLISHED_LABELS[version]
    assert report.published == (255, 26) and report.subjects == 26
    assert {name for name, _, _ in report.schemes} == {
        n for n, s in schemes.SCHEMES.items() if "casme2" in s.datasets
    } - {"MEGC2018"}
    for _, found, expected in report.schemes:
        assert found == expected
    assert sorted(report.unlabelled) == ["sub09/EP02_02f", "sub24/EP02_07"]
    assert not report.missing and not report.simulated


def test_auto_takes_the_corrected_labels(published: Path) -> None:
    assert load(published)[1].version == "2019"


def test_the_rows_known_to_be_wrong_are_repaired_and_reported(published: Path) -> None:
    clips, report = load(published, "2014")
    by_name = {(clip.subject, clip.clip): clip for clip in clips}
    assert by_name["sub04", "EP12_01f"].apex == 291  # '/' -> midpoint of 261..321
    assert by_name["sub16", "EP01_08"].offset == 96  # 110 in the workbook
    assert by_name["sub07", "EP06_02_01"].offset == 91
    flagged = {(repair.clip, repair.flag) for repair in report.repairs}
    assert ("sub04/EP12_01f", "apex-midpoint") in flagged
    assert ("sub16/EP01_08", "offset-known") in flagged
    assert ("sub05/EP09_05f", "apex-at-onset") in flagged
    at_offset = {clip for clip, flag in flagged if flag == "apex-at-offset"}
    assert {"sub05/EP16_04f", "sub12/EP09_06", "sub20/EP16_01", "sub25/EP18_04f"} <= at_offset
    assert {clip.subject for clip in clips if PRIVATE in clip.flags} == {"sub12", "sub22"}


def test_text_of_the_report_names_what_a_researcher_looks_for(published: Path) -> None:
    text = load(published, "2014")[1].text()
    for words in ("255 of 255 clips", "sub04/EP12_01f: / -> 291", "sub09/EP02_02f", "C2-5", "246"):
        assert words in text
    assert "subjects 26 with a clip (published: 255 clips of 26 subjects)\n" in text
    assert "C3-" not in text and "SMIC" not in text  # schemes of other datasets
    assert text.count(" *") == 1  # the legend: no count differs


def test_every_clip_has_its_three_frames(published: Path) -> None:
    for clip in load(published)[0]:
        assert clip.onset <= clip.apex <= clip.offset
        assert {clip.onset, clip.apex, clip.offset} <= set(clip.frames)


def test_the_simulated_set_beside_the_repository_loads(shared: Path) -> None:
    clips, report = load(shared / "data/sim/casme2")
    assert len(clips) == 34 and not report.missing and not report.repairs
    assert schemes.get("C2-5").counts(clips)["others"] == 14


@pytest.mark.parametrize(
    ("images", "name", "variant"),
    [
        ("Cropped", "reg_img{}.jpg", "cropped"),
        ("Cropped/Cropped", "reg_img{}.jpg", "cropped"),
        ("Cropped-updated/Cropped", "reg_img{}.jpg", "cropped-updated"),
        ("CASME2_RAW_selected/CASME2_RAW_selected", "img{}.jpg", "raw-selected"),
        ("CASME2_RAW/CASME2-RAW", "img{}.bmp", "raw"),
        ("", "{:04d}.png", "cropped"),
    ],
)
def test_every_published_layout(tmp_path: Path, images: str, name: str, variant: str) -> None:
    workbook(tmp_path / "CASME2-coding-20140508.xlsx", [ONE])
    frames(tmp_path / images / "sub01" / "EP02_01f", range(40, 95), name)
    for wanted in ("auto", variant):
        clips, _ = load(tmp_path, variant=wanted)
        assert (clips[0].onset, clips[0].apex, clips[0].offset) == (46, 59, 86)


def test_auto_prefers_cropped_frames(tmp_path: Path) -> None:
    tree(tmp_path, [ONE], "CASME2_RAW_selected")
    frames(tmp_path / "Cropped" / "sub01" / "EP02_01f", range(46, 87))
    assert load(tmp_path)[1].images.endswith("Cropped")


def test_folder_names_may_differ_in_case(tmp_path: Path) -> None:
    workbook(tmp_path / "CASME2-coding-20140508.xlsx", [ONE])
    frames(tmp_path / "Cropped" / "Sub01" / "ep02_01F", range(46, 87))
    assert load(tmp_path)[0][0].flags == ("folder-case",)


def test_missing_clips_are_counted_and_stop_only_past_the_limit(tmp_path: Path) -> None:
    tree(tmp_path, [ONE, ("02", "EP01_11f", 46, 91, 96, 15, "repression")])
    for file in (tmp_path / "Cropped/sub02/EP01_11f").iterdir():
        file.unlink()
    with pytest.raises(FlickerError, match=r"1 of 2 rows .*sub02/EP01_11f.*--data.max_missing 0.5"):
        load(tmp_path)
    clips, report = load(tmp_path, max_missing=0.5)
    assert len(clips) == 1 and len(report.missing) == 1


def test_frames_missing_inside_a_clip_move_to_the_nearest(tmp_path: Path) -> None:
    tree(tmp_path, [ONE])
    for number in (46, 59, 60):
        (tmp_path / f"Cropped/sub01/EP02_01f/reg_img{number}.jpg").unlink()
    clip = load(tmp_path)[0][0]
    assert (clip.onset, clip.apex) == (47, 58)
    assert {"onset-nearest", "apex-nearest", "gaps"} <= set(clip.flags)


def test_the_same_clip_twice_names_both_rows(tmp_path: Path) -> None:
    tree(tmp_path, [ONE, (1, "ep02_01F", 46, 59, 86, 12, "happiness")])
    with pytest.raises(FlickerError, match=r"row 3: clip sub01/ep02_01F is already in row 2"):
        load(tmp_path)


def test_impossible_frame_order_names_the_row(tmp_path: Path) -> None:
    tree(tmp_path, [ONE])
    workbook(tmp_path / "CASME2-coding-20140508.xlsx", [("01", "EP02_01f", 86, 59, 46, 12, "happiness")])
    with pytest.raises(FlickerError, match=r"row 2 .*onset 86 is after offset 46"):
        load(tmp_path)


@pytest.mark.parametrize("cell", ["/", None, "soon"])
def test_an_onset_that_is_no_number_names_the_row(tmp_path: Path, cell: object) -> None:
    tree(tmp_path, [ONE])
    workbook(tmp_path / "CASME2-coding-20140508.xlsx", [("01", "EP02_01f", cell, 59, 86, 12, "happiness")])
    with pytest.raises(FlickerError, match=r"row 2 .*'OnsetFrame'"):
        load(tmp_path)


def test_a_workbook_without_a_column_is_a_one_line_error(tmp_path: Path) -> None:
    tree(tmp_path, [ONE])
    header = [*HEADER[:-1], "Feeling"]
    workbook(tmp_path / "CASME2-coding-20140508.xlsx", [ONE], header=header)
    with pytest.raises(FlickerError, match="has no column 'Estimated Emotion' or 'Emotion'; found: Subject"):
        load(tmp_path)


def test_missing_parts_say_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(FlickerError, match="no such folder"):
        load(tmp_path / "absent")
    with pytest.raises(FlickerError, match=r"no workbook CASME2-coding-20190701.xlsx or"):
        load(tmp_path)
    workbook(tmp_path / "CASME2-coding-20140508.xlsx", [ONE])
    with pytest.raises(FlickerError, match=r"no workbook CASME2-coding-20190701.xlsx \(found CASME2-coding-2014"):
        load(tmp_path, "2019")
    with pytest.raises(FlickerError, match="no frames of CASME II"):
        load(tmp_path)
    frames(tmp_path / "Cropped" / "sub01" / "EP02_01f", range(46, 87))
    with pytest.raises(FlickerError, match=r"no 'raw' frames .*found only: cropped"):
        load(tmp_path, variant="raw")


def test_simulated_data_is_recognised(tmp_path: Path) -> None:
    tree(tmp_path, [ONE])
    assert not load(tmp_path)[1].simulated
    (tmp_path / "SIMULATED.txt").touch()
    assert load(tmp_path)[1].simulated


def test_frames_of_whole_videos_are_cut_to_the_clip_and_the_known_offset_holds(tmp_path: Path) -> None:
    workbook(tmp_path / BOOK, [("16", "EP01_08", 73, 94, 110, 17, "repression")])
    frames(tmp_path / "CASME2_RAW/CASME2-RAW/sub16/EP01_08", range(1, 200), "img{}.jpg")
    (clip,), report = load(tmp_path)
    assert (clip.onset, clip.offset, list(clip.frames)) == (73, 96, list(range(73, 97)))
    assert "offset-known" in clip.flags and Path(report.images).name == "CASME2-RAW"


def test_an_offset_past_the_last_frame_is_clamped(tmp_path: Path) -> None:
    tree(tmp_path, [ONE])
    (tmp_path / "Cropped/sub01/EP02_01f/reg_img86.jpg").unlink()
    (clip,), _ = load(tmp_path)
    assert clip.offset == 85 and "offset-clamped" in clip.flags


@pytest.mark.parametrize("name", ["CASME2_label_Ver_2.xls", "casme2_label_ver2.xlsx"])
def test_the_old_workbook_without_blank_columns(tmp_path: Path, name: str) -> None:
    tree(tmp_path, [ONE])
    (tmp_path / BOOK).unlink()
    sheets(tmp_path / name, {"Sheet1": [[cell for cell in HEADER if cell], [1, *ONE[1:]]]})
    (clip,), report = load(tmp_path)
    assert (clip.id, clip.apex, clip.emotion) == ("casme2/sub01/EP02_01f", 59, "happiness")
    assert report.version == "ver2" and report.published is None
    assert all(expected is None for scheme, _, expected in report.schemes if scheme != "MEGC2019")


def test_slstts_table_gives_the_same_clips_with_its_own_apex(published: Path, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "Cropped").symlink_to(published / "Cropped")
    (tmp_path / "slstt_casme2.csv").write_bytes((shared / "data/annotations/slstt_casme2.csv").read_bytes())
    clips, report = load(tmp_path)
    assert report.version == "slstt" and report.labels == casme2.PUBLISHED_LABELS["2019"]
    theirs, ours = ({clip.id: clip for clip in some} for some in (clips, load(published, "2019")[0]))
    assert theirs.keys() == ours.keys()
    different = {name for name, clip in theirs.items() if clip.apex != ours[name].apex}
    assert different == {"casme2/sub04/EP12_01f"} and theirs["casme2/sub04/EP12_01f"].apex == 303


def test_objective_classes_are_joined_where_they_are_given(tmp_path: Path) -> None:
    other: Row = ("01", "EP19_05f", 40, 61, 90, "4+7+L10", "disgust")
    tree(tmp_path, [ONE, other])
    assert [clip.objective for clip in load(tmp_path)[0]] == [None, None]
    assert any("MEGC2018 needs objective classes" in note for note in load(tmp_path)[1].notes)
    rows = [("Subject", "Filename", "Objective Class"), (1, "EP02_01f", 1), (24, "EP07_01", 2)]
    sheets(tmp_path / "CASME2-ObjectiveClasses.xlsx", {"Sheet1": rows})
    clips, report = load(tmp_path)
    assert [clip.objective for clip in clips] == [1, None] and "objective-missing" in clips[1].flags
    assert report.notes == [
        "CASME2-ObjectiveClasses.xlsx: 1 rows of clips that CASME2-coding-20140508.xlsx does not have"
    ]
    assert ("MEGC2018", {"I": 1, "II": 0, "III": 0, "IV": 0, "V": 0}) in [entry[:2] for entry in report.schemes]


def test_two_folders_of_one_clip_are_noted(tmp_path: Path) -> None:
    tree(tmp_path, [ONE])
    frames(tmp_path / "Cropped/sub1/EP02_01f", range(46, 87))
    assert [repair.flag for repair in load(tmp_path)[1].repairs] == ["folder-twice"]


def test_a_label_that_was_never_published_is_noted(tmp_path: Path) -> None:
    tree(tmp_path, [(*ONE[:-1], "hapiness")])
    assert load(tmp_path)[0][0].flags == ("label-unknown",)


def test_the_known_offset_of_sub07(tmp_path: Path) -> None:
    workbook(tmp_path / BOOK, [("07", "EP06_02_01", 11, 66, 191, "4+R10", "disgust")])
    frames(tmp_path / "Cropped/sub07/EP06_02_01", range(1, 200))
    (clip,), report = load(tmp_path)
    assert clip.offset == 91 and [one.detail for one in report.repairs] == ["191 -> 91"]


def test_slstts_248_clips_are_those_whose_apex_comes_after_the_onset(
    shared: Path, published: Path, tmp_path: Path
) -> None:
    (tmp_path / "Cropped").symlink_to(published / "Cropped")
    (tmp_path / "slstt_casme2.csv").write_bytes((shared / "data/annotations/slstt_casme2.csv").read_bytes())
    clips, _, _ = schemes.get("C2-5").select(load(tmp_path)[0])
    assert len(clips) == 249 and [clip.clip for clip in clips if "apex-at-onset" in clip.flags] == ["EP09_05f"]


def test_frames_of_two_names_in_one_folder_are_noted(tmp_path: Path) -> None:
    tree(tmp_path, [ONE])
    frames(tmp_path / "Cropped/sub01/EP02_01f", [50, 51], "img{}.jpg")
    (clip,), report = load(tmp_path)
    assert "frames-twice" in clip.flags and [one.detail for one in report.repairs] == ["2 files"]
