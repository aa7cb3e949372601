"""Optical strain against closed forms on linear fields, and the maps made of it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.motion.flow import resize
from finetune.motion.strain import FORMULAS, maps, strain
from shards.errors import FlickerError, UsageError

SLOPES = st.integers(-64, 64).map(lambda n: n / 64)  # with whole pixels, these are exact in float32


def linear(a: float, b: float, c: float, d: float, height: int, width: int) -> np.ndarray:
    """u = a x + b y + 1, v = c x + d y - 2: float32 [H W 2]."""
    y, x = np.mgrid[:height, :width]
    return np.stack([a * x + b * y + 1, c * x + d * y - 2], -1).astype(np.float32)


@settings(max_examples=80, deadline=None)
@given(SLOPES, SLOPES, SLOPES, SLOPES, st.integers(2, 12), st.integers(2, 12))
def test_strain_of_linear_fields_is_exact(a: float, b: float, c: float, d: float, height: int, width: int) -> None:
    """Every pixel, those of the border and the corners too: u_x = a, u_y = b, v_x = c, v_y = d."""
    flow = linear(a, b, c, d, height, width)
    tensor = np.array([[a, (b + c) / 2], [(b + c) / 2, d]])
    expected = {"symmetric": np.linalg.norm(tensor), "htnet": np.sqrt(a * a + d * d + (b * b + c * c) / 2)}
    for formula, value in expected.items():
        found = strain(flow, formula)
        assert found.shape == (height, width)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, value, rtol=2e-7, atol=0)  # the root alone is rounded
        assert (found == found[0, 0]).all()


def test_rotation_is_no_strain_except_for_htnet() -> None:
    turned = linear(0, 0.5, -0.5, 0, 9, 9)
    assert not strain(turned, "symmetric").any()
    np.testing.assert_allclose(strain(turned, "htnet"), 0.5, rtol=1e-6)


def test_htnet_equals_the_usual_one_without_shear() -> None:
    stretched = linear(0.25, 0, 0, -0.125, 9, 9)
    np.testing.assert_array_equal(strain(stretched, "htnet"), strain(stretched, "symmetric"))


def test_strain_of_a_curved_field_inside_and_at_the_border() -> None:
    """u = x²: central differences give 2x inside; at the border the one-sided ones give the slope half a px in."""
    x = np.arange(8.0)
    flow = np.zeros((3, 8, 2), np.float32)
    flow[..., 0] = x**2
    np.testing.assert_allclose(strain(flow)[1], [1, *(2 * x[1:-1]), 13])


def test_magnitude_is_the_length_of_the_flow() -> None:
    np.testing.assert_array_equal(strain(np.full((2, 3, 2), (3, -4), np.float32), "magnitude"), np.full((2, 3), 5.0))


def test_clips_are_taken_frame_by_frame() -> None:
    flow = np.random.default_rng(0).standard_normal((3, 6, 7, 2)).astype(np.float32)
    for formula in FORMULAS:
        found = strain(flow, formula)
        assert found.shape == (3, 6, 7)
        np.testing.assert_array_equal(found[1], strain(flow[1], formula))


@pytest.mark.parametrize("formula", FORMULAS)
def test_maps_are_u_v_strain(formula: str) -> None:
    flow = np.random.default_rng(1).standard_normal((56, 84, 2)).astype(np.float32)
    full = maps(flow, formula)
    assert full.shape == (56, 84, 3)
    assert full.dtype == np.float32
    np.testing.assert_array_equal(full, np.dstack([flow, strain(flow, formula)]))
    small = maps(flow, formula, grid=28)
    assert small.shape == (28, 28, 3)
    assert small.dtype == np.float32
    np.testing.assert_allclose(small, full.reshape(28, 2, 28, 3, 3).mean((1, 3)), atol=1e-6)
    np.testing.assert_array_equal(small[..., :2], resize(flow, 28, units="source"))
    np.testing.assert_allclose(small[..., 2], cv2.resize(full[..., 2], (28, 28), interpolation=cv2.INTER_AREA))


def test_errors() -> None:
    flow = np.zeros((4, 4, 2), np.float32)
    with pytest.raises(UsageError, match="give one of symmetric, htnet, magnitude"):
        strain(flow, "shear")
    for wrong in (flow[:1], flow[..., :1], flow[0]):
        with pytest.raises(FlickerError, match="sides of 2 px or more"):
            strain(wrong)
