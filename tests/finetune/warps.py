"""Pairs of pictures whose motion is known exactly: one continuous texture, seen before and after a smooth warp.

The warp is given backwards, as d: what is seen at q in the second picture is what the first shows at q - d(q). Both
pictures sample the same texture (drawn at several times their size, cubic splines in float64), so neither is a
resampled copy of the other. The forward flow at p is y - p with y = p + d(y), solved to 1e-9 px.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from scipy.ndimage import map_coordinates, spline_filter

from shards.synthetic_face import Portrait
from shards.synthetic_identity import sample_identity

Array = np.ndarray
Field = Callable[[Array], Array]
MARGIN = 16  # px of texture beyond the picture
UNIT = 0.70  # pixels per face unit over the picture's side: the face fills it, as in the published crops


@dataclass(frozen=True)
class Texture:
    """A continuous grey picture and, of the same size, where it shows the face (or whatever is worth measuring)."""

    spline: Array  # float64, filtered for cubic splines
    over: int  # samples per px
    offset: float  # of the picture's origin, samples
    cover: Array  # bool, as spline

    def _at(self, points: Array) -> Array:
        """Points [... 2] (x, y) px to (row, column) samples [2 ...]."""
        where = (points + 0.5) * self.over - 0.5 + self.offset
        return np.stack([where[..., 1], where[..., 0]])

    def draw(self, points: Array) -> Array:
        """The texture at points [H W 2], uint8 [H W]."""
        values = map_coordinates(self.spline, self._at(points), order=3, mode="mirror", prefilter=False)
        return np.rint(np.clip(values, 0, 255)).astype(np.uint8)

    def covers(self, points: Array) -> Array:
        """Where the face is, bool [H W]."""
        return map_coordinates(self.cover.astype(np.uint8), self._at(points), order=0, mode="nearest") > 0


@lru_cache(maxsize=8)
def face(size: int, seed: int, over: int = 2) -> Texture:
    """A rendered face that fills a picture of `size`, before a plain wall."""
    person = sample_identity(np.random.default_rng(seed))
    portrait = Portrait(person, UNIT * size * over)
    layers = portrait.head.astype(np.float64)
    rgb = layers[..., :3] + (1 - layers[..., 3:] / 255) * 110
    inside = (portrait.x / person.half_width) ** 2 + (portrait.y / person.half_height) ** 2 < 0.9
    grey = spline_filter(rgb @ [0.299, 0.587, 0.114])
    return Texture(grey, over, (portrait.head.shape[0] - size * over) / 2, inside)


@lru_cache(maxsize=8)
def noise(size: int, seed: int, over: int = 2) -> Texture:
    """Random texture with detail of about 1 to 8 px."""
    rng = np.random.default_rng(seed)
    side = (size + 2 * MARGIN) * over
    layers = [cv2.GaussianBlur(rng.standard_normal((side, side)), (0, 0), s * over) * s for s in (1.0, 2.5, 8.0)]
    total = sum(layers)
    total = 128 + 45 * (total - np.mean(total)) / np.std(total)
    return Texture(spline_filter(total), over, MARGIN * over, np.ones((side, side), bool))


def grid(size: int) -> Array:
    """Pixel centres, float64 [size size 2] (x, y)."""
    axis = np.arange(size, dtype=np.float64)
    return np.stack(np.meshgrid(axis, axis), -1)


def broad(size: int, amplitude: float, seed: int) -> Field:
    """Waves of a picture's width and longer, of `amplitude` px at most: as the head's motion."""
    rng = np.random.default_rng(seed)
    waves, phases = rng.uniform(-1, 1, (4, 2)) * 2 * np.pi / size, rng.uniform(0, 6.3, (4, 2))
    weights = rng.standard_normal((4, 2))
    return _scaled(lambda q: (np.sin((q @ waves.T)[..., None] + phases) * weights).sum(-2), size, amplitude)


def local(size: int, amplitude: float, seed: int) -> Field:
    """Six Gaussian hills of standard deviation 9 % of the picture, `amplitude` px at most: as facial motion."""
    rng = np.random.default_rng(seed)
    centres, weights = rng.uniform(0.25, 0.75, (6, 2)) * size, rng.standard_normal((6, 2))

    def raw(q: Array) -> Array:
        away = ((q[..., None, :] - centres) ** 2).sum(-1) / (0.09 * size) ** 2
        return np.exp(-away / 2) @ weights

    return _scaled(raw, size, amplitude)


def _scaled(raw: Field, size: int, amplitude: float) -> Field:
    peak = np.linalg.norm(raw(grid(size)), axis=-1).max()
    return lambda q: raw(q) * (amplitude / peak)


def _settle(step: Field, start: Array) -> Array:
    """The fixed point of `step`, to 1e-9 px."""
    at = start
    for _ in range(300):
        before, at = at, step(at)
        if np.abs(at - before).max() < 1e-10:
            return at
    raise AssertionError("the warp folds")


def forward(field: Field, points: Array) -> Array:
    """The flow of the warp at points [... 2] of the first picture."""
    return _settle(lambda y: points + field(y), points) - points


def backward(field: Field, points: Array, factor: float) -> Array:
    """The points x of the first picture that `factor` times the flow moves to points [... 2].

    With z = x + flow(x), flow(x) is d(z): x + factor flow(x) = z + (factor - 1) d(z).
    """
    z = _settle(lambda z: points - (factor - 1) * field(z), points)
    return z - field(z)


@dataclass(frozen=True)
class Pair:
    """Two pictures uint8 [S S], the flow from the first to the second float64 [S S 2], where to measure [S S]."""

    first: Array
    second: Array
    flow: Array
    mask: Array

    def error(self, flow: Array) -> float:
        """Mean end-point error where the mask is, px."""
        return float(np.linalg.norm(flow - self.flow, axis=-1)[self.mask].mean())


def pair(texture: Texture, size: int, field: Field) -> Pair:
    """The texture before and after the warp."""
    at = grid(size)
    return Pair(texture.draw(at), texture.draw(at - field(at)), forward(field, at), texture.covers(at))
