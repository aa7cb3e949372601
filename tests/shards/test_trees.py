"""Dataset roots: every layout as published and as zips leave it; no frame of an excluded subject ever remains."""

import re
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from shards import FlickerError, UsageError, trees
from shards.sources import Source, discover, settings


def png(channels: int) -> bytes:
    """A PNG's signature and header chunk: depth maps have one channel, 16 bits; colour has three."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 4, 4, 16 if channels == 1 else 8, 0 if channels == 1 else 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


def plant(root: Path, *files: str) -> Path:
    """Files at these paths; a path that ends in `/` is an empty folder. Contents do not matter to the search."""
    for name in files:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(png(1 if "depth" in name.lower() else 3) if name.endswith(".png") else b"frame")
    return root


def seen(sources: list[Source], root: Path) -> dict[str, tuple[str, str, float | None]]:
    """Path below root -> (kind, subject, fps)."""
    return {s.path.relative_to(root).as_posix(): (s.kind, s.subject, s.fps) for s in sources}


def test_casme2_in_its_three_variants_and_with_doubled_folders(tmp_path):
    clips = {
        "CASME2_RAW/CASME2-RAW/sub01/EP02_01f": "1",
        "CASME2_RAW_selected/CASME2_RAW_selected/sub02/EP01_11f": "2",
        "Cropped-updated/Cropped/sub26/EP18_51": "26",
        "Cropped/Sub17/EP06_02_01": "17",
    }
    plant(tmp_path, *(f"{clip}/reg_img46.jpg" for clip in clips), "CASME2-coding-20140508.xlsx")
    plant(tmp_path, "__MACOSX/Cropped/sub99/EP01_01/._reg_img1.jpg")
    found = discover([tmp_path], dataset="casme2")
    assert seen(found, tmp_path) == {clip: ("folder", subject, 200) for clip, subject in clips.items()}
    assert {source.dataset for source in found} == {"casme2"}


def test_a_subject_or_a_variant_alone_can_be_given(tmp_path):
    plant(tmp_path, "Cropped/sub03/EP01_2/reg_img4.jpg", "Cropped/sub04/EP01_2/reg_img4.jpg")
    assert [s.subject for s in discover([f"casme2:{tmp_path}/Cropped"])] == ["3", "4"]
    one = discover([f"casme2:{tmp_path}/Cropped/sub03"])
    assert [(s.subject, s.name) for s in one] == [("3", "sub03/EP01_2")]
    with pytest.raises(FlickerError, match=r"CASME II: whose frames .* EP01_2; give a folder that holds .* sub01"):
        discover([f"casme2:{tmp_path}/Cropped/sub03/EP01_2"])


def test_samm_clips_padded_subjects_and_crops(tmp_path):
    plant(tmp_path, "SAMM/006/006_1_2/006_05562.jpg", "SAMM/037/037_7_12/037_4005.jpg", "SAMM_CROP/011/011_6_1/1.jpg")
    plant(tmp_path, "SAMM/SAMM_Micro_FACS_Codes_v2.xlsx")
    assert seen(discover([tmp_path], dataset="samm"), tmp_path) == {
        "SAMM/006/006_1_2": ("folder", "6", 200),
        "SAMM/037/037_7_12": ("folder", "37", 200),
        "SAMM_CROP/011/011_6_1": ("folder", "11", 200),
    }


def test_smic_cameras_have_their_rates_and_an_empty_clip_is_reported(tmp_path):
    clips = {
        "SMIC_all_raw/HS/s1/micro/negative/s1_ne_01": ("1", 100),
        "SMIC_all_raw/HS/s20/non_micro/s20_non_03": ("20", 100),
        "SMIC_all_cropped/VIS/s12/micro/surprise/s12_sur_01": ("12", 25),
        "SMIC_all_raw/NIR/s12/micro/surprise/s12_sur_01": ("12", 25),
        "SMIC-E_raw image/HS_long/SMIC-HS-E/HS/s01/s1_ne_01": ("1", 100),
        "SMIC-E_raw image/HS_long/SMIC-HS-E/s03/s3_po_08": ("3", 100),
    }
    plant(tmp_path, *(f"{clip}/image048123.bmp" for clip in clips))
    plant(tmp_path, "SMIC_all_cropped/HS/s18/micro/surprise/s18_sur_03/")
    found = seen(discover([tmp_path], dataset="smic"), tmp_path)
    assert found.pop("SMIC_all_cropped/HS/s18/micro/surprise/s18_sur_03") == ("unknown", "18", 100)
    assert found == {clip: ("folder", *who) for clip, who in clips.items()}


def test_smic_below_the_camera_has_no_rate(tmp_path):
    plant(tmp_path, "HS/s1/micro/negative/s1_ne_01/image1.bmp")
    assert [source.fps for source in discover([f"smic:{tmp_path}/HS"])] == [100]
    assert [source.fps for source in discover([f"smic:{tmp_path}/HS/s1"])] == [None]


def test_casme_sq_with_and_without_the_s(tmp_path):
    clips = {
        "rawpic/s15/15_0101disgustingteeth": ("folder", "15", 30),
        "selectedpic/s40/anger1_1": ("folder", "40", 30),
        "selectedpic/selectedpic/S16/happy2_10": ("folder", "16", 30),
        "cropped/15/anger1_1": ("folder", "15", 30),
    }
    plant(tmp_path, *(f"{clip}/img001.jpg" for clip in clips), "rawvideo/s15/15_0101disgustingteeth.avi")
    clips["rawvideo/s15/15_0101disgustingteeth.avi"] = ("video", "15", 30)
    assert seen(discover([tmp_path], dataset="casme_sq"), tmp_path) == clips


def test_casme3_takes_colour_never_depth(tmp_path):
    kept = {
        "part_A/data/part_A_split/part_A/spNO.1/a/color": "1",
        "part_A/data/part_A_split/part_A/spNo.14/j/Color": "14",
        "Part_A_ME_clip/frame/spNO.216_e_1": "216",
        "part_B/spNO.100/1/video1/RGB": "100",
        "part_C/data/SPNO.7/x": "7",
        "part_C/data/spNO.8/png_colour": "8",
    }
    plant(tmp_path, *(f"{folder}/{'355.png' if 'png' in folder else '355.jpg'}" for folder in kept))
    depth = (
        "part_A/data/part_A_split/part_A/spNO.1/a/depth",
        "Part_A_ME_clip/depth/spNO.216_e_1",
        "part_B/spNO.9/Depth",
    )
    plant(tmp_path, *(f"{folder}/1.png" for folder in depth), "part_C/spNO.7/depth_map/3.jpg")
    (tmp_path / "part_C/spNO.7/other").mkdir()
    (tmp_path / "part_C/spNO.7/other/9.png").write_bytes(png(1))  # depth by its content
    plant(tmp_path, "Part_A_ME_clip/video/spNO.1_a_355.mp4", "Part_A_ME_clip/video/spNO.1_a_355_depth.mp4")
    kept["Part_A_ME_clip/video/spNO.1_a_355.mp4"] = "1"
    found = discover([tmp_path], dataset="casme3")
    assert {s.path.relative_to(tmp_path).as_posix(): s.subject for s in found} == kept
    assert {s.fps for s in found} == {30}


@pytest.mark.parametrize("name", ["depth", "Depth", "DEPTH", "depth_png", "kinect-depth", "depthmap"])
def test_depth_by_any_name(name):
    assert trees.LAYOUTS["casme3"].passes_over(name) and not trees.LAYOUTS["casme2"].passes_over(name)


@pytest.mark.parametrize("name", ["color", "in_depth2_", "indepth", "depths_of_despair"])
def test_other_words_are_no_depth(name):
    assert trees.LAYOUTS["casme3"].passes_over(name) == (name == "in_depth2_")


def test_frames_of_nobody_and_of_two_people_are_refused_by_name(tmp_path):
    plant(tmp_path, "SMIC/HS/s1/micro/s1_ne_01/1.bmp", "SMIC/HS/s2/micro/s3_ne_01/1.bmp", "SMIC/HS/preview/1.jpg")
    with pytest.raises(FlickerError) as caught:
        discover([tmp_path], dataset="smic")
    text = str(caught.value)
    assert "SMIC/HS/preview, " in text and "s3_ne_01 (2 or 3)" in text and "s1_ne_01" not in text
    plant(tmp_path / "many", *(f"x{number:02d}/1.jpg" for number in range(20)))
    with pytest.raises(FlickerError, match=r"x07 and 12 more"):
        discover([tmp_path / "many"], dataset="casme2")


def test_excluded_subjects_in_every_spelling(tmp_path):
    plant(tmp_path, *(f"Cropped/sub{number:02d}/EP01_01/1.jpg" for number in range(1, 6)))
    for ids in (["1", "3"], ["01", "sub03"], ["casme2:1", "casme2:sub03"], ["sub3", "Sub01", "1"]):
        found = discover([tmp_path], dataset="casme2", exclude_subjects=ids)
        assert [source.subject for source in found] == ["2", "4", "5"]
        assert settings([tmp_path], "casme2", ids) == ("casme2", ("casme2:1", "casme2:3"))


def test_several_datasets_in_one_call(tmp_path):
    plant(tmp_path / "c2", "sub01/EP01_01/1.jpg", "sub02/EP01_01/1.jpg")
    plant(tmp_path / "samm", "001/001_1_2/1.jpg", "002/002_1_2/1.jpg")
    plant(tmp_path / "own", "sub01/1.jpg")
    paths = [f"casme2:{tmp_path}/c2", f"samm:{tmp_path}/samm", f"{tmp_path}/own"]
    found = discover(paths, exclude_subjects=["samm:1"])
    assert [(s.dataset, s.subject) for s in found] == [("casme2", "1"), ("casme2", "2"), ("", ""), ("samm", "2")]
    assert settings(paths, "", ["samm:001"]) == ("casme2,samm", ("samm:1",))
    with pytest.raises(UsageError, match=r"subject '1' of which dataset\? give casme2:1 or samm:1"):
        discover(paths, exclude_subjects=["1"])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["7"], r"subject casme2:7 is not among the sources \(the nearest are 4, 5, 9\)"),
        (["x"], r"subject 'x': casme2 has folders such as sub01"),
        (["smic:1"], r"no source is of dataset 'smic', only of casme2"),
        (["1", "2", "3", "4", "5", "9"], r"all 6 sources are of excluded subjects"),
    ],
)
def test_a_mistyped_exclusion_is_refused(tmp_path, ids, message):
    plant(tmp_path, *(f"sub{number:02d}/EP01_01/1.jpg" for number in (1, 2, 3, 4, 5, 9)))
    with pytest.raises(FlickerError, match=message):
        discover([f"casme2:{tmp_path}"], exclude_subjects=ids)


def test_an_exclusion_without_a_dataset_is_refused(tmp_path):
    plant(tmp_path, "sub01/1.jpg")
    with pytest.raises(UsageError, match="name the dataset"):
        discover([tmp_path], exclude_subjects=["1"])


def test_casme_sq_numbers_people_twice_so_a_bare_number_is_refused(tmp_path):
    plant(tmp_path, "cropped/15/anger1_1/img1.jpg", "cropped/16/anger1_1/img1.jpg")
    with pytest.raises(UsageError, match="can mean two people: folder s15 is participant 1"):
        discover([tmp_path], dataset="casme_sq", exclude_subjects=["15"])
    assert [s.subject for s in discover([tmp_path], dataset="casme_sq", exclude_subjects=["s15"])] == ["16"]


def test_lists_of_subjects_from_a_file(tmp_path):
    (tmp_path / "list").write_text("# test subjects\n1\n sub02 # seen twice\n\n")
    assert trees.read_subjects(f"@{tmp_path}/list") == ["1", "sub02"]
    assert trees.read_subjects(" 1, 2,,15 ") == ["1", "2", "15"]
    with pytest.raises(FlickerError, match="cannot be read: No such file"):
        trees.read_subjects(f"@{tmp_path}/none")


def test_unknown_datasets_are_refused_with_the_nearest(tmp_path):
    with pytest.raises(UsageError, match=r"dataset 'casme' is unknown; did you mean 'casme[23]'"):
        discover([plant(tmp_path, "a/1.jpg")], dataset="casme")
    with pytest.raises(FlickerError, match=r"source not found: .*CASME2:.* \(datasets are casme2, samm"):
        discover([f"CASME2:{tmp_path}"])


def test_an_excluded_subject_does_not_come_back_through_a_plain_folder_above_or_a_link(tmp_path):
    plant(tmp_path, "data/c2/sub01/EP01_01/1.jpg", "data/c2/sub02/EP01_01/1.jpg", "data/own/1.jpg")
    (tmp_path / "data/link").symlink_to(tmp_path / "data/c2/sub01")
    found = discover([tmp_path / "data", f"casme2:{tmp_path}/data/c2"], exclude_subjects=["1"])
    assert [source.name for source in found] == ["data/c2/sub02/EP01_01", "data/own"]


def test_one_folder_cannot_belong_to_two_datasets(tmp_path):
    plant(tmp_path, "c2/sub01/EP01_01/1.jpg")
    with pytest.raises(UsageError, match=r"given as casme2 and lies in .* given as smic"):
        discover([f"casme2:{tmp_path}/c2", f"smic:{tmp_path}"])


# -- by property

WRITTEN = {  # how each dataset writes subject n and a clip of theirs
    "casme2": lambda n, clip: f"Cropped/Cropped/sub{n:02d}/EP{clip:02d}_01f",
    "samm": lambda n, clip: f"SAMM/{n:03d}/{n:03d}_1_{clip}",
    "smic": lambda n, clip: f"HS/s{n:02d}/micro/negative/s{n}_ne_{clip:02d}",
    "casme_sq": lambda n, clip: f"selectedpic/s{n}/anger{clip}_1",
    "casme3": lambda n, clip: f"part_A/spN{'oO'[clip % 2]}.{n}/{'abcdefghij'[clip]}/color",
}
FOLDER = {"casme2": "sub{}", "samm": "{:03d}", "smic": "s{:02d}", "casme_sq": "s{}", "casme3": "spNO.{}"}


@example_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_source_of_an_excluded_subject_remains_and_no_other_is_lost(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("tree")
    dataset = data.draw(st.sampled_from(sorted(trees.LAYOUTS)))
    clips = data.draw(st.sets(st.tuples(st.integers(10, 40), st.integers(0, 9)), min_size=1, max_size=12))
    for number, clip in clips:
        plant(root, f"{WRITTEN[dataset](number, clip)}/img{clip}.jpg")
    people = sorted({number for number, _ in clips})
    out = data.draw(st.sets(st.sampled_from(people), max_size=len(people) - 1))
    ids = [FOLDER[dataset].format(number) for number in out]
    found = discover([root], dataset=dataset, exclude_subjects=ids)
    kept = {WRITTEN[dataset](number, clip) for number, clip in clips if number not in out}
    assert {source.path.relative_to(root).as_posix() for source in found} == kept
    assert all(int(source.subject) in set(people) - out for source in found)


@given(st.sampled_from(sorted(trees.LAYOUTS)), st.integers(1, 99), st.integers(0, 9))
def test_what_a_dataset_writes_names_its_subject(dataset, number, clip):
    number = max(number, 10) if dataset == "casme_sq" else number
    parts = ["root", *WRITTEN[dataset](number, clip).split("/")]
    assert trees.LAYOUTS[dataset].subjects(parts) == {str(number)}
    assert trees.exclusions([FOLDER[dataset].format(number)], {dataset}) == (f"{dataset}:{number}",)
    assert re.fullmatch(r"[1-9][0-9]*", str(number))
