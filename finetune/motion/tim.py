"""Temporal interpolation (TIM) by graph embedding (Zhou, Zhao, Pietikäinen: Towards a practical lipreading system,
CVPR 2011, section 3).

The frames x_1..x_n of a clip are the nodes of a path graph. The n - 1 non-constant eigenvectors of its Laplacian
are samples of the curves

    F_k(t) = sin(π k t + π (n - k) / (2 n)),  k = 1..n-1,  at t = 1/n, 2/n, .., 1,

and a linear map, found by a singular value decomposition of the mean-removed frames X = U S Vᵀ and an embedding of
Y = S Vᵀ, carries F(t) back to pixels: x(t) = U (Tᵀ)⁻¹ M F(t) + mean, with Tᵀ Y = M F at the nodes.

For linearly independent frames that map is X Fᵀ (F Fᵀ)⁻¹, whatever the decomposition: the eigenvectors are
orthogonal, F Fᵀ = n/2 · I, so the decomposition cancels and the interpolated frame is a weighted sum of the frames,

    x(t) = Σ_i w_i(t) x_i,   w_i(t) = 1/n + 2/n Σ_k F_k(i/n) F_k(t),

whose weights depend on t and n alone. Only these [P n] weights are computed (in float64); nothing of the size of
an image is decomposed, and nothing is inverted. The original inverts Y Yᵀ, which is singular for repeated or
linearly dependent frames (its public code adds 0.01, or noise, and then misses its nodes); the weights need no such
thing and are what the original gives in the limit of ever smaller independent noise on the frames.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

BLOCK = 1 << 16
"""values per frame that are converted to float32 at once"""


def weights(count: int, positions: ArrayLike) -> NDArray[np.float64]:
    """The weight of each of `count` frames at real `positions` [P] within 0..count-1: float64 [P count].

    Each row sums to 1; a row at a whole position is 1 for that frame and 0 for the others. Raises ValueError for
    positions outside the clip.
    """
    places = np.asarray(positions, np.float64)
    if count < 1 or places.ndim != 1 or not np.all((places >= 0) & (places <= count - 1)):
        raise ValueError(f"positions must be real numbers from 0 to {count - 1} (the last of {count} frames)")
    order = np.arange(1, count)  # k
    at_nodes = _curve(count, np.arange(count), order)  # [n n-1]
    rows = 1 / count + 2 / count * _curve(count, places, order) @ at_nodes.T  # [P n]
    whole = places == np.round(places)
    rows[whole] = np.eye(count)[places[whole].astype(int)]
    return rows


def _curve(count: int, positions: NDArray, order: NDArray) -> NDArray[np.float64]:
    """F_k at frame positions counted from 0, so t = (position + 1) / n: float64 [P n-1].

    sin(π k t + π (n - k) / (2 n)) = cos(π k (position + ½) / n).
    """
    return np.cos(np.pi / count * np.outer(positions + 0.5, order))


def interpolate(frames: NDArray, positions: ArrayLike) -> NDArray[np.float32]:
    """The clip `frames` [T ...] (uint8 or float) at real `positions` [P] in frames from 0: float32 [P ...].

    At whole positions the given frames come back unchanged. Between them the curve is smooth (all derivatives), with
    second differences at spacing h of at most (π h (T-1)/T)² · the curve's largest deviation from its mean
    (Bernstein's inequality); it can leave the range of the frames, so clip before a conversion to uint8.
    One frame is constant in time; of two frames the middle is their mean. Cost: P × T × pixels multiply-adds.
    """
    count = len(frames)
    rows = weights(count, positions).astype(np.float32)  # [P T]
    flat = frames.reshape(count, -1)
    result = np.empty((len(rows), flat.shape[1]), np.float32)
    for start in range(0, flat.shape[1], BLOCK):
        part = slice(start, start + BLOCK)
        np.matmul(rows, flat[:, part].astype(np.float32), out=result[:, part])
    return result.reshape(len(rows), *frames.shape[1:])
