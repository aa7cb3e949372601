"""Drawing synthetic faces: one identity is drawn once, as a textured picture that the camera then warps.

Lengths are in face units (shards.synthetic_identity). T is the side of the drawn picture.
"""

from __future__ import annotations

from functools import cached_property

import cv2
import numpy as np

from shards.synthetic_identity import Identity

Array = np.ndarray
EXTENT = 1.4
"""Half the side of the drawn picture in face units."""
LID_LEVELS = 9
"""Drawn lid positions between open and closed; frames between them are blended."""


class Portrait:
    """One identity drawn at `scale` picture pixels per face unit.

    Attributes: `head` uint8 [T T 4], eyes open: RGB premultiplied by the fourth channel, the coverage (0 =
    background); `x`, `y` float32 [T T], the face units of its pixels; `lid_boxes`, the two eyes' slices into it.
    """

    def __init__(self, identity: Identity, scale: float):
        self.identity, self.scale = identity, float(scale)
        self._rng = np.random.default_rng(identity.texture_seed)
        side = 2 * round(EXTENT * scale) + 1
        axis = ((np.arange(side) - side // 2) / scale).astype(np.float32)
        self.x, self.y = np.meshgrid(axis, axis)  # [T T] each
        self._face = self._face_mask()
        self._cover = np.zeros_like(self.x)
        self._rgb = np.zeros((*self.x.shape, 3), np.float32)
        self._draw()
        self.head = self._finish(self._rgb, self._cover)
        for box in self.lid_boxes:
            self.head[box] = self._eye(0.0, box)

    def pixels(self, points: Array) -> Array:
        """Points [... 2] in face units to positions in `head`, float32 [... 2]."""
        return points * np.float32(self.scale) + np.float32(self.head.shape[0] // 2)

    # -- helpers

    def soft(self, distance: Array, blur: float = 0.0) -> Array:
        """1 inside (negative distance), 0 outside, over one picture pixel or `blur` face units."""
        return np.clip(0.5 - distance / max(blur, 1.5 / self.scale), 0, 1)

    def noise(self, wavelength: float, stretch: tuple[float, float] = (1.0, 1.0)) -> Array:
        """Smooth noise [T T], mean 0, sd about 1, of a `wavelength` in face units (stretched in x, y)."""
        side = self.x.shape[0]
        cells = [max(2, int(2 * EXTENT / (wavelength * s))) for s in stretch]
        coarse = self._rng.standard_normal((min(cells[1], side), min(cells[0], side))).astype(np.float32)
        return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC) * 1.2

    def bump(self, x: float, y: float, sx: float, sy: float) -> Array:
        """A Gaussian hill [T T]; for x > 0 there is one at -x too."""
        hill = np.exp(-0.5 * ((np.abs(self.x) - x) / sx) ** 2 - 0.5 * ((self.y - y) / sy) ** 2)
        return hill if x else np.exp(-0.5 * (self.x / sx) ** 2 - 0.5 * ((self.y - y) / sy) ** 2)

    def _paint(self, mask: Array, colour: Array) -> None:
        """Lay `colour` (RGB or [T T 3]) over the premultiplied picture where `mask` [T T] is 1."""
        self._rgb += mask[..., None] * (np.asarray(colour, np.float32) - self._rgb)
        self._cover += mask * (1 - self._cover)

    def _finish(self, rgb: Array, cover: Array) -> Array:
        """Float layers to uint8 [h w 4], blurred so that sampling at half the resolution does not alias."""
        layers = np.dstack([np.clip(rgb, 0, 1), cover]) * 255
        return np.rint(cv2.GaussianBlur(layers, (0, 0), 0.8)).astype(np.uint8)

    # -- the head

    def _face_mask(self) -> Array:
        who = self.identity
        narrow = 1 - who.jaw * np.clip((self.y + 0.1) / who.half_height, 0, 1) ** 2
        across, down = np.abs(self.x / (who.half_width * narrow)), np.abs(self.y / who.half_height)
        radius = (across**2.2 + down**2.2) ** (1 / 2.2)
        return self.soft((radius - 1) * who.half_width)

    def _draw(self) -> None:
        who = self.identity
        self._draw_behind()
        ears = self.soft(np.hypot((np.abs(self.x) - who.half_width) / 0.09, (self.y - 0.02) / 0.17) - 1, 0.06)
        self._paint(ears * (who.hair_length < 0.5), who.skin * 0.8)
        self._paint(self._face, self._skin_texture())
        self._draw_nose()
        self._draw_mouth()
        self._draw_brows()
        self._rgb *= (1 - self._face * (1 - self._shade()))[..., None]
        self._draw_hair()

    def _draw_behind(self) -> None:
        """Hair behind the head, neck, shirt."""
        who = self.identity
        back = np.hypot(self.x / (who.half_width + 0.12), (self.y + 0.12) / (who.half_height + 0.06)) - 1
        sides = np.where(self.y > -0.12, np.abs(self.x) / (who.half_width + 0.13) - 1, back)
        end = who.hair_length - 0.25 * np.clip(np.abs(self.x) - 0.45, 0, 1) + 0.03 * self.noise(0.08, (1.0, 9.0))
        falls = np.maximum(sides, self.y - end)
        self._paint(self.soft(np.minimum(np.maximum(back, (self.y - 0.1)), falls), 0.05), self._hair_texture() * 0.7)
        neck = self.soft(np.abs(self.x) - 0.36 - 0.25 * np.clip(self.y - 0.95, 0, 1)) * (self.y > 0)
        under = np.clip((self.y - who.half_height - 0.35 * self.x**2 + 0.12) / 0.4, 0, 1)  # the chin's shadow
        dark = 0.52 + 0.32 * under - 0.25 * (self.x / 0.4) ** 2 * (self.y < 1.1)
        self._paint(neck, dark[..., None] * who.skin * (1 + 0.02 * self.noise(0.03))[..., None])
        shirt = self.soft(1.12 - self.y + 0.25 * np.clip(0.4 - np.abs(self.x), 0, 1) + 0.12 * self.x**2)
        weave = 1 + 0.05 * self.noise(0.03) + 0.08 * self.noise(0.3)
        self._paint(shirt, weave[..., None] * who.shirt)

    def _skin_texture(self) -> Array:
        """Skin [T T 3]: tone, blotches, grain, pores, freckles, flushed cheeks, beard."""
        who = self.identity
        grain = (
            0.030 * self.noise(0.022) + 0.024 * self.noise(0.045) + 0.018 * self.noise(0.11) + 0.02 * self.noise(0.4)
        )
        skin = who.skin * (1 + grain[..., None] * np.array([0.8, 1.0, 1.1]))
        flush = self.bump(0.36, 0.18, 0.14, 0.12) + 0.8 * self.bump(0.0, who.nose[0], 0.1, 0.08)
        skin = skin * (1 - 0.10 * flush[..., None] * np.array([0.1, 1.0, 0.9]))
        spots = np.clip(self.noise(0.03) - 2.5 + 0.7 * who.freckles * flush, 0, 0.5)
        skin = skin * (1 - 0.5 * spots[..., None])
        jaw = np.clip((self.y - 0.32) / 0.12, 0, 1) * (1 - self.bump(0.0, 0.3, 0.12, 0.06))
        jaw = np.maximum(jaw, np.clip((np.abs(self.x) - 0.5) / 0.08, 0, 1) * np.clip((self.y + 0.1) / 0.2, 0, 1))
        stubble = who.beard * jaw * np.clip(0.8 + 0.2 * self.noise(0.016, (0.8, 1.5)), 0, 1)
        return skin + stubble[..., None] * (who.hair * 0.8 - skin)

    def _height(self) -> Array:
        """The face as a relief [T T], face units: what the light falls on."""
        who = self.identity
        eye_x, eye_y, _, _ = who.eye
        nose_y, nose_w = who.nose
        mouth_y, mouth_w, upper, lower = who.mouth
        bowl = 1 - (self.x / (who.half_width * 1.04)) ** 2 - (self.y / (who.half_height * 1.06)) ** 2
        relief = 0.55 * np.sqrt(np.clip(bowl, 0.01, 1))
        ridge = (
            np.exp(-0.5 * (self.x / 0.045) ** 2)
            * self.soft(self.y - nose_y, 0.06)
            * np.clip((self.y - eye_y) / (nose_y - eye_y), 0, 1)
        )
        relief += 0.10 * ridge + 0.06 * self.bump(0.0, nose_y - 0.03, 0.06, 0.05)
        relief += 0.045 * self.bump(nose_w * 0.75, nose_y, 0.035, 0.035)
        relief += 0.035 * self.bump(eye_x, eye_y - who.brow[0], 0.14, 0.05) + 0.03 * self.bump(0.4, 0.12, 0.13, 0.11)
        relief -= 0.06 * self.bump(eye_x - 0.02, eye_y, 0.13, 0.075)
        relief += 0.03 * self.bump(0.0, mouth_y - 0.4 * upper, 0.6 * mouth_w, 0.6 * upper)
        relief += 0.035 * self.bump(0.0, mouth_y + 0.55 * lower, 0.55 * mouth_w, 0.5 * lower)
        relief -= 0.03 * self.bump(0.0, mouth_y + lower + 0.06, 0.13, 0.03)
        relief += 0.05 * self.bump(0.0, 0.5 * (mouth_y + who.half_height) + 0.06, 0.13, 0.09)
        fold = np.abs(self.x) - nose_w - 0.035 - 0.35 * np.clip(self.y - nose_y + 0.02, 0, 0.3)
        inside = np.clip((self.y - nose_y + 0.05) / 0.06, 0, 1) * np.clip((mouth_y - self.y + 0.06) / 0.1, 0, 1)
        relief -= 0.012 * inside * np.exp(-0.5 * (fold / 0.022) ** 2)
        return relief

    def _shade(self) -> Array:
        """Light on the relief [T T], 1 = the skin's own colour."""
        down, right = np.gradient(self._height() * self.scale)
        normal = np.dstack([-right, -down, np.ones_like(right)])
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        diffuse = np.clip(normal @ self.identity.light, 0, 1)
        return 0.40 + 0.64 * diffuse + 0.16 * diffuse**16

    # -- features

    def _draw_nose(self) -> None:
        nose_y, nose_w = self.identity.nose
        holes = np.hypot((np.abs(self.x) - 0.48 * nose_w) / (0.3 * nose_w), (self.y - nose_y - 0.035) / 0.016) - 1
        self._paint(0.75 * self.soft(holes * 0.016, 0.02), self.identity.skin * 0.28)
        wing = np.hypot((np.abs(self.x) - 0.72 * nose_w) / (0.36 * nose_w), (self.y - nose_y) / 0.055) - 1
        edge = np.exp(-0.5 * (wing / 0.16) ** 2) * (np.abs(self.x) > 0.75 * nose_w) * (self.y > nose_y - 0.045)
        self._paint(0.28 * edge.astype(np.float32), self.identity.skin * 0.4)

    def _draw_mouth(self) -> None:
        who = self.identity
        mouth_y, mouth_w, upper, lower = who.mouth
        u = np.clip(np.abs(self.x) / mouth_w, 0, 1)
        middle = mouth_y + 0.012 * np.cos(np.pi * u) - 0.012
        top = middle - upper * (1 - u**2) * (1 - 0.3 * np.exp(-0.5 * (u / 0.16) ** 2))
        bottom = middle + lower * np.clip(1 - u**2, 0, 1) ** 0.8
        lip = self.soft(top - self.y, 0.014) * self.soft(self.y - bottom, 0.014) * (u < 1)
        wrinkles = 1 + 0.06 * self.noise(0.03, (0.7, 3.0)) - 0.12 * (self.y < middle)
        self._paint(0.9 * lip, wrinkles[..., None] * who.lips)
        line = np.exp(-0.5 * ((self.y - middle) / 0.009) ** 2) * np.clip(
            (1.04 - np.abs(self.x) / mouth_w) / 0.1, 0, 1
        )
        self._paint(0.85 * line, who.lips * 0.22)
        self._paint(0.35 * self.bump(mouth_w + 0.008, mouth_y, 0.018, 0.016), who.skin * 0.4)

    def _draw_brows(self) -> None:
        who = self.identity
        (eye_x, eye_y, _, _), (up, arch, thick) = who.eye, who.brow
        u = (np.abs(self.x) - eye_x) / 0.165
        curve = eye_y - up - arch * (1 - u**2) + 0.012 * u
        width = thick * np.clip(1 - 0.55 * np.clip(u, 0, 1.2), 0.1, 1)
        ends = np.clip((1.05 - np.abs(u)) / 0.2, 0, 1)
        hairs = np.clip(0.85 + 0.15 * self.noise(0.02, (0.8, 1.6)), 0.5, 1)
        self._paint(0.92 * self.soft(np.abs(self.y - curve) - width, 0.018) * ends * hairs, who.hair * 0.75)

    def _hair_texture(self) -> Array:
        """Strands [T T 3]."""
        strands = 0.16 * self.noise(0.03, (0.8, 8.0)) + 0.12 * self.noise(0.09, (0.8, 6.0)) + 0.1 * self.noise(0.4)
        return np.clip(1 + strands, 0.3, 2)[..., None] * (self.identity.hair + 0.02)

    def _draw_hair(self) -> None:
        """The hair in front: a cap down to the hairline and the temples."""
        who = self.identity
        cap = np.hypot(self.x / (who.half_width + 0.07), (self.y + 0.06) / (who.half_height + 0.06)) - 1
        wave = 0.02 * self.noise(0.25, (1.0, 3.0))
        side = np.clip(np.abs(self.x) / who.half_width, 0, 1)
        long = who.hair_length > 0.5
        line = who.hairline + (0.6 * side**4 if long else 0.45 * side**9) + who.sweep * self.x + wave
        gloss = 1 + 0.35 * np.exp(-0.5 * ((self.y + 0.78 + 0.2 * self.x * who.light[0]) / 0.07) ** 2)
        shadow = np.exp(-0.5 * (np.clip(self.y - line, 0, 1) / 0.05) ** 2)
        self._rgb *= (1 - 0.25 * shadow * self._face)[..., None]
        self._paint(self.soft(np.maximum(cap, self.y - line), 0.03), self._hair_texture() * gloss[..., None])

    # -- eyes

    @cached_property
    def lid_boxes(self) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Slices of `head` that hold the eye at x < 0 and the one at x > 0."""
        eye_x, eye_y, eye_w, eye_h = self.identity.eye
        middle, margin = self.x.shape[0] // 2, 0.05
        rows = self._span(eye_y, 2 * eye_h + margin, middle)
        return (rows, self._span(-eye_x, eye_w + margin, middle)), (rows, self._span(eye_x, eye_w + margin, middle))

    def _span(self, centre: float, half: float, middle: int) -> slice:
        return slice(middle + int((centre - half) * self.scale), middle + int((centre + half) * self.scale) + 1)

    @cached_property
    def lids(self) -> tuple[Array, Array]:
        """The two eye boxes [LID_LEVELS h w 4], from open to closed."""
        levels = np.linspace(0, 1, LID_LEVELS)
        left, right = (np.stack([self._eye(level, box) for level in levels]) for box in self.lid_boxes)
        return left, right

    def _eye(self, closure: float, box: tuple[slice, slice]) -> Array:
        """The part of `head` in `box` with the eye at `closure` (0 open, 1 closed): uint8 [h w 4]."""
        rgb = self._rgb[box].copy()
        x, y = self.x[box], self.y[box]
        eye_x, eye_y, eye_w, eye_h = self.identity.eye
        u = (np.abs(x) - eye_x) / eye_w
        v = y - eye_y + 0.012 * u
        open_ = np.clip(1 - u**2, 0, 1)
        lower = 0.62 * eye_h * open_
        upper = -eye_h * open_**0.75
        lid = upper + closure * (lower - upper)
        self._draw_eyeball(rgb, x, v, lid, lower, (np.abs(u) < 1) & (lid < lower))
        dark = self.identity.hair * 0.25
        within = np.clip((1.06 - np.abs(u)) / 0.12, 0, 1)
        for curve, strength, width in ((lid, 0.9, 0.010), (lower, 0.35, 0.006), (upper - 0.4 * eye_h, 0.3, 0.008)):
            mask = strength * within * np.exp(-0.5 * ((v - curve) / width) ** 2)
            rgb += mask[..., None] * (dark - rgb)
        return self._finish(rgb, self._cover[box])

    def _draw_eyeball(self, rgb: Array, x: Array, v: Array, lid: Array, lower: Array, inside: Array) -> None:
        """Paint sclera, iris, pupil and the light's reflection into `rgb` [h w 3] where the lids leave them free."""
        eye_x, _, eye_w, eye_h = self.identity.eye
        mask = self.soft(lid - v) * self.soft(v - lower) * inside
        across = np.abs(x) - eye_x
        radius = np.hypot(across, v + 0.1 * eye_h) / (0.95 * eye_h)
        ball = np.array([0.90, 0.88, 0.86]) * (1 - 0.25 * (across / eye_w) ** 2)[..., None]
        rays = 1 + 0.18 * np.sin(17 * np.arctan2(v, across) + 3 * np.sin(5 * radius))
        iris = (rays * (1.25 - 0.55 * radius**3))[..., None] * self.identity.iris
        ball += self.soft((radius - 1) * eye_h)[..., None] * (iris - ball)
        ball += self.soft((radius - 0.42) * eye_h)[..., None] * (0.03 - ball)
        ball *= (1 - 0.45 * np.exp(-np.clip(v - lid, 0, 1) / (0.35 * eye_h)))[..., None]
        glint = np.hypot(x - np.sign(x) * eye_x - 0.02 * np.sign(self.identity.light[0]), v + 0.4 * eye_h) - 0.012
        ball += 0.9 * self.soft(glint)[..., None] * (1 - ball)
        rgb += mask[..., None] * (ball - rgb)
