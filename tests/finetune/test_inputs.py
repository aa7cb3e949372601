"""Prepared inputs: what they hold, when they are made again, and that they are read without the images."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from finetune import frames as pictures
from finetune.clips import Clip
from finetune.inputs import FlowMap, LongFlow, Pair, Recipe, Sequence, prepare
from finetune.motion import flow as flows
from finetune.motion.flow import FlowConfig
from shards.errors import FlickerError, UsageError
from tests.finetune.inputs_helpers import make_clip, texture

SIZE = 40


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    """Three clips of 15, 15 and 5 frames."""
    folder = tmp_path / "images"
    return [make_clip(folder, "a", 1), make_clip(folder, "b", 2), make_clip(folder, "c", 3, length=5, apex=2)]


def recipes() -> dict[str, Recipe]:
    """One of each kind that needs no landmarks, sharing crops."""
    return {
        "pair": Pair("as-is-squash", SIZE),
        "all": Sequence("as-is-squash", 16),
        "some": Sequence("as-is-squash", SIZE, frames=6),
        "map": FlowMap("as-is-squash", SIZE, grid=10),
        "long": LongFlow("as-is-crop", SIZE, frames=5),
    }


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each image file was read."""
    counted: Counter[str] = Counter()
    genuine = pictures.read_image

    def read(path: Path) -> np.ndarray:
        counted[str(path)] += 1
        return genuine(path)

    monkeypatch.setattr(pictures, "read_image", read)
    return counted


def test_arrays_equal_the_recipe_done_by_hand(clips: list[Clip], tmp_path: Path) -> None:
    arrays = prepare(clips, recipes(), tmp_path / "cache", quiet=True).arrays
    clip = clips[1]
    fitted = {number: pictures.fit(pictures.read_image(path), SIZE, "squash") for number, path in clip.frames.items()}
    assert arrays["pair"].shape == (3, 2, SIZE, SIZE, 3) and arrays["pair"].dtype == np.uint8
    assert np.array_equal(arrays["pair"][1], [fitted[clip.onset], fitted[clip.apex]])
    small = [pictures.fit(pictures.read_image(path), 16, "squash") for path in clip.frames.values()]
    assert isinstance(arrays["all"], list) and np.array_equal(arrays["all"][1], small)
    assert arrays["all.index"][1].tolist() == list(range(46, 61)) and arrays["all.apex"].tolist() == [7, 7, 2]
    assert isinstance(arrays["some"], list) and arrays["some"][2].shape == (5, SIZE, SIZE, 3)
    assert np.array_equal(arrays["some"][1], [fitted[number] for number in arrays["some.index"][1]])
    flow = flows.compute(fitted[clip.onset], fitted[clip.apex], flows.preset("fine"))
    cells = flow.reshape(10, 4, 10, 4, 2).mean(axis=(1, 3))
    assert arrays["map"].shape == (3, 10, 10, 3) and arrays["map"].dtype == np.float32
    assert np.allclose(arrays["map"][1][..., :2], cells, atol=1e-5)
    assert arrays["map"][1][..., 2].min() >= 0


def test_long_flow_grows_to_the_apex_and_is_kept_to_1_1024_px(clips: list[Clip], tmp_path: Path) -> None:
    recipe = LongFlow("as-is-crop", SIZE, frames=5)
    long = prepare(clips, {"long": recipe}, tmp_path, quiet=True).arrays["long"]
    assert long.shape == (3, 5, SIZE, SIZE, 2) and long.dtype == np.float32
    frames = [pictures.fit(pictures.read_image(clips[0].frames[n]), SIZE, "crop") for n in (46, 51, 52, 53, 54, 55)]
    assert np.abs(long[0] - flows.long_term(np.stack(frames), flows.preset("fine"))[1:]).max() <= 1 / 1024
    inner = long[0, :, 8:-8, 8:-8, 0].mean(axis=(1, 2)) * 50 / SIZE  # in source px; the short side is 50
    assert np.allclose(inner, [1.0, 1.2, 1.4, 1.2, 1.0], atol=0.15)
    assert np.abs(long[0, :, 8:-8, 8:-8, 1]).mean() < 0.05


def test_short_clips_get_interpolated_frames(clips: list[Clip], tmp_path: Path) -> None:
    long = prepare(clips[2:], {"long": LongFlow("as-is-crop", SIZE, frames=9)}, tmp_path, quiet=True).arrays["long"]
    inner = long[0, :, 8:-8, 8:-8, 0].mean(axis=(1, 2))
    assert long.shape[1] == 9 and inner.argmax() == 4 and inner[0] < inner[2] < inner[4] > inner[6] > inner[8]


def test_every_image_is_read_once_for_all_recipes(clips: list[Clip], tmp_path: Path, reads: Counter[str]) -> None:
    prepare(clips, recipes(), tmp_path / "cache", quiet=True)
    assert set(reads) == {str(path) for clip in clips for path in clip.frames.values()}
    assert set(reads.values()) == {1}


def test_only_the_frames_that_are_needed_are_read(clips: list[Clip], tmp_path: Path, reads: Counter[str]) -> None:
    prepare(clips[:1], {"pair": Pair("as-is-pad", 8)}, tmp_path / "cache", quiet=True)
    assert set(reads) == {str(clips[0].frames[46]), str(clips[0].frames[53])}


def test_a_second_time_no_image_is_opened(clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(clips, recipes(), tmp_path / "cache", quiet=True)
    values = {name: list(first.arrays[name]) for name in first.arrays}

    def refuse(path: Path) -> np.ndarray:
        raise AssertionError(f"opened {path}")

    monkeypatch.setattr(pictures, "read_image", refuse)
    monkeypatch.setattr(cv2, "imdecode", refuse)
    for clip in clips:
        for path in clip.frames.values():
            path.chmod(0)
    again = prepare(clips, recipes(), tmp_path / "cache", quiet=True)
    assert (again.report.prepared, again.report.reused) == (0, 3)
    assert set(again.arrays) == {
        "pair",
        "all",
        "all.index",
        "all.apex",
        "some",
        "some.index",
        "some.apex",
        "map",
        "long",
    }
    for name, rows in values.items():
        assert all(np.array_equal(a, b) for a, b in zip(rows, again.arrays[name], strict=True)), name


def test_a_new_recipe_leaves_the_others_alone(clips: list[Clip], tmp_path: Path) -> None:
    prepare(clips, {"pair": Pair("as-is-squash", SIZE)}, tmp_path, quiet=True)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    report = prepare(clips, recipes(), tmp_path, quiet=True).report
    assert report.prepared == 3 and "pair" not in report.seconds and "map" in report.seconds
    assert {path: path.stat().st_mtime_ns for path in files} == files


@pytest.mark.parametrize(
    "other",
    [
        Pair("as-is-crop", SIZE),
        Pair("as-is-squash", SIZE + 1),
        Sequence("as-is-squash", SIZE, frames=7),
        FlowMap("as-is-squash", SIZE, grid=12),
        FlowMap("as-is-squash", SIZE, grid=10, strain="htnet"),
        FlowMap("as-is-squash", SIZE, grid=10, flow=FlowConfig("dis")),
        FlowMap("as-is-squash", SIZE, grid=10, flow=FlowConfig(farneback=flows.Farneback(window=9))),
        LongFlow("as-is-crop", SIZE, frames=7),
        LongFlow("as-is-crop", SIZE, frames=5, interpolation="linear"),
    ],
    ids=lambda recipe: recipe.kind,
)
def test_a_changed_parameter_never_reads_an_old_entry(other: Recipe, clips: list[Clip], tmp_path: Path) -> None:
    prepare(clips[:1], recipes(), tmp_path, quiet=True)
    assert prepare(clips[:1], {"other": other}, tmp_path, quiet=True).report.prepared == 1


@pytest.mark.parametrize(
    "where", ["finetune.inputs.images.Pair.VERSION", "finetune.inputs.entries.FORMAT", "cv2.__version__"]
)
def test_a_changed_version_never_reads_an_old_entry(
    where: str, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"pair": Pair("as-is-squash", SIZE)}
    prepare(clips, wanted, tmp_path, quiet=True)
    monkeypatch.setattr(where, "99")
    assert prepare(clips, wanted, tmp_path, quiet=True).report.prepared == 3


@pytest.mark.parametrize("where", ["flow.VERSION", "strain.VERSION"])
def test_a_changed_version_of_the_motion_never_reads_an_old_entry(
    where: str, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"map": FlowMap("as-is-squash", SIZE, grid=10)}
    prepare(clips, wanted, tmp_path, quiet=True)
    monkeypatch.setattr(f"finetune.motion.{where}", 99)
    assert prepare(clips, wanted, tmp_path, quiet=True).report.prepared == 3


def touch(clip: Clip) -> Clip:
    """One image of the clip was written again a moment later."""
    path = clip.frames[clip.onset + 1]
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))
    return clip


def rewrite(clip: Clip) -> Clip:
    """One image has another content and size, and its old time."""
    path = clip.frames[clip.apex]
    stat = path.stat()
    cv2.imwrite(str(path), texture(99))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return clip


def fewer(clip: Clip) -> Clip:
    """One frame has gone."""
    return replace(clip, frames={n: path for n, path in clip.frames.items() if n != clip.onset + 1})


@pytest.mark.parametrize(
    "change",
    [
        touch,
        rewrite,
        fewer,
        lambda clip: replace(clip, apex=clip.apex + 1),
        lambda clip: replace(clip, onset=clip.onset + 1),
        lambda clip: replace(clip, offset=clip.offset - 1),
        lambda clip: replace(clip, subject="sub02"),
    ],
    ids=["touched", "rewritten", "frame gone", "apex", "onset", "offset", "name"],
)
def test_a_changed_clip_never_reads_an_old_entry(change, clips: list[Clip], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    wanted = {"pair": Pair("as-is-squash", SIZE)}
    prepare(clips, wanted, tmp_path / "cache", quiet=True)
    changed = [clips[0], change(clips[1]), clips[2]]
    inputs = prepare(changed, wanted, tmp_path / "cache", quiet=True)
    assert (inputs.report.prepared, inputs.report.reused) == (1, 2)
    apex = pictures.fit(pictures.read_image(changed[1].frames[changed[1].apex]), SIZE, "squash")
    assert np.array_equal(inputs.arrays["pair"][1, 1], apex)


def test_the_digest_is_that_of_the_arrays(clips: list[Clip], tmp_path: Path) -> None:
    wanted = recipes()
    first = prepare(clips, wanted, tmp_path / "one", quiet=True)
    assert first.digest == prepare(clips, wanted, tmp_path / "one", quiet=True).digest
    touch(clips[0])
    again = prepare(clips, wanted, tmp_path / "one", quiet=True)
    assert again.report.prepared == 1 and again.digest == first.digest  # made again, and the same
    rewrite(clips[0])
    assert prepare(clips, wanted, tmp_path / "one", quiet=True).digest != first.digest
    assert prepare(clips[1:], wanted, tmp_path / "one", quiet=True).digest != first.digest


def test_labels_do_not_matter(clips: list[Clip], tmp_path: Path) -> None:
    wanted = {"pair": Pair("as-is-squash", SIZE)}
    prepare(clips, wanted, tmp_path / "cache", quiet=True)
    others = [replace(clip, emotion="fear", flags=("gaps",), fps=25.0) for clip in clips]
    assert prepare(others, wanted, tmp_path / "cache", quiet=True).report.prepared == 0


@pytest.mark.parametrize("left", [0, 30, 500])
def test_an_entry_that_is_cut_short_is_made_again(left: int, clips: list[Clip], tmp_path: Path) -> None:
    wanted = {"pair": Pair("as-is-squash", SIZE)}
    before = prepare(clips, wanted, tmp_path / "cache", quiet=True).arrays["pair"]
    path = sorted((tmp_path / "cache").rglob("*_b-*.npz"))[0]
    path.write_bytes(path.read_bytes()[:left])
    inputs = prepare(clips, wanted, tmp_path / "cache", quiet=True)
    assert inputs.report.prepared == 1 and np.array_equal(inputs.arrays["pair"], before)


def test_a_flipped_bit_is_a_one_line_error_that_names_the_file(clips: list[Clip], tmp_path: Path) -> None:
    wanted = {"pair": Pair("as-is-squash", SIZE)}
    inputs = prepare(clips, wanted, tmp_path / "cache", quiet=True)
    path = sorted((tmp_path / "cache").rglob("*_b-*.npz"))[0]
    data = bytearray(path.read_bytes())
    data[600] ^= 4  # in the packed frames
    path.write_bytes(data)
    with pytest.raises(FlickerError, match=r"_b-.*damaged.*delete it and run again") as caught:
        _ = inputs.arrays["pair"]
    assert "\n" not in str(caught.value)


def test_keys_name_kind_and_parameters() -> None:
    seen = [recipe.key() for recipe in (*recipes().values(), Pair("slstt", 8), Sequence("aligned", 8))]
    assert len(set(seen)) == len(seen) and Pair("as-is-pad", 9).key() == Pair("as-is-pad", 9).key()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Pair("wide", 8), "no face geometry 'wide'"),
        (lambda: Pair("slstt", 0), "pair: size 0"),
        (lambda: Sequence("slstt", 8, frames=2), "sequence: frames 2"),
        (lambda: FlowMap("slstt", 20, grid=21), "flow-map: grid 21"),
        (lambda: FlowMap("slstt", 28, strain="odd"), "flow-map: strain 'odd'"),
        (lambda: LongFlow("slstt", 28, frames=4), "long-flow: frames 4"),
        (lambda: LongFlow("slstt", 28, interpolation="odd"), "odd"),
    ],
)
def test_values_out_of_range_are_usage_errors(make, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=words):
        make()


def test_arguments_that_make_no_sense_are_usage_errors(clips: list[Clip], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="casme2/sub01/a is given twice"):
        prepare([clips[0], clips[0]], recipes(), tmp_path, quiet=True)
    with pytest.raises(UsageError, match="no clips"):
        prepare([], recipes(), tmp_path, quiet=True)
    with pytest.raises(UsageError, match="limit"):
        prepare(clips, recipes(), tmp_path, quiet=True, limit=2)
