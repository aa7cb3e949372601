"""The loader of CAS(ME)³ part A: editions of the labels, the rows known to be wrong, the AU sheet, bad tables."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from finetune import datasets
from finetune.clips import Clip
from finetune.datasets import casme3
from finetune.validation import FLAGS
from shards.errors import FlickerError, UsageError
from tests.finetune.trees_more import (
    CASME3,
    CASME3_AU,
    CASME3_BAD,
    CASME3_RIGHT,
    LABEL_BOOK,
    casme3_clips,
    casme3_rows,
    frames,
    xls,
    xlsx,
)
from tests.finetune.trees_more import CASME3_ONE as ONE
from tests.finetune.trees_more import casme3_book as book

load = partial(datasets.load, "casme3")
WRONG_LIST = "CAS(ME)3_part_A_wrongly_labeled_me_in_V1.xlsx"


def by_clip(clips: list[Clip]) -> dict[str, Clip]:
    """'spNO.1/a_355' -> clip."""
    return {f"{clip.subject}/{clip.clip}": clip for clip in clips}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """v2 as published: 860 rows of 94 people with cut clips, depth beside them, and the authors' lists."""
    root = tmp_path_factory.mktemp("published") / "CASME3"
    rows = casme3_rows(casme3.PUBLISHED_LABELS["v2"], casme3.PUBLISHED_SUBJECTS["v2"])
    book(root / "annotation", rows)
    casme3_clips(root, rows)
    xlsx(root / "exception" / "casme3_partA_error_list_ZhouJu.xlsx", {"Sheet1": [("a",), (1,)]})
    return root


@pytest.fixture(scope="module")
def first_edition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 943 rows first published, as .xls, of which the last 22 are those that the authors' list takes back."""
    root = tmp_path_factory.mktemp("first") / "CASME3"
    first, second = casme3.PUBLISHED_LABELS["tpami"], casme3.PUBLISHED_LABELS["v1"]
    rows = casme3_rows(second, casme3.PUBLISHED_SUBJECTS["v1"])
    labels = [label for label in first for _ in range(first[label] - second[label])]
    for place, label in enumerate(labels):  # five people have no other clip
        rows.append(
            (
                f"spNO.{900 + place % 5}",
                "a",
                str(50 * place + 1),
                str(50 * place + 4),
                str(50 * place + 9),
                "4",
                "II",
                label,
            )
        )
    book(root, rows, "cas(me)3_part_A_ME_label_JpgIndex_v1.xls")
    casme3_clips(root, rows)
    return root


def test_v2_loads_with_the_published_counts(published: Path) -> None:
    clips, report = load(published)
    assert report.version == "v2" and report.found == report.rows == len(clips) == 860
    assert report.labels == casme3.PUBLISHED_LABELS["v2"]
    assert report.published == (860, 94) and report.subjects == 94
    assert not report.missing and not report.unlabelled and not report.notes
    assert {name: found == expected for name, found, expected in report.schemes} == dict.fromkeys(
        ("C3-3", "C3-4", "C3-7"), True
    )
    found = {name: list(counts.values()) for name, counts, _ in report.schemes}
    assert found["C3-3"] == [457, 55, 187] and found["C3-4"] == [457, 55, 187, 161]
    assert "published: 860 clips of 94 subjects" in report.text()


def test_rows_known_to_be_wrong_are_corrected_and_reported(published: Path) -> None:
    clips, report = load(published)
    named = by_clip(clips)
    for (subject, video, stated), interval in CASME3_RIGHT.items():
        clip = named[f"{subject}/{video}_{stated}"]
        assert (clip.onset, clip.apex, clip.offset) == interval
    told = {(one.clip, one.flag, one.detail) for one in report.repairs}
    assert ("spNO.149/d_112", "apex-known", "83 -> 123") in told
    assert ("spNO.216/d_3647", "onset-known", "3647 -> 2647") in told
    assert ("spNO.40/e_1812", "offset-known", "0 -> 1845") in told
    assert ("spNO.40/e_2327", "offset-known", "0 -> 2403") in told
    assert ("spNO.214/c_20", "offset-known", "3460 -> 34") in told
    flags = {flag for clip, flag, _ in told if clip == "spNO.216/e_0"}
    assert flags - {"gaps"} == {"onset-known", "apex-known", "apex-at-onset"}  # only its key frames are there


@pytest.mark.parametrize("onset", [3647, 2647])
def test_a_corrected_clip_is_found_under_either_onset(tmp_path: Path, onset: int) -> None:
    book(tmp_path, [CASME3_BAD[1]])
    frames(tmp_path / f"Part_A_ME_clip/frame/spNO.216_d_{onset}", range(2647, 2661))
    clips, report = load(tmp_path)
    assert (clips[0].id, clips[0].onset) == ("casme3/spNO.216/d_3647", 2647)
    assert [one.flag for one in report.repairs] == ["onset-known"]


def test_other_rows_of_those_people_and_with_those_values_are_left_alone(tmp_path: Path) -> None:
    intervals = {
        ("spNO.40", "e", 1700): (1710, 1720),
        ("spNO.149", "d", 200): (210, 220),  # the video of a wrong row
        ("spNO.149", "c", 50): (83, 90),  # the wrong value in another video
        ("spNO.41", "d", 50): (83, 90),  # and of another person
        ("spNO.216", "d", 2650): (2655, 2660),
    }
    rows = [(*key, *ends, "4", "I", "sad") for key, ends in intervals.items()]
    book(tmp_path, rows)
    clips, report = load(casme3_clips(tmp_path, rows))
    assert [(clip.onset, (clip.apex, clip.offset)) for clip in clips] == [
        (key[2], ends) for key, ends in intervals.items()
    ]
    assert not report.repairs


def test_the_943_rows_become_921_where_the_list_is_present(first_edition: Path) -> None:
    clips, report = load(first_edition)
    assert (report.version, len(clips), report.subjects) == ("tpami", 943, 100)
    assert report.labels == casme3.PUBLISHED_LABELS["tpami"] and report.published == (943, 100)
    with pytest.raises(
        FlickerError, match=r"943 rows include the 22 wrongly labelled; put .*give --data.version tpami"
    ):
        load(first_edition, "v1")
    listed = [
        (clip.subject, clip.clip.split("_")[0], str(clip.onset)) for clip in clips if int(clip.subject[5:]) >= 900
    ]
    path = xlsx(first_edition / WRONG_LIST, {"list": [CASME3[:3], *listed, ("spNO.7", "b", "77777")]})
    try:
        clips, report = load(first_edition)
        assert (report.version, len(clips), report.subjects) == ("v1", 921, 95)
        assert report.labels == casme3.PUBLISHED_LABELS["v1"] and report.published == (921, 95)
        assert sum(one.flag == "wrongly-labelled" for one in report.repairs) == 22
        assert report.notes == [f"{WRONG_LIST}: lists spNO.7/b_77777, but there is no such row"]
        assert len(load(first_edition, "tpami")[0]) == 943  # asked for as it was
    finally:
        path.unlink()


def test_the_list_does_not_touch_another_table(tmp_path: Path) -> None:
    book(tmp_path, [ONE], "cas(me)3_part_A_ME_label_JpgIndex_v1.xls")
    xlsx(tmp_path / WRONG_LIST, {"list": [CASME3[:3], ONE[:3]]})
    casme3_clips(tmp_path, [ONE])
    assert [clip.clip for clip in load(tmp_path, "v1")[0]] == ["a_355"]
    with pytest.raises(FlickerError, match="1 rows, not the 943 of version tpami"):
        load(tmp_path, "tpami")


def test_v2_is_taken_before_v1(tmp_path: Path) -> None:
    book(tmp_path, [ONE])
    book(tmp_path, [(*ONE[:-1], "fear")], "cas(me)3_part_A_ME_label_JpgIndex_v1.xls")
    casme3_clips(tmp_path, [ONE])
    assert load(tmp_path)[0][0].emotion == "others" and load(tmp_path, "v1")[0][0].emotion == "fear"


def test_action_units_come_from_the_au_sheet(tmp_path: Path) -> None:
    rows = [
        ("spNO.1", "b", "166", "175", "180", "", "III", "disgust"),
        ("spNO.1", "d", "20", "25", "30", "4", "III", "disgust"),
        ("spNO.2", "c", "610", "640", "655", "T10", "IV", "sad"),
        ("spNO.9", "h", "700", "707", "715", "L14", "VII", "sad"),
    ]
    book(tmp_path, rows)
    coded = [
        ("spNO.1", "b", 166, 175, 180, "4", "Micro-expression", "III"),
        ("spNO.1", "b", 166, 175, 180, "9", "Macro-expression", "III"),
        ("spNO.1", "D", 20, 25, 30, "4+B7", "Micro-expression", "III"),
        ("spNO.2", "c", 610, 640, 655, "T10", "Macro-expression", "IV"),
        ("spNO.2", "c", "?", 640, 655, "10", "Macro-expression", "IV"),
    ]
    xls(tmp_path / "CAS(ME)3_part_A_v2.xls", {"AU+Emotion": [CASME3_AU, *coded]})
    clips, report = load(casme3_clips(tmp_path, rows))
    assert [[str(unit) for unit in clip.aus] for clip in clips] == [["4"], ["4", "B7"], ["T10"], ["L14"]]
    told = {(one.clip, one.flag, one.detail) for one in report.repairs if one.flag in ("au-sheet", "not-micro")}
    assert told == {
        ("spNO.1/b_166", "au-sheet", "blank -> 4"),
        ("spNO.1/d_20", "au-sheet", "4 -> 4+B7"),
        ("spNO.2/c_610", "not-micro", "Macro-expression in row 5 of the AU sheet"),
    }
    assert any("row 6: 'Onset' is '?'" in note for note in report.notes)
    assert "CAS(ME)3_part_A_v2.xls has no row for 1 clips, e.g. spNO.9/h_700" in report.notes


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("S1", *ONE[1:]), r"row 3: 'Subject' is 'S1'; expected a subject such as spNO.1"),
        ((*ONE[:2], "soon", *ONE[3:]), r"row 3: 'Onset' is 'soon'; expected a frame number"),
        ((*ONE[:4], "/", *ONE[5:]), r"row 3 .*'Offset' is '/'; expected a frame number"),
        (("spNO.1", "", *ONE[2:]), r"row 3: 'Filename' is ''"),
        (("spNO.1", "a/b", *ONE[2:]), r"row 3: 'Filename' is 'a/b'"),
        ((*ONE[:-1], ""), r"row 3: 'emotion' is ''; expected an emotion"),
        ((*ONE[:4], "300", *ONE[5:]), r"row 3 .*onset 355 is after offset 300"),
        (("spNo.1", "A", "355", *ONE[3:]), r"row 3: clip spNO.1/A_355 is already in row 2"),
    ],
)
def test_a_bad_row_is_a_one_line_error(tmp_path: Path, row: tuple[str, ...], message: str) -> None:
    book(tmp_path, [ONE, row] if "already" in message else [("spNO.2", *ONE[1:]), row])
    casme3_clips(tmp_path, [ONE])
    with pytest.raises(FlickerError, match=message) as raised:
        load(tmp_path, max_missing=1.0)
    assert "\n" not in str(raised.value)


def test_missing_parts_say_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(FlickerError, match=r"no workbook cas\(me\)3_part_A_ME_label_JpgIndex_v2.xlsx; put the label"):
        load(tmp_path)
    xlsx(tmp_path / LABEL_BOOK, {"label": [CASME3[:-1], ONE[:-1]]})
    with pytest.raises(FlickerError, match=r"no frames of CAS.*no folder there holds spNO.1"):
        load(tmp_path)
    casme3_clips(tmp_path, [ONE])
    with pytest.raises(FlickerError, match="has no column 'emotion'; found: Subject"):
        load(tmp_path)
    book(tmp_path, [ONE])
    with pytest.raises(FlickerError, match=r"no workbook .*_v1.xls \(found cas"):
        load(tmp_path, "v1")
    with pytest.raises(FlickerError, match="found only: clips"):
        load(tmp_path, variant="videos")
    with pytest.raises(UsageError, match=r"data.version: '3' is not one of auto, v2, v1, tpami"):
        load(tmp_path, "3")


def test_a_clip_without_a_folder_and_a_folder_without_a_row_are_listed(tmp_path: Path) -> None:
    book(tmp_path, [ONE, ("spNO.2", *ONE[1:])])
    casme3_clips(tmp_path, [ONE, ("spNO.3", *ONE[1:])])
    _, report = load(tmp_path, max_missing=0.5)
    assert report.missing == ["spNO.2/a_355: no folder"] and report.unlabelled == ["spNO.3_a_355"]


def test_every_flag_is_explained(published: Path) -> None:
    assert {one.flag for one in load(published)[1].repairs} <= set(FLAGS)
