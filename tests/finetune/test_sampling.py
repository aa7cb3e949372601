"""Choosing frames: sorted, inside, the right number, for every clip of at least one frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.motion import sampling

lengths = st.integers(1, 400)
counts = st.integers(1, 40)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def clips(draw: st.DrawFn) -> tuple[int, int]:
    """(number of frames, apex)."""
    length = draw(lengths)
    return length, draw(st.integers(0, length - 1))


def sorted_inside(indices: np.ndarray, length: int) -> bool:
    return bool((np.diff(indices) >= 0).all() and indices.min() >= 0 and indices.max() <= length - 1)


@given(clips(), counts)
def test_around_is_sorted_inside_and_centred(clip: tuple[int, int], count: int) -> None:
    length, apex = clip
    indices = sampling.around(length, apex, count)
    assert indices.shape == (count,) and sorted_inside(indices, length)
    assert indices[count // 2] == apex
    room = min(apex, length - 1 - apex)
    near = indices[max(0, count // 2 - room) : count // 2 + room + 1]
    assert (np.diff(near) == 1).all()  # nothing left out, nothing repeated where there are frames


def test_around_takes_five_on_each_side_and_repeats_the_ends() -> None:
    assert sampling.around(40, 20).tolist() == list(range(15, 26))
    assert sampling.around(8, 2).tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7]
    assert sampling.around(1, 0, 3).tolist() == [0, 0, 0]


@given(lengths, counts, seeds)
def test_uniform_takes_one_frame_of_each_part(length: int, count: int, seed: int) -> None:
    for rng in (None, np.random.default_rng(seed)):
        indices = sampling.uniform(length, count, rng)
        assert indices.shape == (count,) and sorted_inside(indices, length)
        edges = length / count * np.arange(count + 1)
        assert (indices >= np.floor(edges[:-1] - 1e-9)).all() and (indices < edges[1:] + 1e-9).all()
        if length >= count:
            assert len(set(indices.tolist())) == count
            assert np.ptp(np.diff(indices)) <= 1 if count > 1 else True  # evenly spaced


def test_uniform_offset_is_central_at_test_and_random_in_training() -> None:
    assert sampling.uniform(16, 8).tolist() == [1, 3, 5, 7, 9, 11, 13, 15]
    seen = {tuple(sampling.uniform(32, 8, np.random.default_rng(seed)).tolist()) for seed in range(60)}
    assert seen == {tuple(range(start, 32, 4)) for start in range(4)}
    again = [sampling.uniform(97, 8, np.random.default_rng(5)).tolist() for _ in range(2)]
    assert again[0] == again[1]


@given(lengths, counts)
def test_tim_positions_reach_both_ends_evenly(length: int, count: int) -> None:
    positions = sampling.tim(length, count)
    assert positions.shape == (count,) and sorted_inside(positions, length)
    if count > 1:
        assert (positions[0], positions[-1]) == (0, length - 1)
        assert np.allclose(np.diff(positions), (length - 1) / (count - 1))
    else:
        assert positions[0] == (length - 1) / 2


@given(clips(), st.integers(1, 5), seeds)
def test_jitter_moves_off_the_apex_but_stays_near(clip: tuple[int, int], reach: int, seed: int) -> None:
    length, apex = clip
    at = sampling.jitter(length, apex, np.random.default_rng(seed), reach)
    possible = [near for near in range(max(1, apex - reach), min(length, apex + reach + 1)) if near != apex]
    assert at in possible if possible else at == apex


def test_jitter_uses_both_sides() -> None:
    rng = np.random.default_rng(0)
    drawn = [sampling.jitter(30, 12, rng) for _ in range(200)]
    assert set(drawn) == {11, 13} and 60 < drawn.count(11) < 140
    assert {sampling.jitter(30, 1, rng) for _ in range(50)} == {2}  # 0 is the onset
    assert sampling.jitter(1, 0, rng) == 0 and sampling.jitter(2, 1, rng) == 1


@given(lengths, counts, seeds)
def test_pairs_are_ordered_different_and_inside(length: int, count: int, seed: int) -> None:
    drawn = sampling.pairs(length, count, np.random.default_rng(seed))
    assert drawn.shape == (count, 2) and drawn.min() >= 0 and drawn.max() < length
    assert (drawn[:, 0] < drawn[:, 1]).all() if length > 1 else (drawn == 0).all()


def test_pairs_are_equally_likely() -> None:
    drawn = sampling.pairs(5, 20_000, np.random.default_rng(1))
    _, frequency = np.unique(drawn[:, 0] * 5 + drawn[:, 1], return_counts=True)
    assert len(frequency) == 10 and abs(frequency / 2000 - 1).max() < 0.1  # 0.1 is 4.7 standard deviations


@pytest.mark.parametrize("wrong", [(0, 0, 3), (5, 5, 3), (5, -1, 3), (5, 2, 0)])
def test_impossible_requests_are_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|outside the clip"):
        sampling.around(*wrong)
