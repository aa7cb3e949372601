"""Regions of the face: RoIs, action unit boxes, HTNet's areas."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.faces.regions import AU_REGIONS, area_corners, areas, au_boxes, release_points, rois
from finetune.faces.template import MIRROR, TEMPLATE
from shards import FlickerError
from tests.finetune.face_backends import Squares
from tests.finetune.test_faces_crops import degrees, moved, noises, person, places, scales

FACE = 30 + TEMPLATE * 240  # upright in a 300 px image


def area(polygon):
    """By the shoelace formula; positive for clockwise on the screen."""
    x, y = polygon.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def test_there_are_43_rois_and_each_is_a_plain_polygon():
    found = rois(FACE)
    assert list(found) == list(range(1, 44))
    for number, polygon in found.items():
        assert 3 <= len(polygon) <= 6
        assert abs(area(polygon)) > 30, number
        turned = cv2.convexHull(polygon.astype(np.float32))[:, 0]
        assert abs(area(polygon)) > 0.6 * abs(area(turned)), number  # no crossing edges


def test_rois_against_values_worked_out_by_hand():
    found = rois(FACE)
    step = 0.15 * (FACE[42:48].mean(axis=0) - FACE[36:42].mean(axis=0))[0]
    up = np.array([0, -step])
    brow = {tuple(corner) for corner in np.round(found[1], 6)}
    assert brow == {tuple(np.round(corner, 6)) for corner in (FACE[17], FACE[19], FACE[17] + up, FACE[19] + up)}
    between = {tuple(corner) for corner in np.round(found[4], 6)}
    assert tuple(np.round(FACE[27] + 2 * up, 6)) in between and tuple(np.round(FACE[22] + up, 6)) in between
    cheek = {tuple(corner) for corner in np.round(found[24], 6)}  # 13, 12, middles of 13 and 29, and of 12 and 33
    middles = [(FACE[13] + FACE[29]) / 2, (FACE[12] + FACE[33]) / 2]
    assert cheek == {tuple(np.round(corner, 6)) for corner in (FACE[13], FACE[12], *middles)}
    np.testing.assert_allclose(sorted(found[43].tolist()), sorted(FACE[42:48].tolist()))


@given(noises, degrees, scales, places)
@settings(max_examples=30)
def test_rois_follow_any_turn_scale_and_shift(seed, turn, scale, place):
    shape = person(seed)
    still, turned = rois(shape), rois(moved(shape, turn, scale, place))
    for number, polygon in still.items():
        np.testing.assert_allclose(turned[number], moved(polygon, turn, scale, place), atol=1e-6 * scale)


@given(noises)
@settings(max_examples=30)
def test_rois_of_a_mirrored_face_are_the_mirrored_rois(seed):
    shape = person(seed)
    pairs = {1: 6, 7: 14, 8: 13, 10: 11, 15: 20, 22: 23, 26: 27, 30: 31, 34: 35, 38: 39, 40: 41, 42: 43, 37: 37}
    found, mirrored = rois(shape), rois(shape[MIRROR] * (-1, 1))
    for left, right in pairs.items():
        one, other = found[left] * (-1, 1), mirrored[right]
        np.testing.assert_allclose(sorted(one.tolist()), sorted(other.tolist()), atol=1e-9)


def test_action_unit_boxes_lie_on_what_they_are_named_after():
    boxes = au_boxes(FACE, (300, 300))
    assert boxes.dtype == np.int32 and boxes.shape == (9, 4) and (boxes[:, 2:] == 90).all()

    def holds(number, *points):
        x, y, width, height = boxes[number]
        inside = (FACE[list(points)] >= (x, y)) & (FACE[list(points)] <= (x + width - 1, y + height - 1))
        return inside.all()

    assert holds(0, *range(17, 22)) and holds(1, *range(22, 27))  # brows, left and right
    assert holds(2, 21, 22, 27)  # between the brows
    assert holds(3, 40, 41) and holds(4, 46, 47)  # lower lids
    assert holds(5, 27, 28, 29, 30, 31, 35)  # nose
    assert holds(6, 48) and holds(7, 54)  # corners of the mouth
    assert holds(8, 8, 57)  # chin
    left, right = boxes[[0, 3, 6], 0], boxes[[1, 4, 7], 0]
    np.testing.assert_allclose(left + 89 + right, 299, atol=1)  # mirror images
    assert [name[:2] for name, _ in AU_REGIONS] == ["#1", "#1", "#2", "#3", "#3", "#4", "#5", "#5", "#6"]


@given(noises, degrees, st.floats(20, 900), places, st.integers(90, 500), st.integers(90, 500))
def test_boxes_stay_inside_the_image_for_any_face(seed, turn, scale, place, width, height):
    boxes = au_boxes(moved(person(seed), turn, scale, place), (width, height))
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] == 90).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= (width, height)).all()


@given(noises, st.floats(150, 200))
def test_boxes_are_centred_on_their_rois_where_there_is_room(seed, scale):
    points = moved(person(seed), 0, scale, (400, 400))
    polygons = rois(points)
    for (x, y, width, height), (_, numbers) in zip(au_boxes(points, (800, 800)), AU_REGIONS, strict=True):
        corners = np.concatenate([polygons[number] for number in numbers])
        middle = (corners.min(axis=0) + corners.max(axis=0)) / 2
        assert np.abs(middle - (x + (width - 1) / 2, y + (height - 1) / 2)).max() <= 0.5 + 1e-9


def test_boxes_that_cannot_fit_are_refused():
    with pytest.raises(FlickerError, match="boxes of 90 px do not fit an image of 80 × 200"):
        au_boxes(FACE, (80, 200))


def test_areas_are_the_eyes_and_the_corners_of_the_mouth_on_the_grid():
    centres = areas(FACE, 300)
    eye = (FACE[36:42].mean(axis=0) + 0.5) * 28 / 300 - 0.5
    np.testing.assert_allclose(centres[0], eye)
    np.testing.assert_allclose(centres[2:], (FACE[[48, 54]] + 0.5) * 28 / 300 - 0.5)
    assert centres[0, 0] < centres[1, 0] and centres[2, 0] < centres[3, 0] and centres[0, 1] < centres[2, 1]


def test_an_area_on_a_map_holds_what_lies_there_in_the_image():
    image = np.zeros((300, 300), np.float32)
    x, y = FACE[54].round().astype(int)
    image[y - 5 : y + 6, x - 5 : x + 6] = 1
    small = cv2.resize(image, (28, 28), interpolation=cv2.INTER_AREA)
    column, row = area_corners(areas(FACE, 300), 28)[3]
    window = small[row : row + 14, column : column + 14]
    assert window.sum() == pytest.approx(small.sum())
    if column < 14 and row < 14:
        peak = np.array(np.unravel_index(window.argmax(), window.shape))
        assert np.abs(peak - 6.5).max() <= 1


@given(st.lists(st.tuples(st.floats(-50, 80), st.floats(-50, 80)), min_size=4, max_size=4), st.sampled_from([14, 10]))
def test_windows_stay_inside_the_grid_and_round_to_the_nearest(centres, side):
    corners = area_corners(np.array(centres), 28, side)
    assert corners.dtype == np.int64 and (corners >= 0).all() and (corners + side <= 28).all()
    for centre, corner in zip(centres, corners, strict=True):
        for at, first in zip(centre, corner, strict=True):
            middle = first + (side - 1) / 2
            assert abs(at - middle) <= 0.5 + 1e-9 or first in (0, 28 - side)


def released(cells):
    """The windows that HTNet's release cuts, written out: rows from x, columns from y, limited to 7 and 21."""
    five = np.clip(cells, 7, 21).astype(int)  # left eye, right eye, nose, left and right corner of the mouth
    names = {"left eye": five[0], "left lips": five[1], "right eye": five[3], "right lips": five[4]}
    return {name: (first[1] - 7, first[0] - 7) for name, first in names.items()}  # (column, row)


@given(noises, st.floats(-10, 10), st.floats(140, 280))
def test_the_release_windows_are_cut_as_the_release_does(seed, turn, scale):
    points = moved(person(seed), turn, scale, (150, 150))
    five = np.array([points[36:42].mean(axis=0), points[42:48].mean(axis=0), points[30], points[48], points[54]])
    wanted = released((five + 0.5) * 28 / 300 - 0.5)
    found = area_corners(areas(points, 300, release=True), 28)
    order = ("left eye", "right eye", "left lips", "right lips")
    np.testing.assert_array_equal(found, [wanted[name] for name in order])


def test_the_release_windows_are_near_what_they_are_named_after_but_off():
    away = np.abs(areas(FACE, 300, release=True) - areas(FACE, 300)).max(axis=1)
    assert (away < 5).all() and away.max() > 1


def test_points_of_the_release_come_from_the_small_image():
    image = np.full((300, 300, 3), 20, np.uint8)
    image[60:270, 45:255] = 250
    found = release_points(image, Squares())
    assert found.source == "enlarged"
    np.testing.assert_allclose(
        (found.points.min(axis=0), found.points.max(axis=0)), ((4.2, 5.6), (23.3, 24.7)), atol=1.5
    )
