"""The 4DME loader: several emotions to a clip, static action units, two trees of frames."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune import annotations as cells
from finetune import datasets, schemes
from finetune.datasets import fourdme
from shards.errors import FlickerError
from tests.finetune.trees_more import FOUR, Rows, frames, xlsx

load = partial(datasets.load, "4dme")
BOOK = "4DME_Labelling_Micro_release v1.xlsx"
ROWS: Rows = (
    ("S01", 1, "S01_1st_001_01_1", 100, 108, 120, 0, 0, 1, 0, 0, "Surprise", 0, 2, "AU1+2", 1, 1),
    ("S01", 2, "S01_1st_002_01_1", 300, 309, 318, 1, 0, 1, 0, 0, "Surprise+Positive", 0, 2, "AU2+12", 0, 1),
    ("S13", 3, "S13_1st_001_01_1", 50, 58, 70, 0, 1, 0, 0, 0, "Negative", 0, 2, "AU4(k)+L7", 0, 0),
    ("S13", 4, "S13_2nd_003_01_1", 700, 706, 715, 0, 0, 0, 1, 0, "Repression", 1, 1, "AU7", 0, 0),
    ("S20", 5, "S20_1st_001_02_1", 20, 29, 41, 0, 0, 0, 0, 1, "Others", 0, 3, "AUR2+12(k)+45", 0, 1),
)


def book(root: Path, rows: Rows = ROWS) -> None:
    """The workbook."""
    xlsx(root / BOOK, {"Sheet1": [FOUR, *rows]})


def tree(root: Path, rows: Rows = ROWS, layout: str = "gray_micro/{}/{}") -> Path:
    """Frames from onset to offset."""
    for subject, _, clip, onset, _, offset, *_ in rows:
        frames(root / layout.format(subject, clip), range(int(str(onset)), int(str(offset)) + 1))
    return root


def changed(row: tuple[object, ...], **values: object) -> tuple[object, ...]:
    """The row with other cells."""
    return tuple(values.get(str(name).replace(" ", "_"), cell) for name, cell in zip(FOUR, row, strict=True))


@pytest.mark.parametrize(
    ("layout", "variant"),
    [
        ("gray_micro/{}/{}", "gray"),
        ("4DME/gray_micro/{}/{}", "gray"),
        ("gray_micro/{1}", "gray"),
        ("gray_micro_crop/{}/{}", "crop"),
    ],
)
def test_every_layout(tmp_path: Path, layout: str, variant: str) -> None:
    book(tmp_path)
    tree(tmp_path, layout=layout)
    for wanted in ("auto", variant):
        clips, report = load(tmp_path, variant=wanted)
        assert clips[0].id == "4dme/S01/S01_1st_001_01_1" and len(clips) == 5
        assert (clips[0].onset, clips[0].apex, clips[0].offset, clips[0].fps) == (100, 108, 120, 60.0)
        assert not report.repairs and not report.unlabelled
        assert Path(report.images).name == layout.split("/{")[0].split("/")[-1]
    with pytest.raises(FlickerError, match=f"found only: {variant}"):
        load(tmp_path, variant="crop" if variant == "gray" else "gray")


def test_faces_are_taken_before_recordings(tmp_path: Path) -> None:
    book(tmp_path)
    tree(tree(tmp_path), layout="gray_micro_crop/{}/{}")
    assert load(tmp_path)[1].images.endswith("gray_micro_crop")
    assert load(tmp_path, variant="gray")[1].images.endswith("gray_micro")


def test_folder_names_may_differ_in_case(tmp_path: Path) -> None:
    book(tmp_path, ROWS[:1])
    frames(tmp_path / "gray_micro/s01/s01_1ST_001_01_1", range(100, 121))
    assert load(tmp_path)[0][0].flags == ("folder-case",)


def test_labels_are_the_sets_of_emotions_in_the_order_of_the_columns(tmp_path: Path) -> None:
    book(tmp_path)
    clips, report = load(tree(tmp_path))
    assert [clip.emotion for clip in clips] == ["surprise", "positive+surprise", "negative", "repression", "others"]
    assert report.published == (267, None) and "published: 267 clips)" in report.text()
    (scheme,) = report.schemes
    assert scheme[0] == "4DME-5" and scheme[2] is None
    assert schemes.get("4DME-5").select(clips)[2] == {"positive+surprise": 1}  # in no class of its own


def test_static_action_units_are_left_out(tmp_path: Path) -> None:
    book(tmp_path)
    clips, report = load(tree(tmp_path))
    assert [[str(unit) for unit in clip.aus] for clip in clips] == [
        ["1", "2"],
        ["2", "12"],
        ["L7"],
        ["7"],
        ["R2", "45"],
    ]
    assert not report.repairs


def test_the_columns_win_over_the_text_and_differences_are_reported(tmp_path: Path) -> None:
    rows = [
        changed(ROWS[0], Emotion="Negative"),
        changed(ROWS[1], Emotion="Positive + surprise"),  # the same set
        changed(ROWS[2], Negative=0),
        changed(ROWS[3], Emotion=None),
        changed(ROWS[4], Others="1", Emotion="Other"),
    ]
    book(tmp_path, rows)
    clips, report = load(tree(tmp_path, rows))
    assert [clip.emotion for clip in clips] == ["surprise", "positive+surprise", "negative", "repression", "others"]
    assert [(one.clip, one.flag, one.detail) for one in report.repairs] == [
        ("S01/S01_1st_001_01_1", "emotion-columns", "columns surprise, text Negative -> surprise"),
        ("S13/S13_1st_001_01_1", "emotion-columns", "columns none, text Negative -> negative"),
        ("S13/S13_2nd_003_01_1", "emotion-columns", "columns repression, text blank -> repression"),
    ]


@given(
    bits=st.lists(st.booleans(), min_size=5, max_size=5).filter(any),
    order=st.permutations(fourdme.EMOTIONS),
    typed=st.sampled_from([int, float, str]),
    join=st.sampled_from(["+", " + ", ", "]),
)
def test_text_and_columns_of_the_same_set_agree(bits: list[bool], order: list[str], typed: type, join: str) -> None:
    held = {name for name, bit in zip(fourdme.EMOTIONS, bits, strict=True) if bit}
    text = join.join(name for name in order if name in held)
    row = {
        name: typed(int(bit)) if typed is not float else int(bit)
        for name, bit in zip(fourdme.EMOTIONS, bits, strict=True)
    }
    made = cells.Row({**row, "Emotion": text}, 2, "table, row 2")
    found = fourdme._columns(made)
    assert found == fourdme._words(made) == {name.lower() for name in held}
    assert fourdme._joined(found).split("+") == [name.lower() for name in fourdme.EMOTIONS if name in held]


def published(tmp_path: Path, count: int) -> Path:
    """A table of that many rows with frames."""
    rows = [
        (f"S{place % 40 + 1:02d}", place, f"S{place % 40 + 1:02d}_1st_{place:03d}_01_1", 10, 12, 15, 0, 1, 0, 0, 0)
        for place in range(count)
    ]
    rows = [(*row, "Negative", 0, 1, f"AU{place % 9 + 1}", 0, 0) for place, row in enumerate(rows)]
    book(tmp_path, rows)
    return tree(tmp_path, rows)


def test_the_two_rows_that_another_reader_exchanges_are_reported_and_kept(tmp_path: Path) -> None:
    clips, report = load(published(tmp_path, 267))
    assert len(clips) == 267
    assert [one.clip.split("_")[2] for one in report.repairs if one.flag == "au-doubtful"] == ["144", "145"]
    assert [str(unit) for place in (144, 145) for unit in clips[place].aus] == [str(144 % 9 + 1), str(145 % 9 + 1)]


def test_they_are_unknown_in_another_table(tmp_path: Path) -> None:
    assert not load(published(tmp_path, 266))[1].repairs


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (changed(ROWS[0], sub_ID="Sx"), "row 2: 'sub_ID' is 'Sx'"),
        (changed(ROWS[0], fold_name=None), "row 2: 'fold_name' is ''"),
        (changed(ROWS[0], Onset="-"), r"row 2 .*'Onset' is '-'; expected a frame number"),
        (changed(ROWS[0], Onset=130), r"row 2 .*onset 130 is after offset 120"),
        (changed(ROWS[0], Surprise=2), "row 2: 'Surprise' is 2; expected 0 or 1"),
        (changed(ROWS[0], Surprise=0, Emotion=None), r"row 2 .*no emotion in Positive, .* or Emotion; give one"),
    ],
)
def test_a_bad_row_is_a_one_line_error(tmp_path: Path, row: tuple[object, ...], message: str) -> None:
    book(tmp_path, [row])
    with pytest.raises(FlickerError, match=message) as raised:
        load(tree(tmp_path))
    assert "\n" not in str(raised.value)


def test_missing_parts_say_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(FlickerError, match=r"no workbook '4DME_Labelling_Micro_release v1.xlsx'; put"):
        load(tmp_path)
    book(tmp_path)
    with pytest.raises(FlickerError, match="no folder there is named like S01_1st_001_01_1"):
        load(tmp_path)
    tree(tmp_path, ROWS[:4])
    with pytest.raises(FlickerError, match=r"1 of 5 rows .*S20/S20_1st_001_02_1: no folder"):
        load(tmp_path)


def test_auto_recognises_the_dataset(tmp_path: Path) -> None:
    book(tmp_path)
    assert datasets.load("auto", tree(tmp_path))[1].dataset == "4dme"
