"""Motion of the head as a whole, taken out of optical flow, so that the face's own motion is left."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 5
"""of reweighting"""


def without_head(flows: NDArray[np.float32], face: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Flow [T H W 2] less the similarity (shift, turn, scale) that explains most of the face's motion in each field.

    `face` [H W] marks the pixels that the fit sees. It is a least squares fit whose residuals are reweighted by
    Cauchy's function at their median size, so the few parts of the face that move by themselves hardly pull it.
    """
    basis = _similarity(*face.shape)  # [H W 2 4]
    seen = basis[face].reshape(-1, 4)  # [2N 4]
    motion = flows[:, face].reshape(len(flows), -1).astype(np.float64)  # [T 2N]
    weights = np.ones_like(motion)
    for _ in range(ROUNDS):
        rest = (motion - _solve(seen, motion, weights) @ seen.T).reshape(len(flows), -1, 2)
        off = np.linalg.norm(rest, axis=-1)  # [T N]
        typical = 1.4826 * np.median(off, axis=1, keepdims=True) + 1e-3
        weights = np.repeat(1 / (1 + np.square(off / typical)), 2, axis=1)
    fit = _solve(seen, motion, weights)  # [T 4]
    return (flows - (fit @ basis.reshape(-1, 4).T).reshape(flows.shape)).astype(np.float32)


def _similarity(height: int, width: int) -> NDArray[np.float64]:
    """The four motions of a similarity at each pixel, [H W 2 4]: right, down, growth, turn."""
    down, right = np.mgrid[:height, :width] / max(height, width)
    down, right = down - down.mean(), right - right.mean()
    one, none = np.ones_like(down), np.zeros_like(down)
    return np.stack([np.stack([one, none, right, -down], -1), np.stack([none, one, down, right], -1)], -2)


def _solve(seen: NDArray, motion: NDArray, weights: NDArray) -> NDArray[np.float64]:
    """Weighted least squares of each field: [T 4]."""
    weighted = weights[:, None] * seen.T  # [T 4 2N]
    normal = weighted @ seen + 1e-9 * np.eye(4)
    return np.linalg.solve(normal, weighted @ motion[..., None])[..., 0]
