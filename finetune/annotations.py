"""Reading annotation workbooks: sheets, column names, and the cells' many spellings (datasets reference §0)."""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from finetune.clips import ActionUnit
from shards.errors import FlickerError

_AU_SEPARATORS = re.compile(r"\s*(?:\+|,|，|\s+or\s+)\s*")
_AU_TOKEN = re.compile(r"^(?:AU)?(?P<side>[LRTB])?(?P<number>\d+)(?P<intensity>[A-E])?(?P<static>\(k\))?$", re.I)


@dataclass(frozen=True)
class Row:
    """One row of a sheet: its cells by wanted column, and where it stands (`at` is 'file, row N')."""

    cells: Mapping[str, Any]
    number: int
    """The row's number as Excel shows it (the header is row 1)."""
    at: str


def read_sheet(path: Path, sheet: str, columns: Sequence[str]) -> list[Row]:
    """Rows of `sheet` with the cells of `columns`, found by name (spaces and case ignored); blank rows skipped.

    A workbook with one sheet of another name is read from that sheet. Columns that were not asked for, blank ones
    among them, do not matter.

    Raises FlickerError, one line, for a file that is no workbook, a missing sheet (naming those found) or a missing
    column (naming file, sheet, and the columns found).
    """
    table = _read_table(path, sheet)
    found = {_plain(name): name for name in reversed(list(table.columns))}
    missing = [name for name in columns if _plain(name) not in found]
    if missing:
        have = ", ".join(str(name) for name in table.columns if not str(name).startswith("Unnamed:")) or "none"
        raise FlickerError(
            f"{path}: sheet '{sheet}' has no column {', '.join(repr(name) for name in missing)}; found: {have}. "
            "Give the workbook as published, or name its columns so"
        )
    wanted = table[[found[_plain(name)] for name in columns]]
    rows = []
    for index, values in enumerate(wanted.itertuples(index=False, name=None)):
        if not all(is_blank(value) for value in values):
            cells = dict(zip(columns, values, strict=True))
            rows.append(Row(cells, number=index + 2, at=f"{path}, row {index + 2}"))
    return rows


def _read_table(path: Path, sheet: str) -> pd.DataFrame:
    """The sheet with every cell as the workbook types it (no dtype guessing)."""
    try:
        with pd.ExcelFile(path, engine="openpyxl") as book:
            names = [str(name) for name in book.sheet_names]
            if sheet not in names and len(names) > 1:
                found = ", ".join(map(repr, names))
                raise FlickerError(f"{path}: no sheet '{sheet}'; found: {found}. Rename the sheet with the labels")
            name = sheet if sheet in names else names[0]
            return book.parse(name, dtype=object, keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise FlickerError(f"workbook not found: {path}") from None
    except (zipfile.BadZipFile, ValueError, KeyError, OSError) as error:
        raise FlickerError(f"{path}: not a readable .xlsx workbook ({error}); save it as .xlsx again") from None


def _plain(name: object) -> str:
    """A column name without case, spaces and underscores, for comparing."""
    return re.sub(r"[\s_]+", "", str(name)).lower()


def is_blank(value: object) -> bool:
    """True for an empty cell: None, NaN, or only white space."""
    if value is None or value is pd.NaT:
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


def subject_number(row: Row, column: str = "Subject") -> int:
    """The subject's number from 1, '01', 1.0, 'sub01' or 's1'. Raises FlickerError naming the row."""
    match = re.fullmatch(r"(?:sub|s)?_?(\d+)", text(row.cells[column]).lower())
    if not match:
        raise FlickerError(f"{row.at}: '{column}' is {row.cells[column]!r}; expected a subject number such as 01")
    return int(match[1])


def clip_name(row: Row, column: str = "Filename") -> str:
    """The clip's name. Raises FlickerError naming the row where it is blank or would leave its folder."""
    name = text(row.cells[column])
    if not name or "/" in name or "\\" in name or name in {".", ".."}:
        raise FlickerError(f"{row.at}: '{column}' is {row.cells[column]!r}; expected a clip name such as EP02_01f")
    return name


def frame_cell(value: object) -> int | None:
    """A frame number typed as int, float or text; None where the cell holds none ('/', blank, words)."""
    match = re.fullmatch(r"(\d+)(?:\.0*)?", text(value))
    return int(match[1]) if match else None


def emotion(value: object) -> str:
    """A label in lower case, stripped; 'other' becomes 'others'."""
    label = text(value).lower()
    return "others" if label == "other" else label


def action_units(value: object) -> tuple[tuple[ActionUnit, ...], tuple[str, ...]]:
    """(units, tokens that are none) of a cell such as 12, '4+7+L10', 'AU1, R2' or 'R14A or 17A'.

    Tokens follow `(AU)?[LRTB]?(\\d+)[A-E]?(\\(k\\))?`, separated by '+', ',', '，' or ' or '. Units marked '(k)'
    are static (held through the whole clip) and are left out.
    """
    units, odd = [], []
    for token in filter(None, _AU_SEPARATORS.split(text(value))):
        match = _AU_TOKEN.match(token.strip())
        if not match:
            odd.append(token)
        elif not match["static"]:
            side, intensity = (match["side"] or "").upper(), (match["intensity"] or "").upper()
            units.append(ActionUnit(int(match["number"]), side, intensity))
    return tuple(units), tuple(odd)


def frame_number(path: Path) -> int | None:
    """The frame number a file name carries: the last run of digits in its stem ('reg_img46.jpg' -> 46)."""
    digits = re.findall(r"[0-9]+", path.stem)
    return int(digits[-1]) if digits else None
