"""Faces that drift: a transform that follows the head slowly, in one pass over the source.

Landmarks of sampled frames (about three a second) are averaged with a Gaussian of one second, so that the crop
follows a head that sinks or turns over seconds, and hardly notices what a face does within half a second. Each
frame's transform needs the samples of the three seconds after it: so many frames wait in memory, fewer where
they are large (`BUDGET`); the average then looks back further than ahead.
"""

from __future__ import annotations

import itertools
import operator
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from shards.crop import Crop
from shards.faces import BOX, LIFT, MARGIN, MISSES, RAISED, Face, align, find, points_unit, sample_step, steadied
from shards.frames import Frame
from shards.schema import Options

SIGMA = 3.0  # samples (1 s): standard deviation of the Gaussian
STIFFNESS = 0.4  # times SIGMA: how far apart samples must lie for their slope to count
REACH = 3.0  # standard deviations at which it ends
BUDGET = 256 * 2**20  # bytes of the frames that wait


@dataclass
class Stretch:
    """Consecutive frames that show one face, found in its samples."""

    stored: int
    """number of the stored run"""
    first: int
    end: int | None = None
    """last frame; None as long as it goes on"""
    misses: int = 0
    shrink: int = 0
    """block that every frame is averaged by before the warp, px (0: not decided yet)"""
    numbers: list[int] = field(default_factory=list)
    faces: list[Face] = field(default_factory=list)

    def add(self, number: int, face: Face) -> None:
        """A sampled frame that shows the face."""
        self.numbers.append(number)
        self.faces.append(face)
        self.misses = 0

    def points(self, number: int, sigma: float, ahead: int) -> NDArray[np.float64]:
        """The five points [5 2], px, at frame `number`: a straight line in time through the samples about it.

        Samples weigh by a Gaussian of `sigma` frames; those more than `ahead` frames later do not count.
        """
        away = np.array(self.numbers, np.float64) - number
        narrow = min(sigma, ahead / REACH)
        weights = np.exp(-0.5 * (away / np.where(away > 0, narrow, sigma)) ** 2)
        weights[(away > ahead) | (away < -REACH * sigma)] = 0
        weights /= weights.sum()
        points = np.stack([_points(face) for face in self.faces])  # [samples 5 2]
        mean, middle = np.tensordot(weights, points, 1), float(weights @ away)
        spread = float(weights @ (away - middle) ** 2) + (STIFFNESS * sigma) ** 2
        slope = np.tensordot(weights * (away - middle), points - mean, 1) / spread
        return np.asarray(mean - slope * middle)

    def forget(self, number: int) -> None:
        """Drop the samples before `number`, all but the last two."""
        while len(self.numbers) > 2 and self.numbers[0] < number:
            del self.numbers[0], self.faces[0]


def _points(face: Face) -> NDArray[np.float64]:
    """The five points [5 2] of a face that was sought with landmarks."""
    assert face.points is not None
    return face.points


def follow(
    runs: Iterable[tuple[int, Frame]], fps: float | None, options: Options, counts: Counter[str], budget: int = BUDGET
) -> Iterator[tuple[int, Frame, Crop]]:
    """(run, frame) to (stored run, frame, crop), in order, for every frame that shows a face.

    A stored run ends where the face is missing from two samples in a row, or is elsewhere from one sample to the
    next. `counts` gains frames_searched, frames_without_face, recrops (runs begun because the face had jumped).
    """
    step = sample_step(fps)
    stored = itertools.count()
    for _, frames in itertools.groupby(runs, key=operator.itemgetter(0)):
        follower = Follower(step, options, counts, stored, budget)
        for position, (frame, last) in enumerate(_with_last(frame for _, frame in frames)):
            yield from follower.see(frame, sampled=last or position % step == 0)
        yield from follower.finish()


def _with_last(frames: Iterable[Frame]) -> Iterator[tuple[Frame, bool]]:
    """Frames, each with whether it is the last."""
    rest = iter(frames)
    held = next(rest)
    for frame in rest:
        yield held, False
        held = frame
    yield held, True


class Follower:
    """The frames of one run on their way through: those that wait, and the stretches they may belong to."""

    def __init__(self, step: int, options: Options, counts: Counter[str], stored: Iterator[int], budget: int):
        self._step, self._options, self._counts, self._stored, self._budget = step, options, counts, stored, budget
        self._sigma = SIGMA * step  # frames
        self._ahead = 0  # frames; known with the first frame's size
        self._waiting: deque[Frame] = deque()
        self._stretches: deque[Stretch] = deque()

    def see(self, frame: Frame, sampled: bool) -> Iterator[tuple[int, Frame, Crop]]:
        """The next frame; yields those that need to wait no longer."""
        if not self._ahead:
            width, height = frame.size
            limit = self._budget // (3 * width * height)
            self._ahead = max(self._step, min(round(REACH * self._sigma), limit))
        self._waiting.append(frame)
        if sampled:
            self._counts["frames_searched"] += 1
            self._look(frame)
        yield from self._release(frame.number - self._ahead)

    def finish(self) -> Iterator[tuple[int, Frame, Crop]]:
        """The run has ended; yields what still waits."""
        self._close()
        yield from self._release(self._waiting[-1].number if self._waiting else 0)

    def _open(self) -> Stretch | None:
        """The stretch that goes on."""
        return self._stretches[-1] if self._stretches and self._stretches[-1].end is None else None

    def _close(self, end: int | None = None) -> None:
        """End the stretch that goes on, at its last sample or at `end`."""
        if (stretch := self._open()) is not None:
            stretch.end = stretch.numbers[-1] if end is None else end

    def _begin(self, first: int, frame: Frame, face: Face) -> None:
        """A new stretch."""
        self._stretches.append(Stretch(next(self._stored), first))
        self._stretches[-1].add(frame.number, steadied(frame.image, face))

    def _look(self, frame: Frame) -> None:
        """Find the face in a sampled frame and continue, end or begin a stretch."""
        faces = find(frame.image, landmarks=True)
        stretch = self._open()
        if stretch is None:
            if faces:
                self._begin(frame.number, frame, faces[0])
            return
        before = stretch.faces[-1]
        here = [face for face in faces if not face.left(before.centre, before.size)]
        if here:
            nearest = min(here, key=lambda face: float(np.linalg.norm(face.centre - before.centre)))
            stretch.add(frame.number, steadied(frame.image, nearest))
        elif faces:
            jumped = stretch.misses == 0
            between = (stretch.numbers[-1] + frame.number) // 2
            self._close(between if jumped else None)
            self._begin(between + 1 if jumped else frame.number, frame, faces[0])
            self._counts["recrops"] += jumped
        else:
            stretch.misses += 1
            if stretch.misses >= MISSES:
                self._close()

    def _release(self, settled: int) -> Iterator[tuple[int, Frame, Crop]]:
        """Frames up to number `settled` have all their samples; others go once their stretch has ended."""
        while self._waiting:
            number = self._waiting[0].number
            while self._stretches and self._stretches[0].end is not None and self._stretches[0].end < number:
                self._stretches.popleft()
            stretch = self._stretches[0] if self._stretches else None
            if stretch is None or number < stretch.first:
                self._waiting.popleft()
                self._counts["frames_without_face"] += 1
            elif stretch.end is not None or (number <= settled and number <= stretch.numbers[-1]):
                yield stretch.stored, self._waiting.popleft(), self._crop(stretch, number)
            else:
                return

    def _crop(self, stretch: Stretch, number: int) -> Crop:
        """The transform of one frame."""
        stretch.forget(round(number - REACH * self._sigma))
        points = stretch.points(number, self._sigma, self._ahead)
        crop = align(points, self._options.size) if self._options.face == "align" else box(points, self._options.size)
        stretch.shrink = stretch.shrink or crop.block
        return replace(crop, shrink=stretch.shrink)


def box(points: NDArray[np.float64], size: int) -> Crop:
    """The square about a face as `--face box` cuts it, from its five points [5 2] instead of dlib's whole pixels."""
    unit = points_unit(points)
    side = MARGIN * BOX * unit
    x, y = points.mean(axis=0) - [0, (LIFT + RAISED * BOX) * unit]
    scale = size / side
    middle = (size - 1) / 2
    return Crop(size, np.array([[scale, 0, middle - scale * x], [0, scale, middle - scale * y]]))
