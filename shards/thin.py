"""Thinning: of a static stretch only the first clip is kept (an option, off by default).

Stillness is judged on 32×32 grey thumbnails, which do not show micro-movements: a face at rest with a twitching lid
is static to them. So thinning costs just such moments in exchange for space, and is off unless asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from shards.frames import Frame, difference


def thin(
    runs: Iterable[tuple[int, Frame]], levels: float | None, keep: int, counts: Counter[str]
) -> Iterator[tuple[int, Frame]]:
    """Yield (run, frame) of `runs` without the rest of every static stretch of more than `keep` frames.

    A static stretch: successive frames that each differ from the one before by at most `levels` grey levels (mean
    absolute difference of the thumbnails; 0: identical). Its first `keep` frames stay; the frame that moves again
    begins a new run. `counts` gains frames_thinned. With `levels` None everything stays.
    """
    if levels is None:
        yield from runs
        return
    number, before, still, left_out = -1, None, 0, False
    for run, frame in runs:
        if before is None or before[0] != run:
            number, still, left_out = number + 1, 1, False
        else:
            still = still + 1 if difference(before[1].thumbnail, frame.thumbnail) <= levels else 1
        before = (run, frame)
        if still > keep:
            left_out = True
            counts["frames_thinned"] += 1
            continue
        if left_out:
            number, left_out = number + 1, False
        yield number, frame
