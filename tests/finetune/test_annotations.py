"""Cells and sheets: every spelling that the reference names, and one-line errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune import annotations as cells
from finetune.clips import ActionUnit
from finetune.datasets.finding import edition_files, frame_files, workbooks
from shards.errors import FlickerError
from tests.finetune.trees import HEADER, workbook

COLUMNS = ["Subject", "Filename", "OnsetFrame"]
ROW = (1, "EP02_01f", 46, 59, 86, 12, "happiness")


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (12, ["12"]),
        (12.0, ["12"]),
        ("4+7+L10", ["4", "7", "L10"]),
        ("AU1, r2", ["1", "R2"]),
        ("R14A or 17A", ["R14A", "17A"]),
        ("1，2", ["1", "2"]),
        (" T23 + B12C ", ["T23", "B12C"]),
        ("4(k)+12", ["12"]),
        ("", []),
        (None, []),
        (float("nan"), []),
    ],
)
def test_action_units_of_every_published_spelling(cell: object, expected: list[str]) -> None:
    units, odd = cells.action_units(cell)
    assert [str(unit) for unit in units] == expected
    assert odd == ()


def test_unreadable_action_units_are_told_apart() -> None:
    assert cells.action_units("4+?+x7") == ((ActionUnit(4),), ("?", "x7"))


unit = st.builds(
    ActionUnit, st.integers(1, 64), st.sampled_from(["", "L", "R", "T", "B"]), st.sampled_from(["", *"ABCDE"])
)


@given(st.lists(unit, max_size=6), st.sampled_from(["+", " + ", ",", ", ", "，", " or "]), st.booleans())
def test_action_units_survive_writing_and_reading(units: list[ActionUnit], separator: str, prefix: bool) -> None:
    text = separator.join(("AU" if prefix else "") + str(one) for one in units)
    assert cells.action_units(text) == (tuple(units), ())


@given(st.text(max_size=30))
def test_action_unit_cells_never_crash(text: str) -> None:
    units, odd = cells.action_units(text)
    assert all(one.number >= 0 for one in units) and all(isinstance(token, str) for token in odd)


@given(
    st.integers(0, 10**8), st.sampled_from(["reg_img{}.jpg", "img{}.png", "006_{:05d}.jpg", "{}.bmp", "a2b{}c.jpg"])
)
def test_frame_number_is_the_last_run_of_digits(number: int, pattern: str) -> None:
    assert cells.frame_number(Path("sub01", pattern.format(number))) == number


def test_frames_are_in_numeric_order_and_other_files_are_ignored(tmp_path: Path) -> None:
    for name in (
        "reg_img10.jpg",
        "reg_img9.JPG",
        "reg_img100.png",
        "Thumbs.db",
        "notes.txt",
        ".reg_img3.jpg",
        "cover.jpg",
    ):
        (tmp_path / name).touch()
    assert list(frame_files(tmp_path)) == [9, 10, 100]


@pytest.mark.parametrize("value", [1, "01", "1", 1.0, "sub01", "s1", " 01 "])
def test_subject_numbers_of_every_type(value: object) -> None:
    assert cells.subject_number(cells.Row({"Subject": value}, 2, "book.xlsx, row 2")) == 1


@pytest.mark.parametrize("value", ["", None, "anna", 1.5, "-3"])
def test_bad_subject_names_the_row(value: object) -> None:
    with pytest.raises(FlickerError, match=r"book.xlsx, row 7: 'Subject'"):
        cells.subject_number(cells.Row({"Subject": value}, 7, "book.xlsx, row 7"))


@pytest.mark.parametrize("value", ["", None, "../secrets", "a/b", ".."])
def test_clip_names_cannot_leave_their_folder(value: object) -> None:
    with pytest.raises(FlickerError, match="row 7: 'Filename'"):
        cells.clip_name(cells.Row({"Filename": value}, 7, "book.xlsx, row 7"))


@pytest.mark.parametrize(
    ("value", "frame"), [(59, 59), ("59", 59), (59.0, 59), ("/", None), (None, None), ("a", None)]
)
def test_frame_cells(value: object, frame: int | None) -> None:
    assert cells.frame_cell(value) == frame


def test_labels_are_normalised() -> None:
    assert [cells.emotion(text) for text in (" Other", "OTHERS ", "Happiness")] == ["others", "others", "happiness"]


def test_columns_are_found_by_name_among_blank_ones_and_blank_rows_skipped(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", [ROW, (None, "", None, None, None, None, ""), ROW])
    rows = cells.read_sheet(path, "Sheet1", COLUMNS)
    assert [row.number for row in rows] == [2, 4]
    assert rows[0].cells == {"Subject": 1, "Filename": "EP02_01f", "OnsetFrame": 46}


def test_a_missing_column_names_file_sheet_and_the_columns_found(tmp_path: Path) -> None:
    header = ["Subject", "Clip", *HEADER[2:]]
    path = workbook(tmp_path / "a.xlsx", [ROW], header=header)
    with pytest.raises(FlickerError) as caught:
        cells.read_sheet(path, "Sheet1", COLUMNS)
    text = str(caught.value)
    assert "a.xlsx: sheet 'Sheet1' has no column 'Filename'" in text and "found: Subject, Clip" in text
    assert "\n" not in text


def test_the_only_sheet_is_read_whatever_its_name(tmp_path: Path) -> None:
    assert len(cells.read_sheet(workbook(tmp_path / "a.xlsx", [ROW], sheet="Sheet"), "Sheet1", COLUMNS)) == 1


@pytest.mark.parametrize("content", [b"", b"not a workbook", b"PK\x03\x04 broken"])
def test_a_file_that_is_no_workbook_is_a_one_line_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.xlsx"
    path.write_bytes(content)
    with pytest.raises(FlickerError, match=r"a.xlsx") as caught:
        cells.read_sheet(path, "Sheet1", COLUMNS)
    assert "\n" not in str(caught.value)


def test_two_files_of_one_number_are_counted(tmp_path: Path) -> None:
    for name in ("img9.jpg", "img09.jpg", "img10.bmp"):
        (tmp_path / name).touch()
    found = frame_files(tmp_path)
    assert {number: path.name for number, path in found.items()} == {9: "img09.jpg", 10: "img10.bmp"}
    assert found.twice == 1


def test_workbooks_are_found_from_the_outermost_folder_on(tmp_path: Path) -> None:
    for place in ("a/b", "a", "z", ".hidden", "__MACOSX"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "Labels_2.xlsx").touch()
    (tmp_path / "a" / "~$Labels_2.xlsx").touch()  # what Excel leaves beside an open workbook
    (tmp_path / "z" / "labels_1.XLSX").touch()
    (tmp_path / "labels_3.xlsx").mkdir()
    found = [(match[1], path.parent.name) for match, path in workbooks(tmp_path, r"labels_(\d)\.xlsx")]
    assert found == [("2", "a"), ("2", "z"), ("1", "z"), ("2", "b")]
    first = edition_files(tmp_path, {"one": r"labels_(1)\.xlsx", "two": r"labels_(2)\.xlsx"})
    assert {name: path.parent.name for name, path in first.items()} == {"one": "z", "two": "a"}


@pytest.mark.parametrize("value", ["", None, 5, "5", " ", "?"])
def test_a_label_must_hold_a_word(value: object) -> None:
    with pytest.raises(FlickerError, match=r"row 7: 'Emotion' is .*; expected an emotion such as happiness"):
        cells.label(cells.Row({"Emotion": value}, 7, "book.xlsx, row 7"), "Emotion")


@pytest.mark.parametrize(
    ("value", "number"), [(1, 1), ("7", 7), (3.0, 3), ("IV", 4), (" vii ", 7), (0, None), (8, None)]
)
def test_objective_classes_of_every_type(value: object, number: int | None) -> None:
    assert cells.objective_class(value) == number


@pytest.mark.parametrize("value", ["AU 12", "L 12", "4 + 7", "4＋7"])
def test_spaces_inside_action_units(value: str) -> None:
    assert cells.action_units(value)[1] == () and cells.action_units("4 7") == ((), ("4 7",))


@pytest.mark.parametrize("value", ["9" * 5000, "1" + "0" * 400, "-1", "1e400"])
def test_numbers_too_long_for_a_frame_are_none(value: str) -> None:
    assert cells.frame_cell(value) is None and cells.action_units(value)[0] == ()
