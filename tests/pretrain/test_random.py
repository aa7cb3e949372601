"""Counter-based random numbers."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from pretrain.random import hash64, uniform


def _splitmix64(x: int) -> int:
    """SplitMix64's step in Python integers."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


@given(st.integers(0, 2**64 - 1))
def test_hash_equals_splitmix64_in_python_integers(value: int) -> None:
    signed = value - 2**64 if value >= 2**63 else value
    assert int(hash64(torch.tensor([signed]))[0]) % 2**64 == _splitmix64(value)


def test_numbers_are_uniform_and_streams_independent() -> None:
    seeds = torch.arange(2000)
    a, b = uniform(seeds, 1, 5), uniform(seeds, 2, 5)
    assert kstest(a.flatten().numpy(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(a.flatten(), b.flatten())[0, 1]) < 0.04
    assert abs(np.corrcoef(a[:-1, 0], a[1:, 0])[0, 1]) < 0.08


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=8))
def test_each_row_depends_on_its_own_seed_alone(seeds: list[int]) -> None:
    together = uniform(torch.tensor(seeds), 3, 4)
    for row, seed in zip(together, seeds, strict=True):
        assert torch.equal(row, uniform(torch.tensor([seed]), 3, 4)[0])
