"""The queue around the apex, the estimators, and how far they beat linear blending on held-out frames."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.frames import read_image
from finetune.motion import interpolation, tim
from shards.errors import FlickerError, UsageError
from shards.video import VideoFrames

CLIPS = {
    "casme2": "casme2/Cropped/sub01/EP19_05f",
    "samm": "samm/009/009_3_4",
    "smic": "smic/SMIC_all_cropped/HS/s2/micro/surprise/s2_sur_01",
}
"""Simulated clips whose frames hold the motion of a whole expression."""


def psnr(found: np.ndarray, truth: np.ndarray) -> float:
    """dB, over 8-bit values."""
    return float(10 * np.log10(255**2 / np.mean(np.square(found.astype(np.float64) - truth))))


def held_out(clip: np.ndarray, estimator: str, gap: int) -> float:
    """Mean PSNR of the frames half-way between those given, which are 2 × gap frames apart."""
    given_frames, wanted = clip[:: 2 * gap], clip[gap :: 2 * gap]
    wanted = wanted[: len(given_frames) - 1]
    if estimator == "tim":
        smooth = tim.interpolate(given_frames, np.arange(len(wanted)) + 0.5)
        found = [np.clip(np.rint(frame), 0, 255) for frame in smooth]
    else:
        found = [interpolation.middle(a, b, estimator) for a, b in itertools.pairwise(given_frames)]
    return float(np.mean([psnr(frame, truth) for frame, truth in zip(found, wanted, strict=True)]))


def real_video(shared: Path, count: int) -> np.ndarray:
    """The first frames of the real video at half its size, [T 180 320 3]."""
    frames = itertools.islice(VideoFrames(shared / "data/video/WolfgangLanger_Pexels.mp4"), count)
    return np.stack([cv2.resize(frame.pixels, (320, 180), interpolation=cv2.INTER_AREA) for frame in frames])


def simulated(shared: Path, folder: str) -> np.ndarray:
    """The first frames of a simulated clip."""
    files = sorted((shared / "data/sim" / folder).iterdir(), key=lambda file: int(re.findall(r"\d+", file.stem)[-1]))
    return np.stack([read_image(file) for file in files[:41]])


def test_flow_beats_linear_blending_on_the_real_video(shared: Path) -> None:
    clip = real_video(shared, 41)
    for gap in (1, 2):
        scores = {name: held_out(clip, name, gap) for name in ("linear", "tim", "flow")}
        print(f"\nreal video, held out {gap} of {2 * gap}, dB:", {k: round(v, 2) for k, v in scores.items()}, end="")
        assert scores["flow"] > scores["linear"] + 1.0


@pytest.mark.parametrize("name", CLIPS)
def test_flow_beats_linear_blending_on_simulated_clips(shared: Path, name: str) -> None:
    clip = simulated(shared, CLIPS[name])
    for gap in (1, 2):
        scores = {name: held_out(clip, name, gap) for name in ("linear", "tim", "flow")}
        print(f"\n{name}, held out {gap} of {2 * gap}, dB:", {k: round(v, 3) for k, v in scores.items()}, end="")
        assert scores["flow"] > scores["linear"]


def moving(at: float) -> np.ndarray:
    """A bright smooth blob that moves 6 px to the right and 2 px down per unit of time, uint8 [48 64 3]."""
    down, across = np.mgrid[:48, :64]
    blob = np.exp(-((across - 20 - 6 * at) ** 2 + (down - 20 - 2 * at) ** 2) / 60)
    texture = 20 * np.sin(across / 5 - 6 / 5 * at) * np.sin(down / 6 - 2 / 6 * at)
    return np.repeat(np.rint(60 + 150 * blob + texture)[..., None], 3, axis=2).astype(np.uint8)


def test_flow_finds_the_middle_of_a_known_movement() -> None:
    found = {name: psnr(interpolation.middle(moving(0), moving(1), name), moving(0.5)) for name in ("flow", "linear")}
    assert found["flow"] > 36 and found["flow"] > found["linear"] + 8


def test_what_is_hidden_in_one_frame_is_taken_from_the_other() -> None:
    """A textured square slides over a textured ground: the uncovered ground exists in one frame only."""
    rng = np.random.default_rng(0)
    ground = cv2.GaussianBlur(rng.uniform(0, 255, (80, 120, 3)).astype(np.float32), (0, 0), 2)
    ground = cv2.normalize(ground, None, 0, 255, cv2.NORM_MINMAX)
    square = cv2.resize(rng.uniform(0, 255, (10, 10, 3)).astype(np.float32), (32, 32), interpolation=cv2.INTER_CUBIC)

    def scene(left: int) -> np.ndarray:
        picture = ground.copy()
        picture[24:56, left : left + 32] = square
        return np.clip(picture, 0, 255).astype(np.uint8)

    first, truth, second = scene(40), scene(44), scene(48)
    uncovered = np.s_[26:54, 40:44]  # ground at half time, hidden by the square in the first frame
    found = interpolation.middle(first, second, "flow")
    blend = interpolation.middle(first, second, "linear")
    assert psnr(found[uncovered], truth[uncovered]) > psnr(blend[uncovered], truth[uncovered]) + 1
    assert psnr(found, truth) > psnr(blend, truth) + 8


@pytest.mark.parametrize("estimator", ["flow", "linear", "tim"])
def test_equal_frames_have_themselves_in_the_middle(estimator: str) -> None:
    frame = moving(0.3)
    assert np.array_equal(interpolation.middle(frame, frame, estimator), frame)


def test_linear_and_tim_give_the_mean_of_two() -> None:
    first, second = np.full((4, 4, 3), 10, np.uint8), np.full((4, 4, 3), 21, np.uint8)
    assert (interpolation.middle(first, second, "linear") == 16).all()  # 15.5 rounds to even
    assert (interpolation.middle(first, second, "tim") == 16).all()


def test_queue_is_the_papers() -> None:
    new = [middle for _, middle, _ in interpolation.queue(7, 3, 6)]
    assert new == [2.5, 3.5, 1.5, 4.5, 0.5, 5.5]  # a-0.5, a+0.5, a-1.5, a+1.5, .., o+0.5, f-0.5
    new = [middle for _, middle, _ in interpolation.queue(5, 1, 8)]
    assert new == [0.5, 1.5, 2.5, 3.5, 0.75, 1.25, 0.25, 1.75]  # one side ends, then the second pass
    assert interpolation.queue(1, 0, 5) == []


@given(st.integers(2, 40), st.integers(0, 10_000), st.integers(0, 120))
def test_queue_halves_gaps_that_exist(length: int, place: int, missing: int) -> None:
    new = interpolation.queue(length, place % length, missing)
    assert len(new) == missing
    times = [float(at) for at in range(length)]
    for before, middle, after in new:
        assert middle == (before + after) / 2 and before in times and after in times
        assert not any(before < at < after for at in times)
        times.append(middle)


def ramp(length: int) -> np.ndarray:
    """Frames whose grey level is 10 × their number."""
    return np.repeat(np.arange(length, dtype=np.uint8) * 10, 4 * 4 * 3).reshape(length, 4, 4, 3)


@given(st.integers(1, 16), st.integers(0, 10_000), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_around_apex_keeps_all_frames_and_reaches_the_count(length: int, place: int, count: int) -> None:
    apex = place % length
    made = interpolation.around_apex(ramp(length), apex, count, "linear")
    assert len(made.frames) == len(made.times) == (1 if length == 1 else max(length, count))
    assert (np.diff(made.times) > 0).all() and made.times[made.apex] == apex
    assert set(range(length)) <= set(made.times.tolist())
    assert np.abs(made.frames[:, 0, 0, 0] - 10 * made.times).max() <= 3  # rounding of every generation
    whole = made.times == np.round(made.times)
    assert np.array_equal(made.frames[whole], ramp(length))


@given(st.integers(1, 16), st.integers(0, 10_000), st.sampled_from([1, 3, 8, 11]))
@settings(max_examples=40, deadline=None)
def test_window_has_the_apex_in_its_middle(length: int, place: int, count: int) -> None:
    apex = place % length
    made = interpolation.window(ramp(length), apex, count, "linear")
    assert made.frames.shape == (count, 4, 4, 3) and made.times.shape == (count,)
    assert made.apex == count // 2 and made.times[made.apex] == apex
    assert (np.diff(made.times) >= 0).all() and made.times.min() >= 0 and made.times.max() <= length - 1
    before, after = made.times[: made.apex], made.times[made.apex + 1 :]
    assert (before < apex).all() if apex > 0 else (before == 0).all()
    assert (after > apex).all() if apex < length - 1 else (after == apex).all()
    if len(before) <= apex and len(after) <= length - 1 - apex:  # enough frames: none is made
        assert made.times.tolist() == list(range(apex - count // 2, apex - count // 2 + count))


def test_window_fills_only_the_short_side() -> None:
    made = interpolation.window(ramp(12), 2, 11, "linear")
    assert made.times.tolist() == [0, 0.5, 1, 1.5, 1.75, 2, 3, 4, 5, 6, 7]


def test_tim_uses_the_whole_clip() -> None:
    frames = np.repeat(np.array([50, 100, 60, 120], np.uint8), 12).reshape(4, 2, 2, 3)
    made = interpolation.around_apex(frames, 1, 6, "tim")
    expected = tim.interpolate(frames, [0.5, 1.5])
    assert made.times.tolist() == [0, 0.5, 1, 1.5, 2, 3]
    assert np.array_equal(made.frames[[1, 3]], np.rint(expected).astype(np.uint8))
    assert made.frames[1, 0, 0, 0] != 75  # not the mean of two neighbours


class Network(torch.nn.Module):
    """A stand-in for an exported interpolation network."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault = fault

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        if self.fault == "shape":
            return first[:, :1]
        if self.fault == "nan":
            return first / 0 * 0
        if self.fault == "raise":
            raise ValueError("sides must be multiples of 64 px")
        assert first.shape[2] % 64 == 0 and first.shape[3] % 64 == 0
        return first * 0.25 + second * 0.75


def saved(folder: Path, fault: str = "") -> str:
    path = folder / f"net{fault}.pt"
    torch.jit.save(torch.jit.script(Network(fault)), str(path))
    return f"torchscript:{path}"


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_network_is_used(tmp_path: Path) -> None:
    first, second = np.full((30, 70, 3), 40, np.uint8), np.full((30, 70, 3), 80, np.uint8)
    first[..., 2] = 0
    found = interpolation.middle(first, second, saved(tmp_path))
    assert found.shape == (30, 70, 3) and found.dtype == np.uint8
    assert (found == [70, 70, 60]).all()  # channels in order, values in 0..1 there and back
    made = interpolation.around_apex(np.stack([first, second]), 0, 3, saved(tmp_path))
    assert made.times.tolist() == [0, 0.5, 1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fault, message", [("shape", "not one float"), ("nan", "finite"), ("raise", "multiples")])
def test_a_network_at_fault_is_told_in_one_line(tmp_path: Path, fault: str, message: str) -> None:
    with pytest.raises(FlickerError, match=message) as error:
        interpolation.middle(moving(0), moving(1), saved(tmp_path, fault))
    assert "\n" not in str(error.value) and "net" in str(error.value)


def test_wrong_names_and_files_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no interpolation estimator 'rife'; known: flow"):
        interpolation.middle(moving(0), moving(1), "rife")
    with pytest.raises(FlickerError, match="no file"):
        interpolation.middle(moving(0), moving(1), f"torchscript:{tmp_path / 'absent.pt'}")
    (tmp_path / "bad.pt").write_bytes(b"not an archive")
    with pytest.raises(FlickerError, match="not a TorchScript file") as error:
        interpolation.middle(moving(0), moving(1), f"torchscript:{tmp_path / 'bad.pt'}")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="outside the clip"):
        interpolation.around_apex(ramp(3), 3, 5)
