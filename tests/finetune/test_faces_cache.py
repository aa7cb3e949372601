"""The cache of faces and `locate_clips`: what is kept, what is made again, what is reported and refused."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.faces import backends as registry
from finetune.faces import cache as faces_cache
from finetune.faces import chain, landmarks
from finetune.faces.cache import Entry, FaceCache
from finetune.faces.landmarks import FacePoints, locate_clips
from finetune.faces.template import TEMPLATE
from shards import FlickerError
from shards.errors import UsageError
from tests.finetune.face_backends import Dying, Newer, Squares, clip, picture

KEY = "0" * 64


@pytest.fixture(autouse=True)
def backends(monkeypatch):
    """Backends that need no model."""
    monkeypatch.setattr(registry, "_FACTORIES", {"squares": Squares, "newer": Newer, "dying": Dying})
    landmarks._backend.cache_clear()


@pytest.fixture
def seen(monkeypatch):
    """The means of the images that the backend was asked to look at."""
    images = []
    detect = Squares.detect

    def noted(self, image):
        images.append(image.shape)
        return detect(self, image)

    monkeypatch.setattr(Squares, "detect", noted)
    return images


def look(clips, folder, **options):
    """`locate_clips` on apex frames in this process."""
    defaults = {"backend": "squares", "workers": 1, "quiet": True, "limit": 1.0}
    return locate_clips(clips, "apex", cache=folder, **(defaults | options))


@given(
    st.lists(st.floats(-1e6, 1e6, allow_subnormal=True), min_size=140, max_size=140),
    st.sampled_from(landmarks.SOURCES),
)
@settings(max_examples=30)
def test_an_entry_comes_back_bit_for_bit(tmp_path_factory, numbers, source):
    store = FaceCache(tmp_path_factory.mktemp("faces"), "squares", "1")
    face = FacePoints(np.array(numbers[4:]).reshape(68, 2), tuple(numbers[:4]), source)
    store.write(KEY, Entry(face))
    entry = store.read(KEY)
    assert entry is not None and entry.face is not None
    assert (entry.face.points == face.points).all() and entry.face.box == face.box and entry.face.source == source


def test_a_second_run_reads_the_cache_and_gives_the_same(tmp_path, seen):
    clips = [
        clip(tmp_path, "a", [picture(60)]),
        clip(tmp_path, "b", [picture(20)]),
        clip(tmp_path, "c", [picture(0)]),
    ]
    first, report = look(clips, tmp_path / "faces")
    assert [face.source for face in first.values()] == ["detected", "enlarged", "template"] and report.cached == 0
    assert len(seen) > 0
    seen.clear()
    second, report = look(clips, tmp_path / "faces")
    assert seen == [] and report.cached == 3
    assert report.counts == {"detected": 1, "enlarged": 1, "template": 1}
    for name, face in first.items():
        assert (second[name].points == face.points).all() and second[name].box == face.box


def test_the_same_image_elsewhere_is_known(tmp_path, seen):
    look([clip(tmp_path, "a", [picture(60)])], tmp_path / "faces")
    seen.clear()
    found, report = look([clip(tmp_path, "elsewhere", [picture(60)])], tmp_path / "faces")
    assert seen == [] and report.cached == 1 and list(found) == ["made/sub01/elsewhere"]


def test_a_changed_image_is_looked_at_again(tmp_path):
    folder = tmp_path / "faces"
    first, _ = look([clip(tmp_path, "a", [picture(60)])], folder)
    second, report = look([clip(tmp_path, "a", [picture(60, place=(40, 50))])], folder)
    (one,), (other,) = first.values(), second.values()
    assert report.cached == 0 and other.box[0] - one.box[0] == 10


@pytest.mark.parametrize("change", ["backend", "format", "chain"])
def test_another_version_or_format_never_reads_an_old_entry(tmp_path, monkeypatch, change):
    clips, folder = [clip(tmp_path, "a", [picture(60)])], tmp_path / "faces"
    look(clips, folder)
    if change == "format":
        monkeypatch.setattr(faces_cache, "FORMAT", faces_cache.FORMAT + 1)
    if change == "chain":
        monkeypatch.setattr(chain, "VERSION", chain.VERSION + 1)
    _, report = look(clips, folder, backend="newer" if change == "backend" else "squares")
    assert report.cached == 0
    _, report = look(clips, folder, backend="newer" if change == "backend" else "squares")
    assert report.cached == 1
    assert len(list(folder.rglob("*.json"))) == 2


@pytest.mark.parametrize("damage", ["cut", "empty", "digit", "other"])
def test_a_damaged_file_is_made_again_and_counted(tmp_path, damage):
    clips, folder = [clip(tmp_path, "a", [picture(60)])], tmp_path / "faces"
    first, _ = look(clips, folder)
    (path,) = folder.rglob("*.json")
    text = path.read_text()
    changed = {"cut": text[: len(text) // 2], "empty": "", "other": "00000000 []\n"}
    changed["digit"] = text.replace("[[", "[[1", 1)
    path.write_text(changed[damage])
    second, report = look(clips, folder)
    assert (report.cached, report.damaged) == (0, 1) and "damaged and made again: 1" in report.text()
    assert all((second[name].points == face.points).all() for name, face in first.items())
    assert path.read_text() == text


def test_an_entry_under_another_name_is_not_taken(tmp_path):
    store = FaceCache(tmp_path, "squares", "1")
    store.write(KEY, Entry(FacePoints(TEMPLATE, (0.0, 0.0, 1.0, 1.0))))
    other = "0" * 63 + "1"
    store._path(other).write_bytes(store._path(KEY).read_bytes())
    assert store.read(other) is None and store.damaged == 1


def test_a_changed_neighbour_is_noticed_where_it_matters(tmp_path):
    dim = picture(60, level=80, ground=70)
    dim[..., 1:] = 0
    clips = [clip(tmp_path, "a", [dim, picture(0)])]
    folder = tmp_path / "faces"
    _, report = look(clips, folder)
    assert report.counts == {"whole-image": 1}  # dim, but points can be fitted
    clips = [clip(tmp_path, "a", [dim, picture(60, place=(35, 40))])]
    _, report = look(clips, folder)
    assert (report.counts, report.cached) == ({"neighbour": 1}, 0) and report.clips == {"neighbour": ["made/sub01/a"]}
    _, report = look(clips, folder)
    assert report.counts == {"neighbour": 1} and report.cached == 1


def test_a_stopped_run_goes_on_where_it_was(tmp_path, monkeypatch):
    clips = [clip(tmp_path, name, [picture(60, place=(20 + place, 30))]) for place, name in enumerate("abcd")]
    real, calls = landmarks.read_image, []

    def stopping(path):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(landmarks, "read_image", stopping)
    with pytest.raises(KeyboardInterrupt):
        look(clips, tmp_path / "faces")
    found, report = look(clips, tmp_path / "faces")
    assert report.cached == 2 and len(found) == 4 and len(calls) == 5


def test_processes_give_the_same_as_one(tmp_path):
    clips = [clip(tmp_path, name, [picture(20 * step, place=(20, 30))]) for step, name in enumerate("abc")]
    alone, _ = look(clips, tmp_path / "one")
    shared, report = look(clips, tmp_path / "two", workers=2)
    assert report.counts == {"detected": 1, "enlarged": 1, "template": 1}
    assert list(shared) == list(alone)
    assert all((shared[name].points == face.points).all() for name, face in alone.items())


def test_a_process_that_dies_costs_its_clip_and_is_reported(tmp_path):
    found, report = look([clip(tmp_path, "a", [picture(60)])], tmp_path / "faces", backend="dying", workers=2)
    assert found == {} and "died twice" in report.unreadable["made/sub01/a"]


def test_too_many_templates_are_refused_in_one_line(tmp_path):
    clips = [clip(tmp_path, name, [picture(0 if name == "d" else 60)]) for name in "abcd"]
    look(clips, tmp_path / "faces", limit=0.25)
    with pytest.raises(FlickerError) as caught:
        look(clips, tmp_path / "faces", limit=0.2)
    message = str(caught.value)
    assert "\n" not in message and "no face found in the apex frame of 1 of 4 clips (25%, limit 20%" in message
    assert "made/sub01/d" in message


def test_images_that_cannot_be_read_are_named_and_count_against_the_limit(tmp_path):
    clips = [clip(tmp_path, name, [picture(60), picture(20)]) for name in "abc"]
    clips[0].frames[1].write_bytes(b"no image")
    clips[1].frames[1].unlink()
    found, report = look(clips, tmp_path / "faces")
    assert list(found) == ["made/sub01/c"] and report.counts == {"detected": 1}
    assert str(clips[0].frames[1]) in report.unreadable["made/sub01/a"]
    assert str(clips[1].frames[1]) in report.unreadable["made/sub01/b"] and "unreadable" in report.text()
    with pytest.raises(FlickerError, match=r"2 of 3 clips .* 2 cannot be read"):
        look(clips, tmp_path / "faces", limit=0.5)


def test_an_unreadable_neighbour_is_no_fault(tmp_path):
    broken = clip(tmp_path, "a", [picture(0), picture(0), picture(60)])
    broken.frames[2].write_bytes(b"no image")
    found, _ = look([broken], tmp_path / "faces")
    assert len(found) == 1


def test_neighbours_are_the_nearest_frames_of_the_clip(tmp_path):
    made = clip(tmp_path, "a", [picture(0)] * 12, apex=2)
    numbers = [int(path.stem.removeprefix("img")) for path in landmarks._neighbours(made, made.apex)]
    assert numbers == [4, 2, 5, 1, 7, 11]


def test_the_onset_frame_can_be_asked_for(tmp_path):
    made = clip(tmp_path, "a", [picture(60, place=(20, 20)), picture(60, place=(50, 50))], apex=1)
    found, report = locate_clips(
        [made], "onset", cache=tmp_path / "faces", workers=1, quiet=True, backend="squares", limit=0
    )
    assert found[made.id].box[0] == 19.5 and report.frame == "onset"


def test_the_report_says_how_many_and_which(tmp_path):
    clips = [clip(tmp_path, f"s{number}", [picture(20, place=(20 + number, 30))]) for number in range(8)]
    _, report = look([*clips, clip(tmp_path, "large", [picture(60)])], tmp_path / "faces")
    text = report.text()
    assert "faces on apex frames (squares 1): 9 clips, 0 from the cache" in text
    assert "enlarged" in text and "made/sub01/s0" in text and "and 2 more" in text
    assert report.as_dict()["counts"] == {"detected": 1, "enlarged": 8}


def test_progress_is_logged(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        look([clip(tmp_path, "a", [picture(60)])], tmp_path / "faces", quiet=False)
    assert "faces (apex): 1/1 clips" in caplog.text


def test_a_cache_that_cannot_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FlickerError, match=r"cannot write the cache of faces .*; choose another folder"):
        look([clip(tmp_path, "a", [picture(60)])], tmp_path / "file" / "faces")


def test_an_unknown_backend_is_refused(tmp_path):
    with pytest.raises(UsageError, match="mesh"):
        look([], tmp_path, backend="mesh")
