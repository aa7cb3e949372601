"""Apex spotting: the parts against literal versions, a known movement, and the clips for which rules apply."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.frames import read_image
from finetune.motion import head, lbp, spotting
from shards.errors import FlickerError
from shards.files import read_json

SIDE = 160


def face_points() -> np.ndarray:
    """68 landmarks at plausible places of a 160 px frame: brows, eyes, nose, mouth, jaw."""
    jaw = [(20 + 7.5 * i, 70 + 75 * np.sin(np.pi * i / 16)) for i in range(17)]
    brows = [(35 + 9 * i, 45.0) for i in range(5)] + [(90 + 9 * i, 45.0) for i in range(5)]
    nose = [(80.0, 60 + 8 * i) for i in range(4)] + [(70 + 5.0 * i, 95.0) for i in range(5)]
    circle = [(np.cos(a), np.sin(a)) for a in np.linspace(0, 2 * np.pi, 6, endpoint=False)]
    eyes = [(53 + 9 * x, 60 + 4 * y) for x, y in circle] + [(107 + 9 * x, 60 + 4 * y) for x, y in circle]
    mouth = [(80 + 20 * np.cos(a), 118 + 7 * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 20, endpoint=False)]
    return np.array(jaw + brows + nose + eyes + mouth)


def texture() -> np.ndarray:
    """A smooth random picture, uint8 [160 160]."""
    noise = np.random.default_rng(7).uniform(0, 255, (SIDE, SIDE)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.5), None, 20, 235, cv2.NORM_MINMAX)


def clip_of(course: np.ndarray, drift: float = 0.0, blink_at: int | None = None) -> np.ndarray:
    """Frames [T 160 160 3] with a mouth pulled up by `course` [T] px and a head drifting by `drift` px a frame."""
    picture, points = texture(), face_points()
    down, across = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    mouth = np.exp(-((across - 80) ** 2 / 500 + (down - 118) ** 2 / 200)).astype(np.float32)
    frames = []
    for at, pull in enumerate(course):
        moved = cv2.remap(picture, across - drift * at, down + np.float32(pull) * mouth, cv2.INTER_CUBIC)
        if at == blink_at:
            for eye in (points[36:42], points[42:48]):
                cv2.fillConvexPoly(moved, np.rint(eye + np.array([drift * at, 0])).astype(np.int32), 90.0)
        frames.append(moved)
    grey = np.clip(np.rint(np.stack(frames)), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=3)


def rise_and_fall(length: int, apex: int, height: float) -> np.ndarray:
    """A course from 0 to `height` at the apex and back to 0."""
    up, down = np.linspace(0, 1, apex + 1), np.linspace(1, 0, length - apex)
    return height * (1 - np.cos(np.pi * np.concatenate([up, down[1:]]))) / 2


@pytest.mark.parametrize("apex", [8, 20, 31])
def test_both_methods_find_a_clear_apex(apex: int) -> None:
    frames = clip_of(rise_and_fall(40, apex, 3.0))
    for spotted in (
        spotting.divide_and_conquer(frames, face_points(), 200),
        spotting.flow_magnitude(frames, face_points(), 200),
        spotting.flow_magnitude(frames, None, 200),
    ):
        assert abs(spotted.index - apex) <= 2
        assert spotted.score.shape == (40,) and spotted.score.dtype == np.float64


def test_flow_magnitude_is_in_pixels_of_the_given_frames() -> None:
    options = spotting.Motion(margin=0.0, smooth=0.0, returns=False)
    still = spotting.flow_magnitude(clip_of(np.zeros(9)), face_points(), 200, options)
    frames = clip_of(rise_and_fall(9, 4, 2.0))
    once = spotting.flow_magnitude(frames, face_points(), 200, options)
    twice = np.stack([cv2.resize(frame, (320, 320), interpolation=cv2.INTER_CUBIC) for frame in frames])
    large = spotting.flow_magnitude(twice, (face_points() + 0.5) * 2 - 0.5, 200, options)
    assert still.score.max() < 0.05
    assert 0.2 < once.score.max() < 2.0  # the mean of three RoIs of which one moves
    assert large.score.max() == pytest.approx(2 * once.score.max(), rel=0.1)


def test_head_motion_and_blinks_do_not_move_the_flow_apex() -> None:
    frames = clip_of(rise_and_fall(40, 14, 2.5), drift=0.2, blink_at=34)
    found = spotting.flow_magnitude(frames, face_points(), 200)
    assert abs(found.index - 14) <= 2
    plain = spotting.Motion(returns=False)
    with_head = np.zeros((40, 8, 8, 2), np.float32)
    with_head[..., 0] = np.arange(40)[:, None, None] * 0.2
    assert np.abs(head.without_head(with_head, np.ones((8, 8), bool))).max() < 1e-3
    assert spotting.flow_magnitude(frames, face_points(), 200, plain).score[-1] < 1.0  # the head moved by 7.8 px


def test_head_motion_is_fitted_beside_a_moving_part() -> None:
    down, across = np.mgrid[:40, :50].astype(np.float32)
    head_motion = np.stack([1.5 + 0.01 * across - 0.02 * down, -0.5 + 0.02 * across + 0.01 * down], axis=-1)
    own = np.zeros_like(head_motion)
    own[30:38, 10:20, 1] = 3.0
    found = head.without_head((head_motion + own)[None], np.ones((40, 50), bool))[0]
    assert np.abs(found - own).max() < 0.15


@given(st.integers(1, 3), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_lbp_codes_equal_a_literal_loop(radius: int, seed: int) -> None:
    grey = np.random.default_rng(seed).integers(0, 9, (2, 11, 12)).astype(np.uint8)
    found = lbp.codes(grey, radius)
    for t in range(2):
        for y in range(radius, 11 - radius):
            for x in range(radius, 12 - radius):
                bits = [
                    int(grey[t, y + dy * radius, x + dx * radius] >= grey[t, y, x]) << bit
                    for bit, (dy, dx) in enumerate(lbp.NEIGHBOURS)
                ]
                assert found[t, y - radius, x - radius] == sum(bits)


def test_lbp_bins_are_the_59_of_uniform_patterns() -> None:
    assert sorted(set(lbp.UNIFORM.tolist())) == list(range(59)) and (lbp.UNIFORM == 58).sum() == 256 - 58
    assert lbp.UNIFORM[0b00000000] != 58 and lbp.UNIFORM[0b00111000] != 58 and lbp.UNIFORM[0b01010000] == 58


def test_lbp_histograms_count_every_pixel_in_its_block() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (3, 26, 32)).astype(np.uint8)
    found = lbp.histograms(grey, radius=1, blocks=4).reshape(3, 4, 4, 59)
    codes = lbp.UNIFORM[lbp.codes(grey, 1)]  # [3 24 30]
    assert found.sum() == codes.size
    assert np.array_equal(found[1, 2, 0], np.bincount(codes[1, 12:18, 0:8].ravel(), minlength=59))


def test_rate_of_difference_is_one_minus_equation_1() -> None:
    histograms = np.random.default_rng(1).uniform(0, 9, (4, 30))
    expected = []
    for other in histograms:
        products = sum(a * b for a, b in zip(histograms[0], other, strict=True))
        norms = np.sqrt(sum(a * a for a in histograms[0]) * sum(b * b for b in other))
        expected.append(1 - products / norms)
    assert spotting._rate(histograms) == pytest.approx(expected, abs=1e-12)


def test_search_follows_the_half_with_the_larger_sum_not_the_highest_peak() -> None:
    score = np.zeros(16)
    score[[2, 5, 12]] = [0.6, 0.5, 1.0]  # 1.1 in the first half, 1.0 in the second
    assert spotting.peaks(score) == [2, 5, 12]
    assert spotting.search(score, [2, 5, 12]) == 2  # of halves 0-3 and 4-7 the first has more
    score[12] = 1.2
    assert spotting.search(score, [2, 5, 12]) == 12
    score[[2, 5, 12]] = [0.5, 0.5, 1.0]
    assert spotting.search(score, [2, 5, 12]) == 2  # equal sums: the first half, twice


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(1, 8))
@settings(deadline=None)
def test_search_ends_at_a_peak_that_is_far_from_the_others(values: list[int], apart: int) -> None:
    score = np.array(values, np.float64)
    tops = spotting.peaks(score, apart)
    assert all(later - earlier >= apart for earlier, later in pairwise(tops))
    assert all(score[at] > score[at - 1] and score[at] >= score[at + 1] for at in tops)
    found = spotting.search(score, tops)
    assert found in tops if tops else score[found] == score.max()


@pytest.mark.parametrize("length", [1, 2, 3, 4, 20])
def test_short_and_still_clips_have_defined_answers(length: int) -> None:
    still = clip_of(np.zeros(length))
    expected = {1: 0, 2: 1, 3: 1, 4: 1, 20: 9}[length]
    for spotted in (
        spotting.divide_and_conquer(still, face_points(), 200),
        spotting.flow_magnitude(still, face_points(), 200),
        spotting.flow_magnitude(still),
    ):
        assert spotted.index == expected and spotted.score.shape == (length,)
        assert np.isfinite(spotted.score).all()


@pytest.mark.parametrize("length", [2, 3])
def test_the_onset_is_never_the_apex_of_a_moving_clip(length: int) -> None:
    frames = clip_of(np.linspace(0, 2, length))
    for spotted in (
        spotting.divide_and_conquer(frames, face_points()),
        spotting.flow_magnitude(frames, face_points()),
    ):
        assert 1 <= spotted.index < length


def test_points_outside_the_frame_still_give_regions_inside() -> None:
    frames = clip_of(rise_and_fall(6, 3, 2.0))
    for shift in (-500.0, 500.0):
        for spotted in (
            spotting.divide_and_conquer(frames, face_points() + shift),
            spotting.flow_magnitude(frames, face_points() + shift),
        ):
            assert 1 <= spotted.index < 6 and np.isfinite(spotted.score).all()


def test_frames_that_are_too_small_are_told_in_one_line() -> None:
    with pytest.raises(FlickerError, match="frames of 7 x 7 px: give 8 px or more"):
        spotting.divide_and_conquer(np.zeros((3, 7, 7, 3), np.uint8), face_points() / 25)


def test_flow_is_nearer_to_the_true_apex_than_the_middle_of_the_clip(shared: Path) -> None:
    """A few simulated clips whose apex is far from the middle; launch/benchmarks/spotting.py measures all."""
    records = {record["clip"]: record for record in read_json(shared / "data/sim/ground_truth/casme2.json")["clips"]}
    ours, middle = [], []
    for clip, subject in (("EP09_10", "sub02"), ("EP09_03", "sub03"), ("EP02_01f", "sub01")):
        record = records[clip]
        folder = shared / "data/sim/casme2/Cropped" / subject / clip
        numbers = range(record["onset"], record["offset"] + 1)
        frames = np.stack([read_image(folder / f"reg_img{number}.jpg") for number in numbers])
        found = spotting.flow_magnitude(frames, np.array(record["landmarks_onset"]), 200)
        ours.append(abs(numbers[found.index] - record["true_apex"]))
        middle.append(abs(numbers[(len(numbers) - 1) // 2] - record["true_apex"]))
    print(f"\ndistance from the true apex, frames: {np.round(ours, 1)}, middle of the clip {np.round(middle, 1)}")
    assert np.mean(ours) < 0.8 * np.mean(middle)
