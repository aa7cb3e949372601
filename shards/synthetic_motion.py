"""How synthetic faces move: action units as smooth displacement fields, and the time courses of everything.

A field is a sum of Gaussian strokes. D(h) is the displacement, in face units, of the skin that is now seen at
point h of the head; skin first drawn at u = h - D(h). So max |D| is the movement's amplitude, exactly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from shards.errors import FlickerError

Array = np.ndarray
Point = tuple[float, float]

# Per action unit, for the half at x > 0 (mirrored for the other): landmark, direction (right, down), sd (x, y).
_STROKES: dict[int, tuple[tuple[str, Point, Point], ...]] = {
    1: (("brow_inner", (0.1, -1.0), (0.11, 0.11)),),
    2: (("brow_outer", (0.0, -1.0), (0.12, 0.12)),),
    4: (("brow_inner", (-0.5, 0.9), (0.12, 0.10)), ("brow_middle", (-0.2, 0.7), (0.11, 0.10))),
    5: (("lid_upper", (0.0, -1.0), (0.11, 0.085)),),
    6: (("cheek", (0.0, -1.0), (0.15, 0.11)), ("eye_outer", (-0.5, -0.1), (0.09, 0.09))),
    7: (("lid_lower", (0.0, -1.0), (0.12, 0.085)), ("lid_upper", (0.0, 0.4), (0.12, 0.085))),
    9: (("nose_root", (0.0, -1.0), (0.09, 0.11)), ("nose_wing", (0.2, -0.7), (0.09, 0.09))),
    10: (("lip_upper", (0.1, -1.0), (0.10, 0.09)), ("nose_wing", (0.1, -0.4), (0.10, 0.10))),
    12: (("mouth_corner", (0.8, -0.75), (0.13, 0.11)), ("cheek", (0.2, -0.3), (0.14, 0.11))),
    14: (("mouth_corner", (0.95, 0.0), (0.09, 0.085)),),
    15: (("mouth_corner", (0.15, 1.0), (0.10, 0.11)),),
    17: (("chin", (0.0, -1.0), (0.15, 0.11)), ("lip_lower", (0.0, -0.6), (0.14, 0.085))),
    20: (("mouth_corner", (1.0, 0.3), (0.12, 0.11)), ("lip_lower", (0.5, 0.1), (0.11, 0.10))),
    24: (("lip_upper", (0.0, 0.8), (0.13, 0.085)), ("lip_lower", (0.0, -0.8), (0.13, 0.085))),
    25: (("lip_lower", (0.0, 1.0), (0.14, 0.095)), ("lip_upper", (0.0, -0.4), (0.14, 0.085))),
}
SMALLEST_SD = 0.085
"""Smallest standard deviation of a stroke, face units."""

UNITS: tuple[tuple[int, int], ...] = tuple((au, side) for au in _STROKES for side in (-1, 1))
"""Columns of every `gains` array: (action unit, side of the image: -1 left, +1 right)."""

# Emotion -> {action units: weight}. The sets are disjoint between emotions, their units are not.
EMOTION_AUS: dict[str, dict[str, float]] = {
    "happiness": {"12": 4, "6+12": 3, "L12": 1, "R12": 1, "12+25": 1},
    "disgust": {"4+9": 2, "4+7": 2, "9": 1, "10": 1.5, "4+7+10": 1, "L10": 0.5},
    "surprise": {"1+2": 4, "1+2+25": 2, "L1+L2": 1, "R1+R2": 1, "1+2+5": 1},
    "repression": {"14": 2, "15": 2, "17": 2, "15+17": 1.5, "L14": 0.5, "14+17": 1},
    "others": {"4": 4, "7": 1, "1+4": 1, "4+14": 1, "20": 1, "24": 1},
}


def unit_indices(aus: str) -> list[int]:
    """Columns of `UNITS` that the set `aus` ("4+7+L10"; L is the person's left, at the image's right) moves."""
    indices = []
    for token in aus.split("+"):
        found = re.fullmatch(r"([LR]?)(\d+)", token)
        if not found or int(found[2]) not in _STROKES:
            raise FlickerError(f"action unit {token!r} of {aus!r} is not drawn; known: {sorted(_STROKES)}")
        sides = {"L": (1,), "R": (-1,), "": (-1, 1)}[found[1]]
        indices += [UNITS.index((int(found[2]), side)) for side in sides]
    return indices


def draw_aus(emotion: str, overlap: float, rng: np.random.Generator, classes: tuple[str, ...]) -> tuple[str, str]:
    """An AU set for a clip labelled `emotion`, and the class whose set it is.

    With probability `overlap` that is another one of `classes`.
    """
    source = emotion
    others = [name for name in classes if name != emotion]
    if others and rng.random() < overlap:
        source = others[rng.integers(len(others))]
    sets = EMOTION_AUS[source]
    weights = np.array(list(sets.values()), float)
    return list(sets)[rng.choice(len(sets), p=weights / weights.sum())], source


class Strokes:
    """The fields of all `UNITS` on one face.

    Attributes: `table` float32 [n 6] (centre x, y, sd x, y, direction x, y), face units; `unit` int [n], the
    column of `UNITS` each stroke belongs to. Each unit's field has peak 1.
    """

    def __init__(self, landmarks: dict[str, Point]):
        rows, owners = [], []
        for index, (au, side) in enumerate(UNITS):
            for name, (right, down), sd in _STROKES[au]:
                x, y = landmarks[name]
                rows.append((side * x, y, *sd, side * right, down))
                owners.append(index)
        self.table, self.unit = np.array(rows, np.float32), np.array(owners)
        axis = np.linspace(-1, 1, 81, dtype=np.float32)
        self._grid = np.stack(np.meshgrid(axis, axis), -1)  # [81 81 2]
        for index in range(len(UNITS)):
            self.table[self.unit == index, 4:] /= self.peak(np.eye(len(UNITS))[index])

    def displacement(self, points: Array, gains: Array) -> Array:
        """D at `points` [... 2] for `gains` [len(UNITS)] (face units of each unit's peak): float32 [... 2]."""
        moved = np.zeros(points.shape, np.float32)
        amounts = np.asarray(gains, np.float32)[self.unit]
        for (x, y, sx, sy, dx, dy), amount in zip(self.table, amounts, strict=True):
            if amount:
                hill = np.exp(-0.5 * (((points[..., 0] - x) / sx) ** 2 + ((points[..., 1] - y) / sy) ** 2))
                moved += (amount * hill)[..., None] * np.array([dx, dy], np.float32)
        return moved

    def peak(self, gains: Array) -> float:
        """max |D| over the face, in the unit of `gains`."""
        return float(np.linalg.norm(self.displacement(self._grid, gains), axis=-1).max())


@dataclass(frozen=True)
class Style:
    """How one person moves: gain per unit [len(UNITS)], and a unit that always moves along."""

    gains: Array
    companion: int
    companion_share: float

    def weights(self, aus: str, rng: np.random.Generator) -> Array:
        """Relative gains [len(UNITS)] of the set `aus` as this person shows it once."""
        weights = np.zeros(len(UNITS))
        indices = unit_indices(aus)
        weights[indices] = self.gains[indices] * rng.uniform(0.75, 1.0, len(indices))
        weights[self.companion] += self.companion_share * weights.max()
        return weights


def sample_style(rng: np.random.Generator, spread: float) -> Style:
    """Draw a person's style; `spread` is the standard deviation of the logarithm of the gains."""
    au_gain = np.repeat(rng.normal(0, spread, len(_STROKES)), 2)  # both sides of an AU alike ...
    side_gain = np.tile(rng.normal(0, spread) * np.array([-0.5, 0.5]), len(_STROKES))  # ... but for asymmetry
    return Style(np.exp(au_gain + side_gain), int(rng.integers(len(UNITS))), spread * rng.uniform(0.2, 1.0))


def minimum_jerk(x: Array) -> Array:
    """0 for x <= 0, 1 for x >= 1, between them the smoothest rise: 10x^3 - 15x^4 + 6x^5."""
    x = np.clip(x, 0, 1)
    return x**3 * (10 - 15 * x + 6 * x**2)


@dataclass(frozen=True)
class Event:
    """One movement: it rises from `onset` to `apex`, stays for `hold`, is gone at `offset` (seconds)."""

    onset: float
    apex: float
    hold: float
    offset: float
    gains: Array
    """Amplitude of each unit [len(UNITS)], face units."""

    def course(self, times: Array) -> Array:
        """Share of the amplitude at `times` [t] (seconds)."""
        rise = minimum_jerk((times - self.onset) / (self.apex - self.onset))
        fall = minimum_jerk((times - self.apex - self.hold) / (self.offset - self.apex - self.hold))
        return rise - fall


def gains_over_time(events: list[Event], times: Array) -> Array:
    """Summed gains [t len(UNITS)], face units."""
    total = np.zeros((len(times), len(UNITS)), np.float32)
    for event in events:
        total += event.course(times)[:, None] * event.gains
    return total


def wander(times: Array, rng: np.random.Generator, rows: int) -> Array:
    """Slow smooth wandering [t rows], each column of mean square 1 over a long time (0.1 to 1.5 Hz)."""
    frequency = np.exp(rng.uniform(np.log(0.1), np.log(1.5), (rows, 5)))
    phase = rng.uniform(0, 2 * np.pi, (rows, 5))
    power = 1 / frequency
    share = np.sqrt(2 * power / power.sum(axis=1, keepdims=True))
    return (share * np.sin(2 * np.pi * frequency * times[:, None, None] + phase)).sum(-1)


def blinks(times: Array, rng: np.random.Generator, rate: float) -> Array:
    """Lid closure [t], 0 open to 1 closed, with blinks at random, `rate` a second on average."""
    closure = np.zeros(len(times))
    if rate <= 0:
        return closure
    at = times[0] - 0.4 + rng.exponential(1 / rate)
    while at < times[-1]:
        closing = minimum_jerk((times - at) / 0.09) - minimum_jerk((times - at - 0.13) / 0.17)
        closure = np.maximum(closure, closing)
        at += 0.4 + rng.exponential(1 / rate)
    return closure
