"""TIM against a literal float64 implementation of the paper, at its nodes, and between them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.motion import sampling, tim


def literal(frames: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Zhou et al. 2011 step by step in float64: SVD, embedding, m from the first frame. [T D] to [P D]."""
    columns = frames.T.astype(np.float64)  # [D n]
    n = columns.shape[1]
    mean = columns.mean(axis=1, keepdims=True)
    left, scale, right = np.linalg.svd(columns - mean, full_matrices=False)
    left, reduced = left[:, : n - 1], scale[: n - 1, None] * right[: n - 1]  # U [D n-1], Y [n-1 n]
    path = np.diag(np.ones(n - 1), 1) + np.diag(np.ones(n - 1), -1)
    laplacian = np.diag(path.sum(axis=0)) - path
    values, vectors = np.linalg.eig(np.linalg.solve(reduced @ reduced.T, reduced @ laplacian @ reduced.T))
    vectors = vectors[:, np.argsort(values.real)].real  # T
    k = np.arange(1, n)

    def curve(t: float) -> np.ndarray:
        return np.sin(np.pi * k * t + np.pi * (n - k) / (2 * n))

    factors = (vectors.T @ reduced[:, 0]) / curve(1 / n)
    synthetic = [left @ np.linalg.solve(vectors.T, factors * curve((p + 1) / n)) for p in positions]
    return np.array(synthetic) + mean.T


@pytest.mark.parametrize("count", [2, 3, 5, 11, 24])
def test_equals_the_literal_implementation(count: int) -> None:
    rng = np.random.default_rng(count)
    frames = rng.integers(0, 256, (count, 6, 7, 3)).astype(np.uint8)
    positions = np.sort(rng.uniform(0, count - 1, 9))
    expected = literal(frames.reshape(count, -1), positions)
    found = tim.interpolate(frames, positions)
    assert found.shape == (9, 6, 7, 3) and found.dtype == np.float32
    assert np.abs(found.reshape(9, -1) - expected).max() < 1e-3  # grey levels


@given(st.integers(1, 60), st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=40, deadline=None)
def test_given_frames_come_back_at_their_nodes(count: int, seed: int, repeated: bool) -> None:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (count, 4, 5, 3)).astype(np.uint8)
    if repeated:  # linearly dependent: duplicates and a blend
        frames[:] = frames[rng.integers(0, max(1, count // 3), count)]
    assert np.array_equal(tim.interpolate(frames, np.arange(count)), frames)


@pytest.mark.parametrize("count", [2, 10, 64, 300])
def test_is_continuous_at_its_nodes(count: int) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (count, 50)).astype(np.uint8)
    near = tim.interpolate(frames, np.arange(count - 1) + 1e-7)
    assert np.abs(near - frames[:-1]).max() < 1e-3  # the formula itself reproduces the nodes, not only the exact case


@pytest.mark.parametrize("count", [3, 12, 80])
def test_second_differences_are_bounded(count: int) -> None:
    """Bernstein: for a sum of cosines up to degree n-1 |f''| <= (π (n-1)/n)² max |f|; a polyline breaks it."""
    frames = np.random.default_rng(count).uniform(-1, 1, (count, 30))
    frames -= frames.mean(axis=0)
    step = 1 / 64
    positions = np.linspace(0, count - 1, (count - 1) * 64 + 1)
    curve = tim.weights(count, positions) @ frames
    whole = np.linspace(-0.5, count - 0.5, count * 64 + 1)  # the curve's own period, for its maximum
    order = np.arange(1, count)
    degree = (
        2
        / count
        * np.cos(np.pi / count * np.outer(whole + 0.5, order))
        @ np.cos(np.pi / count * np.outer(np.arange(count) + 0.5, order)).T
    )
    bound = (np.pi * step * (count - 1) / count) ** 2 * np.abs(degree @ frames).max(axis=0) * 1.01
    assert (np.abs(np.diff(curve, 2, axis=0)).max(axis=0) <= bound).all()
    line = np.array([np.interp(positions, np.arange(count), pixel) for pixel in frames.T]).T
    assert (np.abs(np.diff(line, 2, axis=0)).max(axis=0) > bound).any()


def test_follows_a_smooth_movement_better_than_a_polyline() -> None:
    def signal(at: np.ndarray) -> np.ndarray:
        return (
            128
            + 60 * np.cos(np.pi * 2 * (at + 0.5) / 20)[:, None]
            + 30 * np.cos(np.pi * 5 * (at + 0.5) / 20)[:, None]
        )

    nodes, between = np.arange(20.0), np.arange(19) + 0.5
    error = np.abs(tim.interpolate(signal(nodes), between) - signal(between)).max()
    line = np.abs(np.interp(between, nodes, signal(nodes)[:, 0])[:, None] - signal(between)).max()
    assert error < 1e-3 < line


@given(st.integers(1, 200), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_weights_sum_to_one(count: int, seed: int) -> None:
    positions = np.random.default_rng(seed).uniform(0, count - 1, 7)
    assert np.abs(tim.weights(count, positions).sum(axis=1) - 1).max() < 1e-12


def test_dependent_frames_are_the_limit_of_noisy_ones() -> None:
    rng = np.random.default_rng(3)
    frames = np.repeat(rng.uniform(0, 255, (4, 40)), 2, axis=0)  # each frame twice
    positions = sampling.tim(8, 13)
    noisy = literal(frames + 1e-3 * rng.standard_normal(frames.shape), positions)
    assert np.abs(tim.interpolate(frames, positions) - noisy).max() < 0.05


def test_one_frame_and_two() -> None:
    frames = np.array([[10.0, 20.0], [20.0, 60.0]])
    assert tim.interpolate(frames[:1], [0, 0, 0]).tolist() == [[10, 20]] * 3
    assert np.allclose(tim.interpolate(frames, [0.5]), [[15, 40]])


def test_any_number_of_frames_may_be_drawn() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 3, 3, 3)).astype(np.uint8)
    assert tim.interpolate(frames, sampling.tim(5, 200)).shape == (200, 3, 3, 3)
    assert tim.interpolate(frames, []).shape == (0, 3, 3, 3)


@pytest.mark.parametrize("positions", [[-0.1], [4.01], [float("nan")], [[1.0]]])
def test_positions_outside_the_clip_are_refused(positions: list) -> None:
    with pytest.raises(ValueError, match="from 0 to 4"):
        tim.interpolate(np.zeros((5, 2)), positions)
