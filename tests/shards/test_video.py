"""Videos: both decoders give the same frames; what the container says decides."""

import numpy as np
import pytest

from shards.frames import SourceError
from shards.video import VideoFrames
from tests.shards.material import SIZE, make_video, rotate, trim


def test_decord_and_pyav_give_the_same_frames_and_times(tmp_path):
    path = make_video(tmp_path / "a.mp4")
    one, two = VideoFrames(path), VideoFrames(path, force_pyav="for the test")
    assert (one.decoder, two.decoder) == ("decord", "pyav")
    for left, right in zip(one, two, strict=True):
        assert (left.number, left.time, left.gap) == (right.number, right.time, False)
        np.testing.assert_array_equal(left.image, right.image)


def test_trimmed_video_shows_what_its_edit_list_says(tmp_path):
    whole = make_video(tmp_path / "whole.mp4", 60)
    video = VideoFrames(trim(whole, tmp_path / "trimmed.mp4", 17))
    assert (video.decoder, video.fallback) == ("pyav", "decord lists 48 frames, the container shows 43")
    expected = [frame.image for frame in VideoFrames(whole)][17:]
    for frame, image in zip(video, expected, strict=True):
        np.testing.assert_array_equal(frame.image, image)


def test_dropped_frames_are_gaps_but_a_slower_stretch_is_none(tmp_path):
    dropped = make_video(tmp_path / "d.mp4", times=[n if n < 20 else n + 2 for n in range(40)])
    assert [frame.number for frame in VideoFrames(dropped) if frame.gap] == [20]
    slower = make_video(tmp_path / "s.mp4", 80, times=[n if n < 40 else 2 * n - 40 for n in range(80)])
    assert not any(frame.gap for frame in VideoFrames(slower))


@pytest.mark.parametrize("force", ["", "for the test"])
def test_a_rotated_video_is_turned_upright(tmp_path, force):
    path = rotate(make_video(tmp_path / "a.mp4"), tmp_path / "r.mp4")
    upright = np.rot90(next(iter(VideoFrames(tmp_path / "a.mp4"))).image, -1)
    video = VideoFrames(path, force)
    assert video.fallback  # decord 0.6 turns it too, but mistakes padded rows for pixels
    frame = next(iter(video))
    assert frame.size == SIZE[::-1]
    np.testing.assert_array_equal(frame.image, upright)


def test_rate_and_times(tmp_path):
    video = VideoFrames(make_video(tmp_path / "a.mkv", fps=25))
    assert video.fps == 25
    assert [frame.time for frame in video][:3] == [0.0, 0.04, 0.08]


def test_avi_without_timestamps_keeps_all_frames(tmp_path):
    assert [frame.number for frame in VideoFrames(make_video(tmp_path / "a.avi"))] == list(range(40))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_truncated_video_is_refused(tmp_path, suffix):
    path = make_video(tmp_path / f"a{suffix}", 90, fast_start=suffix == ".mp4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(SourceError, match=r"truncated video: it should last 3.00 s"):
        VideoFrames(path)


@pytest.mark.parametrize("data", [b"", b"not a video", bytes(5000)])
def test_what_is_no_video_is_refused_in_one_line(tmp_path, data):
    (tmp_path / "x.mp4").write_bytes(data)
    with pytest.raises(SourceError, match="unreadable video") as caught:
        VideoFrames(tmp_path / "x.mp4")
    assert "\n" not in str(caught.value)


def test_damaged_packet_leaves_a_gap_up_to_the_next_key_frame(tmp_path):
    path = make_video(tmp_path / "a.mp4", 60)
    data = bytearray(path.read_bytes())
    middle = data.find(b"mdat") + (data.find(b"moov") - data.find(b"mdat")) // 2
    data[middle : middle + 40] = bytes(range(255, 215, -1))
    path.write_bytes(data)
    video = VideoFrames(path, force_pyav="decord stopped")
    frames = list(video)
    assert 20 < len(frames) < 60
    if video.counts["damaged_packets"]:
        assert video.counts["unreadable_frames"] == 60 - len(frames)
        assert any(frame.gap for frame in frames) or frames[-1].number < 59
