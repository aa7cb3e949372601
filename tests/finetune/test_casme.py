"""The CASME loader: two apex columns, numbers after a hyphen in mixed padding, rows that miss their folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune import datasets
from finetune.annotations import frame_number
from shards.errors import FlickerError
from tests.finetune.trees_more import CASME, Rows, frames, xlsx

load = partial(datasets.load, "casme")
ROWS: Rows = (
    (1, "EP01_5", None, 113, 120, None, 131, None, 4, "tense"),
    (1, "EP03_1", None, 41, 50, 55, 62, None, 9, "disgust"),
    (5, "EP12_2", None, 20, 31, None, 45, None, "1+2", "surprise"),
    (8, "EP07_1", None, 57, 65, None, 74, None, 15, "repression"),
    (12, "EP04_3", None, 69, 80, None, 97, None, 12, "happiness"),
)


def book(root: Path, rows: Rows = ROWS, name: str = "casme.xlsx") -> None:
    """The workbook, its two blank columns included."""
    xlsx(root / name, {"Sheet1": [CASME, *rows]})


def tree(root: Path, rows: Rows = ROWS, inside: str = "Cropped", prefix: str = "reg_", pad: int = 0) -> Path:
    """Frames from onset to offset, the clip's name in front of the number."""
    for subject, clip, _, onset, _, _, offset, *_ in rows:
        numbers = range(int(str(onset)), int(str(offset)) + 1)
        name = f"{prefix}{clip}-{{:0{pad}d}}.jpg" if pad else f"{prefix}{clip}-{{}}.jpg"
        frames(root / inside / f"sub{int(str(subject)):02d}" / str(clip), numbers, name)
    return root


@pytest.mark.parametrize(
    ("inside", "prefix", "variant"),
    [
        ("Cropped", "reg_", "cropped"),
        ("Cropped/Cropped", "reg_", "cropped"),
        ("CASME_raw_selected", "", "raw-selected"),
        ("CASME_raw_selected/CASME_raw_selected", "", "raw-selected"),
        ("CASME_raw", "", "raw"),
    ],
)
@pytest.mark.parametrize("pad", [0, 3])
def test_every_layout_and_padding(tmp_path: Path, inside: str, prefix: str, variant: str, pad: int) -> None:
    book(tmp_path)
    tree(tmp_path, inside=inside, prefix=prefix, pad=pad)
    for wanted in ("auto", variant):
        clips, report = load(tmp_path, variant=wanted)
        assert [clip.id for clip in clips][:2] == ["casme/sub01/EP01_5", "casme/sub01/EP03_1"]
        assert [(clip.onset, clip.apex, clip.offset) for clip in clips][:2] == [(113, 120, 131), (41, 50, 62)]
        assert all(clip.fps == 60.0 for clip in clips) and not report.repairs and not report.unlabelled
    with pytest.raises(FlickerError, match=f"found only: {variant}"):
        load(tmp_path, variant="raw" if variant != "raw" else "cropped")


def test_paddings_mixed_within_a_clip(tmp_path: Path) -> None:
    book(tmp_path, [(1, "EP01_5", None, 95, 99, None, 104, None, 4, "tense")])
    folder = tmp_path / "Cropped/sub01/EP01_5"
    frames(folder, range(95, 100), "reg_EP01_5-{:03d}.jpg")
    frames(folder, range(100, 105), "reg_EP01_5-{}.jpg")
    clip = load(tmp_path)[0][0]
    assert list(clip.frames) == list(range(95, 105)) and clip.flags == ()


def test_a_picture_named_like_the_clip_is_no_frame(tmp_path: Path) -> None:
    rows = [(1, "EP01_5", None, 3, 6, None, 9, None, 4, "tense")]
    book(tmp_path, rows)
    tree(tmp_path, rows)
    frames(tmp_path / "Cropped/sub01/EP01_5", [0], "EP01_5.jpg")
    frames(tmp_path / "Cropped/sub01/EP01_5", [0], "reg_EP01_5.jpg")
    (tmp_path / "Cropped/sub01/EP01_5/reg_EP01_5-5.jpg").unlink()
    clip = load(tmp_path)[0][0]
    assert 5 not in clip.frames and clip.flags == ("gaps",)


@given(
    clip=st.from_regex(r"EP[0-9]{2}_[0-9]{1,2}", fullmatch=True),
    number=st.integers(1, 99999),
    pad=st.integers(0, 6),
    prefix=st.sampled_from(["", "reg_"]),
)
def test_the_number_after_the_hyphen_counts(clip: str, number: int, pad: int, prefix: str) -> None:
    assert frame_number(Path(f"{prefix}{clip}-{number:0{pad}d}.jpg")) == number


@pytest.mark.parametrize(
    ("first", "second", "apex", "flags"),
    [
        (50, 55, 50, ()),
        (50, None, 50, ()),
        (None, 55, 55, ("apex-second",)),
        (99, 55, 55, ("apex-second",)),
        ("/", "/", 51, ("apex-midpoint",)),
        (99, 99, 51, ("apex-midpoint",)),
        (41, None, 41, ("apex-at-onset",)),
    ],
)
def test_the_first_apex_is_taken_and_else_the_second(
    tmp_path: Path, first: object, second: object, apex: int, flags: tuple[str, ...]
) -> None:
    book(tmp_path, [(1, "EP03_1", None, 41, first, second, 62, None, 9, "disgust")])
    clip = load(tree(tmp_path, ROWS[1:2]))[0][0]
    assert clip.apex == apex and clip.flags == flags


@pytest.mark.parametrize(("onset", "offset"), [(241, 262), (62, 41)])
def test_a_row_that_misses_its_folder_gets_the_folder_s_frames(tmp_path: Path, onset: int, offset: int) -> None:
    book(tmp_path, [(1, "EP03_1", None, onset, 250, None, offset, None, 9, "disgust")])
    tree(tmp_path, ROWS[1:2])
    clips, report = load(tmp_path)
    assert (clips[0].onset, clips[0].apex, clips[0].offset) == (41, 51, 62)
    assert (
        report.repairs[0].flag == "interval-of-folder" and report.repairs[0].detail == f"{onset}..{offset} -> 41..62"
    )
    assert clips[0].flags == ("interval-of-folder", "apex-midpoint")


def test_but_not_the_frames_of_a_whole_video(tmp_path: Path) -> None:
    book(tmp_path, [(1, "EP03_1", None, 241, 250, None, 262, None, 9, "disgust")])
    tree(tmp_path, ROWS[1:2], "CASME_raw", "")
    report = load(tmp_path, max_missing=1.0)[1]
    assert report.missing == ["sub01/EP03_1: no frame between onset and offset exists"]
    book(tmp_path, [(1, "EP03_1", None, 62, 50, None, 41, None, 9, "disgust")])
    with pytest.raises(FlickerError, match=r"row 2 .*onset 62 is after offset 41"):
        load(tmp_path)


def test_the_published_size_and_labels(tmp_path: Path) -> None:
    labels = ("tense", "disgust", "repression", "surprise", "happiness", "sadness", "fear", "contempt")
    rows = [
        (place % 19 + 1, f"EP{place // 19:02d}_1", None, 5, 7, None, 9, None, 4, labels[place % 8])
        for place in range(189)
    ]
    book(tmp_path, rows)
    clips, report = load(tree(tmp_path, rows))
    assert len(clips) == 189 and report.published == (189, None) and "published: 189 clips)" in report.text()
    (scheme,) = report.schemes
    assert scheme[0] == "CASME-8" and sum(scheme[1].values()) == 189 and not report.repairs


def test_folder_names_may_differ_in_case(tmp_path: Path) -> None:
    book(tmp_path, ROWS[:1])
    frames(tmp_path / "Cropped/Sub01/ep01_5", range(113, 132), "reg_EP01_5-{}.jpg")
    assert load(tmp_path)[0][0].flags == ("folder-case",)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("p1", *ROWS[0][1:]), "row 2: 'Subject' is 'p1'"),
        ((1, " ", *ROWS[0][2:]), "row 2: 'Filename' is"),
        ((*ROWS[0][:3], "/", *ROWS[0][4:]), r"row 2 .*'OnsetF' is '/'"),
        ((*ROWS[0][:6], None, *ROWS[0][7:]), r"row 2 .*'OffsetF' is ''"),
        ((*ROWS[0][:9], 7), "row 2: 'Emotion' is 7"),
    ],
)
def test_a_bad_row_is_a_one_line_error(tmp_path: Path, row: tuple[object, ...], message: str) -> None:
    book(tmp_path, [row])
    with pytest.raises(FlickerError, match=message) as raised:
        load(tree(tmp_path))
    assert "\n" not in str(raised.value)


def test_missing_parts_say_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(FlickerError, match=r"no workbook casme\.xlsx; put"):
        load(tmp_path)
    book(tmp_path, name="CASME2-coding-20140508.xlsx")  # of the other CASME
    with pytest.raises(FlickerError, match=r"no workbook casme\.xlsx; put"):
        load(tmp_path)
    book(tmp_path)
    with pytest.raises(FlickerError, match="no folder there holds sub01"):
        load(tmp_path)


def test_auto_recognises_the_dataset(tmp_path: Path) -> None:
    book(tmp_path)
    assert datasets.load("auto", tree(tmp_path))[1].dataset == "casme"
