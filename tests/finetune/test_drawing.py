"""Drawn flow against literal formulas."""

from __future__ import annotations

import colorsys
import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.motion.drawing import hsv
from shards.errors import UsageError


def literal(u: float, v: float, value: float) -> tuple[int, int]:
    """Hue 0..179 and value 0..255 of one vector, `value` being its share of the brightest."""
    return math.floor((math.degrees(math.atan2(v, u)) % 360) / 2) % 180, math.floor(255 * value)


def hue_and_value(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hue in degrees and value 0..255 of an RGB picture, by the standard library."""
    flat = [colorsys.rgb_to_hsv(*(pixel / 255)) for pixel in drawn.reshape(-1, 3).astype(float)]
    return (np.array([x[i] for x in flat]).reshape(drawn.shape[:-1]) * scale for i, scale in ((0, 360), (2, 255)))  # type: ignore[return-value]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([None, 0.5, 4.0]))
def test_hue_is_the_angle_and_value_the_length(seed: int, scale: float | None) -> None:
    flow = (np.random.default_rng(seed).standard_normal((5, 6, 2)) * 2).astype(np.float32)
    length = np.hypot(*np.moveaxis(flow.astype(np.float64), -1, 0))
    share = np.minimum(length / scale, 1) if scale else (length - length.min()) / (length.max() - length.min())
    expected = np.array([literal(*flow[at], share[at]) for at in np.ndindex(5, 6)]).reshape(5, 6, 2)
    hue, value = hue_and_value(hsv(flow, scale))
    assert (np.abs(value - expected[..., 1]) <= 1).all()
    bright = expected[..., 1] >= 64  # below, 8-bit colours do not tell hues apart
    off = np.abs((hue - 2 * expected[..., 0] + 180) % 360 - 180)
    assert (off[bright] <= 3).all()


def test_agrees_with_the_steps_of_the_release() -> None:
    """SLSTT's release draws with cartToPolar (0.3 degrees) and normalize: one step of hue or value at most."""
    flow = np.random.default_rng(0).standard_normal((40, 50, 2)).astype(np.float32)
    length, angle = cv2.cartToPolar(flow[..., 0], flow[..., 1])
    picture = np.full((40, 50, 3), 255, np.uint8)
    picture[..., 0] = angle * 180 / np.pi / 2
    picture[..., 2] = cv2.normalize(length, None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
    theirs = cv2.cvtColor(picture, cv2.COLOR_HSV2RGB)
    difference = np.abs(hsv(flow).astype(int) - theirs)
    assert (difference == 0).mean() > 0.97
    assert difference.max() <= 9  # one step of hue


@pytest.mark.parametrize(
    ("vector", "colour"),
    [((1, 0), (255, 0, 0)), ((-1, 0), (0, 255, 255)), ((0, 1), (128, 255, 0)), ((0, -1), (128, 0, 255))],
)
def test_colours_of_the_four_directions(vector: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """Red right, cyan left, yellow-green down, violet up."""
    drawn = hsv(np.full((2, 2, 2), vector, np.float32), 1.0)
    assert drawn.dtype == np.uint8
    assert np.abs(drawn.astype(int) - colour).max() <= 2


def test_own_range_hides_strength_and_a_scale_keeps_it() -> None:
    flow = np.random.default_rng(2).standard_normal((8, 8, 2)).astype(np.float32)
    np.testing.assert_array_equal(hsv(flow), hsv(4 * flow))
    assert hsv(flow, 8.0).max() < hsv(2 * flow, 8.0).max()
    assert (hsv(100 * flow, 8.0).max(-1) == 255).all()


def test_each_frame_has_its_own_range() -> None:
    clip = np.random.default_rng(3).standard_normal((3, 8, 9, 2)).astype(np.float32) * [[[[1]]], [[[5]]], [[[0.1]]]]
    drawn = hsv(clip)
    assert drawn.shape == (3, 8, 9, 3)
    for index in range(3):
        np.testing.assert_array_equal(drawn[index], hsv(clip[index]))


def test_equal_lengths_are_black() -> None:
    assert not hsv(np.zeros((4, 4, 2), np.float32)).any()
    assert not hsv(np.full((4, 4, 2), 3, np.float32)).any()


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_is_above_zero(scale: float) -> None:
    with pytest.raises(UsageError, match="length above 0 px"):
        hsv(np.zeros((2, 2, 2), np.float32), scale)
