"""Faces: found in sampled frames with dlib, cropped by one transform per stretch (shards.follow: by a smooth one).

A transform that followed the face from frame to frame would add its own jitter to the micro-movements that
training is about, and hide some of them. So each run is sampled about three times a second and at its ends, and
one crop, from the medians over the samples, serves a whole span of frames. A span ends where the face is missing
from two samples in a row, or has left the span's crop by more than a third of its size (or grown or shrunk by
more than 1.4); the next span gets a crop of its own, and no pair reaches from one into the other.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from shards.crop import Crop, square
from shards.errors import FlickerError
from shards.frames import Frame, Image
from shards.schema import Options

SHORT_SIDES = (240, 480)  # px that frames are scaled to for detection; the second only if the first finds none
PER_SECOND = 3.0  # sampled frames
STEP = 8  # frames between samples where the rate is unknown
MOVED = 0.33  # of the face's size, and
SCALED = 1.4  # times: beyond these the face has left its crop
MISSES = 2  # samples in a row without the face that end a span
SHARE = 0.6  # of a span's samples must show the face
MARGIN = 1.3  # side of the square around dlib's box, which spans brows to chin
RAISED = 0.06  # of the box's side that the square's centre lies above the box's
# Eyes, nose tip, mouth corners in a unit square: the 112 px template of ArcFace (Deng et al. 2019), shrunk to 0.95
# about its centre so that brows and chin are inside.
_ARCFACE = [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
TEMPLATE = 0.5 + 0.95 * (np.array(_ARCFACE) / 112 - 0.5)
BOX = 3.65  # side of dlib's box over the root mean square distance of the five points from their centre
LIFT = 0.07  # of that distance, by which the box's centre lies above theirs
STEADY_SIDE = 120  # px that a face's box is scaled to for them
NUDGE = 0.05  # of the box's side
_NUDGES = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
_PREDICTOR = "shape_predictor_68_face_landmarks.dat"


@dataclass(frozen=True)
class Face:
    """A face in one sampled frame."""

    centre: NDArray[np.float64]
    """x, y, px"""
    size: float
    """side of dlib's box, px"""
    points: NDArray[np.float64] | None = None
    """eyes, nose tip, mouth corners [5 2], px (align only)"""

    def left(self, centre: NDArray[np.float64], size: float) -> bool:
        """Whether this face has left the place that `centre` and `size` state."""
        away = float(np.linalg.norm(self.centre - centre)) > MOVED * size
        return away or not 1 / SCALED < self.size / size < SCALED


@dataclass
class Span:
    """A stretch of frames with one crop."""

    first: int
    faces: list[Face] = field(default_factory=list)
    samples: int = 0
    misses: int = 0
    last: int = 0

    def add(self, number: int, face: Face) -> None:
        """A sampled frame that shows the face."""
        self.faces.append(face)
        self.samples += 1
        self.misses, self.last = 0, number

    @property
    def place(self) -> tuple[NDArray[np.float64], float]:
        """Median centre and size of the face."""
        return np.median([face.centre for face in self.faces], axis=0), float(
            np.median([face.size for face in self.faces])
        )

    @property
    def usable(self) -> bool:
        """Whether most samples show the face."""
        return len(self.faces) >= SHARE * (self.samples - self.misses)

    def crop(self, options: Options) -> Crop:
        """The span's transform."""
        if options.face == "align":
            return align(np.median([face.points for face in self.faces], axis=0), options.size)
        (x, y), size = self.place
        side = max(8, round(MARGIN * size))
        return square(round(x - side / 2), round(y - RAISED * size - side / 2), side, options.size)


def align(points: NDArray[np.float64], size: int) -> Crop:
    """The similarity (turn, scale, shift) that moves five points [5 2] closest to the template (least squares)."""
    return Crop(size, similarity(points, TEMPLATE * size - 0.5))


def similarity(points: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """The turn, scale and shift [2 3] that move points [N 2] closest to targets [N 2] (least squares)."""
    source, target = points[:, 0] + 1j * points[:, 1], targets[:, 0] + 1j * targets[:, 1]
    centred = source - source.mean()
    turn = (centred.conj() @ (target - target.mean())) / (centred.conj() @ centred).real
    shift = target.mean() - turn * source.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]], np.float64)


class Placement:
    """(run, frame) to (stored run, crop), or None where no face is: what `survey` returns."""

    def __init__(self) -> None:
        self._spans: dict[int, list[tuple[int, int, int, Crop]]] = {}
        self._count = 0

    def add(self, run: int, first: int, last: int, crop: Crop) -> None:
        """One more span of `run`, frame numbers inclusive."""
        self._spans.setdefault(run, []).append((first, last, self._count, crop))
        self._count += 1

    def __call__(self, run: int, frame: Frame) -> tuple[int, Crop] | None:
        spans = self._spans.get(run, [])
        while spans and spans[0][1] < frame.number:  # frames come in order: what lies behind is done with
            spans.pop(0)
        if spans and spans[0][0] <= frame.number:
            return spans[0][2], spans[0][3]
        return None


def survey(runs: Iterable[tuple[int, Frame]], fps: float | None, options: Options, counts: Counter[str]) -> Placement:
    """Look for the face through all runs of a source and plan its crops.

    `counts` gains frames_searched (sampled frames) and recrops (spans begun because the face had moved).
    """
    placement = Placement()
    for run, samples in _sampled(runs, sample_step(fps)):
        tracker = Tracker()
        for number, image in samples:
            counts["frames_searched"] += 1
            tracker.see(number, find(image, options.face == "align"))
        counts["recrops"] += tracker.moves
        for span in tracker.finish():
            placement.add(run, span.first, span.last, span.crop(options))
    return placement


def sample_step(fps: float | None) -> int:
    """Frames from one sampled frame to the next."""
    return max(2, round(fps / PER_SECOND)) if fps else STEP


def _sampled(runs: Iterable[tuple[int, Frame]], step: int) -> Iterator[tuple[int, Iterator[tuple[int, Image]]]]:
    """Per run, its sampled frames: the first, every `step`-th, the last. Each run must be used up in turn."""
    frames = iter(runs)
    ahead = next(frames, None)

    def samples(run: int) -> Iterator[tuple[int, Image]]:
        nonlocal ahead
        position = 0
        while ahead is not None and ahead[0] == run:
            frame = ahead[1]
            ahead = next(frames, None)
            if position % step == 0 or ahead is None or ahead[0] != run:
                yield frame.number, frame.image
            position += 1

    while ahead is not None:
        yield ahead[0], samples(ahead[0])


class Tracker:
    """Sampled frames of one run to spans."""

    def __init__(self) -> None:
        self.moves = 0
        self._done: list[Span] = []
        self._span: Span | None = None

    def see(self, number: int, faces: list[Face]) -> None:
        """The faces of the next sampled frame, largest first."""
        if self._span is None:
            if faces:
                self._begin(number, number, faces[0])
            return
        centre, size = self._span.place
        here = [face for face in faces if not face.left(centre, size)]
        if here:
            self._span.add(number, min(here, key=lambda face: float(np.linalg.norm(face.centre - centre))))
        elif faces and self._span.misses == 0:
            between = (self._span.last + number) // 2
            self._span.last = between
            self._end()
            self.moves += 1
            self._begin(between + 1, number, faces[0])
        else:
            self._miss(number, faces)

    def _miss(self, number: int, faces: list[Face]) -> None:
        """A sample without the span's face."""
        assert self._span is not None
        self._span.samples += 1
        self._span.misses += 1
        if faces or self._span.misses >= MISSES:
            self._end()
            if faces:
                self._begin(number, number, faces[0])

    def _begin(self, first: int, number: int, face: Face) -> None:
        self._span = Span(first)
        self._span.add(number, face)

    def _end(self) -> None:
        if self._span is not None and self._span.usable:
            self._done.append(self._span)
        self._span = None

    def finish(self) -> list[Span]:
        """All spans of the run."""
        self._end()
        return self._done


def find(image: Image, landmarks: bool) -> list[Face]:
    """The faces of a frame (uint8 [H W 3], RGB), largest first; with their five points if `landmarks`."""
    for short in SHORT_SIDES:
        scale = short / min(image.shape[:2])
        small = _scaled(image, scale)
        boxes = detector()(small, 0)
        if len(boxes):
            faces = [_face(small, box, scale, landmarks) for box in boxes]
            return sorted(faces, key=lambda face: -face.size)
    return []


def _scaled(image: Image, scale: float) -> Any:
    """The image, larger or smaller."""
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=method)


def _face(image: Any, box: Any, scale: float, landmarks: bool) -> Face:
    """dlib's box in the scaled image as a Face in the frame's pixels."""
    centre = np.array([box.left() + box.right(), box.top() + box.bottom()]) / 2
    size = (box.width() + box.height()) / 2 / scale
    if not landmarks:
        return Face((centre + 0.5) / scale - 0.5, size)
    points = (_points(image, box) + 0.5) / scale - 0.5
    return Face(points.mean(axis=0), size, points)


def _points(image: Any, box: Any) -> NDArray[np.float64]:
    """Eyes, nose tip, mouth corners [5 2] by the 68-point predictor, which starts from dlib's box."""
    all_points = _all_points(image, box)
    parts = (slice(36, 42), slice(42, 48), slice(30, 31), slice(48, 49), slice(54, 55))
    return np.array([all_points[part].mean(axis=0) for part in parts])


def _all_points(image: Any, box: Any) -> NDArray[np.float64]:
    """The predictor's points (x, y) [68 2] in dlib's box."""
    return np.array([[point.x, point.y] for point in _predictor()(image, box).parts()], np.float64)


def points_in(image: Any, left: int, top: int, right: int, bottom: int) -> NDArray[np.float64]:
    """The 68-point predictor's points (x, y) [68 2] for the face between these pixels, the last ones included."""
    import dlib

    return _all_points(image, dlib.rectangle(left, top, right, bottom))


def dlib_version() -> str | None:
    """dlib's version, None where it is not installed."""
    try:
        import dlib
    except ImportError:
        return None
    return str(dlib.__version__)


def steadied(image: Image, face: Face) -> Face:
    """The face with its points as the mean of predictions from nudged boxes about them: half the noise.

    The detector's boxes lie on a grid of several pixels and the predictor compares single pixels: both show in
    its points as noise that differs from start to start.
    """
    import dlib

    assert face.points is not None
    left, top = (max(0, int(at - face.size)) for at in face.centre)
    right, bottom = (int(at + face.size) + 1 for at in face.centre)
    scale = STEADY_SIDE / face.size
    near = cv2.GaussianBlur(_scaled(image[top:bottom, left:right], scale), (0, 0), 1.0)
    points = (face.points - [left, top] + 0.5) * scale - 0.5
    side = points_unit(points) * BOX
    found = []
    for nudge in _NUDGES:
        x, y = points.mean(axis=0) + NUDGE * side * np.array(nudge) - [0, LIFT / BOX * side]
        half = side / 2
        found.append(_points(near, dlib.rectangle(*(round(at) for at in (x - half, y - half, x + half, y + half)))))
    points = (np.mean(found, axis=0) + 0.5) / scale - 0.5 + [left, top]
    return Face(points.mean(axis=0), face.size, points)


def points_unit(points: NDArray[np.float64]) -> float:
    """How large a face is: the root mean square distance of its five points [5 2] from their centre."""
    return float(np.sqrt(np.square(points - points.mean(axis=0)).sum(axis=1).mean()))


def predictor_path() -> Path | None:
    """The 68-point predictor's file, found without importing its package (whose import needs pkg_resources)."""
    spec = importlib.util.find_spec("face_recognition_models")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "models" / _PREDICTOR
        if path.exists():
            return path
    return None


def require(face: str, track: str) -> None:
    """Raise FlickerError if what `face` (box or align) and `track` need is not installed."""
    missing = []
    if importlib.util.find_spec("dlib") is None:
        missing.append("dlib")
    if (face == "align" or track == "smooth") and predictor_path() is None:
        missing.append(f"face_recognition_models ({_PREDICTOR})")
    if missing:
        raise FlickerError(f"--face {face} needs {' and '.join(missing)}: pip install -e '.[face]', or --face none")


@lru_cache(maxsize=1)
def detector() -> Any:
    """dlib's frontal face detector (HOG), one per process."""
    import dlib

    return dlib.get_frontal_face_detector()


@lru_cache(maxsize=1)
def _predictor() -> Any:
    """dlib's 68-point shape predictor, one per process."""
    import dlib

    return dlib.shape_predictor(str(predictor_path()))
