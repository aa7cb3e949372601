"""Annotation tables: sheets found by name or by their columns, headers found by search.

What is repaired without asking (docs/datasets.md): text rows above the header, a header over two rows
(merged cells), blank rows and columns, the header repeated inside the table, and rows with one filled cell alone
(footers, notes). All but blank ones are listed in `Table.notes`. Everything else that is wrong is a one-line error
that names file, row and column.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from finetune import workbooks
from shards.errors import FlickerError

HEADER_ROWS = 40
"""Rows, from the first, among which a header is looked for."""

Column = str | tuple[str, ...]
"""A column by its name, or by the names it goes by: the first is its key in `Row.cells`."""


@dataclass(frozen=True)
class Row:
    """One row of a sheet: its cells by wanted column, and where it stands (`at` is 'file, row N')."""

    cells: Mapping[str, Any]
    number: int
    """The row's number as Excel shows it."""
    at: str


@dataclass(frozen=True)
class Table(Sequence[Row]):
    """The rows of a sheet, in order; it can be used as a list of them."""

    sheet: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    """Rows that are no data, and how the header was found where that took a repair: 'row 160: ...'."""
    above: tuple[str, ...] = ()
    """The rows of text above the header."""

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        return self.rows[index]


@dataclass(frozen=True)
class _Header:
    """Where a sheet's columns stand, and the first row below their names (0-based)."""

    places: Mapping[str, int]
    names: tuple[str, ...]
    below: int
    pair: bool = False


def read_sheet(path: Path, sheet: str, columns: Sequence[Column], *, optional: Sequence[Column] = ()) -> Table:
    """The rows of `sheet` with the cells of `columns`, found by name (case, spaces and underscores ignored).

    A workbook without a sheet of that name is read from its only sheet, or the only one with these columns. The
    header is the first row that has them all, at most HEADER_ROWS down, or two rows that have them together (names
    merged over several cells). Other columns do not matter; blank rows are skipped.

    Args:
        path: .xlsx, .xls or .csv.
        columns: must be there.
        optional: cells that are '' in every row where the column is absent.

    Raises FlickerError, one line, for a file that is no workbook, a missing sheet (naming those found) or a missing
    column (naming file, sheet, and the columns found).
    """
    book = workbooks.read(path)
    name = _by_name(book, sheet)
    if name is None:
        headed = [other for other, rows in book.items() if _header(rows, columns, optional)]
        name = _only(path, sheet, list(book), headed)
    rows = book[name]
    header = _header(rows, columns, optional)
    if header is None:
        raise FlickerError(_missing_columns(path, name, rows, columns))
    keys = [_names(column)[0] for column in (*columns, *optional)]
    return _table(path, name, rows, header, keys)


def read_positions(
    path: Path, sheet: str, names: Sequence[str], *, accept: Callable[[Mapping[str, Any]], bool] | None = None
) -> Table:
    """The rows of a sheet without a header, its columns named from the left; blank rows are skipped.

    Args:
        sheet: its name; a workbook without it is read from its only sheet, or the only one with accepted rows.
        names: keys for the cells from the first column on; further columns are not read.
        accept: whether a row (its cells by name) is data; the others are listed in the table's notes.

    Raises FlickerError, one line, for a file that is no workbook, a missing sheet, or one without accepted rows.
    """
    book = workbooks.read(path)
    header = _Header({name: place for place, name in enumerate(names)}, (), 0)
    name = _by_name(book, sheet)
    if name is None:
        fitting = [other for other, rows in book.items() if len(_table(path, other, rows, header, names, accept))]
        name = _only(path, sheet, list(book), fitting)
    table = _table(path, name, book[name], header, names, accept)
    if not table:
        raise FlickerError(
            f"{path}: sheet '{name}' has no row of {', '.join(names)} (in this order, without a header); "
            "give the workbook as published"
        )
    return table


def _by_name(book: Mapping[str, workbooks.Rows], sheet: str) -> str | None:
    """The sheet of that name, or the only one."""
    found = [name for name in book if _plain(name) == _plain(sheet)] or (list(book) if len(book) == 1 else [])
    return found[0] if found else None


def _only(path: Path, sheet: str, names: Sequence[str], fitting: Sequence[str]) -> str:
    """The one sheet that fits. Raises FlickerError where there is none, or more."""
    if len(fitting) == 1:
        return fitting[0]
    found = ", ".join(map(repr, fitting or names)) or "none"
    why = "several could hold the labels" if fitting else "none of those found has the columns of the labels"
    raise FlickerError(f"{path}: no sheet '{sheet}', and {why}: {found}. Name the sheet with the labels so")


def _names(column: Column) -> tuple[str, ...]:
    """All names of a column."""
    return (column,) if isinstance(column, str) else column


def _header(rows: workbooks.Rows, columns: Sequence[Column], optional: Sequence[Column]) -> _Header | None:
    """Where the columns stand: by one row, else by two rows that have their names together; None where nowhere."""
    top = rows[: HEADER_ROWS + 1]
    singles = [(place + 1, [text(cell) for cell in row]) for place, row in enumerate(top)]
    pairs = [
        (place + 2, [text(below) or text(above) for above, below in zip(row, top[place + 1], strict=False)])
        for place, row in enumerate(top[:-1])
    ]
    for pair, candidates in ((False, singles), (True, pairs)):
        for below, names in candidates:
            places = _places(names, columns)
            if len(places) == len(columns):
                return _Header(places | _places(names, optional), tuple(names), below, pair)
    return None


def _places(names: Sequence[str], columns: Sequence[Column]) -> dict[str, int]:
    """Key -> place of every column that is among the names."""
    found = {_names(column)[0]: _place(names, column) for column in columns}
    return {key: place for key, place in found.items() if place is not None}


def _place(names: Sequence[str], column: Column) -> int | None:
    """The first place where one of the column's names stands."""
    wanted = {_plain(name) for name in _names(column)}
    return next((place for place, name in enumerate(names) if _plain(name) in wanted), None)


def _missing_columns(path: Path, sheet: str, rows: workbooks.Rows, columns: Sequence[Column]) -> str:
    """The message about the row that comes nearest to the wanted header."""

    def missing(names: Sequence[str]) -> list[Column]:
        return [column for column in columns if _place(names, column) is None]

    candidates = [[text(cell) for cell in row] for row in rows[:HEADER_ROWS]] or [[]]
    names = min(candidates, key=lambda row: len(missing(row)))
    lacking = ", ".join(" or ".join(map(repr, _names(column))) for column in missing(names))
    if len(missing(names)) == len(columns):  # no header at all
        names = candidates[0]
    found = ", ".join(" ".join(name.split())[:40] for name in names if name) or "none"
    advice = "Give the workbook as published, or name its columns so"
    return f"{path}: sheet '{sheet}' has no column {lacking}; found: {found[:400]}. {advice}"


def _table(
    path: Path,
    sheet: str,
    rows: workbooks.Rows,
    header: _Header,
    keys: Sequence[str],
    accept: Callable[[Mapping[str, Any]], bool] | None = None,
) -> Table:
    """The rows below the header, sorted into data and notes."""
    found = []
    notes = [f"rows {header.below - 1} and {header.below} together are the header"] if header.pair else []
    for number, values in enumerate(rows[header.below :], start=header.below + 1):
        padded = [*values, *[""] * (max(header.places.values()) + 1 - len(values))]
        cells = {key: padded[header.places[key]] if key in header.places else "" for key in keys}
        filled = [cell for cell in cells.values() if not is_blank(cell)]
        if not filled:
            continue
        if header.names and all(
            _plain(text(cells[key])) == _plain(header.names[at]) for key, at in header.places.items()
        ):
            notes.append(f"row {number}: the header again")
        elif (len(filled) == 1 and len(keys) > 2) or (accept is not None and not accept(cells)):
            notes.append(f"row {number}: {' '.join(' '.join(map(text, filled)).split())[:80]}")
        else:
            found.append(Row(cells, number=number, at=f"{path}, row {number}"))
    top = [" ".join(filter(None, map(text, row))) for row in rows[: max(0, header.below - 1 - header.pair)]]
    return Table(sheet, tuple(found), tuple(notes), tuple(filter(None, top)))


def _plain(name: object) -> str:
    """A column or sheet name without case, spaces and underscores, for comparing."""
    return re.sub(r"[\s_]+", "", str(name)).lower()


def is_blank(value: object) -> bool:
    """True for an empty cell: None, NaN, or only white space."""
    if value is None:
        return True
    if isinstance(value, float):
        return math.isnan(value)
    return isinstance(value, str) and not value.strip()


def text(value: object) -> str:
    """A cell as stripped text ('' if blank); a whole number typed as float loses its '.0'."""
    if is_blank(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()
