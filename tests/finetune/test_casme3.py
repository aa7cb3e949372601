"""The CAS(ME)³ loaders, parts A and C: editions, layouts, the rows known to be wrong, frames that do not open."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune import datasets
from finetune.clips import Clip
from finetune.datasets import casme3, casme3_frames
from finetune.validation import FLAGS
from shards.errors import FlickerError, UsageError
from tests.finetune.trees_more import (
    CASME3,
    CASME3_AU,
    CASME3_BAD,
    CASME3_RIGHT,
    CASME3C,
    LABEL_BOOK,
    Rows,
    casme3_clips,
    casme3_rows,
    casme3_videos,
    frames,
    image,
    xls,
    xlsx,
)

load = partial(datasets.load, "casme3")
load_c = partial(datasets.load, "casme3c")
ONE = ("spNO.1", "a", "355", "359", "362", "5", "II", "others")
WRONG_LIST = "CAS(ME)3_part_A_wrongly_labeled_me_in_V1.xlsx"


def book(root: Path, rows: Rows, name: str = LABEL_BOOK) -> Path:
    """The label workbook, with the sheets that are to be ignored."""
    sheets = {"label": [CASME3, *rows], "Sheet1": [("a", "b"), (1, 2)], "Sheet3": []}
    return (xls if name.endswith(".xls") else xlsx)(root / name, sheets)


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


@pytest.mark.parametrize(
    ("inside", "kind"),
    [
        ("part_A/data/part_A_split/part_A", "videos"),
        ("CASME3/part_A/data/part_A_split/part_A", "videos"),
        ("", "videos"),
        ("Part_A_ME_clip", "clips"),
        ("Part_A_ME_clip/Part_A_ME_clip", "clips"),
    ],
)
def test_every_layout_and_depth_never(tmp_path: Path, inside: str, kind: str) -> None:
    book(tmp_path, [ONE])
    (casme3_videos if kind == "videos" else casme3_clips)(tmp_path, [ONE], inside)
    for variant in ("auto", kind):
        clips, report = load(tmp_path, variant=variant)
        assert (clips[0].onset, clips[0].apex, clips[0].offset, clips[0].fps) == (355, 359, 362, 30.0)
        assert not report.repairs
        assert all(path.suffix == ".jpg" and "depth" not in path.parts for path in clips[0].frames.values())
        assert set(clips[0].frames) <= set(range(355, 363))  # of a whole video, the clip alone


def test_cut_clips_are_taken_before_videos(tmp_path: Path) -> None:
    book(tmp_path, [ONE])
    casme3_videos(casme3_clips(tmp_path, [ONE]), [ONE])
    assert load(tmp_path)[1].images.endswith("Part_A_ME_clip/frame")
    assert load(tmp_path, variant="videos")[1].images.endswith("part_A_split/part_A")


@pytest.mark.parametrize("folder", ["exception", "part_B", "part_C", "depth"])
def test_other_parts_and_exceptions_are_passed_over(tmp_path: Path, folder: str) -> None:
    book(tmp_path, [ONE])
    frames(tmp_path / folder / "spNO.1_a_355", range(355, 363))
    frames(tmp_path / folder / "spNO.1" / "a" / "color", range(355, 363))
    with pytest.raises(FlickerError, match="no frames of CAS"):
        load(tmp_path)


@pytest.mark.parametrize(
    "path", ["frame/spNo.14_j_1012", "frame/SPNO.14_J_1012", "spNo.14/j/Color", "spno.14/J/color"]
)
def test_folders_match_in_any_case(tmp_path: Path, path: str) -> None:
    book(tmp_path, [CASME3_BAD[-1]])
    frames(tmp_path / path, range(1012, 1039))
    clips, report = load(tmp_path)
    assert (clips[0].id, clips[0].emotion) == ("casme3/spNO.14/J_1012", "others")
    assert [one.flag for one in report.repairs] == ["folder-case"] and clips[0].flags == ("folder-case",)


def test_of_two_spellings_the_row_s_own_is_taken(tmp_path: Path) -> None:
    rows = [CASME3_BAD[-1]]
    book(tmp_path, rows)
    frames(tmp_path / "spNO.14" / "J" / "color", range(1012, 1039))
    frames(tmp_path / "spNO.14" / "j" / "color", range(1, 9))
    clips, report = load(tmp_path)
    assert not report.repairs and clips[0].frames[1012].parts[-3] == "J"


@settings(max_examples=25, deadline=None)
@given(
    number=st.integers(1, 250),
    video=st.sampled_from("abcdefghijklm"),
    onset=st.integers(1, 9999),
    typed=st.sampled_from([str, int, float, lambda value: f" {value} "]),
    prefix=st.sampled_from(["spNO.", "spNo.", "SPNO.", "spno. ", "sp NO."]),
    upper=st.booleans(),
)
def test_any_typing_of_cells_and_spelling_of_folders(
    number: int, video: str, onset: int, typed: object, prefix: str, upper: bool
) -> None:
    cells = [typed(value) for value in (onset, onset + 2, onset + 5)]  # type: ignore[operator]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        book(root, [(f"{prefix}{number}", video.upper() if upper else video, *cells, 4, "IV", " Others ")])
        frames(root / f"spNo.{number}_{video}_{onset}", range(onset, onset + 6))
        (clip,) = load(root)[0]
    assert (clip.subject, clip.onset, clip.apex, clip.offset) == (f"spNO.{number}", onset, onset + 2, onset + 5)
    assert (clip.emotion, clip.objective, [str(unit) for unit in clip.aus]) == ("others", 4, ["4"])


def test_a_video_with_several_clips_gives_each_its_own_name(tmp_path: Path) -> None:
    rows = [
        ("spNO.1", "e", "62", "68", "95", "R12", "I", "others"),
        ("spNO.1", "e", "96", "103", "107", "R12", "I", "happy"),
    ]
    book(tmp_path, rows)
    clips, _ = load(casme3_videos(tmp_path, rows))
    assert [clip.id for clip in clips] == ["casme3/spNO.1/e_62", "casme3/spNO.1/e_96"]
    assert [clip.emotion for clip in clips] == ["others", "happy"]
    assert min(clips[1].frames) == 96


def test_apex_at_onset_is_flagged_and_one_outside_becomes_the_middle(tmp_path: Path) -> None:
    rows = [(*ONE[:3], "355", *ONE[4:]), ("spNO.2", "b", "10", "40", "20", "4", "I", "sad")]
    book(tmp_path, rows)
    casme3_clips(tmp_path, [rows[0]])
    frames(tmp_path / "Part_A_ME_clip/frame/spNO.2_b_10", range(10, 21))
    clips, _ = load(tmp_path)
    assert set(clips[0].flags) == {"apex-at-onset"}
    assert clips[1].apex == 15 and "apex-midpoint" in clips[1].flags


def test_frames_that_do_not_open_count_as_missing(tmp_path: Path) -> None:
    rows = [
        ("spNO.3", "J", "495", "500", "510", "4", "I", "sad"),  # begins before the damaged frames
        ("spNO.3", "J", "520", "525", "530", "4", "I", "sad"),  # lies among them
        ("spNO.4", "j", "600", "605", "612", "4", "I", "fear"),  # here they open
        ("spNO.5", "j", "500", "505", "512", "4", "I", "fear"),  # not listed: never opened
    ]
    book(tmp_path, rows)
    casme3_videos(tmp_path, rows)
    for number in [*range(492, 498), 509, 510]:
        image(tmp_path / f"part_A/data/part_A_split/part_A/spNO.3/J/color/{number}.jpg")
    for number in range(597, 616):
        image(tmp_path / f"part_A/data/part_A_split/part_A/spNO.4/j/color/{number}.jpg")
    clips, report = load(tmp_path, max_missing=0.5)
    first, opens, unlisted = clips
    assert (first.onset, first.apex, first.offset) == (495, 497, 510)
    assert set(first.flags) == {"apex-nearest", "gaps"} and set(first.frames) == {495, 496, 497, 509, 510}
    assert not opens.flags and not unlisted.flags
    assert report.missing == ["spNO.3/J_520: no frame between onset and offset exists"]
    damaged = [one for one in report.repairs if one.flag == "unreadable"]
    assert [(one.clip, one.detail) for one in damaged] == [("spNO.3/j", "31 frames, 498 to 533")]


def test_the_lists_of_damaged_frames_have_the_published_length() -> None:
    assert [len(frames) for frames in casme3_frames.DAMAGED.values()] == [79, 42]


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


# part C


def rows_c() -> list[tuple[object, ...]]:
    """165 rows of 30 people with the published labels and every way of writing action units."""
    units = ["R4,5", "R2,7", 1, "4，11", "L1,10,11,38,", 12]
    labels = [
        label
        for label, number in {"negative": 99, "surprise": 30, "others": 20, "positive": 16}.items()
        for _ in range(number)
    ]
    return [
        (place % 30 + 1, place // 30 + 1, 100 * place + 10, 100 * place + 21, units[place % 6], label)
        for place, label in enumerate(labels)
    ]


@pytest.mark.parametrize(
    "layout", ["part_C/{:02d}/a/color", "part_C/part_C/{:02d}/color", "ME_C/{}", "spNO.{}/a/color"]
)
def test_part_c_loads_with_the_published_counts(tmp_path: Path, layout: str) -> None:
    xlsx(tmp_path / "CAS(ME)3_part_C_ME.xlsx", {"Sheet1": [CASME3C, *rows_c()]})
    for subject, _, onset, offset, *_ in rows_c():
        middle = (int(str(onset)) + int(str(offset))) // 2
        frames(tmp_path / layout.format(subject), [int(str(onset)), middle, int(str(offset))])
        frames(tmp_path / layout.format(subject).replace("color", "depth"), [1], "{}.png")
    clips, report = load_c(tmp_path)
    assert len(clips) == 165 and report.published == (165, 30) and report.subjects == 30
    assert report.labels == {"negative": 99, "surprise": 30, "others": 20, "positive": 16}
    assert [expected for _, _, expected in report.schemes] == [found for _, found, _ in report.schemes]
    written = {tuple(str(unit) for unit in clip.aus) for clip in clips}
    assert written == {("R4", "5"), ("R2", "7"), ("1",), ("4", "11"), ("L1", "10", "11", "38"), ("12",)}
    assert all(clip.apex == (clip.onset + clip.offset) // 2 and "apex-uncoded" in clip.flags for clip in clips)
    assert not [one for one in report.repairs if one.flag == "au-unread"]


def test_part_c_reads_a_folder_for_each_clip(tmp_path: Path) -> None:
    xlsx(
        tmp_path / "CAS(ME)3_part_C_ME.xlsx",
        {"Sheet1": [CASME3C, (1, 1, 10, 14, 4, "negative"), (1, 2, 90, 94, 4, "others")]},
    )
    frames(tmp_path / "ME_C/01/1/color", range(10, 15))
    frames(tmp_path / "ME_C/01/02/color", range(90, 95))
    clips, _ = load_c(tmp_path)
    assert [(clip.id, clip.apex) for clip in clips] == [("casme3c/01/1_10", 12), ("casme3c/01/2_90", 92)]


def test_parts_a_and_c_are_kept_apart(tmp_path: Path) -> None:
    book(tmp_path, [ONE])
    xlsx(tmp_path / "CAS(ME)3_part_C_ME.xlsx", {"Sheet1": [CASME3C, (1, 1, 355, 360, 4, "negative")]})
    casme3_videos(tmp_path, [ONE])
    with pytest.raises(FlickerError, match=r"no frames of CAS.*part C"):
        load_c(tmp_path)
    frames(tmp_path / "others/01/a/color", range(355, 361))  # numbers name people elsewhere, too
    frames(tmp_path / "part_C/01/a/color", range(355, 361))
    assert "part_C" in str(load_c(tmp_path)[0][0].frames[355]) and "part_A" in str(load(tmp_path)[0][0].frames[355])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("one", 1, 10, 14, 4, "negative"), "row 2: 'sub' is 'one'"),
        ((1, "", 10, 14, 4, "negative"), "row 2: 'count' is ''"),
        ((1, 1, 14, 10, 4, "negative"), "row 2 .*onset 14 is after offset 10"),
        ((1, 1, 10, None, 4, "negative"), "row 2 .*'offset' is ''"),
    ],
)
def test_a_bad_row_of_part_c_is_a_one_line_error(tmp_path: Path, row: tuple[object, ...], message: str) -> None:
    xlsx(tmp_path / "CAS(ME)3_part_C_ME.xlsx", {"Sheet1": [CASME3C, row]})
    frames(tmp_path / "part_C/01/a/color", range(10, 15))
    with pytest.raises(FlickerError, match=message):
        load_c(tmp_path)


def test_every_flag_is_explained(published: Path) -> None:
    assert {one.flag for one in load(published)[1].repairs} <= set(FLAGS)
