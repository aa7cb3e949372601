"""Prints a workbook's cells as JSON; a program of its own, run by `finetune.workbooks`.

The parser reserves memory for the whole rectangle of cells that a file claims to have, and ends the process where
that is refused: one stray or damaged cell far away is enough. Here it can only end this process.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":  # this folder's modules are no part of the import path
    sys.path.pop(0)

import datetime
import json
import resource
from typing import Any

import python_calamine

MEMORY = 4 << 30
"""Bytes of address space that reading a workbook may take."""
CELLS = 20_000_000
"""Cells, blank ones counted, that a sheet may have."""


def plain(cell: Any) -> str | int | float | bool:
    """A cell as JSON has it: whole numbers without a fraction, dates and times as text."""
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    if isinstance(cell, (datetime.date, datetime.time)):
        return cell.isoformat()
    return cell if isinstance(cell, (str, int, float)) else str(cell)


def sheets(path: str) -> list[tuple[str, list[list[Any]]]]:
    """(name, rows of cells) of every worksheet, from the first row and column on; a blank cell is ''."""
    book = python_calamine.CalamineWorkbook.from_path(path)
    found = []
    for sheet in book.sheets_metadata:
        if sheet.typ != python_calamine.SheetTypeEnum.WorkSheet:
            continue
        page = book.get_sheet_by_name(sheet.name)
        if page.total_height * page.total_width > CELLS:
            raise ValueError(f"sheet '{sheet.name}' claims {page.total_height} x {page.total_width} cells")
        rows = page.to_python(skip_empty_area=False)
        found.append((sheet.name, [[plain(cell) for cell in row] for row in rows]))
    return found


def main(path: str) -> int:
    """Write the sheets to stdout; where that fails, the reason in one line. Returns the exit status."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        text = json.dumps(sheets(path))
    except Exception as error:  # whatever the parser finds wrong with a damaged file
        sys.stdout.write(" ".join(str(error).split()) or type(error).__name__)
        return 1
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
