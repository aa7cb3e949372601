"""What is expected before and while sources are read: fingerprints, costs, frames, time left."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards import progress
from shards.outlook import TOGETHER, Outlook, Seen, frames_read, look_at
from shards.pool import Pool
from shards.progress import Progress, duration
from shards.schema import SourceReport
from shards.sources import Source, discover, identity
from tests.shards.material import make_folder


def source(kind):
    return Source(path=None, name="", kind=kind)


def report(kind, frames, **counts):
    status = "ok" if frames else "skipped"
    return SourceReport("", kind, "", status=status, frames=frames, counts=counts)


def test_many_sources_are_looked_at_in_order_by_workers(tmp_path):
    for number in range(TOGETHER + 5):
        make_folder(tmp_path / f"in/{number:03d}", range(number % 3 + 1))
    found = discover([tmp_path / "in"])
    with Pool(2) as pool:
        seen = look_at(found, pool)
        assert pool._executor is not None
    assert [item.identity for item in seen] == [identity(item) for item in found]
    assert [item.frames for item in seen] == [number % 3 + 1 for number in range(TOGETHER + 5)]
    assert all(0 < item.bytes < 10**5 for item in seen)


def test_what_cannot_be_read_weighs_nothing(tmp_path):
    gone = Source(tmp_path / "gone", "gone", "folder")
    with Pool(0) as pool:
        (seen,) = look_at([gone], pool)
    assert (seen.frames, seen.bytes, seen.cost("folder")) == (0, 0, 0)


def test_folders_tell_their_frames_and_videos_by_the_bytes_of_those_that_are_done():
    seen = [Seen("", 100, 5), Seen("", 0, 1000), Seen("", 0, 3000)]
    sources = [source("folder"), source("video"), source("video")]
    outlook = Outlook(sources, seen)
    assert outlook.total is None
    outlook.finish(report("video", 50, frames_in_short_runs=10), seen[1])
    assert outlook.total == 100 + 60 + 180
    outlook.finish(report("folder", 90), seen[0])
    assert outlook.total == 90 + 60 + 180
    outlook.finish(report("video", 0), seen[2])
    assert outlook.total == 150


@given(
    st.lists(st.tuples(st.sampled_from(["folder", "video"]), st.integers(0, 99), st.integers(1, 10**6)), min_size=1)
)
def test_at_the_end_the_total_is_what_was_read(items):
    seen = [Seen("", 7 if kind == "folder" else 0, size) for kind, _, size in items]
    outlook = Outlook([source(kind) for kind, _, _ in items], seen)
    reports = [report(kind, frames) for kind, frames, _ in items]
    for item, one in zip(reports, seen, strict=True):
        outlook.finish(item, one)
    assert outlook.total == sum(map(frames_read, reports))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (91, "2 min"), (3600, "60 min"), (12_060, "3 h 21 min"), (200_000, "2 d 8 h")],
)
def test_durations_are_read_at_a_glance(seconds, text):
    assert duration(seconds) == text


def test_a_log_line_tells_rate_and_time_left_and_keeps_its_figures(caplog, monkeypatch):
    clock = iter([0.0, 0.0, 4.0, 4.0, 4.0, 24.0, 24.0, 24.0, 24.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    caplog.set_level(logging.INFO)
    with Progress(None, "encoding", "frames", done=100) as shown:
        shown.advance(0, sources="1/9")
        shown.expect(1100)
        shown.advance(240)
        shown._bar = None
        monkeypatch.setattr(progress.time, "monotonic", lambda: 24.0)
    assert caplog.messages[0] == "encoding: 340/1100 frames, 10/s, 76 s left, sources 1/9"
