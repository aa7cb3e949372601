"""Workbooks as people save them: wrong types, merged headers, blank rows, duplicates, text, damage.

Whatever is fed, a loader gives clips that hold together, or one line that names the file and, for a row, the row.
"""

from __future__ import annotations

import datetime
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune import annotations as cells
from finetune import datasets, workbook_reader, workbooks
from finetune.clips import Clip
from finetune.validation import Validation
from shards.errors import FlickerError
from tests.finetune.trees import HEADER, frames, sheets

NAME = "CASME2-coding-20140508.xlsx"
ROWS: tuple[list[object], ...] = (
    ["01", "EP02_01f", None, 46, 59, 86, None, 12, "happiness"],
    ["02", "EP01_11f", None, 46, 91, 96, None, 15, "repression"],
    ["02", "EP09_10", None, 10, 20, 30, None, "4+L10", "disgust"],
)
COLUMNS = ("Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Action Units", "Estimated Emotion")
PLACES = [place for place, name in enumerate(HEADER) if name]
few = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
words = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Co", "Cn")), min_size=1, max_size=20).filter(
    lambda text: not text.startswith("=")  # a formula
)
odd_cells = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=False, allow_infinity=False),
    words,
    st.sampled_from(["/", "-", "01 ", "46.0", "46.5", "sub01", "..", "a/b", "EP02\n01", "4+?", "R14A or 17", "=1/0"]),
    st.datetimes(datetime.datetime(1990, 1, 1), datetime.datetime(2030, 1, 1)),
)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sound workbooks are read without a process for each: there are hundreds."""
    monkeypatch.setattr(
        workbooks, "_read_workbook", lambda path: dict(json.loads(json.dumps(workbook_reader.sheets(str(path)))))
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CASME II whose workbook each example writes anew."""
    root = tmp_path_factory.mktemp("workbooks")
    for subject, clip, _, onset, _, offset, *_ in ROWS:
        frames(root / "Cropped" / f"sub{subject}" / str(clip), range(int(str(onset)), int(str(offset)) + 1))
    return root


def load(root: Path, rows: Sequence[Sequence[object]]) -> tuple[list[Clip], Validation]:
    """What the loader makes of a workbook of these rows, header included."""
    sheets(root / NAME, {"Sheet1": rows})
    return datasets.load("casme2", root, max_missing=1)


def noted(report: Validation) -> list[str]:
    """The notes about rows."""
    return [note for note in report.notes if note.startswith("row")]


def as_told(clips: Sequence[Clip]) -> list[tuple[object, ...]]:
    """The clips without their flags and frames."""
    return [(c.id, c.onset, c.apex, c.offset, c.emotion, tuple(map(str, c.aus))) for c in clips]


@pytest.fixture(scope="module")
def good(root: Path) -> list[tuple[object, ...]]:
    """The clips of the workbook as published."""
    clips, report = load(root, [HEADER, *ROWS])
    assert len(clips) == 3 and not noted(report) and not report.repairs
    return as_told(clips)


@pytest.mark.usefixtures("quick")
@few
@given(row=st.integers(0, 2), place=st.sampled_from(PLACES), cell=odd_cells)
def test_a_cell_of_any_type_is_repaired_as_documented_or_named(
    root: Path, row: int, place: int, cell: object
) -> None:
    rows = [list(values) for values in ROWS]
    rows[row][place] = cell
    try:
        clips, report = load(root, [HEADER, *rows])
    except FlickerError as error:
        text = str(error)
        assert "\n" not in text and f"{NAME}, row " in text and len(text) < 600
        assert f"row {row + 2}" in text
        return
    for clip in clips:
        assert clip.onset <= clip.apex <= clip.offset and {clip.onset, clip.apex, clip.offset} <= set(clip.frames)
        assert clip.subject and clip.clip and clip.emotion and "\n" not in clip.id
    assert len(clips) + len(report.missing) == 3
    others = {clip.id for clip in clips} - {f"casme2/sub{rows[row][0]}/{rows[row][1]}"}
    assert len(others) >= 2  # the other rows are as they were
    apex = next((clip.apex for clip in clips if clip.clip == ROWS[row][1]), None)
    if HEADER[place] == "ApexFrame" and apex is not None and apex != cells.frame_cell(cell):
        assert any(repair.flag == "apex-midpoint" for repair in report.repairs)


@pytest.mark.usefixtures("quick")
@few
@given(data=st.data())
def test_rows_that_are_no_data_change_nothing_and_text_is_noted(
    root: Path, good: list[tuple[object, ...]], data: st.DataObject
) -> None:
    table: list[Sequence[object]] = [HEADER, *ROWS]
    texts = 0
    for _ in range(data.draw(st.integers(1, 6))):
        kind = data.draw(st.sampled_from(["blank", "spaces", "text", "header"]))
        at = data.draw(st.integers(1, len(table)))
        if kind in ("text", "header"):
            texts += 1
        column = data.draw(st.sampled_from(PLACES))
        text = data.draw(words.filter(str.strip))
        new = {"blank": [], "spaces": [" "] * 9, "text": [None] * column + [text], "header": HEADER}[kind]
        table.insert(at, new)
    clips, report = load(root, table)
    assert as_told(clips) == good and len(noted(report)) == texts


@pytest.mark.usefixtures("quick")
@few
@given(above=st.lists(st.lists(words, max_size=9), max_size=30))
def test_text_above_the_header_changes_nothing(
    root: Path, good: list[tuple[object, ...]], above: list[list[str]]
) -> None:
    clips, report = load(root, [*above, HEADER, *ROWS])
    assert as_told(clips) == good and not noted(report)


@pytest.mark.usefixtures("quick")
@few
@given(merged=st.sets(st.integers(0, 8)), group=words)
def test_a_header_merged_over_two_rows_is_found_and_noted(
    root: Path, good: list[tuple[object, ...]], merged: set[int], group: str
) -> None:
    upper = [group if place in merged else name for place, name in enumerate(HEADER)]
    lower = [name if place in merged else None for place, name in enumerate(HEADER)]
    clips, report = load(root, [upper, lower, *ROWS])
    assert as_told(clips) == good
    two = {place for place in PLACES if place in merged} not in (set(), set(PLACES))
    assert noted(report) == (["rows 1 and 2 together are the header"] if two else [])


def test_a_header_merged_by_excel(root: Path, good: list[tuple[object, ...]]) -> None:
    book = openpyxl.Workbook()
    page = book.worksheets[0]
    page.append([*HEADER[:3], "Frames", None, None, *HEADER[6:]])
    page.append([None, None, None, *HEADER[3:6]])
    page.merge_cells("D1:F1")
    for column in "ABHI":
        page.merge_cells(f"{column}1:{column}2")
    for row in ROWS:
        page.append(row)
    book.save(root / NAME)
    clips, report = datasets.load("casme2", root)
    assert as_told(clips) == good and noted(report) == ["rows 1 and 2 together are the header"]


def test_merged_subjects_are_an_error_that_names_the_row(root: Path) -> None:
    rows = [list(row) for row in ROWS]
    rows[2][0] = None  # what a merged cell leaves below its first row
    with pytest.raises(FlickerError, match=r"row 4: 'Subject' is ''; expected a subject number .* in every row"):
        load(root, [HEADER, *rows])


@pytest.mark.usefixtures("quick")
@few
@given(order=st.permutations(range(9)), blanks=st.integers(0, 3), upper=st.booleans())
def test_columns_may_stand_anywhere_in_any_spelling(
    root: Path, good: list[tuple[object, ...]], order: list[int], blanks: int, upper: bool
) -> None:
    table = [[None] * blanks + [row[place] for place in order] for row in (HEADER, *ROWS)]
    table[0] = [
        f" {name.upper()}_ " if upper and name else name for name in (cell and str(cell) for cell in table[0])
    ]
    assert as_told(load(root, table)[0]) == good


@pytest.mark.usefixtures("quick")
@few
@given(
    first=st.integers(0, 2),
    at=st.integers(0, 3),
    subject=st.sampled_from(["{:02d}", "{}", "sub{:02d}", "s{}", " {} "]),
    swap=st.booleans(),
)
def test_the_same_clip_twice_names_both_rows(root: Path, first: int, at: int, subject: str, swap: bool) -> None:
    copy = list(ROWS[first])
    copy[0] = subject.format(int(str(copy[0])))
    copy[1] = str(copy[1]).swapcase() if swap else copy[1]
    table = list(ROWS)
    table.insert(at, copy)
    rows = sorted((at + 2, first + 2 + (at <= first)))
    with pytest.raises(FlickerError, match=rf"row {rows[1]}: clip .* is already in row {rows[0]}; remove one"):
        load(root, [HEADER, *table])


@pytest.mark.usefixtures("quick")
@few
@given(onset=st.integers(0, 120), apex=st.integers(0, 120), offset=st.integers(0, 120))
def test_impossible_orders_of_frames(root: Path, onset: int, apex: int, offset: int) -> None:
    row = list(ROWS[0])  # its frames are 46..86
    row[3:6] = onset, apex, offset
    table = [HEADER, row, *ROWS[1:]]
    if onset > offset:
        with pytest.raises(FlickerError, match=rf"row 2 \(sub01/EP02_01f\): onset {onset} is after offset {offset}"):
            load(root, table)
        return
    clips, report = load(root, table)
    if offset < 46 or onset > 86:
        assert report.missing == ["sub01/EP02_01f: no frame between onset and offset exists"]
        return
    clip = clips[0]
    assert (clip.onset, clip.offset) == (max(onset, 46), min(offset, 86))
    assert ("onset-nearest" in clip.flags) == (onset < 46) and ("offset-clamped" in clip.flags) == (offset > 86)
    last = min(offset, 86)  # the interval that exists decides about the apex
    assert ("apex-midpoint" in clip.flags) == (not onset <= apex <= last)
    assert ("apex-at-onset" in clip.flags) == (clip.apex == clip.onset)


@pytest.mark.usefixtures("quick")
@few
@given(rows=st.lists(st.tuples(st.integers(1, 99), words, st.integers(0, 10**8), st.floats(0, 9)), max_size=5))
def test_all_formats_hold_the_same_table(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[object, ...]]
) -> None:
    folder = tmp_path_factory.mktemp("formats")
    rows = [row for row in rows if str(row[1]).strip()]
    names = ("A", "B", "C", "D")
    (folder / "t.csv").write_text(
        "\r\n".join(",".join('"' + str(cell).replace('"', '""') + '"' for cell in row) for row in (names, *rows)),
        encoding="utf-8-sig",
        newline="",
    )
    found = []
    for suffix in (".xlsx", ".xls"):
        sheets(folder / f"t{suffix}", {"t": [names, *rows]})
    for suffix in (".xlsx", ".xls", ".csv"):
        table = cells.read_sheet(folder / f"t{suffix}", "t", names)
        found.append([[cells.text(row.cells[name]) for name in names[:3]] for row in table])
        assert [float(row.cells["D"]) for row in table] == pytest.approx([row[3] for row in rows])
    assert found[0] == found[1] == found[2] == [[cells.text(cell) for cell in row[:3]] for row in rows]


places = st.integers(0, 2**20)  # taken modulo the file's size, which differs from writing to writing


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """What makes of a file one that is cut short, has other bytes here and there, or is nothing of the kind."""
    kind = draw(st.sampled_from(["cut", "changed", "noise"]))
    if kind == "noise":
        noise = draw(st.binary(max_size=200))
        return lambda whole: noise
    if kind == "cut":
        cut = draw(places)
        return lambda whole: whole[: cut % len(whole)]
    changes = draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=20))

    def change(whole: bytes) -> bytes:
        spoilt = bytearray(whole)
        for place, value in changes:
            spoilt[place % len(whole)] = value
        return bytes(spoilt)

    return change


@pytest.mark.parametrize("suffix", [".xlsx", ".xls", ".csv"])
@settings(max_examples=12, deadline=None)
@given(damage=damages())
def test_a_damaged_file_is_one_line_or_still_a_table(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path_factory.mktemp("damaged") / f"a{suffix}"
    if suffix == ".csv":
        path.write_text("\n".join(",".join(str(cell or "") for cell in row) for row in (HEADER, *ROWS)))
    else:
        sheets(path, {"Sheet1": (HEADER, *ROWS)})
    path.write_bytes(damage(path.read_bytes()))
    try:
        table = cells.read_sheet(path, "Sheet1", COLUMNS)
    except FlickerError as error:
        assert "\n" not in str(error) and str(error).startswith(str(path))
    else:
        assert all(set(row.cells) == set(COLUMNS) for row in table)


def test_a_stray_cell_far_away_does_not_take_the_process_with_it(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    page = book.worksheets[0]
    page["A1"], page["XFD1048576"] = "Subject", "stray"
    book.save(tmp_path / "a.xlsx")
    with pytest.raises(FlickerError, match=r"a\.xlsx: not a readable workbook \(.*far beyond the table"):
        workbooks.read(tmp_path / "a.xlsx")


def test_cells_keep_their_types(tmp_path: Path) -> None:
    row = ["006", 6, 6.0, 6.5, True, datetime.date(2014, 7, 4), None]
    for name in ("a.xlsx", "a.xls"):
        read = workbooks.read(sheets(tmp_path / name, {"S": [row[: 5 if name.endswith("xls") else 7], ["end"] * 7]}))
        assert read["S"][0][:5] == ["006", 6, 6, 6.5, True]
        assert list(map(type, read["S"][0][:5])) == [str, int, int, float, bool]
    assert workbooks.read(tmp_path / "a.xlsx")["S"][0][5:] == ["2014-07-04", ""]


@pytest.mark.parametrize(
    ("sheet", "pages"), [("label", ["notes", "label"]), ("label", ["notes", "LABEL "]), ("label", ["only"])]
)
def test_sheets_are_found_by_name_or_by_columns(tmp_path: Path, sheet: str, pages: list[str]) -> None:
    held = {name: [["text"]] for name in pages} | {pages[-1]: [HEADER, *ROWS]}
    assert len(cells.read_sheet(sheets(tmp_path / "a.xlsx", held), sheet, COLUMNS)) == 3
    other = {"first": [["text"]], "second": [HEADER, *ROWS]}
    assert cells.read_sheet(sheets(tmp_path / "b.xlsx", other), "label", COLUMNS).sheet == "second"


@pytest.mark.parametrize(
    ("pages", "message"),
    [
        (
            {"a": [HEADER, *ROWS], "b": [HEADER, *ROWS]},
            "no sheet 'label', and several could hold the labels: 'a', 'b'",
        ),
        (
            {"a": [["x"]], "b": [["y"]]},
            "no sheet 'label', and none of those found has the columns of the labels: 'a', 'b'",
        ),
        ({"label": [["x", "y"]], "b": [HEADER, *ROWS]}, "sheet 'label' has no column 'Subject', .*; found: x, y"),
        ({"label": []}, "sheet 'label' has no column .*; found: none"),
    ],
)
def test_a_sheet_that_cannot_be_chosen_is_one_line(tmp_path: Path, pages: dict[str, object], message: str) -> None:
    with pytest.raises(FlickerError, match=message):
        cells.read_sheet(sheets(tmp_path / "a.xlsx", pages), "label", COLUMNS)  # type: ignore[arg-type]


def test_optional_columns_are_blank_where_absent(tmp_path: Path) -> None:
    path = sheets(tmp_path / "a.xlsx", {"S": [["A", "Emotion"], [1, "x"]]})
    (row,) = cells.read_sheet(path, "S", ["A", ("Estimated Emotion", "Emotion")], optional=["Notes"])
    assert row.cells == {"A": 1, "Estimated Emotion": "x", "Notes": ""} and row.at == f"{path}, row 2"


def test_sheets_without_a_header_are_read_by_position(tmp_path: Path) -> None:
    rows = [[1, "anger1_1", 557, 572], [], ["participant", "name", "on"], [2, "happy1_1", 301]]
    path = sheets(tmp_path / "a.xls", {"notes": [["text"]], "CASFEcode_final": rows})
    names = ("Subject", "Filename", "Onset", "Apex")
    for sheet in ("casfe code_final", "other"):
        table = cells.read_positions(path, sheet, names, accept=lambda row: isinstance(row["Subject"], int))
        assert [tuple(row.cells.values()) for row in table] == [(1, "anger1_1", 557, 572), (2, "happy1_1", 301, "")]
        assert table.notes == ("row 3: participant name on",) and [row.number for row in table] == [1, 4]
    with pytest.raises(FlickerError, match=r"a\.xls: sheet 'notes' has no row of Subject, Filename"):
        cells.read_positions(path, "notes", names, accept=lambda row: isinstance(row["Subject"], int))


def test_a_csv_of_another_encoding_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("Subject,Filename\né".encode("latin-1"))
    with pytest.raises(FlickerError, match=r"a\.csv: not a readable \.csv table .*; save it again as UTF-8"):
        cells.read_sheet(tmp_path / "a.csv", "", ["Subject"])


def test_messages_quote_no_line_breaks(tmp_path: Path) -> None:
    path = sheets(tmp_path / "a.xlsx", {"S": [["Subject\nnumber", "x"], [1, 2]]})
    with pytest.raises(FlickerError) as caught:
        cells.read_sheet(path, "S", ["Subject", "x"])
    assert re.fullmatch(r"[^\n]*found: Subject number, x[^\n]*", str(caught.value))


def test_the_reader_survives_a_path_with_spaces(tmp_path: Path) -> None:
    path = sheets(tmp_path / "CAS(ME)^2 code 'final'.xlsx", {"S": [["A"], [1]]})
    assert workbooks.read(path)["S"] == [["A"], [1]] and io.BytesIO(path.read_bytes()).read(2) == b"PK"
