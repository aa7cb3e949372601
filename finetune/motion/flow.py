"""Dense optical flow between two frames, and from the onset to every frame of a clip.

Mean end-point error, px, of the presets on rendered faces under smooth warps of known displacement (the largest
stated; three people). `broad`: waves of the picture's width, as the head's motion; `local`: hills of 9 % of it, as
facial motion. tests/finetune/test_flow_errors.py prints the whole tables, random texture and simulated clips too.

             224 px                             384 px
             broad 0.25 0.5   1     2 px        local 2 px   broad 2 px
    slstt    0.021 0.033 0.056 0.104            0.091        0.284
    fine     0.021 0.030 0.045 0.074            0.048        0.069
    dis      0.026 0.028 0.035 0.044            0.040        0.058
    tvl1     0.061 0.071 0.055 0.055            0.061        0.081

What matters, for Farnebäck: contrast first (`gain`: without it motion on smooth skin comes out too short, the more so
the larger the image and `poly_n`), then the window: a small one lets noise through (broad, 0.25 px: 0.032 with 9,
0.022 with 15), a large one smears motion (local, 2 px: 0.056 with 15, 0.111 with 31; both in 224 px), then the edges
(`border`). Other `levels` (1, 5) or more `iterations` make no difference up to 2 px. For DIS:
`finest_scale` (0 is better than OpenCV's 1 on warps, 4 times slower).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from finetune.motion import digest
from finetune.motion.flow_methods import Dis, Estimate, Farneback, Flow, Image, TvL1, by_dis, by_farneback, by_tvl1
from finetune.motion.flow_methods import check as _check
from shards.errors import FlickerError, UsageError

Method = Literal["farneback", "dis", "tvl1"]
METHODS: tuple[Method, ...] = get_args(Method)
Units = Literal["scaled", "source"]
VERSION = 1
"""Raised when flow of unchanged parameters changes its values."""


@dataclass(frozen=True)
class FlowConfig:
    """A method and its parameters; those of the other methods are without effect, also on `key()`.

    Raises UsageError: unknown method, or a parameter out of range.
    """

    method: Method = "farneback"
    farneback: Farneback = field(default_factory=Farneback)
    dis: Dis = field(default_factory=Dis)
    tvl1: TvL1 = field(default_factory=TvL1)

    def __post_init__(self) -> None:
        _check(self.method in METHODS, "method", self.method, f"one of {', '.join(METHODS)}")

    def key(self) -> str:
        """For caches: changes with the method, its parameters, VERSION, and OpenCV's major and minor version."""
        used = asdict(getattr(self, self.method))
        library = ".".join(cv2.__version__.split(".")[:2])
        return digest("flow", VERSION, {"method": self.method, "opencv": library, **used})


PRESETS = {
    "slstt": FlowConfig(),
    "fine": FlowConfig(farneback=Farneback(gain=8.0, border=16)),
    "dis": FlowConfig("dis"),
    "tvl1": FlowConfig("tvl1"),
}
"""`slstt`: the values of SLSTT's release, the default. `fine`: the same without two faults of OpenCV's Farnebäck."""


def preset(name: str) -> FlowConfig:
    """A config of PRESETS by name. Raises UsageError: unknown."""
    if name not in PRESETS:
        raise UsageError(f"flow preset '{name}' is not known: give one of {', '.join(PRESETS)}")
    return PRESETS[name]


def compute(reference: Image, other: Image, config: FlowConfig = PRESETS["slstt"]) -> Flow:
    """Flow float32 [H W 2] = (u right, v down), pixels of the given images, from `reference` to `other`.

    Both are uint8 [H W 3] RGB or [H W] grey. Grey is 0.299 R + 0.587 G + 0.114 B (SLSTT's release reads BGR and
    weighs red and blue the other way round).

    Raises FlickerError: sizes differ, or too small for the method; UsageError: `tvl1` without OpenCV's contrib.
    """
    first, second = grey(reference), grey(other)
    _same(first, second)
    return _estimator(config, first.shape)(first, second)


def long_term(frames: NDArray[np.uint8], config: FlowConfig = PRESETS["slstt"]) -> Flow:
    """Long-term flow (SLSTT, section 3.1): from frame 0, the onset, to each frame.

    `frames` is uint8 [T H W 3] RGB; returns float32 [T H W 2], pixels of the given frames. Row 0 is zero. Raises as
    `compute`.
    """
    if frames.ndim != 4 or not len(frames):
        raise FlickerError(f"flow: a clip is an array {list(frames.shape)}: give uint8 [T H W 3] with T of 1 or more")
    flows = np.zeros((*frames.shape[:3], 2), np.float32)
    first = grey(frames[0])
    estimate = _estimator(config, first.shape)
    for index in range(1, len(frames)):
        flows[index] = estimate(first, grey(frames[index]))
    return flows


def resize(flow: Flow, size: int, units: Units = "scaled") -> Flow:
    """Flow [... H W 2] to float32 [... size size 2]: area averaging down, linear up.

    units: `scaled` turns the vectors into pixels of the new size (u × size / W, v × size / H); `source` leaves
    them in pixels of the old one, as STSTNet and HTNet publish their maps. Raises UsageError: other units, size < 1.
    """
    if units not in get_args(Units):
        raise UsageError(f"flow units '{units}' are not known: give one of {', '.join(get_args(Units))}")
    if size < 1:
        raise UsageError(f"flow size {size}: give 1 px or more")
    height, width = flow.shape[-3:-1]
    down = size < height or size < width
    method = cv2.INTER_AREA if down else cv2.INTER_LINEAR
    single = np.ascontiguousarray(flow, np.float32).reshape(-1, height, width, 2)
    resized = np.stack([cv2.resize(one, (size, size), interpolation=method) for one in single]).astype(np.float32)
    if units == "scaled":
        resized *= np.array([size / width, size / height], np.float32)
    return resized.reshape(*flow.shape[:-3], size, size, 2)


def grey(image: Image) -> Image:
    """RGB uint8 [H W 3] (or [H W], returned as it is) to uint8 [H W]. Raises FlickerError: another array."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or not image.size:
        raise FlickerError(f"flow: a frame is {image.dtype} {list(image.shape)}: give uint8 [H W 3] RGB or [H W]")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8) if image.ndim == 3 else image


def _same(first: Image, second: Image) -> None:
    """Raise FlickerError where two frames differ in size."""
    if first.shape != second.shape:
        (h1, w1), (h2, w2) = first.shape, second.shape
        raise FlickerError(f"flow: frames of {w1}×{h1} and {w2}×{h2} px: bring both to one size first")


def _estimator(config: FlowConfig, shape: tuple[int, ...]) -> Estimate:
    """The method as a function of two grey images of this shape."""
    if config.method == "farneback":
        return by_farneback(config.farneback)
    if config.method == "dis":
        return by_dis(config.dis, shape)
    return by_tvl1(config.tvl1)
