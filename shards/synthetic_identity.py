"""Who a synthetic face is: proportions, colours and light, drawn at random.

Face units: the origin lies between eyes and mouth, x to the image's right, y down; the face is about 1.3 units
wide and 1.75 high.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Array = np.ndarray

_SKIN = ((246, 217, 196), (231, 190, 160), (205, 154, 120), (158, 109, 80), (104, 71, 54))
_HAIR = ((28, 24, 23), (58, 40, 30), (96, 63, 40), (150, 110, 66), (122, 52, 30), (128, 124, 120))
_IRIS = ((74, 46, 28), (52, 34, 24), (92, 118, 150), (98, 120, 82), (118, 92, 52))
_SHIRT = ((60, 74, 98), (118, 50, 54), (64, 92, 74), (96, 96, 100), (172, 166, 154), (44, 44, 50))
_WALL = ((188, 192, 196), (150, 162, 172), (196, 186, 170), (128, 134, 130), (168, 156, 160))


@dataclass(frozen=True)
class Identity:
    """What one person looks like: lengths in face units, colours RGB 0..1, light as a direction."""

    half_width: float
    half_height: float
    jaw: float
    eye: tuple[float, float, float, float]
    """Centre x, centre y, half width, half height of an eye (of the one at x > 0)."""
    brow: tuple[float, float, float]
    """Height above the eye's centre, arch, half thickness."""
    nose: tuple[float, float]
    """y of the tip, half width."""
    mouth: tuple[float, float, float, float]
    """y, half width, height of the upper and of the lower lip."""
    hairline: float
    sweep: float
    """How much lower the hairline is at the image's right than at its left, per unit."""
    hair_length: float
    """How far down the hair behind the head reaches (y)."""
    beard: float
    freckles: float
    skin: Array = field(repr=False)
    hair: Array = field(repr=False)
    iris: Array = field(repr=False)
    lips: Array = field(repr=False)
    shirt: Array = field(repr=False)
    wall: Array = field(repr=False)
    light: Array = field(repr=False)
    texture_seed: int = 0

    @property
    def landmarks(self) -> dict[str, tuple[float, float]]:
        """Points that the movements are anchored to, of the half at x > 0 (face units)."""
        (eye_x, eye_y, eye_w, eye_h), (brow_up, arch, _) = self.eye, self.brow
        mouth_y, mouth_w, upper, lower = self.mouth
        nose_y, nose_w = self.nose
        return {
            "brow_inner": (eye_x - 0.11, eye_y - brow_up),
            "brow_middle": (eye_x, eye_y - brow_up - arch),
            "brow_outer": (eye_x + 0.12, eye_y - brow_up),
            "lid_upper": (eye_x, eye_y - eye_h),
            "lid_lower": (eye_x, eye_y + 0.7 * eye_h),
            "eye_outer": (eye_x + eye_w, eye_y),
            "cheek": (eye_x + 0.06, 0.5 * (eye_y + nose_y) + 0.06),
            "nose_root": (0.06, eye_y + 0.1),
            "nose_wing": (nose_w, nose_y - 0.02),
            "lip_upper": (0.45 * mouth_w, mouth_y - upper),
            "lip_lower": (0.3 * mouth_w, mouth_y + lower),
            "mouth_corner": (mouth_w, mouth_y),
            "chin": (0.08, 0.5 * (mouth_y + self.half_height) + 0.04),
        }


def sample_identity(rng: np.random.Generator) -> Identity:
    """Draw a person's looks from `rng`."""
    tone = rng.uniform(0, len(_SKIN) - 1)
    skin = _between(_SKIN, tone)
    hair = _HAIR[rng.integers(len(_HAIR) if tone < 1.5 else 2)]  # dark skin with dark hair
    eye_y = rng.uniform(-0.17, -0.12)
    angle, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.75)
    light = np.array([height * np.cos(angle), -0.25 + 0.5 * height * np.sin(angle), 1.0])
    long_hair = rng.random() < 0.45
    return Identity(
        half_width=rng.uniform(0.60, 0.68),
        half_height=rng.uniform(0.84, 0.92),
        jaw=rng.uniform(0.06, 0.24),
        eye=(rng.uniform(0.255, 0.295), eye_y, rng.uniform(0.122, 0.145), rng.uniform(0.052, 0.068)),
        brow=(rng.uniform(0.14, 0.18), rng.uniform(0.015, 0.045), rng.uniform(0.018, 0.034)),
        nose=(rng.uniform(0.19, 0.26), rng.uniform(0.10, 0.14)),
        mouth=(
            rng.uniform(0.46, 0.51),
            rng.uniform(0.20, 0.255),
            rng.uniform(0.035, 0.055),
            rng.uniform(0.05, 0.075),
        ),
        hairline=rng.uniform(-0.68, -0.54),
        sweep=rng.normal(0, 0.15),
        hair_length=rng.uniform(0.7, 1.3) if long_hair else rng.uniform(-0.2, 0.1),
        beard=0.0 if long_hair else float(rng.choice([0.0, 0.0, 0.25, 0.6])),
        freckles=float(rng.choice([0.0, 0.0, 0.5, 1.0])),
        skin=skin,
        hair=np.array(hair) / 255 * rng.uniform(0.85, 1.1),
        iris=np.array(_IRIS[rng.integers(len(_IRIS) if tone < 1.5 else 2)]) / 255,
        lips=np.clip(skin * rng.uniform([0.80, 0.50, 0.50], [0.92, 0.64, 0.66]), 0, 1),
        shirt=np.array(_SHIRT[rng.integers(len(_SHIRT))]) / 255,
        wall=np.array(_WALL[rng.integers(len(_WALL))]) / 255 * rng.uniform(0.6, 1.05),
        light=light / np.linalg.norm(light),
        texture_seed=int(rng.integers(2**31)),
    )


def _between(palette: tuple[tuple[int, int, int], ...], at: float) -> Array:
    """The colour at position `at` along a palette, RGB 0..1."""
    low = min(int(at), len(palette) - 2)
    return ((1 - at + low) * np.array(palette[low]) + (at - low) * np.array(palette[low + 1])) / 255
