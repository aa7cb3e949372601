"""Trees of CASME II, SAMM and SMIC for the tests, small or from the published tables; frames are empty files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import openpyxl
import xlwt

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


MOVED = {("24", "EP07_01"), ("24", "EP07_04f"), ("24", "EP10_03")}  # sadness in 2014, surprise in 2019
SAMM_HEADER = (
    "Subject",
    "Filename",
    "Inducement Code",
    "Onset Frame ",
    "Apex Frame",
    "Offset Frame",
    "Duration",
    "Micro",
    "Action Units",
    "Estimated Emotion",
    "Objective Classes",
    "Notes",
)
SAMM_TEXT = ("SAMM FACS codes", *["Notes: L and R are sides, A to E intensities, Subject is a person"] * 6, *[""] * 6)
"""The 13 rows above the header."""
WIDE = {  # videos of SAMM whose frame numbers have five digits
    *("006_1", "011_1", "012_1", "013_1", "014_1", "016_7", "018_1", "018_7", "020_1", "023_1"),
    *("026_1", "030_1", "033_1", "034_7", "035_1", "035_7", "036_7"),
}


def sheets(path: Path, pages: Mapping[str, Iterable[Sequence[object]]]) -> Path:
    """A workbook with these sheets, cell by cell; .xls or .xlsx by the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".xls":
        old = xlwt.Workbook()
        for name, rows in pages.items():
            page = old.add_sheet(name)
            for at, row in enumerate(rows):
                for column, cell in enumerate(row):
                    if cell is not None:
                        page.write(at, column, cell)
        old.save(str(path))
        return path
    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    for name, rows in pages.items():
        page = book.create_sheet(name)
        for row in rows:
            page.append(list(row))
    book.save(path)
    return path


def published(shared: Path, dataset: str) -> list[dict[str, str]]:
    """SLSTT's table of casme2, samm or smic."""
    with (shared / f"data/annotations/slstt_{dataset}.csv").open(encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def number(line: Mapping[str, str], name: str) -> int:
    """Onset, Apex or Offset of a line of SLSTT's tables."""
    return int(line[f"{name}Frame"])


def keyframes(line: Mapping[str, str]) -> set[int]:
    """Onset, apex, offset and middle: all frames of a dataset would be 17,000 files."""
    onset, apex, offset = (number(line, name) for name in ("Onset", "Apex", "Offset"))
    return {onset, apex, offset, onset + (offset - onset) // 2}


def casme2_rows(table: Iterable[Mapping[str, str]], version: str) -> list[Row]:
    """The table as the workbook of that version types it: text subjects in 2014, numbers in 2019."""
    rows: list[Row] = []
    for line in table:
        key = (line["Subject"], line["Filename"])
        subject: object = f"{int(line['Subject']):02d}" if version == "2014" else int(line["Subject"])
        emotion = "sadness" if version == "2014" and key in MOVED else line["Emotion"]
        apex: object = "/" if key == ("4", "EP12_01f") else number(line, "Apex")
        offset = 110 if key == ("16", "EP01_08") else number(line, "Offset")
        units: object = int(line["Aus"]) if line["Aus"].isdigit() else line["Aus"]
        rows.append((subject, line["Filename"], number(line, "Onset"), apex, offset, units, emotion))
    return rows


def casme2_tree(root: Path, table: Sequence[Mapping[str, str]], books: Mapping[str, str]) -> Path:
    """Workbooks (version -> file name) and cropped frames in a doubled folder, two of them without a row."""
    images = root / "Cropped" / "Cropped"
    for version, name in books.items():
        workbook(root / name, casme2_rows(table, version))
    for line in table:
        frames(images / f"sub{int(line['Subject']):02d}" / line["Filename"], keyframes(line))
    frames(images / "sub09" / "EP02_02f", range(1, 4))
    frames(images / "sub24" / "EP02_07", range(1, 4))
    return root


def samm_row(line: Mapping[str, str], **changes: object) -> list[object]:
    """A row of SAMM's workbook; `changes` by column."""
    onset, offset = number(line, "Onset"), number(line, "Offset")
    cells: dict[str, object] = dict.fromkeys(SAMM_HEADER, "")
    cells |= {
        "Subject": line["Subject"],
        "Filename": line["Filename"],
        "Inducement Code": int(line["Filename"][4]),
        "Onset Frame ": onset,
        "Apex Frame": number(line, "Apex"),
        "Offset Frame": offset,
        "Duration": offset - onset + 1,
        "Micro": "Micro - 1/2",
        "Action Units": "4 + 7",
        "Estimated Emotion": line["Emotion"],
        "Objective Classes": 7,
    }
    return list((cells | changes).values())


def samm_workbook(path: Path, rows: Iterable[Sequence[object]], sheet: str = "MICRO ONLY") -> Path:
    """The published sheet: 13 rows of text, the header in Excel's row 14, the rows."""
    return sheets(path, {sheet: [*([text] for text in SAMM_TEXT), SAMM_HEADER, *rows]})


def samm_frames(root: Path, line: Mapping[str, str], numbers: Iterable[int], name: str = "") -> None:
    """A clip's folder below the subject's; frame names padded as published, or by `name`."""
    width = 5 if line["Filename"][:5] in WIDE else 4
    frames(root / line["Subject"] / line["Filename"], numbers, name or f"{line['Subject']}_{{:0{width}d}}.jpg")


def smic_folder(home: Path, clip: str) -> Path:
    """.../s1/micro/negative/s1_ne_01 below the folder of a camera."""
    subject, kind, _ = clip.split("_")
    return home / subject / "micro" / {"ne": "negative", "po": "positive", "sur": "surprise"}[kind] / clip


def smic_tree(root: Path, table: Iterable[Mapping[str, str]], home: str, name: str) -> Path:
    """Clips of the high-speed camera with onset, middle and offset; frame numbers have at least six digits."""
    for line in table:
        frames(smic_folder(root / home, line["Filename"]), keyframes(line), name)
    return root
