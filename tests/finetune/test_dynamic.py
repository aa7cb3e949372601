"""Dynamic images against the closed form and a literal rank pooling."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.motion import dynamic
from finetune.motion.dynamic import DynamicConfig, coefficients, dynamic_image
from shards.errors import FlickerError, UsageError

COUNTS = st.integers(1, 40)


def ranked(frames: np.ndarray, kind: str) -> np.ndarray:
    """Σ over pairs q > t of V_q - V_t, literally, in float64: V the running means (exact) or the frames (linear)."""
    frames = frames.astype(np.float64)
    features = [frames[: t + 1].mean(0) if kind == "exact" else frames[t] for t in range(len(frames))]
    total = np.zeros(frames.shape[1:])
    for q in range(len(frames)):
        for t in range(q):
            total += features[q] - features[t]
    return total


@given(COUNTS)
def test_coefficients_are_the_closed_form(count: int) -> None:
    def harmonic(n: int) -> Fraction:
        return sum((Fraction(1, i) for i in range(1, n + 1)), Fraction(0))

    exact = [2 * (count - t + 1) - (count + 1) * (harmonic(count) - harmonic(t - 1)) for t in range(1, count + 1)]
    np.testing.assert_allclose(coefficients(count), np.array(exact, np.float64), atol=1e-11)
    np.testing.assert_array_equal(coefficients(count, "linear"), [2 * t - count - 1 for t in range(1, count + 1)])
    assert sum(exact) == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.sampled_from(["exact", "linear"]), st.integers(0, 2**32 - 1))
def test_image_is_the_literal_rank_pooling(count: int, kind: str, seed: int) -> None:
    frames = np.random.default_rng(seed).integers(0, 256, (count, 4, 5, 3), dtype=np.uint8)
    found = dynamic_image(frames, DynamicConfig(kind, "raw"))  # type: ignore[arg-type]
    assert found.shape == (4, 5, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, ranked(frames, kind), atol=1e-5 * 255 * count)
    closed = np.tensordot(coefficients(count, kind), frames.astype(np.float64), 1)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, closed, atol=1e-5 * 255 * count)


def test_ranges() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (8, 6, 6, 3), dtype=np.uint8)
    raw, unit, byte = (dynamic_image(frames, DynamicConfig(range=name)) for name in ("raw", "unit", "uint8"))
    expected = (raw - raw.min()) / (raw.max() - raw.min())
    np.testing.assert_allclose(unit, expected, atol=1e-6)
    assert unit.min() == 0
    assert unit.max() == 1
    assert unit.dtype == np.float32
    assert byte.dtype == np.uint8
    assert np.abs(byte - 255 * expected).max() <= 0.501


@pytest.mark.parametrize("kind", ["exact", "linear"])
@pytest.mark.parametrize("count", [1, 7])
def test_frames_that_do_not_change_give_zeros(kind: str, count: int) -> None:
    """Not their rounding errors, stretched to the full range."""
    still = np.repeat(np.random.default_rng(1).integers(0, 256, (1, 5, 5, 3), dtype=np.uint8), count, axis=0)
    for name in ("raw", "unit", "uint8"):
        assert not dynamic_image(still, DynamicConfig(kind, name)).any()  # type: ignore[arg-type]


def test_grey_and_float_frames() -> None:
    frames = np.random.default_rng(2).random((5, 6, 7))
    found = dynamic_image(frames, DynamicConfig(range="raw"))
    assert found.shape == (6, 7)
    np.testing.assert_allclose(found, ranked(frames, "exact"), atol=1e-5)


def test_reversed_time_reverses_the_linear_image() -> None:
    frames = np.random.default_rng(3).integers(0, 256, (9, 4, 4, 3), dtype=np.uint8)
    config = DynamicConfig("linear", "raw")
    np.testing.assert_allclose(dynamic_image(frames, config), -dynamic_image(frames[::-1], config), atol=0.05)


def test_keys_and_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = [DynamicConfig(kind, name) for kind in ("exact", "linear") for name in ("raw", "unit", "uint8")]  # type: ignore[arg-type]
    keys = {config.key() for config in configs}
    assert len(keys) == 6
    monkeypatch.setattr(dynamic, "VERSION", dynamic.VERSION + 1)
    assert DynamicConfig().key() not in keys
    with pytest.raises(UsageError, match="kind 'mean'"):
        DynamicConfig("mean")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="range 'percent'"):
        DynamicConfig(range="percent")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="kind 'mean'"):
        coefficients(4, "mean")  # type: ignore[arg-type]
    with pytest.raises(FlickerError, match="0 frames"):
        dynamic_image(np.zeros((0, 4, 4, 3), np.uint8))
