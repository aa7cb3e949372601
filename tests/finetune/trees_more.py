"""Trees of CAS(ME)², CAS(ME)³, MMEW, 4DME and CASME for the tests, after the datasets reference (§4 to §6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np
import openpyxl
import xlwt

Rows = Sequence[Sequence[object]]
CASME3 = ("Subject", "Filename", "Onset", "Apex", "Offset", "AU", "Objective class", "emotion")
CASME3_AU = ("Subject", "Filename", "Onset", "Apex", "Offset", "AU", "Expression type", "Objective class")
CASME3C = ("sub", "count", "onset", "offset", "au", "emotion")
MMEW = (
    "Subject",
    "Filename",
    "OnsetFrame",
    "ApexFrame",
    "OffsetFrame",
    "Action Units",
    "Estimated Emotion",
    "remarks",
)
FOUR = ("sub_ID", "fold", "fold_name", "Onset", "Apex", "Offset", "Positive", "Negative", "Surprise", "Repression")
FOUR = (*FOUR, "Others", "Emotion", "eye blink", "Total", "AUs", "AU1", "AU2")
CASME = ("Subject", "Filename", None, "OnsetF", "ApexF1", "ApexF2", "OffsetF", None, "AU", "Emotion")

LABEL_BOOK = "cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx"
CASME3_ONE = ("spNO.1", "a", "355", "359", "362", "5", "II", "others")
CASME3_BAD: Rows = (  # as the table states them; the frames lie where the corrections say
    ("spNO.149", "d", "112", "83", "358", "T28+14", "VII", "fear"),
    ("spNO.216", "d", "3647", "2651", "2660", "4", "III", "disgust"),
    ("spNO.40", "e", "1812", "1824", "0", "18", "VII", "anger"),
    ("spNO.40", "e", "2327", "2390", "0", "4", "III", "anger"),
    ("spNO.214", "c", "20", "27", "3460", "12", "I", "happy"),
    ("spNO.216", "e", "0", "0", "25", "14", "VII", "others"),
    ("spNO.14", "J", "1012", "1019", "1038", "14", "VII", "Others"),
)
CASME3_RIGHT = {  # (subject, video, stated onset) -> onset, apex, offset
    ("spNO.149", "d", 112): (112, 123, 358),
    ("spNO.216", "d", 3647): (2647, 2651, 2660),
    ("spNO.40", "e", 1812): (1812, 1824, 1845),
    ("spNO.40", "e", 2327): (2327, 2390, 2403),
    ("spNO.214", "c", 20): (20, 27, 34),
    ("spNO.216", "e", 0): (1, 1, 25),
    ("spNO.14", "J", 1012): (1012, 1019, 1038),
}


def xlsx(path: Path, sheets: Mapping[str, Rows]) -> Path:
    """Write sheets of rows (headers among them) as .xlsx."""
    book = openpyxl.Workbook()
    assert book.active is not None
    book.remove(book.active)
    for name, rows in sheets.items():
        page = book.create_sheet(name)
        for row in rows:
            page.append(list(row))
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)
    return path


def xls(path: Path, sheets: Mapping[str, Rows]) -> Path:
    """Write sheets of rows as .xls."""
    book = xlwt.Workbook()
    for name, rows in sheets.items():
        page = book.add_sheet(name)
        for y, row in enumerate(rows):
            for x, cell in enumerate(row):
                if cell is not None:
                    page.write(y, x, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(str(path))
    return path


def frames(folder: Path, numbers: Iterable[int], name: str = "{}.jpg") -> None:
    """Empty frame files: loaders look at names only."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / name.format(number)).touch()


def image(path: Path) -> None:
    """A JPEG that opens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((16, 16, 3), 128, np.uint8))


def casme3_rows(labels: Mapping[str, int], subjects: int) -> list[Sequence[object]]:
    """A table of part A with those labels and subjects, the rows known to be wrong among them."""
    rows = list(CASME3_BAD)
    left = dict(labels)
    for row in rows:
        left[str(row[-1]).lower()] -= 1
    known = {int(str(row[0])[5:]) for row in rows}
    others = [number for number in range(1, 300) if number not in known][: subjects - len(known)]
    turn = cycle(others)
    videos = cycle("abcdefghijklm")
    for count, label in enumerate(label for label, number in left.items() for _ in range(number)):
        onset = 400 + 20 * count
        said = "Others" if label == "others" and count % 50 < 1 else label
        cells = (f"spNO.{next(turn)}", next(videos), str(onset), str(onset + 4), str(onset + 9), "4+R10", "VII", said)
        rows.append(cells)
    return rows


def casme3_book(root: Path, rows: Rows, name: str = LABEL_BOOK) -> Path:
    """The label workbook of part A, with the sheets that are to be ignored."""
    sheets = {"label": [CASME3, *rows], "Sheet1": [("a", "b"), (1, 2)], "Sheet3": []}
    return (xls if name.endswith(".xls") else xlsx)(root / name, sheets)


def casme3_interval(row: Sequence[object]) -> tuple[int, int, int]:
    """Onset, apex, offset of a row where its frames really lie."""
    stated = int(str(row[2]))
    return CASME3_RIGHT.get((str(row[0]), str(row[1]), stated), (stated, int(str(row[3])), int(str(row[4]))))


def casme3_clips(root: Path, rows: Rows, inside: str = "Part_A_ME_clip") -> Path:
    """Cut clips, and a depth picture of each; names as the table states them. In large sets, the three key frames."""
    for row in rows:
        folder = f"{row[0]}_{str(row[1]).lower()}_{row[2]}"
        onset, apex, offset = casme3_interval(row)
        frames(root / inside / "frame" / folder, range(onset, offset + 1) if len(rows) < 9 else {onset, apex, offset})
        if len(rows) < 9:
            frames(root / inside / "depth" / folder, [onset], "{}.png")
    return root


def casme3_videos(root: Path, rows: Rows, inside: str = "part_A/data/part_A_split/part_A") -> Path:
    """Whole videos: frames around each clip, and depth pictures under the same numbers and more."""
    for row in rows:
        onset, _, offset = casme3_interval(row)
        video = root / inside / str(row[0]) / str(row[1])
        frames(video / "color", range(max(1, onset - 3), offset + 4))
        frames(video / "depth", range(max(1, onset - 3), offset + 9), "{}.png")
    return root


def casme_sq_book(path: Path, rows: Rows, *, text: bool = True) -> Path:
    """The three sheets without header; codes as text or as the numbers that a careless save makes of them."""
    folders = [15, 16, *range(19, 28), *range(29, 39), 40]
    stimuli = {"disgust1": "0101", "disgust2": "0102", "anger1": "0401", "anger2": "0402", "happy1": "0502"}
    stimuli["happy3"] = "0507"
    people = [(number, f"s{number}", place) for place, number in enumerate(folders, start=1)]
    codes = [(code if text else int(code), name) for name, code in stimuli.items()]
    return xlsx(path, {"CASFEcode_final": rows, "naming rule1": people, "naming rule2": codes})
