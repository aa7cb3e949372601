"""Faces: one still transform per stretch, on real videos where they are at hand; geometry of crops."""

import importlib.util
from collections import Counter

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shards.faces as faces
from shards import FlickerError, verify, write
from shards.crop import centre, square
from shards.frames import Frame
from shards.schema import Options
from tests.shards.material import make_folder
from tests.shards.stored import clips, frames

needs_dlib = pytest.mark.skipif(
    importlib.util.find_spec("dlib") is None or faces.predictor_path() is None, reason="the face extra is missing"
)


def face(x, y=50.0, size=40.0):
    return faces.Face(np.array([x, y]), size)


def spans(*seen):
    """Spans of samples ten frames apart, each a list of faces."""
    tracker = faces.Tracker()
    for position, found in enumerate(seen):
        tracker.see(10 * position, list(found))
    return [(span.first, span.last, len(span.faces)) for span in tracker.finish()]


def test_a_steady_face_is_one_span_and_a_single_miss_is_bridged():
    assert spans([face(50)], [face(52)], [face(49)]) == [(0, 20, 3)]
    assert spans([face(50)], [], [face(49)]) == [(0, 20, 2)]


def test_a_face_that_comes_and_goes_bounds_its_span():
    assert spans([], [face(50)], [face(50)], [], [], []) == [(10, 20, 2)]
    assert spans([face(50)], [], [], [face(50)], [face(50)]) == [(0, 0, 1), (30, 40, 2)]
    assert spans([], []) == []


def test_a_face_that_moves_away_or_grows_gets_a_new_crop():
    assert spans([face(50)], [face(50)], [face(80)], [face(80)]) == [(0, 15, 2), (16, 30, 2)]
    assert spans([face(50)], [face(50, size=60)]) == [(0, 5, 1), (6, 10, 1)]


def test_the_followed_face_stays_when_a_larger_one_appears():
    other = face(200, size=80)
    assert spans([face(50)], [other, face(51)], [other, face(52)]) == [(0, 20, 3)]


def test_a_face_seen_in_too_few_samples_is_no_span():
    assert spans([face(50)], [], [face(50)], [], [face(50)], [], [face(50)]) == []


@given(
    st.floats(-40, 40), st.floats(0.3, 4), st.floats(-50, 400), st.floats(-50, 400), st.sampled_from([32, 224, 256])
)
def test_alignment_undoes_any_turn_scale_and_shift(degrees, scale, x, y, size):
    turn = np.deg2rad(degrees)
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = (faces.TEMPLATE * 100) @ matrix.T + [x, y]
    crop = faces.align(points, size)
    moved = points @ crop.matrix[:, :2].T + crop.matrix[:, 2]
    np.testing.assert_allclose(moved, faces.TEMPLATE * size - 0.5, atol=1e-6 * size)


def test_brows_to_chin_are_inside_the_template():
    eyes, mouth = faces.TEMPLATE[:2, 1].mean(), faces.TEMPLATE[3:, 1].mean()
    assert eyes - 0.5 * (mouth - eyes) > 0.2  # brows
    assert mouth + 0.6 * (mouth - eyes) < 1.02  # chin


def gradient(width=90, height=60):
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([x * 2, y * 2, x + y], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("area", [(10, 5, 50), (-8, 3, 40), (60, 40, 40)])
def test_crop_matrix_says_where_pixels_came_from(area):
    x, y, side = area
    crop = square(x, y, side, 20)
    stored = crop.apply(gradient()).astype(float)
    inverse = np.linalg.inv(np.vstack([crop.matrix, [0, 0, 1]]))
    for row, column in ((5, 5), (10, 12)):
        source = inverse @ [column, row, 1]
        if 1 < source[0] < 88 and 1 < source[1] < 58:
            assert abs(stored[row, column, 0] - 2 * source[0]) < 2
            assert abs(stored[row, column, 1] - 2 * source[1]) < 2


@pytest.mark.parametrize("scale", [1.5, 0.7, 0.4, 0.21])
def test_warp_agrees_with_its_matrix_also_when_it_shrinks(scale):
    points = faces.TEMPLATE * 20 / scale + 15
    image = cv2.resize(gradient(), None, fx=2 / scale, fy=2 / scale, interpolation=cv2.INTER_LINEAR)
    crop = faces.align(points, 20)
    stored = crop.apply(image).astype(float)
    inverse = np.linalg.inv(np.vstack([crop.matrix, [0, 0, 1]]))
    for row, column in ((6, 6), (14, 9)):
        source = inverse @ [column, row, 1]
        wanted = image[round(source[1]), round(source[0])].astype(float)
        assert np.abs(stored[row, column] - wanted).max() < 6


def test_central_square():
    assert centre((90, 60), 30).square == (15, 0, 60)
    assert centre((32, 32), 32).is_identity((32, 32))
    assert not centre((34, 32), 32).is_identity((34, 32))


def test_samples_are_the_first_every_nth_and_the_last_of_each_run():
    runs = [(run, Frame(number, pixels=gradient())) for run, length in ((0, 20), (1, 3)) for number in range(length)]
    seen = [(run, [number for number, _ in samples]) for run, samples in faces._sampled(runs, 8)]
    assert seen == [(0, [0, 8, 16, 19]), (1, [0, 2])]


def test_without_the_extra_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    make_folder(tmp_path / "in")
    real = importlib.util.find_spec
    monkeypatch.setattr(faces.importlib.util, "find_spec", lambda name: None if name == "dlib" else real(name))
    with pytest.raises(FlickerError, match=r"--face box needs dlib: pip install -e '.\[face\]'"):
        write([tmp_path / "in"], tmp_path / "out", face="box")


@pytest.mark.parametrize(("face", "track"), [("align", "fixed"), ("box", "smooth")])
def test_landmarks_need_the_predictor(monkeypatch, face, track):
    monkeypatch.setattr(faces, "predictor_path", lambda: None)
    with pytest.raises(FlickerError, match=f"--face {face} needs .*face_recognition_models"):
        faces.require(face, track)


@needs_dlib
def test_pictures_without_faces_are_skipped(tmp_path):
    make_folder(tmp_path / "in/a", range(20))
    with pytest.raises(FlickerError, match=r"no face found \(sought in 4 frames\)"):
        write([tmp_path / "in"], tmp_path / "out", face="align")


@needs_dlib
def test_real_videos(tmp_path, shared):
    manifest = write([shared / "data/video"], tmp_path, face="align", size=224)
    assert {failure.name: failure.reason.split("(")[0] for failure in manifest.failures} == {
        "video/no_face.mp4": "no face found "
    }
    assert manifest.frames == 472 + 72
    assert verify(tmp_path) == []
    metas = [meta for meta, _ in clips(tmp_path)]
    for source in ("video/single_face.mp4", "video/WolfgangLanger_Pexels.mp4"):
        assert len({str(meta["transform"]) for meta in metas if meta["source"] == source}) == 1


@needs_dlib
def test_box_holds_the_face_in_its_middle(tmp_path, shared):
    write([shared / "data/video/single_face.mp4"], tmp_path, face="box", size=64)
    x, y, width, height = next(clips(tmp_path))[0]["crop"]
    assert width == height and x < 260 < 340 < x + width and y < 130 < 260 < y + height


@needs_dlib
@pytest.mark.parametrize("track", ["fixed", "smooth"])
def test_alignment_puts_the_eyes_in_their_places(tmp_path, shared, track):
    write([shared / "data/video/single_face.mp4"], tmp_path, face="align", size=224, track=track)
    for _, number, picture, _ in frames(tmp_path):
        if number % 30 == 0:
            found = faces.find(picture, landmarks=True)
            assert np.abs(found[0].points - faces.TEMPLATE * 224).max() < 16


@needs_dlib
def test_the_box_of_both_ways_to_track_is_the_same_size(tmp_path, shared):
    scales = {}
    for track in ("fixed", "smooth"):
        write([shared / "data/video/single_face.mp4"], tmp_path / track, face="box", size=64, track=track)
        scales[track] = np.median([matrix[0, 0] for *_, matrix in frames(tmp_path / track)])
    assert abs(scales["smooth"] / scales["fixed"] - 1) < 0.1


@needs_dlib
def test_a_video_that_shows_a_face_only_in_part_keeps_that_part(tmp_path, shared):
    from shards.video import VideoFrames

    people = [frame.image for frame in VideoFrames(shared / "data/video/single_face.mp4")][:40]
    room = [cv2.resize(frame.image, (640, 360)) for frame in VideoFrames(shared / "data/video/no_face.mp4")][:40]
    runs = [(0, Frame(number, pixels=image)) for number, image in enumerate([*room, *people])]
    counts = Counter()
    placement = faces.survey(runs, 24.0, Options(size=64, face="align"), counts)
    placed = [frame.number for run, frame in runs if placement(run, frame) is not None]
    assert placed == list(range(placed[0], 80)) and 40 <= placed[0] < 48
    assert counts["frames_searched"] == 11
