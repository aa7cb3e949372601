"""The MMEW loader: frames counted within a clip, two layouts, the folder of 'others', ends that are not stated."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from finetune import datasets
from shards.errors import FlickerError
from tests.finetune.trees_more import MMEW, Rows, frames, xlsx

load = partial(datasets.load, "mmew")
ROWS: Rows = (
    (1, "S01-01-001", 1, 20, 45, "6+12", "happiness", None),
    (3, "S03-02-002", 1, 14, 40, "1+2+5", "surprise", None),
    (8, "S08-04-001", 1, 18, 61, 17, "others", None),
    (13, "S13-07-001", 1, 30, 70, "4+7", "anger", "blurred"),
)
FOLDERS = {"others": "repression"}


def book(root: Path, rows: Rows = ROWS) -> None:
    """The workbook."""
    xlsx(root / "MMEW_Micro_Exp.xlsx", {"Sheet1": [MMEW, *rows]})


def tree(root: Path, rows: Rows = ROWS, layout: str = "Micro_Expression/{emotion}/{clip}") -> Path:
    """Frames 1 to 80 of every clip, and stills of macro-expressions beside them."""
    for _, clip, _, _, _, _, emotion, _ in rows:
        name = layout.format(emotion=FOLDERS.get(str(emotion), emotion), clip=clip, subject=str(clip)[:3])
        frames(root / name, range(1, 81))
        frames(root / f"Macro_Expression/{str(clip)[:3]}/{emotion}/{clip}", range(1, 9))
    return root


@pytest.mark.parametrize(
    "layout",
    [
        "Micro_Expression/{emotion}/{clip}",
        "MMEW/Micro_Expression/{subject}/{emotion}/{clip}",
        "Micro_Expression/{subject}/{clip}",
        "{emotion}/{clip}",
    ],
)
def test_every_layout(tmp_path: Path, layout: str) -> None:
    book(tmp_path)
    clips, report = load(tree(tmp_path, layout=layout))
    assert [clip.id for clip in clips] == [
        "mmew/S01/S01-01-001",
        "mmew/S03/S03-02-002",
        "mmew/S08/S08-04-001",
        "mmew/S13/S13-07-001",
    ]
    assert [(clip.onset, clip.apex, clip.offset) for clip in clips][2:] == [(1, 18, 61), (1, 30, 70)]
    assert all(clip.fps == 90.0 for clip in clips) and not report.repairs and not report.unlabelled
    assert all(clip.frames[1].name == "1.jpg" and "Macro_Expression" not in clip.frames[1].parts for clip in clips)


def test_frames_are_the_clip_s_own_and_sorted_as_numbers(tmp_path: Path) -> None:
    book(tmp_path, ROWS[:1])
    clip = load(tree(tmp_path, ROWS[:1]))[0][0]
    assert list(clip.frames)[:11] == list(range(1, 12)) and clip.frames[20].name == "20.jpg"


def test_the_report_shows_the_published_counts_and_the_native_scheme(tmp_path: Path) -> None:
    book(tmp_path)
    report = load(tree(tmp_path))[1]
    assert report.published == (300, 36) and "published: 300 clips of 36 subjects" in report.text()
    assert report.labels == {"happiness": 1, "surprise": 1, "others": 1, "anger": 1}
    (scheme,) = report.schemes
    assert scheme[0] == "MMEW-7" and sum(scheme[1].values()) == 4 and scheme[2] is None


def test_the_published_size_loads(tmp_path: Path) -> None:
    emotions = ("happiness", "surprise", "disgust", "others", "fear", "sadness", "anger")
    rows = [
        (
            place % 36 + 1,
            f"S{place % 36 + 1:02d}-{place % 7 + 1:02d}-{place:03d}",
            1,
            3,
            5,
            4,
            emotions[place % 7],
            None,
        )
        for place in range(300)
    ]
    book(tmp_path, rows)
    for _, clip, *_, emotion, _ in rows:
        frames(tmp_path / "Micro_Expression" / FOLDERS.get(str(emotion), str(emotion)) / str(clip), range(1, 6))
    clips, report = load(tmp_path)
    assert (len(clips), report.subjects) == report.published == (300, 36) and not report.repairs


def test_the_clip_s_name_tells_the_subject(tmp_path: Path) -> None:
    rows = [(7, *ROWS[0][1:]), ("S03", *ROWS[1][1:]), (None, *ROWS[2][1:])]
    book(tmp_path, rows)
    clips, report = load(tree(tmp_path, rows))
    assert [clip.subject for clip in clips] == ["S01", "S03", "S08"]
    assert [(one.clip, one.flag, one.detail) for one in report.repairs] == [
        ("S01/S01-01-001", "subject-of-clip", "the row says 7"),
        ("S08/S08-04-001", "subject-of-clip", "the row says nothing"),
    ]


def test_a_folder_of_another_emotion_is_reported_and_the_row_counts(tmp_path: Path) -> None:
    book(tmp_path, ROWS[2:])
    frames(tmp_path / "Micro_Expression/others/S08-04-001", range(1, 62))  # as in the row, not as released
    frames(tmp_path / "Micro_Expression/fear/S13-07-001", range(1, 71))
    clips, report = load(tmp_path)
    assert [clip.emotion for clip in clips] == ["others", "anger"]
    assert [(one.clip, one.flag, one.detail) for one in report.repairs] == [
        ("S13/S13-07-001", "folder-elsewhere", "fear/, the row says anger")
    ]


@pytest.mark.parametrize(
    ("cells", "interval", "flags"),
    [
        ((1, 20, 45), (1, 20, 45), ()),
        ((None, 20, 45), (1, 20, 45), ("onset-first",)),
        ((1, 20, None), (1, 20, 80), ("offset-last",)),
        ((1, 20, 0), (1, 20, 80), ("offset-last",)),
        ((10, 20, 5), (10, 20, 80), ("offset-last",)),
        ((1, 90, 70), (1, 35, 70), ("apex-midpoint",)),
        ((1, None, 70), (1, 35, 70), ("apex-midpoint",)),
        ((1, 20, 99), (1, 20, 80), ("offset-clamped",)),
        ((None, None, None), (1, 40, 80), ("onset-first", "offset-last", "apex-midpoint")),
    ],
)
def test_ends_that_are_not_stated_come_from_the_folder(
    tmp_path: Path, cells: tuple[object, ...], interval: tuple[int, ...], flags: tuple[str, ...]
) -> None:
    book(tmp_path, [(1, "S01-01-001", *cells, "6+12", "happiness", None)])
    clip = load(tree(tmp_path, ROWS[:1]))[0][0]
    assert (clip.onset, clip.apex, clip.offset) == interval and clip.flags == flags


def test_an_onset_that_is_not_stated_is_the_first_frame_there_is(tmp_path: Path) -> None:
    book(tmp_path, [(1, "S01-01-001", None, 20, 45, "6+12", "happiness", None)])
    frames(tmp_path / "Micro_Expression/happiness/S01-01-001", range(3, 81))
    assert load(tmp_path)[0][0].flags == ("onset-first",) and load(tmp_path)[0][0].onset == 3


def test_a_clip_without_a_folder_is_missing_whatever_its_row_states(tmp_path: Path) -> None:
    book(tmp_path, [ROWS[0], (3, "S03-02-002", 1, None, None, "", "surprise", None)])
    report = load(tree(tmp_path, ROWS[:1]), max_missing=0.5)[1]
    assert report.missing == ["S03/S03-02-002: no folder"]


def test_folders_match_in_any_case_and_twice_is_reported(tmp_path: Path) -> None:
    book(tmp_path, ROWS[:1])
    frames(tmp_path / "Micro_Expression/happiness/s01-01-001", range(1, 81))
    frames(tmp_path / "Micro_Expression/surprise/S01-01-001", range(1, 11))
    clips, report = load(tmp_path)
    assert clips[0].offset == 45 and [one.flag for one in report.repairs] == ["folder-twice", "folder-case"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((1, "EP02_01f", *ROWS[0][2:]), "row 2: 'Filename' is 'EP02_01f'; expected a clip name such as S13-07-001"),
        ((1, None, *ROWS[0][2:]), "row 2: 'Filename' is ''"),
        ((*ROWS[0][:6], None, None), "row 2: 'Estimated Emotion' is ''"),
    ],
)
def test_a_bad_row_is_a_one_line_error(tmp_path: Path, row: tuple[object, ...], message: str) -> None:
    book(tmp_path, [row])
    with pytest.raises(FlickerError, match=message) as raised:
        load(tree(tmp_path))
    assert "\n" not in str(raised.value)


def test_the_same_clip_twice_names_both_rows(tmp_path: Path) -> None:
    book(tmp_path, [ROWS[0], ROWS[0]])
    with pytest.raises(FlickerError, match="row 3: clip S01/S01-01-001 is already in row 2"):
        load(tree(tmp_path))


def test_missing_parts_say_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(FlickerError, match=r"no workbook MMEW_Micro_Exp.xlsx; put"):
        load(tmp_path)
    book(tmp_path)
    with pytest.raises(FlickerError, match=r"no frames of MMEW; expected e\.g\. Micro_Expression/anger/S13-07-001"):
        load(tmp_path)


def test_auto_recognises_the_dataset(tmp_path: Path) -> None:
    book(tmp_path)
    assert datasets.load("auto", tree(tmp_path))[1].dataset == "mmew"
