"""Synthetic faces: determinism, layouts, exact motion, and a difficulty that does what it says."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from finetune import datasets
from shards.errors import FlickerError, UsageError
from shards.synthetic import Difficulty, motion_pairs, write_casme2, write_unlabelled
from shards.synthetic_casme2 import WORKBOOK
from shards.synthetic_identity import sample_identity
from shards.synthetic_motion import EMOTION_AUS, UNITS, Event, Strokes, draw_aus, minimum_jerk, unit_indices
from shards.synthetic_scene import Person, Scene

STILL = Difficulty(drift_px=0, distractor_px=0, flicker=0, noise=0, blink=0, jpeg_quality=100)
CLASSES = ("happiness", "disgust", "surprise")


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def scene(
    difficulty: Difficulty, aus: str = "12", amplitude_px: float = 2.0, frames: int = 2, size: int = 96
) -> Scene:
    """A person showing `aus` at peak in the last frame."""
    rng = np.random.default_rng(3)
    person = Person(sample_identity(rng), size, size, 0.52 * size, amplitude_px)
    gains = np.zeros(len(UNITS))
    gains[unit_indices(aus)] = 1
    gains *= amplitude_px / person.scale / person.strokes.peak(gains)
    times = np.linspace(0, 0.2, frames)
    return Scene(person, times, [Event(0.0, 0.2, 0.1, 0.5, gains)], difficulty, rng, (size / 2, size / 2))


# -- unlabelled videos


def test_unlabelled_same_bytes_for_one_seed_and_others_for_another(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_unlabelled(tmp_path / name, videos=2, seconds=0.3, size=64, seed=seed, folders=1)
    first, second, other = (digest(tmp_path / name) for name in "abc")
    assert first == second
    assert len(first) == 2 + 9 and list(first) == list(other)
    assert all(first[name] != other[name] for name in first)


def test_unlabelled_videos_and_folders_hold_the_same_number_of_frames(tmp_path: Path) -> None:
    write_unlabelled(tmp_path, videos=3, seconds=0.5, fps=24, size=64, folders=2)
    video = cv2.VideoCapture(str(tmp_path / "video_000.mp4"))
    count = 0
    while True:
        there, frame = video.read()
        if not there:
            break
        count += 1
        assert frame.shape == (64, 64, 3)
    assert count == 12 and video.get(cv2.CAP_PROP_FPS) == pytest.approx(24)
    for name in ("video_001", "video_002"):
        files = sorted(path.name for path in (tmp_path / name).iterdir())
        assert files == [f"frame_{number:05d}.jpg" for number in range(1, 13)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".synthetic.json", "video_000.mp4", "video_001", "video_002",
    ]  # fmt: skip


def test_unlabelled_movement_survives_h264(tmp_path: Path) -> None:
    size, seconds = 96, 2.0
    quiet = Difficulty(drift_px=0, flicker=0, blink=0, amplitude_px=(2.0, 3.0))
    for name, difficulty in (("moving", quiet), ("still", dataclasses.replace(quiet, amplitude_px=(0, 0)))):
        write_unlabelled(tmp_path / name, videos=1, seconds=seconds, size=size, folders=0, difficulty=difficulty)
    change = {}
    for name in ("moving", "still"):
        video = cv2.VideoCapture(str(tmp_path / name / "video_000.mp4"))
        frames = np.stack([video.read()[1] for _ in range(60)]).astype(float).mean(-1)
        moved = np.abs(frames[8:] - frames[:-8])
        change[name] = np.median([np.percentile(frame, 99) for frame in moved])
    assert change["moving"] > 2 * change["still"]


def test_unlabelled_second_call_writes_only_what_is_missing(tmp_path: Path) -> None:
    options = {"videos": 2, "seconds": 0.3, "size": 64, "folders": 1}
    write_unlabelled(tmp_path, **options)
    before = digest(tmp_path)
    kept = (tmp_path / "video_001").stat().st_mtime_ns
    (tmp_path / "video_000.mp4").unlink()
    write_unlabelled(tmp_path, **options)
    assert digest(tmp_path) == before
    assert (tmp_path / "video_001").stat().st_mtime_ns == kept


def test_other_settings_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    write_unlabelled(tmp_path / "a", videos=1, seconds=0.2, size=64, folders=0)
    with pytest.raises(FlickerError, match=r"other settings.*seed"):
        write_unlabelled(tmp_path / "a", videos=1, seconds=0.2, size=64, folders=0, seed=1)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("precious")
    with pytest.raises(FlickerError, match="not empty"):
        write_casme2(tmp_path / "b", subjects=1, clips_per_subject=2)
    assert (tmp_path / "b" / "thesis.txt").read_text() == "precious"


# -- the labelled set


def test_casme2_layout_and_workbook_are_the_real_ones(tmp_path: Path, shared: Path) -> None:
    root = tmp_path / "casme2"
    write_casme2(root, subjects=2, clips_per_subject=6, ground_truth=tmp_path / "truth.json")
    sheet = openpyxl.load_workbook(root / WORKBOOK)["Sheet1"]
    header, *rows = sheet.iter_rows(values_only=True)
    sample = (shared / "data/annotations/samples/CASME2-coding-20140508_sample.csv").read_text().splitlines()[0]
    assert [name or "" for name in header] == sample.split(",")
    assert len(rows) == 12
    kinds = set()
    for subject, clip, blank, onset, apex, offset, blank2, aus, emotion in rows:
        assert re.fullmatch(r"0[12]", subject) and re.fullmatch(r"EP\d{2}(_\d{1,2}){0,2}f?", clip)
        assert blank is None and blank2 is None and emotion in EMOTION_AUS
        assert all(isinstance(number, int) for number in (onset, apex, offset)) and 1 <= onset < apex < offset
        assert re.fullmatch(r"[LR]?\d+(\+[LR]?\d+)*", str(aus))
        kinds.add(type(aus))
        folder = root / "Cropped" / f"sub{subject}" / clip
        numbers = sorted(int(re.fullmatch(r"reg_img([1-9]\d*)\.jpg", path.name)[1]) for path in folder.iterdir())
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert numbers[0] <= onset and numbers[-1] > offset
        assert cv2.imread(str(folder / f"reg_img{apex}.jpg")).shape == (170, 140, 3)
    assert kinds == {int, str}
    folders = {(path.parent.name, path.name) for path in root.glob("Cropped/*/*")}
    assert folders == {(f"sub{row[0]}", row[1]) for row in rows}
    assert sorted(path.name for path in root.iterdir()) == [".synthetic.json", WORKBOOK, "Cropped"]


def test_casme2_same_bytes_for_one_seed_and_others_for_another(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_casme2(tmp_path / name, subjects=2, clips_per_subject=3, size=(64, 72), seed=seed, keyframes_only=True)
    first, second, other = (digest(tmp_path / name) for name in "abc")
    assert first == second and len(first) == 2 * 3 * 3 + 2
    assert not set(first.values()) & set(other.values())


def test_casme2_keyframes_are_those_of_the_whole_clips(tmp_path: Path) -> None:
    for name, only in (("whole", False), ("keys", True)):
        write_casme2(tmp_path / name, subjects=1, clips_per_subject=2, size=(64, 72), keyframes_only=only)
    whole, keys = digest(tmp_path / "whole"), digest(tmp_path / "keys")
    frames = [name for name in keys if name.endswith(".jpg")]
    assert len(frames) == 6 and all(keys[name] == whole[name] for name in frames)
    assert keys[WORKBOOK] == whole[WORKBOOK]


def test_casme2_continues_after_an_interruption(tmp_path: Path) -> None:
    options = {"subjects": 2, "clips_per_subject": 2, "size": (64, 72), "keyframes_only": True}
    truth = tmp_path / "truth.json"
    write_casme2(tmp_path / "a", **options, ground_truth=truth)
    before, true = digest(tmp_path / "a"), truth.read_text()
    (tmp_path / "a" / WORKBOOK).unlink()
    clip = next((tmp_path / "a" / "Cropped" / "sub02").iterdir())
    for path in clip.iterdir():
        path.unlink()
    clip.rmdir()
    write_casme2(tmp_path / "a", **options, ground_truth=truth)
    assert digest(tmp_path / "a") == before and truth.read_text() == true


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ("happiness", "envy")}, "envy"),
        ({"classes": ("happiness",)}, "two or more"),
        ({"subjects": 0}, "subjects"),
        ({"size": (20, 30)}, "at least 48"),
        ({"difficulty": Difficulty(amplitude_px=(1, 40))}, "40"),
    ],
)
def test_casme2_refuses_what_it_cannot_draw(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        write_casme2(tmp_path / "a", **options)


def test_ground_truth_inside_the_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="outside"):
        write_casme2(tmp_path / "a", ground_truth=tmp_path / "a" / "truth.json")


# -- motion


def test_displacement_joins_the_same_skin_exactly() -> None:
    film = scene(dataclasses.replace(STILL, drift_px=1.0), aus="4+9", amplitude_px=3.0)
    moved, strokes = film.displacement(0, 1), film.person.strokes
    head = film._on_head(film._pixels, 0)
    landed = head + moved @ np.linalg.inv(film.poses[0][:, :2]).T
    skin = head - strokes.displacement(head, film.gains[0])
    found = landed - strokes.displacement(landed, film.gains[1])
    inside = np.linalg.norm(moved, axis=-1) > 0
    assert inside.any() and np.abs(found - skin)[inside].max() * film.person.scale < 0.002


@pytest.mark.parametrize("aus", ["12", "1+2", "4+7", "L10", "17", "25"])
def test_displacement_is_what_the_frames_show(aus: str) -> None:
    film = scene(STILL, aus=aus, size=160)
    onset, apex = film.frames().astype(np.float32)
    moved = film.displacement(0, 1)
    rows, columns = np.mgrid[:160, :160].astype(np.float32)
    where = np.linalg.norm(moved, axis=-1) > 0.5

    def residual(share: float) -> float:
        there = columns + np.float32(share) * moved[..., 0], rows + np.float32(share) * moved[..., 1]
        return float((np.square(cv2.remap(apex, *there, cv2.INTER_CUBIC) - onset)[where]).mean())

    shares = np.arange(0.7, 1.31, 0.05)
    errors = [residual(share) for share in shares]
    assert shares[int(np.argmin(errors))] == pytest.approx(1.0, abs=0.051)
    assert min(errors) < 0.2 * residual(0.0)


def test_displacement_peaks_at_the_amplitude_and_is_small_elsewhere() -> None:
    for amplitude in (0.5, 1.0, 3.0):
        size = np.linalg.norm(scene(STILL, amplitude_px=amplitude).displacement(0, 1), axis=-1)
        assert size.max() == pytest.approx(amplitude, rel=0.05)
        assert size[:20].max() < 0.02 * amplitude  # the hair does not move when mouth corners rise


def test_pairs_move_between_half_a_pixel_and_three() -> None:
    frames, moved = motion_pairs(16, size=96, seed=0)
    assert frames.shape == (16, 2, 96, 96, 3) and frames.dtype == np.uint8
    assert moved.shape == (16, 96, 96, 2) and moved.dtype == np.float32
    peaks = np.linalg.norm(moved, axis=-1).max((1, 2))
    assert peaks.min() > 0.45 and peaks.max() < 3.1 and np.ptp(peaks) > 0.8


def test_head_drift_is_in_the_frames_but_not_in_the_displacement() -> None:
    drifting = dataclasses.replace(STILL, drift_px=6.0, amplitude_px=(0, 0))
    frames, moved = motion_pairs(2, size=96, seed=0, difficulty=drifting)
    assert not moved.any()
    assert np.abs(frames[:, 0].astype(int) - frames[:, 1]).mean() > 1
    frames, moved = motion_pairs(2, size=96, seed=0, difficulty=dataclasses.replace(drifting, drift_px=0))
    assert not moved.any() and (frames[:, 0] == frames[:, 1]).all()


def test_pairs_do_not_depend_on_the_count() -> None:
    few, many = motion_pairs(2, size=64, seed=5), motion_pairs(6, size=64, seed=5)
    assert (few[0] == many[0][:2]).all() and (few[1] == many[1][:2]).all()
    assert (motion_pairs(2, size=64, seed=6)[0] != few[0]).any()


def test_the_three_outputs_show_different_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shards.synthetic_scene as scenes

    seen: list[int] = []
    draw = scenes.sample_identity

    def record(rng: np.random.Generator):
        seen.append(draw(rng).texture_seed)
        return draw(np.random.default_rng(seen[-1]))

    monkeypatch.setattr(scenes, "sample_identity", record)
    write_unlabelled(tmp_path / "a", videos=3, seconds=0.1, size=64, folders=0)
    write_casme2(tmp_path / "b", subjects=3, clips_per_subject=2, size=(64, 72), keyframes_only=True)
    motion_pairs(9, size=64, seed=0)
    assert len(seen) == 9 == len(set(seen))


@given(st.floats(0, 1), st.floats(0, 1))
def test_minimum_jerk_rises_from_nought_to_one(a: float, b: float) -> None:
    low, high = minimum_jerk(np.array(sorted((a, b))))
    assert 0 <= low <= high <= 1
    assert minimum_jerk(np.array([-1.0, 0.5, 2.0])).tolist() == [0.0, 0.5, 1.0]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31))
def test_every_unit_has_peak_one_on_every_face(seed: int) -> None:
    strokes = Strokes(sample_identity(np.random.default_rng(seed)).landmarks)
    for index in range(len(UNITS)):
        assert strokes.peak(np.eye(len(UNITS))[index]) == pytest.approx(1, abs=1e-4)


def test_left_is_the_persons_left() -> None:
    size = np.linalg.norm(scene(STILL, aus="L12").displacement(0, 1), axis=-1)
    assert size[:, 52:].max() > 1.9 and size[:, :40].max() < 0.3


def test_unknown_unit_is_refused() -> None:
    with pytest.raises(FlickerError, match="99"):
        unit_indices("4+99")


# -- difficulty


@pytest.mark.parametrize(
    "change",
    [{"amplitude_px": (2, 1)}, {"amplitude_px": (0, 1)}, {"noise": -1}, {"overlap": 1.5}, {"crf": 60}],
)
def test_impossible_difficulty_is_refused(change: dict) -> None:
    with pytest.raises(UsageError):
        Difficulty(**change)


def test_overlap_is_the_share_of_sets_of_other_classes() -> None:
    rng = np.random.default_rng(0)
    shown = [draw_aus("disgust", 0.3, rng, CLASSES)[1] for _ in range(3000)]
    assert np.mean([name != "disgust" for name in shown]) == pytest.approx(0.3, abs=0.03)
    sets = [aus for table in EMOTION_AUS.values() for aus in table]
    assert len(sets) == len(set(sets))  # so that 1 - overlap is what the true units can reach


@pytest.mark.parametrize(
    ("field", "value"),
    [("drift_px", 3.0), ("flicker", 0.1), ("noise", 6.0), ("blink", 30.0), ("style", 0.8), ("jpeg_quality", 10)],
)
def test_each_field_changes_the_frames(field: str, value: float) -> None:
    easy = dataclasses.replace(STILL, style=0)
    hard = dataclasses.replace(easy, **{field: value})
    (plain, _), (changed, _) = (motion_pairs(2, size=64, seed=0, difficulty=d) for d in (easy, hard))
    assert np.abs(plain.astype(int) - changed).mean() > 0.05


def flow_score(root: Path, difficulty: Difficulty) -> float:
    """UF1, leaving one subject out, of a linear classifier on coarse optical flow from onset to apex."""
    write_casme2(root, classes=CLASSES, difficulty=difficulty, keyframes_only=True)
    clips, _ = datasets.load("casme2", root)
    features = []
    for clip in clips:
        onset, apex = (cv2.imread(str(clip.frames[n]), 0) for n in (clip.onset, clip.apex))
        flow = cv2.calcOpticalFlowFarneback(onset, apex, None, 0.5, 3, 15, 3, 7, 1.5, 0)
        features.append(cv2.resize(flow - np.median(flow, (0, 1)), (16, 16), interpolation=cv2.INTER_AREA).ravel())
    x, y = np.array(features), np.array([clip.emotion for clip in clips])
    subject = np.array([clip.subject for clip in clips])
    predicted = np.empty(len(y), object)
    for held_out in np.unique(subject):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
        rest = subject != held_out
        predicted[~rest] = model.fit(x[rest], y[rest]).predict(x[~rest])
    return float(f1_score(y, predicted, average="macro"))


def test_flow_recognises_the_emotions_and_nothing_remains_without_amplitude(tmp_path: Path) -> None:
    assert 0.6 < flow_score(tmp_path / "default", Difficulty()) < 0.97
    assert flow_score(tmp_path / "control", Difficulty(amplitude_px=(0, 0))) < 0.5  # chance: 0.33


# -- the command


def test_command_writes_both_sets(tmp_path: Path, repository: Path) -> None:
    command = [
        sys.executable,
        "launch/synthesise.py",
        "--out",
        str(tmp_path / "out"),
        "--videos",
        "1",
        "--seconds",
        "0.2",
    ]
    command += ["--size", "64", "--subjects", "1", "--clips_per_subject", "2", "--classes", "[happiness,surprise]"]
    command += ["--keyframes_only", "true", "--ground_truth", "true", "--difficulty.noise", "2"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/videos/video_000").is_dir()
    assert (tmp_path / "out/casme2" / WORKBOOK).is_file()
    assert (tmp_path / "out/casme2_ground_truth.json").is_file()
    again = subprocess.run([*command, "--seed", "1"], cwd=repository, capture_output=True, text=True)
    assert again.returncode == 1 and "other settings" in again.stderr and "Traceback" not in again.stderr
    wrong = subprocess.run([*command[:4], "--difficulty.nose", "1"], cwd=repository, capture_output=True, text=True)
    assert wrong.returncode == 2 and "difficulty.noise" in wrong.stderr
