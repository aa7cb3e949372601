"""Crops by landmarks: geometry against hand-computed values, known movements, and where image content goes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.faces import crops
from finetune.faces.crops import aligned, box, map_points, slstt
from finetune.faces.template import TEMPLATE
from shards import FlickerError

degrees = st.floats(-35, 35)
scales = st.floats(40, 400)
places = st.tuples(st.floats(50, 400), st.floats(50, 400))
noises = st.integers(0, 10_000)


def moved(points, turn, scale, place):
    """The points turned (degrees, clockwise on the screen), scaled and shifted."""
    angle = np.deg2rad(turn)
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (points - 0.5) @ matrix.T + place


def person(seed):
    """A face that differs from the mean shape as people do (0.05 of its size, mostly smoothly)."""
    rng = np.random.default_rng(seed)
    x, y = TEMPLATE.T - 0.5
    basis = np.stack([np.ones(68), x, y, x * y, x * x, y * y])
    return TEMPLATE + (rng.normal(0, 0.04, (2, 6)) @ basis).T + rng.normal(0, 0.005, (68, 2))


def upright():
    """A face whose points take part in eq. 16 at whole pixels, nose upright at x = 100."""
    points = np.full((68, 2), (100.0, 110.0))
    points[8], points[19], points[57] = (100, 200), (70, 60), (100, 160)
    points[27:31] = [(100, 80), (100, 90), (100, 100), (100, 110)]
    return points


def test_slstt_side_and_centre_are_those_of_equation_16():
    crop = slstt(upright(), 90)
    # s = (200 - 60) + (200 - 160) = 180; 90 px of crop: half the size; point 30 (100, 110) in the middle, at 44.5
    np.testing.assert_allclose(crop.matrix, [[0.5, 0, 44.5 - 50], [0, 0.5, 44.5 - 55]])
    np.testing.assert_allclose(
        map_points(crop, np.array([[100.0, 110.0], [100 - 90, 110 - 90]])), [[44.5] * 2, [-0.5] * 2]
    )


@given(degrees, st.floats(0.3, 4), places, st.sampled_from([64, 224, 384]))
def test_slstt_undoes_any_turn_and_move_and_only_its_resize_scales(turn, scale, place, size):
    points = moved(upright() / 100, turn, 100 * scale, place)
    crop = slstt(points, size)
    still = slstt(upright(), size)
    np.testing.assert_allclose(map_points(crop, points), map_points(still, upright()), atol=1e-6)
    linear = crop.matrix[:, :2]
    np.testing.assert_allclose(linear @ linear.T, np.eye(2) * (size / (180 * scale)) ** 2, atol=1e-9)
    assert np.linalg.det(linear) > 0


@given(noises, degrees, scales, places)
def test_slstt_makes_the_nose_vertical_and_keeps_angles(seed, turn, scale, place):
    points = moved(person(seed), turn, scale, place)
    found = map_points(slstt(points, 224), points)
    np.testing.assert_allclose(found[30], [111.5, 111.5], atol=1e-6)
    nose = found[27:31] - found[27:31].mean(axis=0)
    assert abs((nose[:, 0] * nose[:, 1]).sum()) < 1e-6 * scale  # principal axis is vertical
    assert nose[3, 1] > nose[0, 1]


def test_slstt_without_turning_cuts_whole_pixels_as_the_release_does():
    points = upright()
    points[30] = (101, 113)
    points[57, 1] = 161  # s = 140 + 39 = 179
    crop = slstt(points, 179, turn=False)
    assert crop.square == (101 - 90, 113 - 90, 179)  # floor(101 - 89.5) = 11, floor(113 - 89.5) = 23
    image = np.random.default_rng(0).integers(0, 256, (240, 260, 3), np.uint8)
    np.testing.assert_array_equal(crop.apply(image), image[23 : 23 + 179, 11 : 11 + 179])


def test_points_that_are_no_face_are_refused():
    with pytest.raises(FlickerError, match="no face"):
        slstt(np.zeros((68, 2)), 224)
    with pytest.raises(FlickerError, match="no face"):
        slstt(upright() * (1, -1), 224, turn=False)


@given(degrees, scales, places, st.sampled_from([72, 224]), st.floats(0, 0.3))
def test_alignment_recovers_a_known_turn_scale_and_shift(turn, scale, place, size, margin):
    points = moved(TEMPLATE, turn, scale, place)
    crop = aligned(points, size, margin)
    angle, wanted = np.deg2rad(-turn), size * (1 - 2 * margin) / scale
    np.testing.assert_allclose(
        crop.matrix[:, :2],
        wanted * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]),
        atol=1e-9 * size,
    )
    np.testing.assert_allclose(map_points(crop, np.array([place])), [[size / 2 - 0.5] * 2], atol=1e-6)


@given(noises, degrees, scales, places)
@settings(max_examples=30)
def test_alignment_is_the_least_squares_similarity(seed, turn, scale, place):
    points = moved(person(seed), turn, scale, place)
    crop, target = aligned(points, 100, 0.1), (0.1 + TEMPLATE * 0.8) * 100 - 0.5
    design = np.zeros((136, 4))  # a, b, tx, ty of x' = a x - b y + tx, y' = b x + a y + ty
    design[0::2] = np.column_stack([points[:, 0], -points[:, 1], np.ones(68), np.zeros(68)])
    design[1::2] = np.column_stack([points[:, 1], points[:, 0], np.zeros(68), np.ones(68)])
    a, b, right, down = np.linalg.lstsq(design, target.ravel(), rcond=None)[0]
    np.testing.assert_allclose(crop.matrix, [[a, -b, right], [b, a, down]], rtol=1e-6, atol=1e-6)


@given(noises, st.floats(-10, 10), scales, places)
def test_an_aligned_or_boxed_face_is_inside_its_crop(seed, turn, scale, place):
    points = moved(person(seed), turn, scale, place)
    for make in (aligned, box):
        found = map_points(make(points, 128), points)
        assert (found > -0.08 * 128).all() and (found < 1.08 * 128).all()
    found = map_points(box(points, 128, margin=0.1), points)
    low, high = found.min(axis=0), found.max(axis=0)
    assert abs((high - low).max() - 0.8 * 128) < 128 / 20 and np.abs((low + high) / 2 - 63.5).max() < 128 / 20


@pytest.mark.parametrize("make", [slstt, lambda points, size: slstt(points, size, turn=False), aligned, box])
@pytest.mark.parametrize("scale", [90, 300])
@pytest.mark.parametrize("turn", [0, -17, 24])
def test_image_content_goes_where_points_are_mapped(make, scale, turn):
    points = moved(TEMPLATE, turn, scale, (210.3, 190.8))
    crop = make(points, 160)
    for index in (8, 19, 30, 36, 45, 54):
        x, y = points[index]
        rows, columns = np.mgrid[0:400, 0:420]
        width = 0.02 * scale
        blob = 250 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * width**2))
        image = np.repeat(blob.round().astype(np.uint8)[..., None], 3, axis=2)
        out = crop.apply(image)[..., 0].astype(np.float64)
        out[out < 15] = 0
        moments = cv2.moments(out)
        seen = np.array([moments["m10"], moments["m01"]]) / moments["m00"]
        wanted = map_points(crop, points[index : index + 1])[0]
        if (wanted > 8).all() and (wanted < 151).all():
            np.testing.assert_allclose(seen, wanted, atol=0.15)


def test_a_crop_over_the_edge_repeats_the_last_pixels():
    crop = aligned(moved(TEMPLATE, 10, 200, (20, 20)), 72)
    image = np.full((100, 100, 3), 77, np.uint8)
    out = crop.apply(image)
    assert out.shape == (72, 72, 3) and (out == 77).all()


def test_the_version_of_crops_is_for_caches():
    assert isinstance(crops.VERSION, int)
