"""Folders that need no change: the same shards as by decoding every frame, from a look at few of them."""

import cv2
import pytest

from shards import FlickerError, copying, encode, verify, write
from shards.pack import ShardWriter
from shards.staging import read_summary, staged_path
from tests.shards.material import contents, make_folder

SETTINGS = {"size": 64, "clip_frames": 16, "shard_bytes": 150_000}


@pytest.fixture
def folders(tmp_path):
    """Three folders of 64 px JPEG frames: gaps, a cut, short runs."""
    root = tmp_path / "in"
    make_folder(root / "gaps", [*range(1, 60), *range(70, 73), *range(80, 120)], size=(64, 64))
    make_folder(root / "cut", range(70), size=(64, 64), scenes=[0] * 33 + [1] * 37)
    make_folder(root / "plain", range(100), size=(64, 64))
    return root


def test_the_shards_are_those_of_decoding_every_frame(folders, tmp_path, monkeypatch):
    decoded = []
    real = copying.jpeg_thumbnail
    monkeypatch.setattr(copying, "jpeg_thumbnail", lambda data: (decoded.append(1), real(data))[1])
    quick = write([folders], tmp_path / "quick", **SETTINGS)
    assert len(decoded) < 0.6 * quick.frames
    monkeypatch.setattr(encode, "scan", lambda *_: None)
    thorough = write([folders], tmp_path / "thorough", **SETTINGS)
    assert contents(quick.directory) == contents(thorough.directory)
    assert {source.name: source.counts for source in quick.sources} == {
        "in/cut": {"copied_frames": 70, "cuts": 1},
        "in/gaps": {"copied_frames": 99, "gaps": 2, "frames_in_short_runs": 3, "short_runs": 1},
        "in/plain": {"copied_frames": 100},
    }
    assert verify(quick.directory) == []


def test_the_frames_are_not_copied_twice(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(ShardWriter, "add", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(FlickerError, match="full"):
        write([folders], tmp_path / "out", **SETTINGS)
    staging = tmp_path / "out/.staging"
    staged = sum(staged_path(staging, number).stat().st_size for number in range(3))
    frames = sum(path.stat().st_size for path in folders.rglob("*.jpg"))
    assert staged < frames / 10
    assert sum(read_summary(staging, number)[0].frames for number in range(3)) == 269


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-30])


def no_picture(path):
    path.write_bytes(b"\xff\xd8 no picture \xff\xd9")


def no_end(path):
    path.write_bytes(path.read_bytes()[:-2] + b"\0\0")


@pytest.mark.parametrize("damage", [cut_short, no_picture, no_end])
@pytest.mark.parametrize("number", [0, 16, 21, 99])
def test_a_damaged_file_is_left_out_wherever_it_is(folders, tmp_path, damage, number):
    damage(folders / f"plain/reg_img{number}.jpg")
    (report,) = write([folders / "plain"], tmp_path / "out", **SETTINGS).sources
    assert report.counts["unreadable_frames"] == 1
    assert (report.frames, report.runs) == (99, 1 if number in (0, 99) else 2)


def test_damage_inside_a_frame_that_is_looked_at_is_found(folders, tmp_path):
    """Garbage in the coded picture, with a whole header and end: the decoder complains, all frames are examined."""
    for number in (16, 21):
        path = folders / f"plain/reg_img{number}.jpg"
        data = bytearray(path.read_bytes())
        data[-200:-2] = b"\xff\xc4" * 99
        path.write_bytes(data)
    (report,) = write([folders / "plain"], tmp_path / "out", **SETTINGS).sources
    assert report.counts["unreadable_frames"] == 2


def test_files_of_another_size_or_kind_are_encoded_and_the_others_still_copied(folders, tmp_path):
    path = folders / "plain/reg_img50.jpg"
    picture = cv2.imread(str(path))
    cv2.imwrite(str(path.with_suffix(".png")), picture)
    path.unlink()
    (report,) = write([folders / "plain"], tmp_path / "out", **SETTINGS).sources
    assert (report.counts, report.frames, report.runs) == ({"copied_frames": 99}, 100, 1)
    cv2.imwrite(str(path), cv2.resize(picture, (80, 80)))
    path.with_suffix(".png").unlink()
    (report,) = write([folders / "plain"], tmp_path / "other", **SETTINGS).sources
    assert (report.counts["size_changes"], report.counts["frames_in_short_runs"], report.frames) == (2, 1, 99)


def test_a_source_that_changes_while_it_is_written_is_named(folders, tmp_path, monkeypatch):
    changed = folders / "plain/reg_img40.jpg"
    before = changed.read_bytes()
    real = encode.stage_source

    def stage_and_change(task):
        report = real(task)
        if task.source.name == "in/plain":
            changed.write_bytes(before[:600] + bytes([before[600] ^ 1]) + before[601:])
        return report

    import shards.writer as writer

    monkeypatch.setattr(writer, "stage_source", stage_and_change)
    with pytest.raises(FlickerError, match=r"plain/reg_img40\.jpg has changed since this run first read it"):
        write([folders], tmp_path / "out", **SETTINGS)
    monkeypatch.undo()
    changed.write_bytes(before)
    manifest = write([folders], tmp_path / "out", **SETTINGS)
    assert contents(manifest.directory) == contents(write([folders], tmp_path / "again", **SETTINGS).directory)
