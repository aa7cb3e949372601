"""The loaders of SMIC and SMIC-HS-E: clips by folders, gaps of the cropped frames, rows of several intervals."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from finetune import datasets
from finetune.datasets import smic
from shards.errors import FlickerError
from tests.finetune import trees
from tests.finetune.trees import frames, sheets, smic_folder, smic_tree

load = partial(datasets.load, "smic")
load_e = partial(datasets.load, "smic_e")
CROPPED = "SMIC_all_cropped/HS"
RAW = "SMIC_all_raw/HS"


@pytest.fixture(scope="module")
def table(shared: Path) -> list[dict[str, str]]:
    """SLSTT's table of SMIC."""
    return trees.published(shared, "smic")


@pytest.fixture(scope="module")
def published(table: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All clips, raw and cropped, with the cropped frames' gaps; `non_micro` beside them."""
    root = tmp_path_factory.mktemp("smic")
    smic_tree(root, table, RAW, "image{:06d}.bmp")
    smic_tree(root, table, CROPPED, "reg_image{:06d}.bmp")
    for file in smic_folder(root / CROPPED, "s18_sur_03").iterdir():
        file.unlink()
    frames(root / RAW / "s1/non_micro/s1_ne_01", [1, 2], "image{:06d}.bmp")
    return root


def test_raw_frames_give_the_published_clips_without_a_workbook(published: Path, table: list[dict[str, str]]) -> None:
    clips, report = load(published, variant="raw")
    told = {clip.clip: (clip.subject, clip.emotion, clip.onset, clip.apex, clip.offset) for clip in clips}
    assert told == {
        line["Filename"]: (
            line["Subject"],
            line["Emotion"],
            *(trees.number(line, name) for name in ("Onset", "Apex", "Offset")),
        )
        for line in table
    }
    assert len(clips) == 164 and report.subjects == 16 and report.labels == smic.PUBLISHED_LABELS
    assert {len(next(iter(clip.frames.values())).stem.removeprefix("image")) for clip in clips} == {6, 7, 8}
    assert not report.missing and not report.unlabelled and not report.notes
    assert all(
        list(found.values()) == [70, 51, 43] == list((given or {}).values()) for _, found, given in report.schemes
    )
    assert all("apex-uncoded" in clip.flags and clip.fps == 100 for clip in clips)


def test_cropped_frames_lack_one_clip_by_publication(published: Path) -> None:
    clips, report = load(published)
    assert len(clips) == 163 and not report.missing and Path(report.images).name == "HS"
    assert [repair.clip for repair in report.repairs if repair.flag == "known-empty"] == ["s18/s18_sur_03"]
    assert report.notes == ["s18: 4 of 5 surprise clips"]
    assert "published: 164 clips of 16 subjects) *" in report.text()


def test_slstts_table_can_be_read_instead(published: Path, shared: Path, table: list[dict[str, str]]) -> None:
    with pytest.raises(FlickerError, match=r"no table slstt_smic.csv"):
        load(published, "slstt")
    target = published / "slstt_smic.csv"
    target.write_bytes((shared / "data/annotations/slstt_smic.csv").read_bytes())
    try:
        clips, report = load(published, "slstt", "raw")
    finally:
        target.unlink()
    assert len(clips) == 164 and report.rows == 164 and report.version == "slstt"
    assert [clip.apex for clip in clips] == [trees.number(line, "Apex") for line in table]


def test_gaps_inside_and_the_true_numbers(tmp_path: Path) -> None:
    folder = smic_folder(tmp_path / CROPPED, "s3_po_08")
    frames(folder, [number for number in range(48123, 48160) if number not in (48140, 48141)], "reg_image{:06d}.bmp")
    (clip,), report = load(tmp_path)
    assert (clip.onset, clip.apex, clip.offset) == (48123, 48142, 48159)  # 48141 has no file: the nearest
    assert clip.frames[48123].name == "reg_image048123.bmp"
    assert {"gaps", "apex-nearest"} <= set(clip.flags) and report.notes[1:] == [
        "s3: 0 of 22 negative clips",
        "s3: 1 of 11 positive clips",
        "s3: 0 of 6 surprise clips",
    ]


@pytest.mark.parametrize(
    ("home", "variant", "fps"),
    [
        (CROPPED, "cropped", 100),
        ("SMIC_all_cropped/SMIC_all_cropped/HS", "cropped", 100),
        (RAW, "raw", 100),
        ("smic_ALL_raw/hs", "raw", 100),
        ("", "raw", 100),
        ("SMIC_all_raw/VIS", "vis-raw", 25),
        ("SMIC_all_cropped/VIS", "vis-cropped", 25),
        ("SMIC_all_raw/NIR", "nir-raw", 25),
        ("SMIC_all_cropped/NIR", "nir-cropped", 25),
    ],
)
def test_every_published_layout(tmp_path: Path, home: str, variant: str, fps: float) -> None:
    frames(smic_folder(tmp_path / home, "s11_ne_01"), range(10, 31), "image{:06d}.jpg")
    (clip,), report = load(tmp_path, variant=variant)
    assert (clip.id, clip.fps, clip.onset, clip.apex, clip.offset) == ("smic/s11/s11_ne_01", fps, 10, 20, 30)
    if fps == 25:
        assert report.published is None and all(
            given is None for name, _, given in report.schemes if name == "SMIC-3"
        )
        with pytest.raises(FlickerError, match=rf"no frames of SMIC \(found only: {variant}\)"):
            load(tmp_path)
    else:
        assert load(tmp_path)[0] == [clip]


@pytest.mark.parametrize("place", ["SMIC_all_cropped", "SMIC_all_cropped/HS"])
def test_a_root_inside_the_tree_is_known_for_what_it_is(tmp_path: Path, place: str) -> None:
    frames(smic_folder(tmp_path / CROPPED, "s11_ne_01"), range(10, 31), "reg_image{:06d}.bmp")
    smic_folder(tmp_path / CROPPED, "s18_sur_03").mkdir(parents=True)  # empty as published: only cropped ones are
    clips, report = load(tmp_path / place)
    assert len(clips) == 1 and not report.missing


def test_padded_names_and_folders_in_the_wrong_class(tmp_path: Path) -> None:
    frames(tmp_path / RAW / "s01/micro/negative/s01_ne_01", range(5, 9), "image{:06d}.bmp")
    frames(tmp_path / RAW / "s01/micro/negative/s1_po_01", range(5, 9), "image{:06d}.bmp")
    clips, _ = load(tmp_path)
    assert [(clip.clip, clip.emotion) for clip in clips] == [("s1_ne_01", "negative"), ("s1_po_01", "positive")]
    assert ["folder-elsewhere" in clip.flags for clip in clips] == [False, True]


def test_an_empty_folder_is_missing(tmp_path: Path) -> None:
    frames(smic_folder(tmp_path / RAW, "s1_ne_01"), range(5, 9), "image{:06d}.bmp")
    smic_folder(tmp_path / RAW, "s18_sur_03").mkdir(parents=True)  # known only of the cropped frames
    with pytest.raises(FlickerError, match=r"1 of 2 rows .*s18/s18_sur_03: no images in its folder"):
        load(tmp_path)


def test_the_simulated_set_loads(shared: Path) -> None:
    clips, report = load(shared / "data/sim/smic")
    assert len(clips) == 12 and report.subjects == 2 and not report.missing
    assert {repair.flag for repair in report.repairs} == {"apex-uncoded"}
    assert sum(len(clip.frames) for clip in clips) == sum(clip.offset - clip.onset + 1 for clip in clips)


E_HEADER = ["Subject", "Filename", "", "OnsetF", "OffsetF", "Onset2F", "Offset2F", "Onset3F", "Offset3F", ""]
E_HEADER += ["FirstF", "LastF", "TotalMF1", "TotalMF2", "TotalMF3", "TotalVL", "Emotion"]
E_ROWS = (
    [1, "s1_ne_01", "", 559740, 559775, "", "", "", "", "", 559700, 559980, 36, "", "", 281, "negative"],
    [3, "s3_ne_02", "", 2010, 2041, 2090, 2122, "", "", "", 2000, 2180, 32, 33, "", 181, "negative"],
    [12, "s12_po_01", "", 8463663, 8463712, "", "", "", "", "", "missing", "", 50, "", "", "", "positive"],
    [20, "s20_sur_01", "", 1139, 1170, 1190, 1215, 1230, 1251, "", 1100, 1290, 32, 26, 22, 191, "surprise"],
    ["free text below the table"],
    [
        "* s3_ne_03 is in the video of s3_ne_02",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "see paper",
    ],
)


def e_tree(root: Path, rows: object = E_ROWS, name: str = "SMIC-HS-E_annotation_2019.xlsx") -> Path:
    """The workbook, and the frames of its four videos."""
    sheets(root / name, {"Sheet1": [E_HEADER, *rows]})  # type: ignore[misc]
    home = root / "SMIC-E_raw image/HS_long/SMIC-HS-E/HS"
    videos = {
        "s1_ne_01": (559700, 559980),
        "s3_ne_02": (2000, 2180),
        "s12_po_01": (8463600, 8463720),
        "s20_sur_01": (1100, 1290),
    }
    for clip, (first, last) in videos.items():
        subject = int(clip.split("_")[0][1:])
        frames(home / f"s{subject:02d}" / clip, range(first, last + 1), "image{:06d}.jpg")
    return root


def test_rows_of_up_to_three_intervals(tmp_path: Path) -> None:
    clips, report = load_e(e_tree(tmp_path))
    assert [(clip.subject, clip.clip, clip.onset, clip.apex, clip.offset) for clip in clips] == [
        ("s1", "s1_ne_01", 559740, 559757, 559775),
        ("s3", "s3_ne_02", 2010, 2025, 2041),
        ("s3", "s3_ne_02-2", 2090, 2106, 2122),
        ("s12", "s12_po_01", 8463663, 8463687, 8463712),
        ("s20", "s20_sur_01", 1139, 1154, 1170),
        ("s20", "s20_sur_01-2", 1190, 1202, 1215),
        ("s20", "s20_sur_01-3", 1230, 1240, 1251),
    ]
    assert all(list(clip.frames) == list(range(clip.onset, clip.offset + 1)) for clip in clips)
    assert [note.split(":")[0] for note in report.notes] == ["row 6", "row 7"]
    assert [clip.clip for clip in clips if "folder-shared" in clip.flags] == [
        "s3_ne_02-2",
        "s20_sur_01-2",
        "s20_sur_01-3",
    ]
    assert not report.missing and not report.unlabelled and report.version == "2019"


def test_the_workbook_is_checked_against_itself(tmp_path: Path) -> None:
    row = list(E_ROWS[0])
    row[12], row[16] = 40, "positive"
    (clip,), _ = load_e(e_tree(tmp_path, [row], "SMIC-HS-E_annotation.xlsx"))
    assert clip.emotion == "negative" and {"total-differs", "label-of-name"} <= set(clip.flags)


def test_half_an_interval_names_its_cell(tmp_path: Path) -> None:
    row = list(E_ROWS[1])
    row[6] = "?"
    with pytest.raises(FlickerError, match=r"row 2 \(s3_ne_02\): 'Offset2F' is '\?'"):
        load_e(e_tree(tmp_path, [row]))


def test_the_two_smics_are_told_apart(tmp_path: Path) -> None:
    root = e_tree(tmp_path)
    with pytest.raises(FlickerError, match="no frames of SMIC "):
        load(root)
    frames(smic_folder(root / RAW, "s1_ne_01"), range(5, 9), "image{:06d}.bmp")
    assert len(load(root)[0]) == 1 and len(load_e(root)[0]) == 7
