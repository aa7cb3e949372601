"""The camera of the synthetic faces: one person, one course of movements, frame by frame, and the exact motion."""

from __future__ import annotations

import cv2
import numpy as np

from shards.errors import UsageError
from shards.synthetic_difficulty import Difficulty
from shards.synthetic_face import LID_LEVELS, Portrait
from shards.synthetic_identity import Identity, sample_identity
from shards.synthetic_motion import SMALLEST_SD, Event, Strokes, Style, blinks, gains_over_time, sample_style, wander

Array = np.ndarray


class Person:
    """One identity before one camera of `width` x `height` pixels, at `scale` pixels per face unit.

    Raises UsageError where `largest_px`, the greatest amplitude to come, would fold the skin at this scale.
    """

    def __init__(self, identity: Identity, width: int, height: int, scale: float, largest_px: float):
        if largest_px > 1.4 * SMALLEST_SD * scale:
            wide = f"a face {1.3 * scale:.0f} px wide"
            raise UsageError(f"movements of {largest_px} px fold {wide}: lower amplitude_px or draw larger")
        self.identity, self.scale, self.width, self.height = identity, scale, width, height
        self.portrait = Portrait(identity, 2 * scale)
        self.strokes = Strokes(identity.landmarks)
        self.wall = self._draw_wall()

    def _draw_wall(self) -> Array:
        """Blurred background, uint8 [H W 3]."""
        rng = np.random.default_rng([self.identity.texture_seed, 1])
        blobs = cv2.resize(rng.normal(0, 0.12, (5, 4, 1)), (self.width, self.height), interpolation=cv2.INTER_CUBIC)
        ramp = np.linspace(rng.uniform(0.7, 1.1), rng.uniform(0.7, 1.1), self.width)[None, :]
        return np.rint(np.clip((ramp + blobs)[..., None] * self.identity.wall, 0, 1) * 255).astype(np.uint8)


class Scene:
    """`person` filmed at `times` (seconds), moving as `events` say, with the nuisances of `difficulty`.

    `centre` is where the face's origin lies in the picture (pixels). Iterate over `frames()`; `displacement`
    gives the exact facial motion between two frames.
    """

    def __init__(
        self,
        person: Person,
        times: Array,
        events: list[Event],
        difficulty: Difficulty,
        rng: np.random.Generator,
        centre: tuple[float, float],
    ):
        self.person, self.times = person, times
        self.gains = gains_over_time(events, times)  # [t units]
        self.poses = _poses(person, times, difficulty, rng, centre)  # [t 2 3], head (face units) -> pixels
        self.closure = blinks(times, rng, difficulty.blink)
        self.light = self._light(difficulty.flicker, rng)  # [t 2]: brightness, tilt to the right
        self._noise = rng.normal(0, difficulty.noise, (person.height + 61, person.width + 61, 3)).astype(np.float32)
        self._shift = rng.integers(0, 62, (len(times), 2))
        rows, columns = np.mgrid[: person.height, : person.width].astype(np.float32)
        self._pixels = np.stack([columns, rows], -1)  # [H W 2] x, y
        self._across = (columns / person.width - 0.5)[..., None]

    def _light(self, flicker: float, rng: np.random.Generator) -> Array:
        slow = wander(self.times, rng, 2)
        lamp = np.sin(2 * np.pi * rng.uniform(1.0, 12.0) * self.times + rng.uniform(0, 6.3))  # aliased mains hum
        brightness = 0.6 * slow[:, 0] + 0.9 * lamp + 0.45 * rng.standard_normal(len(self.times))
        return flicker * np.stack([brightness, 1.5 * slow[:, 1]], -1)

    def frames(self, which: list[int] | None = None) -> Array:
        """Frames `which` (default: all), uint8 [t H W 3] RGB."""
        wanted = range(len(self.times)) if which is None else which
        return np.stack([self.frame(index) for index in wanted])

    def frame(self, index: int) -> Array:
        """Frame `index`, uint8 [H W 3] RGB."""
        head = self._on_head(self._pixels, index)  # [H W 2] face units
        skin = head - self.person.strokes.displacement(head, self.gains[index])
        portrait = self.person.portrait
        where = portrait.pixels(skin)
        layers = cv2.remap(self._blinking(self.closure[index]), where[..., 0], where[..., 1], cv2.INTER_LINEAR)
        cover = layers[..., 3:].astype(np.float32) / 255
        image = layers[..., :3] + (1 - cover) * self.person.wall
        brightness, tilt = self.light[index].astype(np.float32)
        image *= 1 + brightness + tilt * self._across
        top, left = self._shift[index]
        image += self._noise[top : top + self.person.height, left : left + self.person.width]
        return np.clip(np.rint(image), 0, 255).astype(np.uint8)

    def _blinking(self, closure: float) -> Array:
        """The portrait with its lids at `closure`."""
        portrait = self.person.portrait
        if closure <= 0:
            return portrait.head
        head = portrait.head.copy()
        at = closure * (LID_LEVELS - 1)
        low = min(int(at), LID_LEVELS - 2)
        for box, levels in zip(portrait.lid_boxes, portrait.lids, strict=True):
            head[box] = cv2.addWeighted(levels[low], 1 - at + low, levels[low + 1], at - low, 0)
        return head

    def _on_head(self, pixels: Array, index: int) -> Array:
        """Pixels [... 2] to points on the head, face units, float32."""
        pose = self.poses[index]
        inverse = np.linalg.inv(pose[:, :2]).astype(np.float32)
        return (pixels - pose[:, 2].astype(np.float32)) @ inverse.T

    def displacement(self, first: int, second: int) -> Array:
        """Facial motion from frame `first` to `second` at each pixel of `first`, float32 [H W 2] (x, y), pixels.

        The head's own movement between the two is left out: it is the motion as it would look had the head
        stayed where it is in `first`. 0 where there is only background.
        """
        strokes = self.person.strokes
        before = self._on_head(self._pixels, first)
        skin = before - strokes.displacement(before, self.gains[first])
        after = skin
        for _ in range(12):  # solves after - D(after) = skin; each step shrinks the error by the field's slope < 0.9
            after = skin + strokes.displacement(after, self.gains[second])
        moved = (after - before) @ self.poses[first][:, :2].T.astype(np.float32)
        where = self.person.portrait.pixels(skin)
        cover = cv2.remap(self.person.portrait.head[..., 3], where[..., 0], where[..., 1], cv2.INTER_NEAREST)
        return moved * (cover > 0)[..., None]


def _poses(
    person: Person, times: Array, difficulty: Difficulty, rng: np.random.Generator, centre: tuple[float, float]
) -> Array:
    """Similarities [t 2 3] from face units to pixels: `centre` and `person.scale`, and the head's wandering."""
    course = difficulty.drift_px * wander(times, rng, 4)  # [t 4] px: x, y, along the rim by turning, by nearing
    rim = 0.9 * person.scale
    angle, scale = 0.6 * course[:, 2] / rim, person.scale * np.exp(0.6 * course[:, 3] / rim)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    rows = np.stack([cos, -sin, centre[0] + course[:, 0], sin, cos, centre[1] + course[:, 1]], -1)
    return rows.reshape(-1, 2, 3)


def film(
    rng: np.random.Generator, width: int, height: int, framing: float, difficulty: Difficulty
) -> tuple[Person, Style, tuple[float, float]]:
    """A new person before a camera, their style of moving, and where the face's origin lies (pixels)."""
    identity = sample_identity(rng)
    scale = framing * width * rng.uniform(0.95, 1.05)
    person = Person(identity, width, height, scale, difficulty.amplitude_px[1])
    style = sample_style(rng, difficulty.style)
    centre = (0.5 * (width - 1) + rng.normal(0, 0.01 * width), 0.5 * (height - 1) + rng.normal(0, 0.01 * height))
    return person, style, centre


def make_event(
    person: Person,
    style: Style,
    aus: str,
    timing: tuple[float, float, float, float],
    amplitude_px: float,
    rng: np.random.Generator,
) -> Event:
    """The set `aus` as `person` shows it, its field's peak `amplitude_px`; timing as in Event, seconds."""
    weights = style.weights(aus, rng)
    return Event(*timing, gains=weights * (amplitude_px / person.scale / person.strokes.peak(weights)))
