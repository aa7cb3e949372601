"""The flow methods: the parameters of each, and the calls of OpenCV that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from shards.errors import FlickerError, UsageError

Image = NDArray[np.uint8]
Flow = NDArray[np.float32]
Estimate = Callable[[Image, Image], Flow]


def check(valid: bool, name: str, value: object, needed: str) -> None:
    """Raise UsageError where a parameter is out of range (OpenCV itself may crash on one)."""
    if not valid:
        raise UsageError(f"flow: {name} is {value!r}: give {needed}")


@dataclass(frozen=True)
class Farneback:
    """Polynomial expansion (Farnebäck 2003); the defaults are those of SLSTT's release.

    Two properties of OpenCV's implementation that `gain` and `border` undo: it adds a constant to a determinant that
    grows with the fourth power of the contrast, so that motion comes out too short where the skin is smooth; and
    within about 16 px of the edges it invents motion, up to 1 px between two equal frames.
    """

    scale: float = 0.5
    """size of a pyramid level over that of the level below"""
    levels: int = 3
    """of the pyramid, with the full size; OpenCV leaves out those below 32 px"""
    window: int = 15
    """side over which motion is taken as constant, px"""
    iterations: int = 3
    """per level"""
    poly_n: int = 5
    """side of the neighbourhood of the polynomials, px"""
    poly_sigma: float = 1.2
    """standard deviation of their weights, px"""
    gaussian: bool = False
    """a Gaussian window in place of a box: slower"""
    gain: float = 1.0
    """grey levels are multiplied by it (float32; 1 leaves bytes, as in the release); 4 and more are enough"""
    border: int = 0
    """edge pixels are repeated so far outwards, px, and cut off the flow again; 16 is enough"""

    def __post_init__(self) -> None:
        check(0 < self.scale < 1, "farneback.scale", self.scale, "a number between 0 and 1")
        check(self.levels >= 1, "farneback.levels", self.levels, "1 or more")
        check(self.window >= 1, "farneback.window", self.window, "1 px or more")
        check(self.iterations >= 1, "farneback.iterations", self.iterations, "1 or more")
        check(1 <= self.poly_n <= 31, "farneback.poly_n", self.poly_n, "1 to 31 px (5 or 7 are usual)")
        check(self.poly_sigma > 0, "farneback.poly_sigma", self.poly_sigma, "a number above 0")
        check(0 < self.gain <= 1000, "farneback.gain", self.gain, "a number above 0, up to 1000")
        check(0 <= self.border <= 256, "farneback.border", self.border, "0 to 256 px")


@dataclass(frozen=True)
class Dis:
    """Dense inverse search (Kroeger et al. 2016): OpenCV's preset `medium`, refined down to full resolution."""

    finest_scale: int = 0
    """pyramid level that is refined last: 0 the full size, 1 half of it (the preset medium), …"""
    patch: int = 8
    """side of the matched patches, px"""
    stride: int = 3
    """from patch to patch, px"""
    descent: int = 25
    """steps of gradient descent per patch"""
    refinement: int = 5
    """steps of variational refinement per level"""
    alpha: float = 20.0
    """weight of smoothness in the refinement"""
    delta: float = 5.0
    """weight of constant brightness"""
    gamma: float = 10.0
    """weight of constant gradient"""
    mean_normalisation: bool = True
    """patches are compared after their means are removed"""
    propagation: bool = True
    """patches also try their neighbours' motion"""

    def __post_init__(self) -> None:
        check(0 <= self.finest_scale <= 8, "dis.finest_scale", self.finest_scale, "0 to 8")
        check(4 <= self.patch <= 64, "dis.patch", self.patch, "4 to 64 px")
        check(1 <= self.stride <= self.patch, "dis.stride", self.stride, "1 px up to dis.patch")
        check(self.descent >= 1, "dis.descent", self.descent, "1 or more")
        check(self.refinement >= 0, "dis.refinement", self.refinement, "0 or more")
        weights = (self.alpha, self.delta, self.gamma)
        check(min(weights) >= 0, "dis.alpha, delta, gamma", weights, "numbers of 0 or more")

    @property
    def smallest(self) -> int:
        """Shortest image side, px, that OpenCV handles: a thinner image crashes it or gives values that are no
        numbers."""
        return max(16, self.patch << self.finest_scale)


@dataclass(frozen=True)
class TvL1:
    """Duality-based TV-L1 (Zach et al. 2007), OpenCV's defaults; only in OpenCV's contrib builds."""

    tau: float = 0.25
    """time step"""
    lam: float = 0.15
    """weight of the data term: smaller is smoother"""
    theta: float = 0.3
    """coupling of data and smoothness"""
    scales: int = 5
    """levels of the pyramid"""
    warps: int = 5
    """per level"""
    epsilon: float = 0.01
    """change at which the iterations stop"""
    inner: int = 30
    """iterations"""
    outer: int = 10
    """iterations"""
    scale_step: float = 0.8
    """size of a pyramid level over that of the level below"""
    gamma: float = 0.0
    """weight of brightness changes, which are taken for motion where it is 0"""
    median: int = 5
    """side of the median filter, px: 1 (none), 3 or 5"""

    def __post_init__(self) -> None:
        counts = (self.scales, self.warps, self.inner, self.outer)
        check(min(counts) >= 1, "tvl1.scales, warps, inner, outer", counts, "1 or more of each")
        reals = (self.tau, self.lam, self.theta, self.epsilon)
        check(min(reals) > 0, "tvl1.tau, lam, theta, epsilon", reals, "numbers above 0")
        check(0 < self.scale_step < 1, "tvl1.scale_step", self.scale_step, "a number between 0 and 1")
        check(self.gamma >= 0, "tvl1.gamma", self.gamma, "a number of 0 or more")
        check(self.median in (1, 3, 5), "tvl1.median", self.median, "1, 3 or 5")


def by_farneback(p: Farneback) -> Estimate:
    """The method as a function of two grey images."""
    flags = cv2.OPTFLOW_FARNEBACK_GAUSSIAN if p.gaussian else 0
    settings = (p.scale, p.levels, p.window, p.iterations, p.poly_n, p.poly_sigma, flags)
    call: Callable[..., Any] = cv2.calcOpticalFlowFarneback

    def estimate(first: Image, second: Image) -> Flow:
        pair = [_framed(image, p.border) for image in (first, second)]
        if p.gain != 1:
            pair = [np.multiply(image, p.gain, dtype=np.float32) for image in pair]
        flow = np.asarray(call(*pair, None, *settings), np.float32)
        height, width = first.shape
        return np.ascontiguousarray(flow[p.border : p.border + height, p.border : p.border + width])

    return estimate


def _framed(image: Image, border: int) -> NDArray[Any]:
    """The image with its edge pixels repeated outwards."""
    return cv2.copyMakeBorder(image, border, border, border, border, cv2.BORDER_REPLICATE) if border else image


def by_dis(p: Dis, shape: tuple[int, ...]) -> Estimate:
    """The method as a function of two grey images of this shape. Raises FlickerError: too small.

    Every parameter is set, so that no preset of another OpenCV shows through.
    """
    if min(shape) < p.smallest:
        have = f"{shape[1]}×{shape[0]}"
        raise FlickerError(f"flow: dis needs images of {p.smallest} px or more, this one is {have}: enlarge it")
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow.setFinestScale(p.finest_scale)
    flow.setPatchSize(p.patch)
    flow.setPatchStride(p.stride)
    flow.setGradientDescentIterations(p.descent)
    flow.setVariationalRefinementIterations(p.refinement)
    flow.setVariationalRefinementAlpha(p.alpha)
    flow.setVariationalRefinementDelta(p.delta)
    flow.setVariationalRefinementGamma(p.gamma)
    flow.setUseMeanNormalization(p.mean_normalisation)
    flow.setUseSpatialPropagation(p.propagation)
    return _calculator(flow)


def by_tvl1(p: TvL1) -> Estimate:
    """The method as a function of two grey images. Raises UsageError where this OpenCV has none."""
    contrib = getattr(cv2, "optflow", None)
    if contrib is None:
        raise UsageError(
            f"flow: tvl1 is not in this OpenCV ({cv2.__version__}): install opencv-contrib-python-headless in its"
            " place, or take dis or farneback"
        )
    flow = contrib.DualTVL1OpticalFlow_create()
    for name, value in asdict(p).items():
        getattr(flow, f"set{_SETTERS[name]}")(value)
    return _calculator(flow)


_SETTERS = {
    "tau": "Tau",
    "lam": "Lambda",
    "theta": "Theta",
    "scales": "ScalesNumber",
    "warps": "WarpingsNumber",
    "epsilon": "Epsilon",
    "inner": "InnerIterations",
    "outer": "OuterIterations",
    "scale_step": "ScaleStep",
    "gamma": "Gamma",
    "median": "MedianFiltering",
}


def _calculator(flow: Any) -> Estimate:
    """One of OpenCV's objects as a function."""

    def estimate(first: Image, second: Image) -> Flow:
        try:
            return np.asarray(flow.calc(first, second, None), np.float32)
        except cv2.error as error:
            size = f"{first.shape[1]}×{first.shape[0]}"
            what = f"OpenCV refuses images of {size} px with these parameters ({error.err})"
            raise FlickerError(f"flow: {what}: enlarge the images") from None

    return estimate
