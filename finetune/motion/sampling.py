"""Which frames of a clip are read: pure functions of the number of frames and a generator.

Positions are counted from 0 within the clip. Every function works for any clip of at least one frame; a clip that is
too short repeats frames. Random ones take a numpy Generator, so the same seed gives the same frames.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def around(length: int, apex: int, count: int = 11) -> Indices:
    """The apex, and equally many frames on each side of it (SLSTT, 4.3.1: 11 = the apex and five on each side).

    Returns int64 [count], ascending, the apex at place count // 2. Where a side has too few frames its last one
    repeats (clipped); `interpolation.window` fills such a side with interpolated frames instead.
    """
    _check(length, apex, count)
    return np.clip(apex + np.arange(count) - count // 2, 0, length - 1)


def uniform(length: int, count: int = 8, rng: np.random.Generator | None = None) -> Indices:
    """One frame from each of `count` equal parts, at the same place in each (FDP, 4.1.3: t = 8, a random offset).

    `rng` draws the offset within a part (training); None takes the parts' centres (test). Returns int64 [count],
    ascending; frames repeat where the clip is shorter than `count`.
    """
    _check(length, 0, count)
    part = length / count
    offset = part * (0.5 if rng is None else rng.random())
    indices = np.floor(offset + part * np.arange(count)).astype(np.int64)
    return np.minimum(indices, length - 1)


def tim(length: int, count: int = 10) -> NDArray[np.float64]:
    """Real positions for `tim.interpolate`, evenly spaced from first to last frame (FRL-DGT-S, 4.4: 10 frames).

    Returns float64 [count], ascending, both ends included; the middle of the clip for count 1.
    """
    _check(length, 0, count)
    last = float(length - 1)
    return np.linspace(0.0, last, count) if count > 1 else np.array([last / 2])


def jitter(length: int, apex: int, rng: np.random.Generator, reach: int = 1) -> int:
    """A random frame before or after the apex, at most `reach` frames from it (FRL-DGT, 3.4).

    Never the apex itself and never the onset (frame 0), whose pair with the onset shows nothing; where no other
    frame is left the apex is returned.
    """
    _check(length, apex, 1)
    near = [at for at in range(apex - reach, apex + reach + 1) if 0 < at < length and at != apex]
    return int(rng.choice(near)) if near else apex


def pairs(length: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Random pairs of different frames of a clip, for the self-supervision of FRL-DGT's DGM (FRL-DGT, 3.1).

    Returns int64 [count 2]; within a pair the earlier frame comes first, every pair is equally likely, and pairs may
    repeat. A clip of one frame gives (0, 0).
    """
    _check(length, 0, count)
    if length == 1:
        return np.zeros((count, 2), np.int64)
    first = rng.integers(0, length, count)
    second = rng.integers(0, length - 1, count)
    second = second + (second >= first)  # any frame but the first one
    return np.sort(np.stack([first, second], axis=1), axis=1)


def _check(length: int, apex: int, count: int) -> None:
    """Raises ValueError: no frame, no sample, an apex outside the clip."""
    if length < 1 or count < 1:
        raise ValueError(f"{count} samples of {length} frames: both must be at least 1")
    if not 0 <= apex < length:
        raise ValueError(f"apex {apex} is outside the clip's frames 0..{length - 1}")
