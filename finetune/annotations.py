"""The cells of annotation tables and their many spellings (docs/datasets.md); tables: finetune/tables.py."""

from __future__ import annotations

import re
from pathlib import Path

from finetune.clips import ActionUnit
from finetune.tables import Row, Table, is_blank, read_positions, read_sheet, text
from shards.errors import FlickerError

__all__ = [
    "Row",
    "Table",
    "action_units",
    "clip_name",
    "emotion",
    "frame_cell",
    "frame_number",
    "is_blank",
    "label",
    "objective_class",
    "read_positions",
    "read_sheet",
    "subject_number",
    "text",
]

_AU_SEPARATORS = re.compile(r"\s*(?:\+|＋|,|，|\s+or\s+)\s*", re.I)
_AU_TOKEN = re.compile(
    r"(?:AU)?\s*(?P<side>[LRTB])?\s*(?P<number>[0-9]{1,3})(?P<intensity>[A-E])?(?P<static>\(k\))?", re.I
)
_ROMAN = {name: number for number, name in enumerate(("I", "II", "III", "IV", "V", "VI", "VII"), start=1)}


def subject_number(row: Row, column: str = "Subject") -> int:
    """The subject's number from 1, '01', 1.0, 'sub01' or 's1'. Raises FlickerError naming the row."""
    match = re.fullmatch(r"(?:sub|s)?_?([0-9]{1,6})", text(row.cells[column]).lower())
    if not match:
        raise FlickerError(
            f"{row.at}: '{column}' is {row.cells[column]!r}; expected a subject number such as 01 in every row"
        )
    return int(match[1])


def clip_name(row: Row, column: str = "Filename") -> str:
    """The clip's name. Raises FlickerError naming the row where it is blank or would leave its folder."""
    name = text(row.cells[column])
    if not name or re.search(r"[/\\\x00-\x1f\x7f]", name) or name in {".", ".."}:
        raise FlickerError(f"{row.at}: '{column}' is {row.cells[column]!r}; expected a clip name such as EP02_01f")
    return name


def frame_cell(value: object) -> int | None:
    """A frame number typed as int, float or text; None where the cell holds none ('/', blank, words)."""
    match = re.fullmatch(r"([0-9]{1,9})(?:\.0*)?", text(value))
    return int(match[1]) if match else None


def emotion(value: object) -> str:
    """A label in lower case, stripped; 'other' becomes 'others'."""
    label = " ".join(text(value).lower().split())
    return "others" if label == "other" else label


def label(row: Row, column: str) -> str:
    """The `emotion` in a row. Raises FlickerError naming the row where it is blank or a number."""
    found = emotion(row.cells[column])
    if not re.search(r"[^\W\d]", found):
        raise FlickerError(f"{row.at}: '{column}' is {row.cells[column]!r}; expected an emotion such as happiness")
    return found


def objective_class(value: object) -> int | None:
    """An objective class 1..7 typed as a number or as I..VII; None for anything else."""
    said = text(value).upper()
    if said in _ROMAN:
        return _ROMAN[said]
    number = frame_cell(said)
    return number if number is not None and 1 <= number <= len(_ROMAN) else None


def action_units(value: object) -> tuple[tuple[ActionUnit, ...], tuple[str, ...]]:
    """(units, tokens that are none) of a cell such as 12, '4+7+L10', 'AU1, R2' or 'R14A or 17A'.

    Tokens follow `(AU)?[LRTB]?(\\d+)[A-E]?(\\(k\\))?`, separated by '+', ',', '，' or ' or '. Units marked '(k)'
    are static (held through the whole clip) and are left out.
    """
    units, odd = [], []
    for token in filter(None, _AU_SEPARATORS.split(text(value))):
        match = _AU_TOKEN.fullmatch(token.strip())
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
