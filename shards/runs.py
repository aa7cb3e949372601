"""Runs: stretches of consecutive frames of one size with no cut inside. Pairs never cross their ends."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator

import numpy as np

from shards.frames import Frame

CUT_LEVELS = 12.0  # grey levels, mean absolute difference of the thumbnails
CUT_RATIO = 4.0  # times the run's usual difference
RECENT = 15  # differences that say what is usual
KNOWN = 3  # differences below which nothing is usual yet: a cut then takes twice CUT_LEVELS


def split(frames: Iterable[Frame], counts: Counter[str]) -> Iterator[tuple[int, Frame]]:
    """Yield (run, frame), a new run where the numbers jump, the size changes or the scene is cut.

    A cut: the mean absolute difference of two successive 32×32 grey thumbnails is at least 12 levels and four
    times the median of the run's last 15 (24 levels within its first frames). Hard cuts and flashes are found;
    dissolves, fades and cuts between nearly equal pictures are not. `counts` gains gaps, size_changes, cuts.
    """
    run, last = -1, None
    usual: deque[float] = deque(maxlen=RECENT)
    for frame in frames:
        event = "start" if last is None else _event(last, frame, usual)
        if event:
            run += 1
            usual.clear()
            counts[event] += event != "start"
        elif last is not None:
            usual.append(_difference(last, frame))
        last = frame
        yield run, frame


def _event(last: Frame, frame: Frame, usual: deque[float]) -> str:
    """What separates two successive frames; empty if nothing does."""
    if frame.gap or frame.number != last.number + 1:
        return "gaps"
    if frame.size != last.size:
        return "size_changes"
    known = len(usual) >= KNOWN
    threshold = max(CUT_LEVELS, CUT_RATIO * float(np.median(usual))) if known else 2 * CUT_LEVELS
    return "cuts" if _difference(last, frame) >= threshold else ""


def _difference(one: Frame, two: Frame) -> float:
    """Mean absolute difference of two thumbnails, grey levels."""
    return float(np.abs(one.thumbnail - two.thumbnail).mean())
