"""The SAMM loader: the published table, both widths of frame numbers, text rows, and the rows known to be wrong."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from finetune import datasets
from finetune.datasets import samm
from shards.errors import FlickerError
from tests.finetune import trees
from tests.finetune.trees import samm_frames, samm_row, samm_workbook

load = partial(datasets.load, "samm")
BOOK = "SAMM_Micro_FACS_Codes_v2.xlsx"
ONE = {
    "Subject": "006",
    "Filename": "006_1_2",
    "OnsetFrame": "5562",
    "ApexFrame": "5588",
    "OffsetFrame": "5632",
    "Emotion": "Anger",
}
WRONG = {  # what the published workbook says of the rows that SLSTT's table has corrected
    "013_1_9": {"Offset Frame": 5793, "Duration": 136},
    "028_4_1": {"Apex Frame": 1190},
    "032_3_1": {"Apex Frame": "4995"},
    "032_3_2": {"Apex Frame": None},
    "007_6_1": {"Action Units": "R12 or R15"},
    "007_6_5": {"Action Units": "R12 or R15"},
    "011_4_2": {"Action Units": "L14 or 17"},
    "014_5_2": {"Action Units": "R14 or L14"},
    "035_7_2": {"Action Units": "R14A or 17A"},
}


def one_tree(root: Path, **changes: object) -> Path:
    """A workbook of one row and its frames."""
    samm_workbook(root / BOOK, [samm_row(ONE, **changes)])
    samm_frames(root, ONE, range(5562, 5633))
    return root


@pytest.fixture(scope="module")
def table(shared: Path) -> list[dict[str, str]]:
    """The published table of SAMM."""
    return trees.published(shared, "samm")


@pytest.fixture(scope="module")
def published(table: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workbook with its wrong rows, and the frames' names as released."""
    root = tmp_path_factory.mktemp("samm")
    samm_workbook(root / BOOK, [samm_row(line, **WRONG.get(line["Filename"], {})) for line in table])
    for line in table:
        samm_frames(root / "SAMM", line, trees.keyframes(line) | {1105, 4945, 5130})
    return root


def test_the_published_table_loads_with_the_published_counts(published: Path) -> None:
    clips, report = load(published)
    assert len(clips) == 159 and report.subjects == 29 and report.published == (159, 29) and not report.missing
    assert report.labels == samm.PUBLISHED_LABELS
    missing = {f"{number:03d}" for number in (1, 2, 3, 4, 5, 8, 27, 29)}
    assert {clip.subject for clip in clips} == {f"{number:03d}" for number in range(1, 38)} - missing
    found = {name: (list(counts.values()), expected) for name, counts, expected in report.schemes}
    assert found["SAMM-5"][0] == [26, 57, 12, 26, 15] and found["SAMM-3"][0] == [92, 26, 15]
    assert (
        len(
            {
                clip.subject
                for clip in clips
                if clip.emotion in ("others", "anger", "contempt", "happiness", "surprise")
            }
        )
        == 27
    )
    for name, (counts, expected) in found.items():
        assert name == "MEGC2018" or list((expected or {}).values()) == counts


def test_frame_numbers_of_both_widths_are_the_same_integers(published: Path) -> None:
    names = {clip.clip: clip.frames[clip.onset].name for clip in load(published)[0]}
    assert names["006_1_2"] == "006_05562.jpg" and names["007_6_1"] == "007_0497.jpg"


def test_the_rows_known_to_be_wrong_are_repaired_and_reported(published: Path) -> None:
    clips, report = load(published)
    by_name = {clip.clip: clip for clip in clips}
    assert by_name["013_1_9"].offset == 5739
    assert [by_name[name].apex for name in ("028_4_1", "032_3_1", "032_3_2")] == [1105, 4945, 5130]
    units = {name: "+".join(map(str, by_name[name].aus)) for name in samm.KNOWN_UNITS}
    assert units == samm.KNOWN_UNITS
    assert {repair.clip: repair.flag for repair in report.repairs if repair.flag != "gaps"} == {
        "013/013_1_9": "offset-known",
        "028/028_4_1": "apex-known",
        "032/032_3_1": "apex-known",
        "032/032_3_2": "apex-known",
        **{f"{name[:3]}/{name}": "au-known" for name in samm.KNOWN_UNITS},
    }


def test_an_apex_that_somebody_corrected_stays(tmp_path: Path) -> None:
    line = {
        **ONE,
        "Subject": "032",
        "Filename": "032_3_1",
        "OnsetFrame": "4896",
        "ApexFrame": "4930",
        "OffsetFrame": "4970",
    }
    samm_workbook(tmp_path / BOOK, [samm_row(line)])
    samm_frames(tmp_path, line, range(4896, 4971))
    assert load(tmp_path)[0][0].apex == 4930


def test_slstts_table_is_read_as_it_is(shared: Path, published: Path, tmp_path: Path) -> None:
    (tmp_path / "SAMM").symlink_to(published / "SAMM")
    (tmp_path / "slstt_samm.csv").write_bytes((shared / "data/annotations/slstt_samm.csv").read_bytes())
    clips, report = load(tmp_path)
    by_name = {clip.clip: clip for clip in clips}
    assert len(clips) == 159 and report.version == "slstt"
    assert [by_name[name].apex for name in ("028_4_1", "032_3_1", "032_3_2")] == [1134, 4930, 5127]
    assert "apex-at-offset" in by_name["028_4_1"].flags


@pytest.mark.parametrize(
    ("images", "name", "variant"),
    [
        ("SAMM", "006_{:05d}.jpg", "raw"),
        ("SAMM/SAMM", "006_{:04d}.jpg", "raw"),
        ("SAMM_CROP", "006_{:05d}.jpg", "cropped"),
        ("Samm_Crop/samm_crop", "006_{:05d}.png", "cropped"),
        ("SAMM", "img{}.jpg", "raw"),
        ("", "006_{:05d}.jpg", "raw"),
    ],
)
def test_every_published_layout(tmp_path: Path, images: str, name: str, variant: str) -> None:
    root = tmp_path / "root"  # names above the root must not matter
    samm_workbook(root / BOOK, [samm_row(ONE)])
    samm_frames(root / images, ONE, range(5562, 5633), name)
    for wanted in ("auto", variant):
        (clip,), _ = load(root, variant=wanted)
        assert (clip.id, clip.onset, clip.apex, clip.offset) == ("samm/006/006_1_2", 5562, 5588, 5632)
    with pytest.raises(FlickerError, match=f"found only: {variant}"):
        load(root, variant="raw" if variant == "cropped" else "cropped")


def test_cropped_frames_are_preferred(tmp_path: Path) -> None:
    one_tree(tmp_path)
    samm_frames(tmp_path / "SAMM_CROP", ONE, range(5562, 5633))
    assert Path(load(tmp_path)[1].images).name == "SAMM_CROP"


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (7, 7),
        ("VII", 7),
        ("iii", 3),
        (0, None),
        ("", None),
    ],
)
def test_objective_classes(tmp_path: Path, cell: object, expected: int | None) -> None:
    assert load(one_tree(tmp_path, **{"Objective Classes": cell}))[0][0].objective == expected


def test_other_and_others_are_one_label(tmp_path: Path) -> None:
    assert load(one_tree(tmp_path, **{"Estimated Emotion": "Others "}))[0][0].emotion == "others"


def test_an_unknown_or_keeps_both_units_and_is_flagged(tmp_path: Path) -> None:
    (clip,), _ = load(one_tree(tmp_path, **{"Action Units": "L1B + 2 or AU4C"}))
    assert [str(unit) for unit in clip.aus] == ["L1B", "2", "4C"] and clip.flags == ("au-or",)


def test_a_duration_that_does_not_fit_is_noted(tmp_path: Path) -> None:
    report = load(one_tree(tmp_path, Duration=70))[1]
    assert [(one.flag, one.detail) for one in report.repairs] == [("total-differs", "stated 70, counted 71")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Subject": "007"}, r"row 15: 'Subject' is '007', but the clip is 006_1_2; correct one"),
        ({"Filename": "first"}, r"row 15: 'Filename' is 'first'; expected a clip such as 006_1_2"),
        ({"Onset Frame ": "soon"}, r"row 15 \(006_1_2\): 'Onset Frame' is 'soon'; expected a frame number"),
        ({"Estimated Emotion": ""}, r"row 15: 'Estimated Emotion' is ''; expected an emotion"),
    ],
)
def test_bad_rows_are_named_as_excel_counts_them(tmp_path: Path, changes: Mapping[str, object], message: str) -> None:
    with pytest.raises(FlickerError, match=message):
        load(one_tree(tmp_path, **changes))


def test_folders_without_a_row_and_rows_without_a_folder(tmp_path: Path) -> None:
    one_tree(tmp_path)
    samm_frames(tmp_path, {**ONE, "Filename": "006_1_9"}, [1])
    second = {**ONE, "Filename": "006_1_3"}
    samm_workbook(tmp_path / BOOK, [samm_row(ONE), samm_row(second)])
    clips, report = load(tmp_path, max_missing=0.5)
    assert report.missing == ["006/006_1_3: no folder"] and report.unlabelled == ["006/006_1_9"] and len(clips) == 1


def test_missing_parts_say_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(FlickerError, match=r"no workbook SAMM_Micro_FACS_Codes_v2.xlsx or"):
        load(tmp_path)
    samm_workbook(tmp_path / "SAMM_20181215_Micro_FACS_Codes.xlsx", [samm_row(ONE)])
    with pytest.raises(FlickerError, match=r"no frames of SAMM \(no folder there is named like 006_1_2\)"):
        load(tmp_path)
    samm_frames(tmp_path, ONE, range(5562, 5633))
    assert load(tmp_path)[1].version == "20181215"


def test_the_simulated_set_loads(shared: Path) -> None:
    clips, report = load(shared / "data/sim/samm")
    assert len(clips) == 12 and report.subjects == 3 and not report.missing and not report.repairs
    assert report.simulated  # the text above its header says so
    assert all(clip.objective and clip.aus for clip in clips)
