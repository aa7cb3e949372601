"""Faces that are followed: one pass with a bounded wait gives what all samples together would."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards import follow
from shards.faces import TEMPLATE, Face, align
from shards.follow import SIGMA, STIFFNESS
from shards.frames import Frame
from shards.schema import Options

OPTIONS = Options(size=64, face="align", track="smooth", min_run=1)
STEP = 10  # at 30 fps


def face(x=50.0, y=50.0, size=60.0):
    points = (TEMPLATE - 0.5) * size + [x, y]
    return Face(points.mean(axis=0), size, points)


def frames(count, first=0, shape=(100, 100)):
    pixels = np.zeros((*shape, 3), np.uint8)
    return [Frame(number, pixels=pixels) for number in range(first, first + count)]


@pytest.fixture
def seeing(monkeypatch):
    """Replace the search: `seeing(number -> list of faces)`; returns the numbers of the frames it looked at."""

    def install(faces_of):
        looked = []

        def find(image, landmarks):
            looked.append(current[0])
            return faces_of(current[0])

        monkeypatch.setattr(follow, "find", find)
        monkeypatch.setattr(follow, "steadied", lambda image, face: face)
        return looked

    current = [0]
    original = follow.Follower._look

    def look(self, frame):
        current[0] = frame.number
        original(self, frame)

    monkeypatch.setattr(follow.Follower, "_look", look)
    return install


def followed(runs, **more):
    counts = Counter()
    return list(follow.follow(runs, 30.0, OPTIONS, counts, **more)), counts


def one_run(count, first=0):
    return ((0, frame) for frame in frames(count, first))


def expected_points(number, numbers, centres, sigma, ahead):
    """A weighted straight line by the normal equations, from all samples of a stretch."""
    away = np.array(numbers, float) - number
    spread = np.where(away > 0, min(sigma, ahead / 3), sigma)
    weight = np.exp(-(away**2) / (2 * spread**2)) * (away <= ahead) * (away >= -3 * sigma)
    total = weight.sum()
    middle = (weight * away).sum() / total
    design = np.stack([np.ones_like(away), away - middle], -1)
    stiff = np.diag([0.0, total * (STIFFNESS * sigma) ** 2])
    moments = (design * weight[:, None]).T
    line = np.linalg.solve(moments @ design + stiff, moments @ np.array(centres))
    return line[0] - middle * line[1]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 400), st.integers(0, 2**32 - 1), st.sampled_from([10, 25, 90, 1000]))
def test_one_pass_equals_all_samples_at_once(count, seed, wait):
    walk = np.cumsum(np.random.default_rng(seed).normal(0, 1, (count, 2)), axis=0) + 50
    looked = []

    def find(image, landmarks):
        return [face(*walk[looked[-1]])]

    original = follow.Follower._look
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follow, "find", find)
        patch.setattr(follow, "steadied", lambda image, face: face)
        patch.setattr(
            follow.Follower, "_look", lambda self, frame: (looked.append(frame.number), original(self, frame))
        )
        out, counts = followed(one_run(count), budget=wait * 100 * 100 * 3)
    assert [frame.number for _, frame, _ in out] == list(range(count))
    assert looked == sorted({*range(0, count, STEP), count - 1}) and counts["frames_searched"] == len(looked)
    sigma, ahead = SIGMA * STEP, min(90, wait)
    for _, frame, crop in out:
        centre = expected_points(frame.number, looked, walk[looked], sigma, ahead)
        assert np.allclose(crop.matrix, align(face(*centre).points, 64).matrix, atol=1e-6)


def test_frames_wait_no_longer_than_is_needed(seeing):
    seeing(lambda number: [face()])
    read = []

    def runs():
        for frame in frames(500):
            read.append(frame.number)
            yield 0, frame

    for budget, ahead in ((10**9, 90), (40 * 30_000, 40), (1, STEP)):
        read.clear()
        for _, frame, _ in follow.follow(runs(), 30.0, OPTIONS, Counter(), budget):
            assert read[-1] - frame.number <= ahead + STEP + 1


def test_a_steady_face_has_one_still_transform(seeing):
    seeing(lambda number: [face(50, 40)])
    out, _ = followed(one_run(200))
    first = out[0][2].matrix
    assert len(out) == 200 and all(np.allclose(crop.matrix, first, atol=1e-9) for _, _, crop in out)


def test_a_steady_drift_is_followed_to_its_ends(seeing):
    seeing(lambda number: [face(30 + 0.2 * number, 50)])
    out, counts = followed(one_run(300))
    stored = [crop.matrix @ [30 + 0.2 * frame.number, 50, 1] for _, frame, crop in out]
    whole = 0.2 * 300 * out[0][2].matrix[0, 0]
    assert np.ptp(np.array(stored)[:, 0]) < 0.06 * whole
    assert counts["recrops"] == 0


def test_frames_of_a_run_are_averaged_by_one_block(seeing):
    seeing(lambda number: [face(size=120 + number / 10)])  # the warp shrinks by 1.9 first, by 2.3 later
    out, _ = followed(one_run(300))
    assert {crop.shrink for _, _, crop in out} == {1} and {crop.block for _, _, crop in out} == {1, 2}


def test_frames_without_a_face_are_left_out_and_counted(seeing):
    seeing(lambda number: [face()] if 50 <= number <= 120 else [])
    out, counts = followed(one_run(300))
    assert [frame.number for _, frame, _ in out] == list(range(50, 121))
    assert counts["frames_without_face"] == 229 and len({stored for stored, _, _ in out}) == 1


def test_one_miss_is_bridged_and_two_end_the_run(seeing):
    seeing(lambda number: [] if number in (50, 100, 110) else [face()])
    out, counts = followed(one_run(200))
    parts = [[frame.number for _, frame, _ in part] for _, part in itertools.groupby(out, key=lambda item: item[0])]
    assert [(part[0], part[-1]) for part in parts] == [(0, 90), (120, 199)]
    assert counts["frames_without_face"] == 29 and counts["recrops"] == 0


def test_a_face_elsewhere_begins_a_run_between_the_samples(seeing):
    seeing(lambda number: [face(30)] if number <= 50 else [face(80)])
    out, counts = followed(one_run(120))
    assert [frame.number for _, frame, _ in out] == list(range(120))
    assert [stored for stored, _, _ in out] == [0] * 56 + [1] * 64
    assert counts["recrops"] == 1


def test_runs_are_not_mixed_and_an_empty_source_gives_nothing(seeing):
    seeing(lambda number: [face(30)] if number < 100 else [face(70)])
    runs = [*((0, f) for f in frames(15)), *((1, f) for f in frames(15, 100)), *((4, f) for f in frames(1, 300))]
    out, _ = followed(runs)
    assert [stored for stored, _, _ in out] == [0] * 15 + [1] * 15 + [2]
    first, last = out[14][2].matrix @ [30, 50, 1], out[15][2].matrix @ [70, 50, 1]
    assert np.allclose(first, last)
    assert followed([]) == ([], Counter())


def test_the_face_nearest_to_the_last_is_followed(seeing):
    seeing(lambda number: [face(70, size=62), face(50)] if number else [face(50)])
    out, counts = followed(one_run(100))
    assert counts["recrops"] == 0
    assert all(np.allclose(crop.matrix, align(face(50).points, 64).matrix) for _, _, crop in out)


@given(st.floats(-60, 160), st.floats(-60, 160), st.floats(20, 200))
def test_the_smooth_box_lies_about_the_face(x, y, size):
    found = face(x, y, size)
    crop = follow.box(found.points, 64)
    stored = found.points @ crop.matrix[:, :2].T + crop.matrix[:, 2]
    other = face()
    moved = other.points @ (matrix := follow.box(other.points, 64).matrix)[:, :2].T + matrix[:, 2]
    assert np.allclose(stored, moved)  # wherever and however large
    assert (stored > 10).all() and (stored < 54).all()
    assert crop.matrix[0, 1] == crop.matrix[1, 0] == 0 and crop.matrix[0, 0] == crop.matrix[1, 1]
