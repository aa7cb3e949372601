"""Runs: stretches of consecutive frames of one size with no cut inside. Pairs never cross their ends.

`split` looks at every frame. `sparse_cuts` serves frames that nobody needs to decode: it looks at every 8th frame
and wherever the length of the JPEG jumps, and closer where two of those differ.
"""

from __future__ import annotations

import statistics
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from shards.frames import Frame, Image, difference

CUT_LEVELS = 12.0  # grey levels, mean absolute difference of the thumbnails
CUT_RATIO = 4.0  # times the run's usual difference
RECENT = 15  # differences that say what is usual
KNOWN = 3  # differences below which nothing is usual yet: a cut then takes twice CUT_LEVELS
STEP = 8  # frames between those that sparse_cuts looks at
JUMP = 0.05  # of the length from one JPEG to the next: it looks at both
JUMP_RATIO = 4.0  # times the source's usual jump


class CutRule:
    """Whether a difference between two successive thumbnails is a cut, by those of the run before it."""

    def __init__(self) -> None:
        self._usual: deque[float] = deque(maxlen=RECENT)

    def is_cut(self, levels: float) -> bool:
        """At least CUT_LEVELS and CUT_RATIO times the usual (twice CUT_LEVELS within a run's first frames)."""
        if levels < CUT_LEVELS:
            return False
        if len(self._usual) < KNOWN:
            return levels >= 2 * CUT_LEVELS
        return levels >= CUT_RATIO * statistics.median(self._usual)

    def add(self, levels: float) -> None:
        """One more difference inside the run."""
        self._usual.append(levels)

    def restart(self) -> None:
        """A new run."""
        self._usual.clear()


def split(frames: Iterable[Frame], counts: Counter[str]) -> Iterator[tuple[int, Frame]]:
    """Yield (run, frame), a new run where the numbers jump, the size changes or the scene is cut.

    A cut: the mean absolute difference of two successive 32×32 grey thumbnails is at least 12 levels and four
    times the median of the run's last 15 (24 levels within its first frames). Hard cuts and flashes are found;
    dissolves, fades and cuts between nearly equal pictures are not. `counts` gains gaps, size_changes, cuts.
    """
    run, last = -1, None
    rule = CutRule()
    for frame in frames:
        event = "start" if last is None else _event(last, frame, rule)
        if event:
            run += 1
            rule.restart()
            counts[event] += event != "start"
        last = frame
        yield run, frame


def _event(last: Frame, frame: Frame, rule: CutRule) -> str:
    """What separates two successive frames; empty if nothing does."""
    if frame.gap or frame.number != last.number + 1:
        return "gaps"
    if frame.size != last.size:
        return "size_changes"
    levels = difference(last.thumbnail, frame.thumbnail)
    if rule.is_cut(levels):
        return "cuts"
    rule.add(levels)
    return ""


def jumps(lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """Positions where a JPEG is much longer or shorter than the one before it, ascending."""
    if len(lengths) < 2:
        return np.zeros(0, np.int64)
    steps = np.abs(np.diff(np.log(np.maximum(lengths, 1))))
    return np.flatnonzero(steps > max(JUMP, JUMP_RATIO * float(np.median(steps)))) + 1


def sparse_cuts(first: int, end: int, jumped: NDArray[np.int64], thumbnail: Callable[[int], Image]) -> Iterator[int]:
    """Yield the positions in (first, end) at which the scene is cut, ascending, decoding as few frames as may be.

    Looks at `first`, every STEP-th frame, `end` - 1 and both sides of every position in `jumped`. Where two of
    these neighbours differ by CUT_LEVELS it halves the stretch between them until it has two successive
    frames, and there applies the rule of `split`. What comes and goes between two frames it looks at (a flash in
    a JPEG of the usual length), and a cut that the movement around it undoes, are not found.

    `thumbnail(position)` decodes one frame; its errors pass through.
    """
    seen = lru_cache(maxsize=4 * RECENT)(thumbnail)

    def suspects(low: int, high: int) -> Iterator[int]:
        """Positions in (low, high] that may be cuts."""
        if difference(seen(low), seen(high)) < CUT_LEVELS:
            return
        if high - low == 1:
            yield high
            return
        middle = (low + high) // 2
        yield from suspects(low, middle)
        yield from suspects(middle, high)

    begin = first
    for low, high in pairwise(_samples(first, end, jumped)):
        for position in suspects(low, high):
            rule = CutRule()
            before = range(max(begin, position - 1 - RECENT), position)
            for one, two in pairwise(before):
                rule.add(difference(seen(one), seen(two)))
            if rule.is_cut(difference(seen(position - 1), seen(position))):
                yield position
                begin = position


def _samples(first: int, end: int, jumped: NDArray[np.int64]) -> list[int]:
    """The positions to look at, ascending."""
    inside = jumped[np.searchsorted(jumped, first + 1) : np.searchsorted(jumped, end)]
    regular = np.arange(first, end, STEP)
    return np.unique(np.concatenate([regular, [end - 1], inside, inside - 1])).tolist()  # type: ignore[no-any-return]
