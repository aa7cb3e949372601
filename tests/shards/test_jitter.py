"""Micro-movements survive the crop: a still face stays still to 0.2 px, a known movement keeps its size.

Faces are rendered, filmed with sensor noise, compressed (JPEG files or H.264), and go through `shards.write`. What
is left of the motion is measured in the stored JPEG frames by means that know nothing of faces: an affine
registration (ECC), phase correlation, and dense flow against the rendered truth.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

import shards.faces as faces
from shards import write
from shards.synthetic_difficulty import Difficulty
from shards.synthetic_files import write_frames, write_video
from shards.synthetic_motion import UNITS, Event, unit_indices
from shards.synthetic_scene import Scene, film
from tests.shards.stored import frames

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("dlib") is None or faces.predictor_path() is None, reason="the face extra is missing"
)
FPS, SIZE = 30, 224
STILL = Difficulty(drift_px=0, distractor_px=0, style=0, blink=0, flicker=0.01, noise=2.0)
LIMIT = 0.2  # px
MODES = [("box", "fixed"), ("align", "fixed"), ("box", "smooth"), ("align", "smooth")]
PAIRED = 11  # frames that the partner in a training pair is away at most


def scene(seconds: float, seed: int = 0, events: list[Event] | None = None, framing: float = 0.3) -> Scene:
    """A face about 125 px wide in 320×240, its head still."""
    rng = np.random.default_rng(seed)
    person, _, centre = film(rng, 320, 240, framing, STILL)
    return Scene(person, np.arange(round(seconds * FPS)) / FPS, events or [], STILL, rng, centre)


@dataclass
class Stored:
    """What came out of the writer."""

    frames: np.ndarray  # uint8 [t S S 3]
    matrices: np.ndarray  # [t 2 3], source to stored pixel centres
    runs: int


def store(filmed: Scene, folder: Path, kind: str, face: str, track: str) -> Stored:
    """Film to disk, write shards, read them back."""
    if kind == "video":
        source = folder / "in.mp4"
        write_video(source, filmed, FPS, crf=18)
    else:
        source = folder / "in"
        write_frames(
            source, filmed, [f"{n}.jpg" for n in range(len(filmed.times))], list(range(len(filmed.times))), 92
        )
    manifest = write([source], folder / "out", size=SIZE, face=face, track=track, folder_fps=FPS)
    found = sorted(frames(folder / "out"), key=lambda item: item[1])
    assert [number for _, number, _, _ in found] == list(range(len(filmed.times)))
    pictures, matrices = np.stack([item[2] for item in found]), np.stack([item[3] for item in found])
    return Stored(pictures, matrices, manifest.sources[0].runs)


def grey(frame: np.ndarray) -> np.ndarray:
    """float32 [S S], slightly blurred: registration is then no more biased by noise."""
    return cv2.GaussianBlur(cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY), (0, 0), 1.0).astype(
        np.float32
    )


RIM = np.array([[x, y, 1.0] for x in (40, 112, 184) for y in (40, 112, 184)])  # about the face, stored px


def registered(one: np.ndarray, two: np.ndarray) -> float:
    """Largest displacement (px) over the face between two frames, by affine registration."""
    warp = np.eye(2, 3, dtype=np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 50, 1e-5)
    _, warp = cv2.findTransformECC(grey(one), grey(two), warp, cv2.MOTION_AFFINE, criteria)
    return float(np.linalg.norm(RIM @ warp.T - RIM[:, :2], axis=-1).max())


def correlated(one: np.ndarray, two: np.ndarray) -> float:
    """Shift (px, below 2) between two frames: the slope of the phase of their cross-spectrum."""
    window = np.outer(np.hanning(SIZE), np.hanning(SIZE))
    first, second = (np.fft.fft2((grey(frame) - grey(frame).mean()) * window) for frame in (one, two))
    cross = first * second.conj()
    rows, columns = np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE), indexing="ij")
    low = (np.hypot(rows, columns) < 0.15) & (np.hypot(rows, columns) > 0)
    design = 2 * np.pi * np.stack([columns[low], rows[low]], -1)
    weight = np.sqrt(np.abs(cross[low]))
    shift = np.linalg.lstsq(design * weight[:, None], np.angle(cross[low]) * weight, rcond=None)[0]
    return float(np.hypot(*shift))


def found_again(one: np.ndarray, two: np.ndarray) -> float:
    """How far (whole px) the middle of the face in `one` has gone in `two`, by template matching."""
    low, high = 72, 152
    scores = cv2.matchTemplate(grey(two), np.ascontiguousarray(grey(one)[low:high, low:high]), cv2.TM_CCOEFF_NORMED)
    row, column = np.unravel_index(scores.argmax(), scores.shape)
    return float(np.hypot(row - low, column - low))


def pairs(count: int, lag: int, number: int) -> list[tuple[int, int]]:
    """So many (first, first + lag), evenly over the frames, the first and the last among them."""
    return [(int(at), int(at) + lag) for at in np.linspace(0, count - 1 - lag, number)]


def jitter(frames: np.ndarray, number: int = 4) -> float:
    """Largest residual motion (px) over pairs of neighbours, of training partners, and of the two ends."""
    chosen = [pair for lag in (1, 5, PAIRED) for pair in pairs(len(frames), lag, number)]
    return max(max(registered(frames[a], frames[b]), correlated(frames[a], frames[b])) for a, b in chosen)


# -- the measure itself


def test_the_measure_sees_a_fifth_of_a_pixel():
    still = scene(0.1).frames()[0]
    base = np.ascontiguousarray(still[8:232, 48:272])
    for shift in (0.0, 0.1, 0.2, 0.5):
        by = np.array([[1, 0, shift], [0, 1, 0.0]])
        moved = cv2.warpAffine(base, by, (SIZE, SIZE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        for measure in (registered, correlated):
            assert abs(measure(base, moved) - shift) < 0.06


def test_a_transform_per_frame_would_jitter():
    """The control: what happens to a still face when each frame is aligned by itself."""
    stored = []
    for frame in scene(0.5).frames():
        found = faces.find(np.ascontiguousarray(frame), landmarks=True)[0]
        stored.append(faces.align(found.points, SIZE).apply(np.ascontiguousarray(frame)))
    assert jitter(np.stack(stored)) > 2 * LIMIT


# -- stillness


@pytest.mark.parametrize(("face", "track"), MODES)
def test_a_still_face_stays_still(tmp_path, face, track):
    kind = "video" if track == "smooth" else "folder"
    assert jitter(store(scene(2), tmp_path, kind, face, track).frames) < LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["video", "folder"])
@pytest.mark.parametrize(("face", "track"), MODES)
def test_still_faces_of_many_people_stay_still(tmp_path, face, track, kind, seed):
    stored = store(scene(6, seed, framing=0.25 + 0.02 * seed), tmp_path, kind, face, track)
    assert stored.runs == 1 and jitter(stored.frames, number=12) < LIMIT


# -- movement


def twitch(seed: int, aus: str, amplitude_px: float) -> Scene:
    """A still head; from 1.0 to 1.6 s a movement of this amplitude (source px), greatest at 1.25 s."""
    filmed = scene(2.5, seed)
    weights = np.zeros(len(UNITS))
    weights[unit_indices(aus)] = 1
    person = filmed.person
    gains = weights * amplitude_px / person.scale / person.strokes.peak(weights)
    return scene(2.5, seed, [Event(1.0, 1.25, 0.05, 1.6, gains)])


def flow(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Dense displacement [S S 2], px."""
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    method.setFinestScale(0)
    return method.calc(*(grey(frame).astype(np.uint8) for frame in (one, two)), None)


def survival(filmed: Scene, stored: Stored, onset: int, apex: int) -> float:
    """Measured over true displacement from onset to apex, where that is more than half its peak."""
    matrix = np.vstack([stored.matrices[onset], [0, 0, 1]])
    columns, rows = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    source = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(matrix)[:2].T
    at = source.astype(np.float32)
    truth = cv2.remap(filmed.displacement(onset, apex), at[..., 0], at[..., 1], cv2.INTER_LINEAR)
    truth = truth @ matrix[:2, :2].T
    strong = np.linalg.norm(truth, axis=-1) > 0.5 * np.linalg.norm(truth, axis=-1).max()
    found = flow(stored.frames[onset], stored.frames[apex])[strong]
    return float((found * truth[strong]).sum() / np.square(truth[strong]).sum())


@pytest.mark.parametrize(("face", "track"), MODES)
def test_a_movement_of_one_pixel_survives(tmp_path, face, track):
    filmed = twitch(0, "12", 1.2)
    stored = store(filmed, tmp_path, "folder", face, track)
    assert 0.8 < survival(filmed, stored, 28, 38) < 1.15


@pytest.mark.slow
@pytest.mark.parametrize("aus", ["12", "4", "1+2", "15"])
@pytest.mark.parametrize("amplitude", [1.0, 2.0])
@pytest.mark.parametrize(("face", "track"), MODES)
def test_movements_of_one_and_two_pixels_survive(tmp_path, face, track, amplitude, aus):
    filmed = twitch(2, aus, amplitude)
    stored = store(filmed, tmp_path, "folder", face, track)
    assert 0.8 < survival(filmed, stored, 28, 38) < 1.15


# -- drift


def drifting(seconds: float, seed: int) -> tuple[Scene, np.ndarray]:
    """A head that goes 30 px to the right and 10 px down, and where its origin is, source px [t 2]."""
    filmed = scene(seconds, seed, framing=0.25)
    share = 0.5 - 0.5 * np.cos(np.pi * filmed.times / seconds)
    filmed.poses = filmed.poses.copy()
    filmed.poses[:, :, 2] += share[:, None] * [30, 10] - [15, 5]
    return filmed, filmed.poses[:, :, 2]


@pytest.mark.parametrize("face", ["box", "align"])
def test_a_smooth_crop_follows_a_slow_drift_and_a_fixed_one_does_not(tmp_path, face):
    filmed, origin = drifting(5, 0)
    left = {}
    for track in ("smooth", "fixed"):
        (folder := tmp_path / track).mkdir()
        stored = store(filmed, folder, "video", face, track)
        places = np.einsum("tij,tj->ti", stored.matrices, np.c_[origin, np.ones(len(origin))])
        whole = np.linalg.norm(places[-1] - places[0])
        seen = found_again(stored.frames[0], stored.frames[-1])  # in the pictures themselves
        assert stored.runs == 1 and abs(seen - whole) < 3
        left[track] = whole
    assert left["smooth"] < 0.15 * left["fixed"]
