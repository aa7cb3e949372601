"""Optical strain: how much the flow deforms the face at each pixel, and the u, v, strain maps made of it.

Derivatives are central differences inside and one-sided at the image's border, all over whole pixels: exact for
flow that is linear in x and y, border included.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from finetune.motion.flow import resize
from finetune.motion.flow_methods import Flow
from shards.errors import FlickerError, UsageError

Formula = Literal["symmetric", "htnet", "magnitude"]
FORMULAS: tuple[Formula, ...] = get_args(Formula)
VERSION = 1
"""Raised when a formula changes its values."""


def strain(flow: Flow, formula: str = "symmetric") -> NDArray[np.float32]:
    """A scalar per pixel of flow [... H W 2]: float32 [... H W], 0 or more.

    With u_x = ∂u/∂x and so on, u and v as given (pixels of the flow's image, unless it was resized otherwise):

    symmetric: √(ε_xx² + ε_yy² + ε_xy² + ε_yx²), the Frobenius norm of ε = ½(∇w + ∇wᵀ), so
        √(u_x² + v_y² + ½(u_y + v_x)²). No unit (px per px). Rotation gives none. The usual one (Liong et al. 2014;
        STSTNet); with the off-diagonal terms written out it is √(ε_xx² + ε_yy² + ½(ε_xy + ε_yx)²), ε_xy standing
        for u_y alone.
    htnet: √(u_x² + v_y² + ½(u_y² + v_x²)), HTNet, eq. 3 as printed, the squares being those of the derivatives, as
        the sentence below it says. Without the product u_y·v_x, so that rotation counts as strain. No unit.
        (Derivatives of squares, ∂(u²)/∂x, can be negative under the root: that reading gives no number.)
    magnitude: √(u² + v²), px: no strain, but the third channel where the length of the motion is wanted.

    Raises UsageError: another formula; FlickerError: an image side below 2 px.
    """
    if formula not in FORMULAS:
        raise UsageError(f"strain formula '{formula}' is not known: give one of {', '.join(FORMULAS)}")
    flow = np.asarray(flow, np.float32)
    if formula == "magnitude":
        return np.sqrt(np.square(flow).sum(-1))
    if flow.ndim < 3 or flow.shape[-1] != 2 or min(flow.shape[-3:-1]) < 2:
        raise FlickerError(f"strain: flow of shape {list(flow.shape)}: give [... H W 2] with sides of 2 px or more")
    down, across = (np.asarray(np.gradient(flow, axis=axis)) for axis in (-3, -2))  # (u_y, v_y), (u_x, v_x)
    normal = np.square(across[..., 0]) + np.square(down[..., 1])
    if formula == "symmetric":
        return np.sqrt(normal + np.square(down[..., 0] + across[..., 1]) / 2)
    return np.sqrt(normal + (np.square(down[..., 0]) + np.square(across[..., 1])) / 2)


def maps(flow: Flow, formula: str = "symmetric", grid: int | None = None) -> NDArray[np.float32]:
    """u, v, strain of flow [H W 2] as float32 [H W 3] (STSTNet; HTNet, section 3.1), or [grid grid 3].

    With `grid` (HTNet: 28) the three are averaged over the cells after the strain is taken at full size; u and v
    stay in pixels of the flow's own image. Raises as `strain` and `resize`.
    """
    third = strain(flow, formula)
    if grid is None:
        return np.dstack([flow, third]).astype(np.float32, copy=False)
    pair = resize(np.dstack([third, third]), grid, units="source")
    return np.dstack([resize(flow, grid, units="source"), pair[..., 0]])
