"""Workbooks as they lie on disk: .xlsx, .xls and .csv files as sheets of cells."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from shards.errors import FlickerError

Rows = list[list[Any]]
"""Rows of cells: str, int, float or bool; a blank cell is ''. Row 0 is row 1 of the file."""
READER = Path(__file__).with_name("workbook_reader.py")
SECONDS = 120.0
"""Time that reading one workbook may take."""


def read(path: Path) -> dict[str, Rows]:
    """Sheet name -> its cells, in the workbook's order; a .csv file is one sheet named like the file.

    .xlsx and .xls keep the types of their cells (text '006' stays text; whole numbers are int, dates are ISO text);
    in .csv every cell is text. Raises FlickerError, one line, for a missing file and one that cannot be read.
    """
    if not path.is_file():
        raise FlickerError(f"workbook not found: {path}; put it there as published")
    return {path.stem: _read_csv(path)} if path.suffix.lower() == ".csv" else _read_workbook(path)


def _read_csv(path: Path) -> Rows:
    """The rows of a text table."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [list(row) for row in csv.reader(file)]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise FlickerError(f"{path}: not a readable .csv table ({error}); save it again as UTF-8 text") from None


def _read_workbook(path: Path) -> dict[str, Rows]:
    """The sheets, read by a process of their own (see finetune/workbook_reader.py)."""
    command = [sys.executable, str(READER), str(path.resolve())]
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False, encoding="utf-8")
        if done.returncode == 0:
            return dict(json.loads(done.stdout))
        reason = done.stdout or "its reader ran out of memory or crashed: is a cell filled far beyond the table?"
    except subprocess.TimeoutExpired:
        reason = f"reading it took longer than {SECONDS:.0f} s"
    raise FlickerError(f"{path}: not a readable workbook ({reason}); save it again as .xlsx or .xls")
