"""The `flow-maps` dataset: the published set, files as others publish them, and every bad table or array."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.datasets import flow_maps
from shards.errors import FlickerError

HEAD = ["dataset", "subject", "clip", "label"]
ROWS = [
    ["casme2", "sub01", "EP02_01f", "1"],
    ["casme2", "2", "EP01_11f", "0"],
    ["samm", "006", "006_1_2", "2"],
    ["smic", "s01", "s01_ne_01", "0"],
]
POINTS = [7, 8, 20, 9, 8, 20, 19, 21]


def table(root: Path, rows: Sequence[Sequence[object]] = ROWS, head: Sequence[str] = HEAD) -> Path:
    """Write clips.csv."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / "clips.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])
    return root


def random_maps(count: int = 4, size: int = 28) -> np.ndarray:
    """8-bit maps whose strain is small."""
    maps = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    maps[..., 2] //= 4
    return maps


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A good folder with maps.npz."""
    np.savez_compressed(table(tmp_path / "set") / "maps.npz", maps=random_maps())
    return tmp_path / "set"


def test_the_published_set(shared: Path) -> None:
    root = shared / "data" / "megc2019_flow"
    found = flow_maps.load(root)
    assert Counter(clip.dataset for clip in found.clips) == {"casme2": 145, "samm": 133, "smic": 164}
    assert Counter(clip.emotion for clip in found.clips) == {"negative": 250, "positive": 109, "surprise": 83}
    assert len({(clip.dataset, clip.subject) for clip in found.clips}) == 68 == found.validation.subjects
    assert found.maps.shape == (442, 28, 28, 3) and found.maps.dtype == np.float32
    stored = np.load(root / "maps.npz")["maps"].astype(np.float64)
    assert np.allclose(found.maps[..., :2], stored[..., :2] / 255 * 2 - 1, atol=1e-6)
    assert np.allclose(found.maps[..., 2], stored[..., 2] / 255, atol=1e-6)
    assert found.areas is not None and found.areas.shape == (442, 4, 2)
    eyes, mouth = found.areas[:, :2], found.areas[:, 2:]
    assert (eyes[:, 0, 0] < eyes[:, 1, 0]).all() and (mouth[:, 0, 0] < mouth[:, 1, 0]).all()
    assert (eyes[..., 1] < mouth[..., 1]).all()
    assert "flow-maps : 442 of 442 clips" in found.validation.text() and not found.validation.notes


def test_labels_and_names_agree_with_the_composite(shared: Path) -> None:
    found = flow_maps.load(shared / "data" / "megc2019_flow")
    ours = {(clip.dataset, clip.subject, clip.clip, clip.emotion) for clip in found.clips}
    forms = {"casme2": lambda name: f"sub{int(name[3:]):02d}", "samm": lambda name: f"{int(name):03d}"}
    published = set()
    with (shared / "data" / "annotations" / "megc2019_3class.csv").open(newline="") as file:
        for dataset, subject, clip, label in csv.reader(file):
            if dataset == "dataset":
                continue
            person = forms[dataset](subject) if dataset in forms else f"s{int(subject[1:])}"
            published.add((dataset, person, clip, flow_maps.CLASSES[int(label)]))
    assert ours == published


def test_clips_are_named_as_the_datasets_name_them(root: Path) -> None:
    ids = [clip.id for clip in flow_maps.load(root).clips]
    assert ids == ["casme2/sub01/EP02_01f", "casme2/sub02/EP01_11f", "samm/006/006_1_2", "smic/s1/s1_ne_01"]


def test_areas_are_ordered_by_the_picture_and_gaps_are_filled_and_reported(root: Path) -> None:
    swapped = [20, 9, 7, 8, 19, 21, 8, 20]
    rows = [[*row, *points] for row, points in zip(ROWS, (POINTS, swapped, [""] * 8, POINTS), strict=True)]
    table(root, rows, [*HEAD, *flow_maps.LANDMARKS])
    found = flow_maps.load(root)
    assert found.areas is not None and np.array_equal(found.areas[0], [[7, 8], [20, 9], [8, 20], [19, 21]])
    assert np.array_equal(found.areas, np.tile(found.areas[0], (4, 1, 1)))
    assert [(one.clip, one.flag) for one in found.validation.repairs] == [("006/006_1_2", "landmarks-mean")]


def test_without_landmarks_there_are_no_areas(root: Path) -> None:
    assert flow_maps.load(root).areas is None


def test_floats_are_taken_as_they_are(root: Path) -> None:
    (root / "maps.npz").unlink()
    maps = np.random.default_rng(1).normal(0, 3, (4, 16, 16, 3))
    np.save(root / "maps.npy", maps)
    assert np.array_equal(flow_maps.load(root).maps, maps.astype(np.float32))


def test_centred_maps_have_their_median_at_zero() -> None:
    maps = flow_maps.decode(random_maps())
    moved = flow_maps.centred(maps)
    assert np.allclose(np.median(moved[..., :2], axis=(1, 2)), 0, atol=1e-6)
    assert np.array_equal(moved[..., 2], maps[..., 2]) and not np.array_equal(moved[..., 0], maps[..., 0])


def test_files_named_in_the_table(root: Path) -> None:
    maps = np.load(root / "maps.npz")["maps"]
    (root / "maps.npz").unlink()
    names = ["a/0.png", "1.png", "2.npy", "3.png"]
    (root / "a").mkdir()
    for name, one in zip(names, maps, strict=True):
        if name.endswith(".npy"):
            np.save(root / name, one)
        else:
            cv2.imwrite(str(root / name), one)
    table(root, [[*row, name] for row, name in zip(ROWS, names, strict=True)], [*HEAD, "file"])
    assert np.array_equal(flow_maps.load(root).maps, flow_maps.decode(maps))


def test_a_tree_as_htnet_publishes_it(root: Path) -> None:
    maps = np.load(root / "maps.npz")["maps"]
    (root / "maps.npz").unlink()
    for fold in ("sub01", "006"):
        for part, changed in (("u_train", 1), ("u_test", 0)):
            folder = root / "three_norm_u_v_os" / fold / part / "0"
            folder.mkdir(parents=True)
            for name, one in zip(
                ("sub01_EP02_01f ", "sub02_EP01_11f", "006_006_1_2 ", "s1_s1_ne_01"), maps, strict=True
            ):
                cv2.imwrite(str(folder / f"{name}.png"), one ^ changed)  # another picture among the training copies
    assert np.array_equal(flow_maps.load(root).maps, flow_maps.decode(maps))


def test_a_row_without_its_file_is_reported_and_left_out(root: Path) -> None:
    (root / "maps.npz").unlink()
    for name in ("EP02_01f", "EP01_11f", "s01_ne_01"):
        cv2.imwrite(str(root / f"{name}.jpg"), random_maps(1)[0])
    found = flow_maps.load(root)
    assert found.validation.missing == ["006/006_1_2: no map file"] and len(found.clips) == len(found.maps) == 3
    assert (found.validation.rows, found.validation.found) == (4, 3)


def test_swapped_channels_are_noted(root: Path) -> None:
    np.savez(root / "maps.npz", maps=random_maps()[..., ::-1])
    assert "is the order u, v, strain?" in flow_maps.load(root).validation.notes[0]


def edit(index: int, column: int, value: str) -> Callable[[Path], None]:
    """Change one cell."""

    def change(root: Path) -> None:
        rows = [list(row) for row in ROWS]
        rows[index][column] = value
        table(root, rows)

    return change


def put(**arrays: np.ndarray) -> Callable[[Path], None]:
    """Other arrays in maps.npz."""
    return lambda root: np.savez(root / "maps.npz", **arrays)


def with_nan(root: Path) -> None:
    """One value is not finite."""
    maps = np.zeros((4, 28, 28, 3), np.float32)
    maps[2, 5, 6, 0] = np.nan
    np.savez(root / "maps.npz", maps=maps)


def with_landmark(value: object) -> Callable[[Path], None]:
    """One landmark is something else."""

    def change(root: Path) -> None:
        rows = [[*row, *POINTS] for row in ROWS]
        rows[1][5] = value  # type: ignore[call-overload]
        table(root, rows, [*HEAD, *flow_maps.LANDMARKS])  # type: ignore[arg-type]

    return change


def separate(*names: str) -> Callable[[Path], None]:
    """Files instead of maps.npz, each another picture; the table names none."""

    def change(root: Path) -> None:
        (root / "maps.npz").unlink()
        for seed, name in enumerate(names):
            (root / name).parent.mkdir(exist_ok=True)
            cv2.imwrite(str(root / name), random_maps(1)[0] ^ seed)

    return change


def named(file: str) -> Callable[[Path], None]:
    """The table names a file."""

    def change(root: Path) -> None:
        (root / "maps.npz").unlink()
        table(root, [[*row, file] for row in ROWS], [*HEAD, "file"])

    return change


BAD: list[tuple[Callable[[Path], object], str]] = [
    (lambda root: (root / "clips.csv").unlink(), "no clips.csv; the table"),
    (lambda root: (root / "clips.csv").write_bytes(b"\xff\xfe\x00"), "not a readable .csv"),
    (lambda root: table(root, []), "no rows"),
    (lambda root: table(root, [row[:3] for row in ROWS], HEAD[:3]), "no column 'label'"),
    (edit(2, 3, "3"), "row 4: 'label' is '3'"),
    (edit(2, 3, ""), "row 4: 'label' is ''"),
    (edit(0, 0, "casme9"), "row 2: 'dataset' is 'casme9'"),
    (edit(0, 1, "nobody"), "row 2: 'subject' is 'nobody'"),
    (edit(1, 2, "../x"), r"row 3: 'clip' is '\.\./x'"),
    (lambda root: table(root, [*ROWS[:3], ["casme2", "01", "ep02_01F", "0"]]), "row 5: clip casme2/sub01/.* row 2"),
    (lambda root: table(root, ROWS[:3]), "4 maps, but the table has 3 rows"),
    (lambda root: (root / "maps.npz").unlink(), "none of the 4 rows .* has a map; put maps.npz"),
    (lambda root: (root / "maps.npz").write_bytes(b"no zip"), "maps.npz: not a readable array"),
    (lambda root: (root / "maps.npz").write_bytes(b""), "maps.npz: not a readable array"),
    (
        lambda root: (root / "maps.npz").write_bytes((root / "maps.npz").read_bytes()[:3000]),
        "maps.npz: not a readable array",
    ),
    (put(flow=random_maps()), "no array 'maps'; found: flow"),
    (put(maps=random_maps()[..., :2]), r"shape \[4, 28, 28, 2\]; expected \[n S S 3\]"),
    (put(maps=random_maps()[:, :20]), r"shape \[4, 20, 28, 3\]"),
    (put(maps=random_maps()[0]), r"shape \[28, 28, 3\]"),
    (put(maps=random_maps().astype(np.int32)), "type int32; expected uint8 or float"),
    (put(maps=np.array([[None]], object)), "no numpy file, or holds Python objects"),
    (with_nan, "1 clips hold NaN or infinity, e.g. samm/006/006_1_2"),
    (with_landmark("x"), "row 3: 'left_eye_y' is 'x'"),
    (with_landmark(""), "row 3: 'left_eye_y' is ''"),
    (with_landmark("inf"), "row 3: 'left_eye_y' is 'inf'"),
    (with_landmark(700), "landmarks of 1 rows lie outside the maps of 28 x 28 px"),
    (separate("a/EP02_01f.png", "b/EP02_01f.png"), "could both be the map of casme2/sub01/EP02_01f and differ"),
    (named("../maps.png"), r"row 2: 'file' is '\.\./maps.png'"),
    (named("/etc/passwd"), "row 2: 'file' is '/etc/passwd'"),
    (named("clips.csv"), "row 2: 'file' is 'clips.csv'"),
]


@pytest.mark.parametrize(("change", "words"), BAD, ids=[words[:40] for _, words in BAD])
def test_what_is_bad_is_told_in_one_line(change: Callable[[Path], object], words: str, root: Path) -> None:
    change(root)
    with pytest.raises(FlickerError, match=words) as caught:
        flow_maps.load(root)
    assert "\n" not in str(caught.value) and str(root) in str(caught.value)


def test_bad_single_files_are_told_in_one_line(root: Path) -> None:
    (root / "maps.npz").unlink()
    good = random_maps(1)[0]
    cv2.imwrite(str(root / "EP02_01f.png"), good)
    path = root / "EP01_11f.png"
    for content, words in (
        (b"", "not a readable image"),
        (cv2.imencode(".png", good[..., 0])[1].tobytes(), r"shape \[28, 28\]; expected \[S S 3\]"),
        (cv2.imencode(".png", good[:20])[1].tobytes(), r"shape \[20, 28, 3\]"),
        (cv2.imencode(".png", good[:16, :16])[1].tobytes(), "all must be alike"),
        (cv2.imencode(".png", good.astype(np.uint16))[1].tobytes(), "type uint16"),
    ):
        path.write_bytes(content)
        with pytest.raises(FlickerError, match=words) as caught:
            flow_maps.load(root)
        assert "\n" not in str(caught.value) and "EP01_11f.png" in str(caught.value)


CELL = st.one_of(
    st.text(max_size=8), st.integers(-3, 300).map(str), st.sampled_from(["", "NaN", "1.0", "sub03", "２"])
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["casme2", "samm", "smic", "x"]), CELL, CELL, CELL), max_size=4))
def test_any_table_gives_clips_or_the_one_line_error(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str, str]]
) -> None:
    root = table(tmp_path_factory.mktemp("set"), rows)
    np.save(root / "maps.npy", random_maps(len(rows)))
    try:
        found = flow_maps.load(root)
    except FlickerError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert len(found.clips) == len(rows) == len({clip.id for clip in found.clips})
