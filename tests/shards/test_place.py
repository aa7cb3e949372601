"""Where frames are cropped: short sources are read once, long ones twice, with the same result."""

from collections import Counter

import numpy as np
import pytest

from shards import faces, follow, place
from shards.faces import TEMPLATE, Face
from shards.frames import Frame
from shards.schema import Options


@pytest.fixture
def seeing(monkeypatch):
    """Every picture shows a face where its first pixel says; no dlib."""

    def find(image, landmarks):
        x = float(image[0, 0, 0])
        points = (TEMPLATE - 0.5) * 40 + [x, 50]
        return [Face(points.mean(axis=0), 40.0, points)] if x else []

    monkeypatch.setattr(faces, "find", find)


class Reading:
    """A source of 100×100 frames that counts how often it is read; frame 30 begins a second run."""

    def __init__(self, count=60):
        self.count, self.times = count, 0

    def __call__(self, counts):
        self.times += 1
        for number in range(self.count):
            counts["read"] += 1
            pixels = np.full((100, 100, 3), 0 if number >= 50 else 40 + number // 30, np.uint8)
            yield number // 30, Frame(number, pixels=pixels)


def placed(reading, **options):
    counts, ticks = Counter(), []
    out = list(place.place(reading, 30.0, Options(size=32, **options), counts, ticks.append))
    return [(run, frame.number, crop.matrix.tolist()) for run, frame, crop in out], counts, sum(ticks)


@pytest.mark.parametrize("face", ["box", "align"])
def test_what_fits_into_memory_is_read_once_and_gives_the_same(seeing, monkeypatch, face):
    once, twice = Reading(), Reading()
    short = placed(once, face=face)
    monkeypatch.setattr(place, "BUDGET", 59 * 30_000)  # one frame too few
    long = placed(twice, face=face)
    assert (once.times, twice.times) == (1, 2)
    assert short == long
    found, counts, ticks = short
    assert [number for _, number, _ in found] == list(range(41))  # the last sample with the face
    assert ticks == counts["read"] == 60 and counts["frames_without_face"] == 19


def test_a_source_of_exactly_the_budget_is_read_once(seeing, monkeypatch):
    monkeypatch.setattr(place, "BUDGET", 60 * 30_000)
    placed(reading := Reading(), face="box")
    assert reading.times == 1


@pytest.mark.parametrize("face", ["box", "align"])
def test_smooth_crops_need_one_pass_however_long_the_source(seeing, monkeypatch, face):
    monkeypatch.setattr(follow, "find", faces.find)
    monkeypatch.setattr(follow, "steadied", lambda image, found: found)
    monkeypatch.setattr(place, "BUDGET", 0)
    found, counts, ticks = placed(reading := Reading(), face=face, track="smooth")
    assert reading.times == 1 and ticks == 60 and counts["frames_without_face"] == 19
    assert [number for _, number, _ in found] == list(range(41))


def test_central_squares_need_one_pass_and_no_faces():
    found, counts, ticks = placed(reading := Reading(), face="none")
    assert reading.times == 1 and ticks == 60 and len(found) == 60 and counts == {"read": 60}
    assert {run for run, _, _ in found} == {0, 1}
