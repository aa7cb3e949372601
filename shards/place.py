"""Which frames are stored, and cropped how: the central square, one transform per stretch, or one that follows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from shards.crop import Crop, centre
from shards.frames import Frame
from shards.schema import Options

BUDGET = 256 * 2**20  # bytes of decoded frames that spare a source its second reading
Runs = Iterator[tuple[int, Frame]]
Read = Callable[[Counter[str]], Runs]


def place(
    read: Read, fps: float | None, options: Options, counts: Counter[str], tick: Callable[[int], None]
) -> Iterator[tuple[int, Frame, Crop]]:
    """(stored run, frame, crop) of every frame of a source that is stored, in order.

    `read(counts)` reads the source's (run, frame) anew each time. With `track` fixed, `face` box or align read
    it twice unless its frames fit into BUDGET: a stretch's transform is known only at its end. Everything else
    needs one pass. `tick` hears of every frame, once; `counts` gains frames_without_face besides what `read`,
    `shards.faces.survey` and `shards.follow.follow` count.
    """
    if options.face == "none":
        yield from _central(_ticking(read(counts), tick), options.size)
        return
    if options.track == "smooth":
        from shards.follow import follow  # dlib is an extra, and takes a second to import

        yield from follow(_ticking(read(counts), tick), fps, options, counts)
        return
    from shards.faces import survey

    first = _Kept(read(counts))
    placement = survey(first, fps, options, counts)
    for run, frame in _ticking(first.again or read(Counter()), tick):
        if (placed := placement(run, frame)) is not None:
            yield placed[0], frame, placed[1]
        else:
            counts["frames_without_face"] += 1


def _central(runs: Iterable[tuple[int, Frame]], size: int) -> Iterator[tuple[int, Frame, Crop]]:
    """Central squares; frames of one size share one."""
    crops: dict[tuple[int, int], Crop] = {}
    for run, frame in runs:
        if frame.size not in crops:
            crops[frame.size] = centre(frame.size, size)
        yield run, frame, crops[frame.size]


def _ticking(runs: Iterable[tuple[int, Frame]], tick: Callable[[int], None]) -> Runs:
    """The same, each frame reported."""
    for item in runs:
        tick(1)
        yield item


class _Kept:
    """Passes (run, frame) on and remembers them, as long as all of them fit into BUDGET."""

    def __init__(self, runs: Runs):
        self._runs, self._items, self._left = runs, list[tuple[int, Frame]](), BUDGET

    def __iter__(self) -> Runs:
        for run, frame in self._runs:
            width, height = frame.size
            self._left -= 3 * width * height + len(frame.jpeg or b"")
            if self._left >= 0:
                self._items.append((run, frame))
            else:
                self._items.clear()
            yield run, frame

    @property
    def again(self) -> Runs | None:
        """All of them once more, each let go as it is passed on; None where they did not fit."""
        return self._release() if self._left >= 0 else None

    def _release(self) -> Runs:
        self._items.reverse()
        while self._items:
            yield self._items.pop()
