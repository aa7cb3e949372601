"""Local binary patterns (Ojala, Pietikäinen, Mäenpää 2002): histograms of a box in every frame of a clip."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
"""(down, right) around the centre, in turn"""


def _uniform() -> NDArray[np.intp]:
    """Pattern 0..255 to bin: 58 patterns with at most two changes around the circle, and one bin for the others."""
    changes = [sum((code >> bit & 1) != (code >> (bit + 1) % 8 & 1) for bit in range(8)) for code in range(256)]
    bins = np.full(256, 58)
    bins[np.array(changes) <= 2] = np.arange(58)
    return bins


UNIFORM = _uniform()
BINS = 59


def codes(grey: NDArray[np.uint8], radius: int = 1) -> NDArray[np.uint8]:
    """LBP codes uint8 [T H-2r W-2r] of grey frames uint8 [T H W]: bit k is set where neighbour k is no darker.

    The eight neighbours lie on a square, `radius` px from the centre. Pixels closer to the edge have no code.
    """
    height, width = (side - 2 * radius for side in grey.shape[1:])
    centre = grey[:, radius:-radius, radius:-radius]
    found = np.zeros(centre.shape, np.uint8)
    for bit, (down, right) in enumerate(NEIGHBOURS):
        top, left = radius * (1 + down), radius * (1 + right)
        found |= (grey[:, top : top + height, left : left + width] >= centre).astype(np.uint8) << np.uint8(bit)
    return found


def histograms(grey: NDArray[np.uint8], radius: int = 1, blocks: int = 1) -> NDArray[np.float64]:
    """Counts of the 59 uniform patterns in blocks × blocks parts of grey frames uint8 [T H W].

    Returns float64 [T blocks² × 59], block after block by rows. H and W must be at least blocks + 2 × radius.
    """
    bins = UNIFORM[codes(grey, radius)]  # [T h w]
    count, height, width = bins.shape
    rows, columns = (np.arange(side) * blocks // side for side in (height, width))
    block = rows[:, None] * blocks + columns  # [h w]
    size = blocks * blocks * BINS
    place = np.arange(count)[:, None, None] * size + block * BINS + bins
    return np.bincount(place.ravel(), minlength=count * size).reshape(count, size).astype(np.float64)
