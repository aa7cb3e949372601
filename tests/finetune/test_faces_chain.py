"""The interface, its backends by name, and the fallback chain, with a second backend."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from finetune.faces import backends as registry
from finetune.faces import chain, landmarks
from finetune.faces.landmarks import FacePoints, landmarker, locate
from finetune.faces.template import EXTENT_BOX, MIRROR, TEMPLATE
from shards import FlickerError
from shards.errors import UsageError
from tests.finetune.face_backends import Squares, picture


@pytest.fixture
def backends(monkeypatch):
    """The registry, put back after the test."""
    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))


def test_a_second_backend_is_found_by_name(backends):
    landmarks.register("squares", Squares)
    assert landmarker("squares").name == "squares"


def test_an_unknown_backend_names_those_that_exist(backends):
    registry._FACTORIES.clear()
    landmarks.register("dlib", Squares)
    landmarks.register("squares", Squares)
    with pytest.raises(UsageError, match="no landmark backend 'mesh'; there is: dlib, squares"):
        landmarker("mesh")


@pytest.mark.parametrize("missing", ["dlib", "predictor"])
def test_a_backend_that_is_not_installed_says_what_to_do(monkeypatch, missing):
    if missing == "dlib":
        monkeypatch.setitem(__import__("sys").modules, "dlib", None)
    else:
        pytest.importorskip("dlib")
        monkeypatch.setattr("shards.faces.predictor_path", lambda: None)
    with pytest.raises(FlickerError, match=r"landmarks need .*: pip install -e '\.\[face\]'"):
        landmarker("dlib")


def inside(points, place, side):
    """Whether the points fill the square at `place` (to 1 px)."""
    low, high = points.min(axis=0), points.max(axis=0)
    return np.allclose(low, place, atol=1.5) and np.allclose(high, np.array(place) + side - 1, atol=1.5)


def test_a_face_at_the_images_scale_is_detected():
    found = locate(picture(60), Squares())
    assert found.source == "detected" and inside(found.points, (30, 40), 60)
    assert found.box == (29.5, 39.5, 60.0, 60.0)


def test_a_small_face_is_found_enlarged_in_the_pixels_of_the_image():
    found = locate(picture(20), Squares())
    assert found.source == "enlarged" and inside(found.points, (30, 40), 20)
    np.testing.assert_allclose(found.box, (29.5, 39.5, 20, 20), atol=1)


def test_the_nearest_neighbour_with_a_face_lends_its_box_and_the_points_are_of_this_image():
    dim = picture(60, level=80, ground=5)  # too dim to be detected, bright enough to fit points to
    tried = []

    def frame(number, image):
        tried.append(number)
        return image

    frames = [picture(0), picture(60, place=(35, 40)), picture(60, place=(50, 40))]
    backend = Blind(dim)
    neighbours = [lambda number=number, image=image: frame(number, image) for number, image in enumerate(frames)]
    found = locate(dim, backend, neighbours)
    assert found.source == "neighbour" and tried == [0, 1]
    assert inside(found.points, (30, 40), 60) and found.box[0] == 34.5


class Blind(Squares):
    """Detects nothing in one image, in whatever scale and contrast."""

    def __init__(self, image):
        self.mean = image.mean()

    def detect(self, image):
        return [] if image.max() < 250 or image.mean() < self.mean + 2 else super().detect(image)


def test_neighbours_are_not_opened_where_the_image_shows_a_face():
    def refuse():
        raise AssertionError("opened")

    assert locate(picture(60), Squares(), [refuse]).source == "detected"


def test_a_neighbour_of_another_size_is_passed_over():
    dim = picture(60, level=55, ground=5)
    found = locate(dim, Blind(dim), [lambda: np.full((50, 50, 3), 255, np.uint8)])
    assert found.source == "template"


class Drawn(Squares):
    """Never detects; the points are drawn to `face`, or follow the box where that is None."""

    def __init__(self, face):
        self.face = face

    def detect(self, image):
        return []

    def fit(self, image, box):
        return self.face if self.face is not None else np.array(box[:2]) + TEMPLATE * box[2]


def test_the_whole_image_is_a_face_only_where_moved_boxes_agree():
    image, face = picture(0), 20 + TEMPLATE * 100
    found = locate(image, Drawn(face))
    assert found.source == "whole-image"
    np.testing.assert_allclose(found.points, face)
    assert locate(image, Drawn(None)).source == "template"


class Contrast(Drawn):
    """Detects a face wherever there is contrast."""

    def detect(self, image):
        face = np.zeros((68, 2)) if self.face is None else self.face
        return [FacePoints(face, (20.0, 20.0, 60.0, 60.0))] if image.std() > 8 else []


def test_a_dim_face_is_found_with_equalised_contrast_where_its_points_stay():
    image = (
        (90 + np.random.default_rng(0).normal(0, 4, (160, 140, 1))).clip(0, 255).astype(np.uint8).repeat(3, axis=2)
    )
    assert image.std() < 8 < chain._equalised(image).std()
    found = locate(image, Contrast(20 + TEMPLATE * 60))
    assert found.source == "equalised"
    np.testing.assert_allclose(found.points, 20 + TEMPLATE * 60)
    assert locate(image, Contrast(None)).source == "template"  # its points follow the box: noise, not a face


def test_the_template_lies_in_the_middle_of_the_image():
    found = chain.template(picture(0))
    x, y, side, _ = found.box
    assert found.source == "template" and side == pytest.approx(0.93 * 140)
    assert np.allclose((x + side / 2 + 0.5, y + side / 2 + 0.5), (70, 80))
    assert np.ptp(found.points[:, 1]) == pytest.approx(side / EXTENT_BOX)
    assert (found.points >= 0).all() and (found.points < (140, 160)).all()


def test_the_source_of_every_step_is_named():
    assert set(chain.APART) < set(landmarks.SOURCES)
    assert landmarks.SOURCES[0] == "detected" and landmarks.SOURCES[-1] == "template"


def test_a_backend_with_other_points_is_refused():
    class Five(Squares):
        def fit(self, image, box):
            return np.zeros((5, 2))

    with pytest.raises(FlickerError, match="68 × 2"):
        locate(picture(60), Five())


def test_the_template_is_symmetric_and_stands_upright():
    assert sorted(MIRROR) == list(range(68)) and (MIRROR[MIRROR] == np.arange(68)).all()
    np.testing.assert_allclose(TEMPLATE[MIRROR] * (-1, 1) + (1, 0), TEMPLATE, atol=1e-9)
    assert TEMPLATE[:, 1].min() == 0 and TEMPLATE[:, 1].max() == 1
    brows, eyes, nose, mouth = (
        TEMPLATE[part, 1].mean() for part in (slice(17, 27), slice(36, 48), 30, slice(48, 68))
    )
    assert brows < eyes < nose < mouth < TEMPLATE[8, 1]
    assert (TEMPLATE[36:42, 0] < 0.5).all() and (TEMPLATE[42:48, 0] > 0.5).all()


def test_dlib_finds_the_same_points_at_any_scale_of_the_image(shared):
    pytest.importorskip("dlib")
    frames = cv2.VideoCapture(str(shared / "data/video/single_face.mp4"))
    image = cv2.cvtColor(frames.read()[1], cv2.COLOR_BGR2RGB)
    backend = landmarker()
    first = locate(image, backend)
    half = locate(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), backend)
    away = np.linalg.norm((half.points + 0.5) * 2 - 0.5 - first.points, axis=1)
    eyes = np.linalg.norm(first.points[36] - first.points[45])
    assert away.mean() < 0.04 * eyes
