"""Counter-based random numbers: a pure function of a per-sample seed, the same on every device and rank.

Training needs random blocks, crops and flips that do not depend on how the global batch is dealt out to
ranks. Each sample carries a 64-bit seed; a draw hashes (seed, stream, index) with SplitMix64's finaliser
(Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014).
"""

from __future__ import annotations

import torch
from torch import Tensor

_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's is arithmetic)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """A Python integer wrapped to signed 64 bits."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def hash64(x: Tensor) -> Tensor:
    """SplitMix64's finaliser of each element. int64 (any shape) -> int64, wrapping."""
    x = x + _GAMMA
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def uniform(seeds: Tensor, stream: int, count: int) -> Tensor:
    """Independent U[0, 1) numbers.

    Args:
        seeds: int64 [B], one per sample.
        stream: names the purpose (swap, crop, ...); different streams are independent.
        count: numbers per sample.

    Returns:
        float32 [B count], multiples of 2^-24.
    """
    index = torch.arange(count, device=seeds.device, dtype=torch.int64)  # [count]
    base = hash64(seeds + _signed(stream * 0x632BE59BD9B4E019))  # [B]
    bits = _shift_right(hash64(base[:, None] + index * _GAMMA), 40)  # [B count] 24 bits
    return bits.to(torch.float32) * (1.0 / (1 << 24))
