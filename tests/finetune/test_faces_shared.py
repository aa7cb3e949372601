"""dlib on the simulated datasets (against their true landmarks) and on real videos."""

from __future__ import annotations

import importlib.util
import json
import re

import cv2
import numpy as np
import pytest

from finetune.clips import Clip
from finetune.faces import crops, regions
from finetune.faces.landmarks import landmarker, locate_clips
from shards import FlickerError
from shards.faces import predictor_path

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("dlib") is None or predictor_path() is None, reason="the face extra is missing"
)
FOLDERS = {
    "casme2": "casme2/Cropped/sub{subject:0>2}/{clip}",
    "samm": "samm/{subject}/{clip}",
    "smic": "smic/SMIC_all_cropped/HS/{subject}/micro/*/{clip}",
}


def simulated(shared, name):
    """Clips of a simulated dataset with their true landmarks."""
    truth = json.loads((shared / f"data/sim/ground_truth/{name}.json").read_text())["clips"]
    clips, points = [], {}
    for row in truth:
        (folder,) = (shared / "data/sim").glob(FOLDERS[name].format(**row))
        frames = {int(re.findall(r"\d+", path.stem)[-1]): path for path in folder.iterdir()}
        clip = Clip(
            name, row["subject"], row["clip"], row["onset"], row["apex"], row["offset"], row["emotion"], frames=frames
        )
        clips.append(clip)
        points[clip.id] = {frame: np.array(row[f"landmarks_{frame}"]) for frame in ("onset", "apex")}
    return clips, points


def eyes_apart(points):
    """Distance between the eyes' centres."""
    return float(np.linalg.norm(points[36:42].mean(axis=0) - points[42:48].mean(axis=0)))


@pytest.mark.parametrize(("name", "count"), [("casme2", 34), ("samm", 12), ("smic", 12)])
def test_faces_of_simulated_datasets_are_found_where_they_are(shared, tmp_path, name, count):
    clips, truth = simulated(shared, name)
    found, report = locate_clips(clips, "onset", cache=tmp_path, workers=1, quiet=True, limit=0)
    assert len(found) == count == sum(report.counts.values())
    assert report.counts.get("detected", 0) + report.counts.get("enlarged", 0) >= 0.97 * count
    errors = []
    for clip in clips:
        wanted = truth[clip.id]["onset"]
        errors.append(np.linalg.norm(found[clip.id].points - wanted, axis=1) / eyes_apart(wanted))
    assert np.mean(errors) < 0.06  # of the distance between the eyes; the jaw's points are defined otherwise
    assert np.mean(np.array(errors)[:, 17:]) < 0.05
    assert np.max(np.mean(errors, axis=1)) < 0.08


def test_areas_on_found_faces_are_those_of_the_true_ones(shared, tmp_path):
    clips, truth = simulated(shared, "smic")
    found, _ = locate_clips(clips, "apex", cache=tmp_path, workers=1, quiet=True)
    for clip in clips:
        wanted = truth[clip.id]["apex"]
        crop = crops.box(wanted, 112)
        one, other = (
            regions.areas(crops.map_points(crop, points), 112) for points in (found[clip.id].points, wanted)
        )
        assert np.abs(one - other).max() < 1.5  # cells of 28


def video(shared, folder, name, step):
    """A clip of every `step`-th frame of a video."""
    reader, frames = cv2.VideoCapture(str(shared / "data/video" / name)), {}
    folder = folder / name
    folder.mkdir()
    while True:
        there, image = reader.read()
        if not there:
            break
        number = len(frames) * step + 1
        frames[number] = folder / f"img{number}.png"
        cv2.imwrite(str(frames[number]), image)
        for _ in range(step - 1):
            reader.grab()
    return frames


def single(name, frames):
    """A clip for each frame, with the frame alone."""
    return [
        Clip("video", "one", f"{name}{number}", number, number, number, "others", frames={number: path})
        for number, path in frames.items()
    ]


@pytest.mark.parametrize(("name", "step"), [("single_face.mp4", 24), ("WolfgangLanger_Pexels.mp4", 118)])
def test_real_faces_are_detected(shared, tmp_path, name, step):
    clips = single(name, video(shared, tmp_path, name, step))
    found, report = locate_clips(clips, "apex", cache=tmp_path / "faces", workers=1, quiet=True, limit=0)
    assert report.counts == {"detected": len(clips)} and len(clips) >= 3
    for face in found.values():
        assert face.points[30, 1] > face.points[27, 1] and (face.points > 0).all()


def test_a_video_without_a_face_is_reported_and_refused(shared, tmp_path):
    clips = single("no", video(shared, tmp_path, "no_face.mp4", 33))
    _, report = locate_clips(clips, "apex", cache=tmp_path / "faces", workers=1, quiet=True, limit=1)
    assert report.counts == {"template": 3}
    assert report.clips["template"] == [clip.id for clip in clips] and clips[0].id in report.text()
    with pytest.raises(FlickerError, match="no face found in the apex frame of 3 of 3 clips"):
        locate_clips(clips, "apex", cache=tmp_path / "faces", workers=1, quiet=True)


def test_a_frame_without_a_visible_face_takes_its_neighbours_box(shared, tmp_path):
    frames = video(shared, tmp_path, "single_face.mp4", 20)
    numbers = list(frames)
    image = cv2.imread(str(frames[numbers[1]]))
    backend = landmarker()
    blurred = cv2.GaussianBlur(image, (0, 0), 9)  # too blurred to be detected
    cv2.imwrite(str(frames[numbers[1]]), blurred)
    assert backend.detect(blurred) == []
    clip = Clip("video", "one", "blurred", numbers[0], numbers[1], numbers[-1], "others", frames=frames)
    found, report = locate_clips([clip], "apex", cache=tmp_path / "faces", workers=1, quiet=True, limit=0)
    assert report.counts == {"neighbour": 1}
    clear = backend.detect(image)[0]
    away = np.linalg.norm(found[clip.id].points - clear.points, axis=1).mean()
    assert away < 0.12 * eyes_apart(clear.points)
