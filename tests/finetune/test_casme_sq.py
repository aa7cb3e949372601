"""The CAS(ME)² loader: tables without header, three layouts, offsets and apexes that were not coded."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from finetune import datasets
from finetune.datasets import casme_sq
from shards.errors import FlickerError, UsageError
from tests.finetune.trees_more import Rows, casme_sq_book, frames, xlsx

load = partial(datasets.load, "casme_sq")
BOOK = "CAS(ME)^2code_final.xlsx"
MICRO, MACRO = "micro-expression", "macro-expression"
ROWS: Rows = (
    (1, "anger1_1", 557, 572, 608, 4, "negative", MACRO, "anger"),
    (1, "disgust1_2", 120, 126, 132, "4+7", "negative", MICRO, "disgust"),
    (2, "happy1_1", 301, 305, 0, 12, "positive", MICRO, "happiness"),
    (11, "happy3_1", 80, 0, 92, "6+12", "positive", MACRO, "happiness"),
    (12, "disgust2_9", 44, 49, 55, "1+2", "surprise", MICRO, "disgust"),
    (22, "anger2_3", 210, 214, 221, 14, "others", MICRO, "helpless"),
)
CLIPS = {  # folder of the subject, clip -> frames that exist
    ("15", "anger1_1"): range(557, 609),
    ("15", "disgust1_2"): range(120, 133),
    ("16", "happy1_1"): range(301, 310),
    ("27", "happy3_1"): range(80, 93),
    ("29", "disgust2_9"): range(44, 56),
    ("40", "anger2_3"): range(210, 222),
}
VIDEOS = {
    "anger1": "0401anger",
    "disgust1": "0101disgustingteeth",
    "happy1": "0502funnyerrors",
    "happy3": "0507climb",
    "disgust2": "0102eatingworms",
    "anger2": "0402beatingpregnantwoman",
}


def cut(root: Path, inside: str = "selectedpic/s{}") -> Path:
    """Cut clips, with absolute numbers, names as released."""
    for (subject, clip), numbers in CLIPS.items():
        frames(root / inside.format(subject) / clip, numbers, "img{}.jpg")
    return root


def raw(root: Path) -> Path:
    """Whole videos (the frames around each clip), numbers padded to three digits."""
    for (subject, clip), numbers in CLIPS.items():
        around = range(numbers[0] - 4, numbers[-1] + 9)
        frames(root / f"rawpic/s{subject}/{subject}_{VIDEOS[clip.split('_')[0]]}", around, "img{:03d}.jpg")
    return root


def published_rows() -> list[tuple[object, ...]]:
    """57 micro-expressions with the published classes and 300 macro-expressions of 22 participants."""
    labels = [label for label, number in casme_sq.PUBLISHED_LABELS["micro"].items() for _ in range(number)]
    kinds = [(label, MICRO) for label in labels] + [("negative", MACRO)] * 300
    return [
        (
            place % 22 + 1,
            f"anger1_{place // 22 + 1}",
            10 * place + 1,
            10 * place + 3,
            10 * place + 6,
            4,
            label,
            kind,
            "anger",
        )
        for place, (label, kind) in enumerate(kinds)
    ]


def test_the_published_counts(tmp_path: Path) -> None:
    rows = published_rows()
    casme_sq_book(tmp_path / BOOK, rows)
    folders = [15, 16, *range(19, 28), *range(29, 39), 40]
    for participant, clip, onset, apex, offset, *_ in rows:
        frames(tmp_path / f"cropped/{folders[int(str(participant)) - 1]}/{clip}", [onset, apex, offset], "img{}.jpg")  # type: ignore[list-item]
    clips, report = load(tmp_path)
    assert len(clips) == 57 and report.published == (57, None) and report.version == "micro"
    assert report.labels == {"positive": 8, "negative": 21, "surprise": 9, "others": 19}
    assert [(name, found) for name, found, expected in report.schemes if found == expected] == [
        ("CASME-SQ-4", {"positive": 8, "negative": 21, "surprise": 9, "others": 19})
    ]
    clips, report = load(tmp_path, "all")
    assert len(clips) == 357 and report.published == (357, 22) and report.subjects == 22 and not report.unlabelled
    assert {clip.subject for clip in clips} == {f"s{number}" for number in folders}
    assert len(load(tmp_path, "macro")[0]) == 300


@pytest.mark.parametrize(
    ("inside", "variant"),
    [
        ("selectedpic/s{}", "selectedpic"),
        ("selectedpic/selectedpic/s{}", "selectedpic"),
        ("cropped/{}", "cropped"),
        ("cropped/cropped/{}", "cropped"),
    ],
)
def test_cut_clips_in_every_layout(tmp_path: Path, inside: str, variant: str) -> None:
    casme_sq_book(tmp_path / BOOK, ROWS)
    cut(tmp_path, inside)
    for wanted in ("auto", variant):
        clips, report = load(tmp_path, variant=wanted)
        assert [clip.id for clip in clips] == [
            "casme_sq/s15/disgust1_2",
            "casme_sq/s16/happy1_1",
            "casme_sq/s29/disgust2_9",
            "casme_sq/s40/anger2_3",
        ]
        assert (clips[0].onset, clips[0].apex, clips[0].offset, clips[0].fps) == (120, 126, 132, 30.0)
        assert not report.missing and not report.unlabelled
    with pytest.raises(FlickerError, match=f"found only: {variant}"):
        load(tmp_path, variant="rawpic")


@pytest.mark.parametrize("text", [True, False])
def test_whole_videos_are_found_by_code_as_text_or_number(tmp_path: Path, text: bool) -> None:
    casme_sq_book(tmp_path / BOOK, ROWS, text=text)
    clips, report = load(raw(tmp_path), "all")
    assert len(clips) == 6 and not report.missing
    assert clips[1].frames[120].parts[-3:] == ("s15", "15_0101disgustingteeth", "img120.jpg")
    assert list(clips[1].frames) == list(range(120, 133))  # the clip alone
    assert clips[4].frames[44].name == "img044.jpg"


def test_folder_names_may_differ_in_case(tmp_path: Path) -> None:
    casme_sq_book(tmp_path / BOOK, ROWS[1:2])
    frames(tmp_path / "selectedpic/S15/Disgust1_2", range(120, 133), "img{}.jpg")
    assert load(tmp_path)[0][0].flags == ("folder-case",)


def test_cropped_is_taken_first_and_videos_last(tmp_path: Path) -> None:
    casme_sq_book(tmp_path / BOOK, ROWS)
    raw(tmp_path)
    (tmp_path / "rawvideo/s15").mkdir(parents=True)
    (tmp_path / "rawvideo/s15/15_0101disgustingteeth.avi").touch()
    assert load(tmp_path)[1].images.endswith("rawpic")
    cut(tmp_path)
    assert load(tmp_path)[1].images.endswith("selectedpic")
    cut(tmp_path, "cropped/{}")
    assert load(tmp_path)[1].images.endswith("cropped")


def test_a_video_in_another_subject_s_folder_belongs_to_the_one_it_names(tmp_path: Path) -> None:
    rows = [
        (3, "happy1_1", 10, 12, 15, 12, "positive", MICRO, ""),
        (5, "happy1_1", 20, 22, 25, 12, "positive", MICRO, ""),
    ]
    casme_sq_book(tmp_path / BOOK, rows)  # participants 3 and 5 are s19 and s21
    frames(tmp_path / "rawpic/s19/19_0502funnyerrors", range(1, 31), "img{:03d}.jpg")
    frames(tmp_path / "rawpic/s19/21_0502funnyerrors", range(1, 31), "img{:03d}.jpg")
    clips, report = load(tmp_path)
    assert [clip.frames[clip.onset].parts[-2] for clip in clips] == ["19_0502funnyerrors", "21_0502funnyerrors"]
    assert [(one.clip, one.flag, one.detail) for one in report.repairs] == [
        ("s21/0502", "folder-elsewhere", "s19/21_0502funnyerrors")
    ]
    frames(tmp_path / "rawpic/s21/21_0502funnyerrors", range(1, 31), "img{:03d}.jpg")
    clips, report = load(tmp_path)
    assert clips[1].frames[20].parts[-3] == "s21" and not report.repairs


def test_an_uncoded_offset_is_mirrored_and_an_uncoded_apex_is_the_middle(tmp_path: Path) -> None:
    casme_sq_book(tmp_path / BOOK, ROWS)
    clips, report = load(cut(tmp_path), "all")
    named = {clip.clip: clip for clip in clips}
    assert (named["happy1_1"].apex, named["happy1_1"].offset) == (305, 309)  # 2 * 305 - 301
    assert named["happy1_1"].flags == ("offset-mirrored",)
    assert named["happy3_1"].apex == 86 and named["happy3_1"].flags == ("apex-midpoint",)
    assert {(one.clip, one.detail) for one in report.repairs} == {
        ("s16/happy1_1", "0 -> 309"),
        ("s27/happy3_1", "0 -> 86"),
    }


def test_a_mirrored_offset_past_the_last_frame_is_clamped(tmp_path: Path) -> None:
    casme_sq_book(tmp_path / BOOK, [ROWS[2]])
    frames(tmp_path / "selectedpic/s16/happy1_1", range(301, 308), "img{}.jpg")
    clip = load(tmp_path)[0][0]
    assert clip.offset == 307 and clip.flags == ("offset-mirrored", "offset-clamped")


@pytest.mark.parametrize(
    "name", ["code_final.xlsx", BOOK, "CAS(ME)^2code_final(Updated).xlsx", "code_final (updated).xlsx"]
)
def test_every_name_of_the_workbook(tmp_path: Path, name: str) -> None:
    casme_sq_book(tmp_path / name, ROWS)
    assert len(load(cut(tmp_path))[0]) == 4


def test_the_updated_workbook_is_preferred(tmp_path: Path) -> None:
    casme_sq_book(tmp_path / BOOK, ROWS)
    casme_sq_book(tmp_path / "labels" / "CAS(ME)^2code_final(Updated).xlsx", ROWS[1:2])
    assert len(load(cut(tmp_path))[0]) == 1


def test_the_first_row_is_data_and_a_heading_is_not(tmp_path: Path) -> None:
    heading = ("participant", "name", "onset", "apex", "offset", "AU", "emotion", "type", "self-report")
    casme_sq_book(tmp_path / BOOK, [heading, *ROWS])
    _, report = load(cut(tmp_path), "all")
    assert report.found == 6 and any("row 1" in note for note in report.notes)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((23, *ROWS[1][1:]), "row 2: participant 23 is not in sheet 'naming rule1'"),
        ((*ROWS[1][:2], 0, 5, 9, *ROWS[1][5:]), r"row 2 \(s15/disgust1_2\): expected an onset"),
        ((*ROWS[1][:2], 5, 0, 0, *ROWS[1][5:]), r"row 2 .*expected an onset, and an apex or offset"),
        ((*ROWS[1][:2], 9, 7, 5, *ROWS[1][5:]), r"row 2 .*onset 9 is after offset 5"),
        ((*ROWS[1][:2], 9, 7, 0, *ROWS[1][5:]), r"row 2 .*onset 9 is after offset 5"),
        ((*ROWS[1][:6], "", *ROWS[1][7:]), "row 2: 'emotion' is ''"),
        ((*ROWS[1][:7], "expression", ""), "row 2: column 8 is 'expression'; expected micro-expression"),
        ((ROWS[0][0], "Anger1_1", *ROWS[1][2:]), "row 2: clip s15/Anger1_1 is already in row 1"),
    ],
)
def test_a_bad_row_is_a_one_line_error(tmp_path: Path, row: tuple[object, ...], message: str) -> None:
    casme_sq_book(tmp_path / BOOK, [ROWS[0], row])
    with pytest.raises(FlickerError, match=message) as raised:
        load(cut(tmp_path), "all")
    assert "\n" not in str(raised.value)


def test_a_stimulus_without_a_code_names_the_row(tmp_path: Path) -> None:
    casme_sq_book(tmp_path / BOOK, [(1, "fear9_1", *ROWS[1][2:])])
    with pytest.raises(FlickerError, match="row 1: the stimulus of fear9_1 is not in sheet 'naming rule2'"):
        load(raw(tmp_path))


def test_missing_parts_say_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(FlickerError, match=r"no workbook CAS\(ME\)\^2code_final.xlsx; put"):
        load(tmp_path)
    xlsx(tmp_path / BOOK, {"CASFEcode_final": ROWS, "other": [("a", "b")]})
    with pytest.raises(FlickerError, match="no folder there holds s15"):
        load(tmp_path)
    cut(tmp_path)
    with pytest.raises(FlickerError, match="no sheet 'naming rule1'"):
        load(tmp_path)
    with pytest.raises(UsageError, match=r"data\.version: 'both' is not one of auto, micro, macro, all"):
        load(tmp_path, "both")


def test_auto_recognises_the_dataset(tmp_path: Path) -> None:
    casme_sq_book(tmp_path / BOOK, ROWS)
    assert datasets.load("auto", cut(tmp_path))[1].dataset == "casme_sq"


def test_the_folder_of_the_crops_may_be_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = cut(tmp_path, "cropped/{}") / "cropped"
    casme_sq_book(root / BOOK, ROWS)
    assert len(load(root, variant="cropped")[0]) == 4
    monkeypatch.chdir(root)
    assert len(load(".", variant="cropped")[0]) == 4
