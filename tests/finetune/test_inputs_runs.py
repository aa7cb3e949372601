"""Preparing inputs when something goes wrong or many work at once: bad images, kills, processes, faces."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from finetune import frames as pictures
from finetune.clips import Clip
from finetune.faces import backends, crops, regions
from finetune.inputs import FlowMap, LongFlow, Pair, Recipe, Regions, Sequence, locating, prepare, views
from shards.errors import FlickerError, UsageError
from tests.finetune.inputs_helpers import Fixed, Unsure, make_clip, texture

SIZE = 40


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    """Four clips."""
    return [make_clip(tmp_path / "images", name, seed) for seed, name in enumerate("abcd")]


@pytest.fixture
def fixed() -> None:
    """The backend 'fixed'."""
    backends.register("fixed", Fixed)


def wanted() -> dict[str, Recipe]:
    """Onset and apex, and every frame."""
    return {"pair": Pair("as-is-squash", SIZE), "all": Sequence("as-is-squash", 16)}


def spoil(clip: Clip, number: int) -> Path:
    """The image is no image."""
    clip.frames[number].write_bytes(b"\xff\xd8\xff no JPEG")
    return clip.frames[number]


def test_a_bad_image_in_between_is_left_out_and_reported(clips: list[Clip], tmp_path: Path) -> None:
    bad = spoil(clips[1], 50)
    clips[2].frames[49].unlink()
    inputs = prepare(clips, wanted(), tmp_path / "cache", quiet=True)
    assert [len(frames) for frames in inputs.arrays["all"]] == [15, 14, 14, 15]
    assert inputs.arrays["all.index"][1].tolist() == [46, 47, 48, 49, *range(51, 61)]
    assert inputs.arrays["all.apex"].tolist() == [7, 6, 6, 7]
    assert len(inputs.report.bad) == 2 and str(bad) in inputs.report.bad[0] and "sub01/b" in inputs.report.bad[0]
    again = prepare(clips, wanted(), tmp_path / "cache", quiet=True)
    assert again.report.reused == 4 and again.report.bad == inputs.report.bad


def test_a_bad_offset_gives_way_to_the_frame_before_it(clips: list[Clip], tmp_path: Path) -> None:
    spoil(clips[0], 60)
    inputs = prepare(clips[:1], {"some": Sequence("as-is-pad", 8, frames=5)}, tmp_path / "cache", quiet=True)
    assert inputs.arrays["some.index"][0].tolist() == [46, 49, 53, 56, 59]


def test_an_image_of_another_size_is_a_bad_image(clips: list[Clip], tmp_path: Path) -> None:
    cv2.imwrite(str(clips[0].frames[47]), texture(1, 30, 30))
    report = prepare(clips, wanted(), tmp_path / "cache", quiet=True).report
    assert report.bad == [
        f"casme2/sub01/a: image {clips[0].frames[47]} is 30 x 30 px, the clip's apex 50 x 60 px; replace the file"
    ]


@pytest.mark.parametrize("number", [46, 53])
def test_a_bad_onset_or_apex_leaves_the_clip_out_up_to_the_limit(
    number: int, clips: list[Clip], tmp_path: Path
) -> None:
    bad = spoil(clips[1], number)
    with pytest.raises(
        FlickerError, match=f"1 of 4 clips cannot .* limit of 0.0%: casme2/sub01/b: .*{bad}"
    ) as caught:
        prepare(clips, wanted(), tmp_path / "cache", quiet=True)
    assert "\n" not in str(caught.value)
    inputs = prepare(clips, wanted(), tmp_path / "cache", quiet=True, limit=0.25)
    assert [clip.clip for clip in inputs.clips] == ["a", "c", "d"] and len(inputs.arrays["pair"]) == 3
    assert inputs.report.reused == 3 and list(inputs.report.left_out) == ["casme2/sub01/b"]
    apex = pictures.fit(pictures.read_image(clips[2].frames[53]), SIZE, "squash")
    assert np.array_equal(inputs.arrays["pair"][1, 1], apex)
    text = inputs.report.text()
    assert "3 of 4 clips" in text and f"clip left out casme2/sub01/b: cannot read the image {bad}" in text


def test_a_mended_image_is_used(clips: list[Clip], tmp_path: Path) -> None:
    bad = spoil(clips[1], 50)
    prepare(clips, wanted(), tmp_path / "cache", quiet=True)
    cv2.imwrite(str(bad), texture(1))
    inputs = prepare(clips, wanted(), tmp_path / "cache", quiet=True)
    assert inputs.report.prepared == 1 and not inputs.report.bad and inputs.arrays["all"].shape[1] == 15


def test_clips_without_images_are_refused(clips: list[Clip], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="casme2/sub01/a has no image"):
        prepare([replace(clips[0], frames={})], wanted(), tmp_path, quiet=True)


def test_a_folder_that_takes_no_file_stops_the_run(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(FlickerError, match=r"cannot write the prepared input .*No space left on device; free space"):
        prepare(clips, wanted(), tmp_path / "cache", quiet=True, limit=1)


KILLED = """
import os, pickle, signal, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, {root!r})
from finetune.inputs import prepare
from tests.finetune.test_inputs_runs import wanted
clips = pickle.loads(Path({clips!r}).read_bytes())
genuine, written = np.savez, []

def savez(path, **arrays):
    genuine(path, **arrays)
    written.append(path)
    if len(written) == 4:  # the second clip's second entry, half of it
        data = Path(path).read_bytes()
        Path(path).write_bytes(data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

np.savez = savez
prepare(clips, wanted(), Path({cache!r}), quiet=True)
"""


def test_a_killed_run_goes_on_where_it_was(clips: list[Clip], tmp_path: Path, repository: Path) -> None:
    import pickle

    (tmp_path / "clips.pkl").write_bytes(pickle.dumps(clips))
    cache = tmp_path / "cache"
    script = KILLED.format(root=str(repository), clips=str(tmp_path / "clips.pkl"), cache=str(cache))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    kept = {path: path.stat().st_mtime_ns for path in cache.rglob("[!.]*.npz")}
    assert len(kept) == 3
    inputs = prepare(clips, wanted(), cache, quiet=True)
    assert (inputs.report.reused, inputs.report.prepared) == (1, 3)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    fresh = prepare(clips, wanted(), tmp_path / "fresh", quiet=True)
    assert all(np.array_equal(inputs.arrays[name], fresh.arrays[name]) for name in fresh.arrays)


def test_two_processes_make_what_one_makes(clips: list[Clip], tmp_path: Path) -> None:
    recipes = wanted() | {"map": FlowMap("as-is-squash", SIZE, grid=10)}
    spoil(clips[1], 53)
    one = prepare(clips, recipes, tmp_path / "one", quiet=True, limit=0.5)
    two = prepare(clips, recipes, tmp_path / "two", quiet=True, limit=0.5, workers=2)
    assert all(np.array_equal(one.arrays[name], two.arrays[name]) for name in one.arrays)
    assert one.report.left_out == two.report.left_out and set(one.report.seconds) == set(two.report.seconds)
    names = [sorted(path.name for path in (tmp_path / side).rglob("*.npz")) for side in ("one", "two")]
    assert names[0] == names[1] and len(names[0]) == 9


def test_threads_are_as_they_were(clips: list[Clip], tmp_path: Path) -> None:
    import torch

    before = torch.get_num_threads()
    cv2.setNumThreads(3)
    torch.set_num_threads(2)
    try:
        prepare(clips, wanted(), tmp_path / "cache", quiet=True)
        assert (cv2.getNumThreads(), torch.get_num_threads()) == (3, 2)
    finally:
        cv2.setNumThreads(1)
        torch.set_num_threads(before)


def test_points_and_crops_by_landmarks(clips: list[Clip], tmp_path: Path, fixed: None) -> None:
    recipes = {"where": Regions("aligned", 96), "pair": Pair("aligned", 96), "long": LongFlow("box", 32, frames=3)}
    inputs = prepare(clips, recipes, tmp_path / "cache", quiet=True, backend="fixed")
    assert inputs.report.sources == {"detected": 4} and not inputs.report.fallbacks
    image = pictures.read_image(clips[2].frames[53])
    face = Fixed().detect(image)[0]
    crop = crops.aligned(face.points, 96)
    points = crops.map_points(crop, face.points)
    assert np.allclose(inputs.arrays["where"][2], points)
    assert np.array_equal(inputs.arrays["where.boxes"][2], regions.au_boxes(points, (96, 96), 90))
    assert np.allclose(inputs.arrays["where.areas"][2], regions.areas(points, 96, 28))
    assert np.array_equal(inputs.arrays["pair"][2, 1], crop.apply(image))
    assert inputs.arrays["long"].shape == (4, 3, 32, 32, 2)


def test_another_backend_or_version_never_reads_an_old_entry(
    clips: list[Clip], tmp_path: Path, fixed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = {"pair": Pair("box", 32), "plain": Pair("as-is-pad", 32)}
    prepare(clips, recipes, tmp_path, quiet=True, backend="fixed")
    assert prepare(clips, recipes, tmp_path, quiet=True, backend="fixed").report.prepared == 0
    monkeypatch.setattr(Fixed, "version", "2")
    report = prepare(clips, recipes, tmp_path, quiet=True, backend="fixed").report
    assert report.prepared == 4 and "plain" not in report.seconds
    monkeypatch.setattr(crops, "VERSION", 99)
    assert prepare(clips, recipes, tmp_path, quiet=True, backend="fixed").report.prepared == 4


def test_faces_found_by_a_fallback_are_reported_also_from_the_cache(
    clips: list[Clip], tmp_path: Path, fixed: None
) -> None:
    path = clips[1].frames[53]
    image = cv2.imread(str(path))
    assert image is not None
    image[:] = 0
    cv2.imwrite(str(path), image)
    for _ in range(2):
        report = prepare(clips, {"pair": Pair("box", 32)}, tmp_path / "cache", quiet=True, backend="fixed").report
        assert report.sources == {"detected": 3, "neighbour": 1}
        assert report.fallbacks == {"neighbour": ["casme2/sub01/b"]}
        assert "face by neighbour: casme2/sub01/b" in report.text()


def test_too_many_guessed_faces_are_refused_now_and_later(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends.register("unsure", Unsure)
    for clip in clips[:2]:
        for path in clip.frames.values():
            cv2.imwrite(str(path), np.zeros((60, 50, 3), np.uint8))
    prepare(clips[2:], {"pair": Pair("box", 32)}, tmp_path / "cache", quiet=True, backend="unsure")
    with pytest.raises(FlickerError, match=r"no face found in the apex frame of 2 of 4 clips, more than 5%: .*/a, "):
        prepare(clips, {"pair": Pair("box", 32)}, tmp_path / "cache", quiet=True, backend="unsure")
    monkeypatch.setattr(locating, "GUESSED", 0.5)
    prepare(clips, {"pair": Pair("box", 32)}, tmp_path / "cache", quiet=True, backend="unsure")
    monkeypatch.setattr(locating, "GUESSED", 0.4)
    with pytest.raises(FlickerError, match="no face found"):
        prepare(clips, {"pair": Pair("box", 32)}, tmp_path / "cache", quiet=True, backend="unsure")


@pytest.mark.parametrize("bad", [[0], [1, 3]])
def test_an_apex_without_image_leaves_its_clip_out_before_the_search_for_faces(
    bad: list[int], clips: list[Clip], tmp_path: Path, fixed: None
) -> None:
    for row in bad:
        spoil(clips[row], 53)
    recipes = {"pair": Pair("box", 32), "plain": Pair("as-is-pad", 32)}
    inputs = prepare(clips, recipes, tmp_path / "cache", quiet=True, backend="fixed", limit=0.5)
    assert list(inputs.report.left_out) == [clips[row].id for row in bad]
    assert len(inputs.arrays["pair"]) == 4 - len(bad)


@pytest.mark.parametrize("how", ["squash", "crop", "pad"])
@pytest.mark.parametrize("shape", [(60, 50), (50, 60), (61, 43), (40, 40), (200, 333)])
def test_as_is_crops_move_points_as_they_move_pixels(how: str, shape: tuple[int, int]) -> None:
    height, width = shape
    for x, y in ((0.45, 0.5), (0.6, 0.4)):
        at = np.array([x * width, y * height])
        rows, columns = np.mgrid[:height, :width]
        blob = 255 * np.exp(-((columns - at[0]) ** 2 + (rows - at[1]) ** 2) / (2 * (min(shape) / 16) ** 2))
        place = views.place(f"as-is-{how}", SIZE, (width, height), None)
        crop = place.apply(np.dstack([blob.astype(np.uint8)] * 3))[..., 0].astype(float)
        rows, columns = np.mgrid[:SIZE, :SIZE]
        seen = np.array([(columns * crop).sum(), (rows * crop).sum()]) / crop.sum()
        assert np.allclose(seen, views.transformed(place, at[None])[0], atol=0.15)


def test_real_landmarks_on_simulated_clips(shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("dlib")
    from finetune.datasets import load

    found, _ = load("casme2", shared / "data" / "sim" / "casme2")
    some = [found[0], found[-1]]
    recipes: dict[str, Recipe] = {
        "where": Regions("aligned", 224),
        "pair": Pair("aligned", 224),
        "map": FlowMap("slstt", 128),
    }
    inputs = prepare(some, recipes, tmp_path, quiet=True)
    assert sum(inputs.report.sources.values()) == 2
    eyes = inputs.arrays["where"][:, 36:48].reshape(2, 2, 6, 2).mean(axis=2)  # [n side (x, y)]
    assert (eyes[:, 0, 0] < 112).all() and (eyes[:, 1, 0] > 112).all() and (eyes[..., 1] < 112).all()
    assert (inputs.arrays["where.boxes"][..., 2:] == 90).all()
    assert inputs.arrays["map"].shape == (2, 28, 28, 3) and np.isfinite(inputs.arrays["map"]).all()
