"""The CASME II loader: the published table, every layout, and every row known to be wrong."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

import pytest

from finetune import datasets, schemes
from finetune.datasets import casme2
from finetune.validation import PRIVATE
from shards.errors import FlickerError
from tests.finetune.trees import HEADER, Row, frames, tree, workbook

load = partial(datasets.load, "casme2")
MOVED = {("24", "EP07_01"), ("24", "EP07_04f"), ("24", "EP10_03")}  # sadness in 2014, surprise in 2019
ONE: Row = ("01", "EP02_01f", 46, 59, 86, 12, "happiness")


@pytest.fixture(scope="module")
def table(shared: Path) -> list[dict[str, str]]:
    """The published table of CASME II (254 + 1 rows)."""
    with (shared / "data/annotations/slstt_casme2.csv").open(encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def rows_of(table: list[dict[str, str]], version: str) -> list[Row]:
    """The table as the workbook of that version types it: text subjects in 2014, numbers in 2019."""
    rows: list[Row] = []
    for line in table:
        key = (line["Subject"], line["Filename"])
        subject: object = f"{int(line['Subject']):02d}" if version == "2014" else int(line["Subject"])
        emotion = "sadness" if version == "2014" and key in MOVED else line["Emotion"]
        apex: object = "/" if key == ("4", "EP12_01f") else int(line["ApexFrame"])
        offset = 110 if key == ("16", "EP01_08") else int(line["OffsetFrame"])
        units: object = int(line["Aus"]) if line["Aus"].isdigit() else line["Aus"]
        rows.append((subject, line["Filename"], int(line["OnsetFrame"]), apex, offset, units, emotion))
    return rows


@pytest.fixture(scope="module")
def published(table: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both workbooks, and frames as released: doubled folder, two folders without rows, a cut clip."""
    root = tmp_path_factory.mktemp("published") / "CASME2"
    images = root / "Cropped" / "Cropped"
    for version, name in casme2.WORKBOOKS.items():
        workbook(root / name, rows_of(table, version))
    for line in table:
        folder = images / f"sub{int(line['Subject']):02d}" / line["Filename"]
        onset, apex, offset = (int(line[f"{name}Frame"]) for name in ("Onset", "Apex", "Offset"))
        frames(folder, {onset, apex, offset, onset + (offset - onset) // 2})  # all would be 17,000 files
    frames(images / "sub09" / "EP02_02f", range(1, 4))
    frames(images / "sub24" / "EP02_07", range(1, 4))
    return root


@pytest.mark.parametrize("version", ["2014", "2019"])
def test_the_published_table_loads_with_the_published_counts(published: Path, version: str) -> None:
    clips, report = load(published, version)
    assert len(clips) == report.found == 255 and len({clip.subject for clip in clips}) == 26
    assert report.labels == casme2.PUBLISHED_LABELS[version]
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
    assert by_name["sub16", "EP01_08"].offset == 96  # 110 in the workbook, the frames end at 96
    assert by_name["sub07", "EP06_02_01"].offset == 91
    flagged = {(repair.clip, repair.flag) for repair in report.repairs}
    assert ("sub04/EP12_01f", "apex-midpoint") in flagged
    assert ("sub16/EP01_08", "offset-clamped") in flagged
    assert ("sub05/EP09_05f", "apex-at-onset") in flagged
    at_offset = {clip for clip, flag in flagged if flag == "apex-at-offset"}
    assert {"sub05/EP16_04f", "sub12/EP09_06", "sub20/EP16_01", "sub25/EP18_04f"} <= at_offset
    assert {clip.subject for clip in clips if PRIVATE in clip.flags} == {"sub12", "sub22"}


def test_text_of_the_report_names_what_a_researcher_looks_for(published: Path) -> None:
    text = load(published, "2014")[1].text()
    for words in ("255 of 255 clips", "sub04/EP12_01f: / -> 291", "sub09/EP02_02f", "C2-5", "246"):
        assert words in text


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
    header = [*HEADER[:-1], "Emotion"]
    workbook(tmp_path / "CASME2-coding-20140508.xlsx", [ONE], header=header)
    with pytest.raises(FlickerError, match="has no column 'Estimated Emotion'; found: Subject"):
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
