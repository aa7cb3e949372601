"""Small CASME II trees for the tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import openpyxl

HEADER = (
    "Subject",
    "Filename",
    None,
    "OnsetFrame",
    "ApexFrame",
    "OffsetFrame",
    None,
    "Action Units",
    "Estimated Emotion",
)
Row = tuple[object, str, object, object, object, object, str]


def workbook(path: Path, rows: Iterable[Row], header: Sequence[object] = HEADER, sheet: str = "Sheet1") -> Path:
    """Write rows of (subject, clip, onset, apex, offset, AUs, emotion) as the published workbook lies on disk."""
    book = openpyxl.Workbook()
    page = book.active
    assert page is not None
    page.title = sheet
    page.append(list(header))
    for subject, clip, onset, apex, offset, units, emotion in rows:
        page.append([subject, clip, None, onset, apex, offset, None, units, emotion])
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)
    return path


def frames(folder: Path, numbers: Iterable[int], name: str = "reg_img{}.jpg") -> None:
    """Empty frame files: the loader looks at names only."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / name.format(number)).touch()


def tree(root: Path, rows: Sequence[Row], images: str = "Cropped", version: str = "20140508") -> Path:
    """A workbook and, for every row, frames from onset to offset."""
    workbook(root / f"CASME2-coding-{version}.xlsx", rows)
    for subject, clip, onset, _, offset, _, _ in rows:
        number = int(str(subject).removeprefix("sub"))
        frames(root / images / f"sub{number:02d}" / clip, range(int(str(onset)), int(str(offset)) + 1))
    return root
