"""Writing: the same bytes every time, plain webdataset, nothing finished is lost."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
import webdataset

from shards import FlickerError, UsageError, read_manifest, verify, write
from shards.encode import stage_source
from shards.index import read_index
from shards.outlook import frames_read
from shards.pool import Pool
from tests.shards import workers
from tests.shards.material import contents, make_folder, make_shards, make_video, picture


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A mixture: two videos (one below another folder), two frame folders."""
    root = tmp_path_factory.mktemp("mixed")
    make_video(root / "a.mp4", 50)
    make_video(root / "deep/er/b.mkv", 30)
    make_folder(root / "deep/jpeg", [*range(1, 20), *range(25, 40)])
    make_folder(root / "png", range(12), suffix=".png")
    return root


SMALL = {"size": 32, "clip_frames": 8, "shard_bytes": 40_000}


def test_same_bytes_whatever_the_workers(sources, tmp_path):
    for count in (0, 1, 2, 4):
        write([sources], tmp_path / str(count), workers=count, **SMALL)
    first = contents(tmp_path / "0")
    assert first == contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "4")
    shards = [name for name in first if name.endswith(".tar")]
    assert len(shards) > 2
    indexes = [name.replace(".tar", ".idx") for name in shards]
    assert set(first) == {*shards, *indexes, "manifest.json", "tails.safetensors"}
    assert verify(tmp_path / "0") == []


def test_webdataset_alone_reads_the_shards(sources, tmp_path):
    manifest = write([sources], tmp_path, **SMALL)
    urls = [str(tmp_path / shard.name) for shard in manifest.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert len(samples) == manifest.clips
    assert sum(key.endswith("jpg") for sample in samples for key in sample) == manifest.frames == 126
    for sample in samples:
        meta, frames = sample["json"], sorted(key for key in sample if key.endswith("jpg"))
        assert meta["numbers"] == list(range(meta["first"], meta["first"] + len(frames)))
        assert sample[frames[0]].shape == (32, 32, 3)
        assert len(f"{sample['__key__']}.{frames[0]}") <= 100
        assert {"source", "fps", "crop", "transform", "source_size", "times", "face"} <= set(meta)
    videos = [sample["json"] for sample in samples if sample["json"]["source"].endswith("a.mp4")]
    assert all(meta["fps"] == 30 and meta["times"] and meta["crop"] == [8, 0, 48, 48] for meta in videos)


def test_clips_of_all_sources_are_mixed_over_the_shards(sources, tmp_path):
    manifest = write([sources], tmp_path, **SMALL)
    assert len(index_of(manifest, 0).sources) > 1
    assert contents(tmp_path) != contents_of(write([sources], tmp_path / "other", seed=1, **SMALL))


def contents_of(manifest):
    return contents(manifest.directory)


def index_of(manifest, number):
    shard = manifest.shards[number]
    return read_index((manifest.directory / shard.index).read_bytes(), shard.index, shard.index_sha256)


def clips_of(manifest, source):
    """(first frame number, frames, frames known to follow) of a source's clips, in order."""
    found = []
    for number in range(len(manifest.shards)):
        index = index_of(manifest, number)
        for clip in np.flatnonzero([index.sources[n] == source for n in index.source]):
            found.append((int(index.first[clip]), int(index.frames[clip]), int(index.after[clip])))
    return sorted(found)


def test_gaps_split_runs_and_are_reported(sources, tmp_path):
    manifest = write([sources], tmp_path, **SMALL)
    report = next(source for source in manifest.sources if source.name.endswith("jpeg"))
    assert (report.runs, report.frames, report.counts["gaps"]) == (2, 34, 1)
    clips = clips_of(manifest, report.name)
    assert [first for first, _, _ in clips] == [1, 9, 17, 25, 33]
    assert [after for _, _, after in clips] == [11, 3, 0, 7, 0]


def test_cut_splits_a_run(tmp_path):
    make_video(tmp_path / "in/a.mp4", 40, scenes=[0] * 20 + [1] * 20)
    make_folder(tmp_path / "in/still", range(40))
    manifest = write([tmp_path / "in"], tmp_path / "out", size=32)
    cut, still = manifest.sources
    assert (cut.runs, cut.counts["cuts"], still.runs) == (2, 1, 1)
    assert clips_of(manifest, cut.name) == [(0, 20, 0), (20, 20, 0)]


def test_fitting_jpeg_files_are_copied_bit_for_bit(tmp_path):
    folder = make_folder(tmp_path / "in", range(10), size=(32, 32))
    manifest = write([folder], tmp_path / "out", size=32)
    assert manifest.sources[0].counts == {"copied_frames": 10}
    sample = next(iter(webdataset.WebDataset(str(tmp_path / "out/shard-000000.tar"), shardshuffle=False)))
    for number in range(10):
        assert sample[f"{number:03d}.jpg"] == (folder / f"reg_img{number}.jpg").read_bytes()


def test_frames_are_cropped_centrally_and_scaled(tmp_path):
    folder = make_folder(tmp_path / "in", range(8), suffix=".png")
    write([folder], tmp_path / "out", size=48, quality=100)
    sample = next(iter(webdataset.WebDataset(str(tmp_path / "out/shard-000000.tar"), shardshuffle=False)))
    stored = simplejpeg.decode_jpeg(sample["003.jpg"], colorspace="RGB").astype(int)
    original = cv2.imread(str(folder / "reg_img3.png"))[:, 8:56, ::-1].astype(int)
    assert np.abs(stored - original)[10:, 10:].mean() < 4


def test_unusable_sources_are_reported_and_skipped(tmp_path):
    make_folder(tmp_path / "in/good", range(10))
    make_folder(tmp_path / "in/short", range(3))
    (tmp_path / "in/empty").mkdir()
    (tmp_path / "in/broken.mp4").write_bytes(b"x" * 1000)
    manifest = write([tmp_path / "in"], tmp_path / "out", size=32)
    assert {failure.name: failure.reason for failure in manifest.failures} == {
        "in/broken.mp4": "unreadable video: Invalid data found when processing input",
        "in/empty": "empty folder",
        "in/short": "no run of 6 consecutive usable frames (3 frames in short runs, 1 short runs)",
    }
    assert manifest.frames == 10
    assert (tmp_path / "out/failures.txt").read_text().splitlines() == [
        "in/broken.mp4: unreadable video: Invalid data found when processing input",
        "in/empty: empty folder",
        "in/short: no run of 6 consecutive usable frames (3 frames in short runs, 1 short runs)",
    ]


def test_too_many_failures_end_the_run_at_once_and_finished_work_is_kept(tmp_path):
    make_folder(tmp_path / "in/good", range(10))
    for number in range(8):
        (tmp_path / f"in/empty{number}").mkdir(parents=True)
    with pytest.raises(FlickerError, match=r"3 of 9 sources were skipped so far, more than max_failed 0.25 allows"):
        write([tmp_path / "in"], tmp_path / "out", size=32, max_failed=0.25)
    assert len((tmp_path / "out/failures.txt").read_text().splitlines()) == 3
    assert len(list((tmp_path / "out/.staging").glob("source-*"))) == 4  # the long one is begun first
    with pytest.raises(FlickerError, match=r"8 of 9 sources were skipped, more than max_failed 0.8 allows"):
        write([tmp_path / "in"], tmp_path / "out", size=32, max_failed=0.8)
    assert write([tmp_path / "in"], tmp_path / "out", size=32).frames == 10


def test_a_mended_source_is_read_again_while_no_shard_is_written(tmp_path):
    make_folder(tmp_path / "in/a", range(10))
    (tmp_path / "in/b").mkdir(parents=True)
    with pytest.raises(FlickerError, match="1 of 2 sources were skipped"):
        write([tmp_path / "in"], tmp_path / "out", size=32, max_failed=0.4)
    make_folder(tmp_path / "in/b", range(8))
    manifest = write([tmp_path / "in"], tmp_path / "out", size=32, max_failed=0.4)
    assert (manifest.frames, manifest.failures) == (18, [])
    assert not (tmp_path / "out/failures.txt").exists()
    assert contents_of(manifest) == contents_of(write([tmp_path / "in"], tmp_path / "again", size=32))
    make_folder(tmp_path / "in/b", range(9))
    with pytest.raises(FlickerError, match=r"other sources \(in/b was changed\)"):
        write([tmp_path / "in"], tmp_path / "out", size=32, max_failed=0.4)


def test_once_shards_are_written_a_mended_source_is_refused(tmp_path, monkeypatch):
    make_folder(tmp_path / "in/a", range(10))
    (tmp_path / "in/b").mkdir(parents=True)
    import shards.writer as writer

    monkeypatch.setattr(writer, "write_manifest", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write([tmp_path / "in"], tmp_path / "out", size=32)
    monkeypatch.undo()
    make_folder(tmp_path / "in/b", range(8))
    with pytest.raises(FlickerError, match=r"other sources \(in/b was changed\): give another --out, or delete it"):
        write([tmp_path / "in"], tmp_path / "out", size=32)


def test_nothing_usable_is_an_error(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(FlickerError, match="nothing usable: all 1 sources were skipped; the first, in: empty folder"):
        write([tmp_path / "in"], tmp_path / "out")
    with pytest.raises(FlickerError, match="source not found"):
        write([tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(UsageError, match="quality 0 is out of range"):
        write([tmp_path / "in"], tmp_path / "out", quality=0)
    with pytest.raises(FlickerError, match="both a source and --out"):
        write([tmp_path / "in"], tmp_path / "in")


def test_a_finished_folder_is_left_alone_and_other_settings_are_refused(tmp_path):
    manifest = make_shards(tmp_path)
    before = contents(tmp_path / "out")
    assert make_shards(tmp_path).digest == manifest.digest
    assert contents(tmp_path / "out") == before
    with pytest.raises(FlickerError, match="holds shards with size 32, not 48: give another --out, or delete it"):
        make_shards(tmp_path, size=48)
    make_folder(tmp_path / "in/s9", range(9))
    with pytest.raises(FlickerError, match=r"other sources \(in/s9 was added\)"):
        write([tmp_path / "in"], tmp_path / "out", size=32, clip_frames=8, shard_bytes=60_000, min_run=4)


def test_output_does_not_depend_on_where_the_sources_lie(tmp_path):
    one, two = make_shards(tmp_path / "one"), make_shards(tmp_path / "two")
    assert contents(one.directory) == contents(two.directory)


def test_output_inside_the_source_folder_is_not_read_back(tmp_path):
    make_folder(tmp_path / "in/s", range(10))
    manifest = write([tmp_path / "in"], tmp_path / "in/shards", size=32)
    assert [source.name for source in manifest.sources] == ["in/s"]
    assert write([tmp_path / "in"], tmp_path / "in/shards", size=32).digest == manifest.digest


SLOW = """
import sys, time
import shards.encode as encode
from shards import write
real = encode._encode
def slow(task, *rest):
    if task.source.name.endswith("s2"):
        print("third", flush=True)
        time.sleep(60)
    return real(task, *rest)
encode._encode = slow
write([sys.argv[1]], sys.argv[2], size=32, clip_frames=8, shard_bytes=60_000, min_run=4)
"""


def test_killed_while_encoding_it_continues_with_what_is_finished(tmp_path, monkeypatch):
    expected = make_shards(tmp_path / "whole")
    sources, out = tmp_path / "whole/in", tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", SLOW, sources, out], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "third\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    staged = {path: path.stat().st_mtime_ns for path in (out / ".staging").glob("source-*")}
    for path in (out / ".manifest.json.x", out / ".staging/.source-000002.staged.x"):
        path.write_bytes(b"half")  # what a kill leaves
    assert len(staged) == 2
    with pytest.raises(FlickerError, match="is unfinished"):
        read_manifest(out)
    with pytest.raises(FlickerError, match="holds shards with size 32, not 40"):
        write([sources], out, size=40, clip_frames=8, shard_bytes=60_000, min_run=4)
    import shards.writer as writer

    seen = []
    monkeypatch.setattr(
        writer, "_staged", lambda task: (seen.append(task.source.name), (task.number, stage_source(task)))[1]
    )
    manifest = write([sources], out, size=32, clip_frames=8, shard_bytes=60_000, min_run=4)
    assert seen == ["in/s2"]  # only the third source was encoded again
    assert contents(out) == contents(expected.directory)
    assert manifest.digest == expected.digest


def test_killed_while_packing_finished_shards_are_kept(tmp_path, monkeypatch):
    expected = make_shards(tmp_path / "whole")
    import shards.writer as writer

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "write_manifest", stop)
    settings = {"size": 32, "clip_frames": 8, "shard_bytes": 60_000, "min_run": 4}
    with pytest.raises(KeyboardInterrupt):
        write([tmp_path / "whole/in"], tmp_path / "out", **settings)
    first = tmp_path / "out/shard-000000.tar"
    (tmp_path / "out/shard-000001.idx").unlink()
    before = first.stat().st_mtime_ns
    monkeypatch.undo()
    write([tmp_path / "whole/in"], tmp_path / "out", **settings)
    assert first.stat().st_mtime_ns == before
    assert contents(tmp_path / "out") == contents(expected.directory)


def test_a_dying_worker_takes_only_its_own_task_along():
    heard = []
    with Pool(2, heard.append) as pool:
        results = sorted(pool.run(workers.die_on_one, range(9), lambda number: -number))
        assert results == [-1, 0, *range(2, 9)]
        assert sorted(pool.run(workers.tell, range(5), None)) == [*range(5)]
    assert sum(heard) >= 10


def test_tasks_are_drawn_as_they_are_worked_on():
    drawn = []
    with Pool(1) as pool:
        results = pool.run(workers.tell, (drawn.append(n) or n for n in range(100)), None)
        next(results)
        assert len(drawn) < 10
        results.close()


def test_an_exception_of_a_task_comes_through_and_ends_the_workers():
    with pytest.raises(FlickerError, match="task 3"), Pool(2) as pool:
        list(pool.run(workers.fail_on_three, range(5), None))
    assert not pool._executor


HELD = """
import sys
from shards.outlook import frames_read
from shards.pool import Pool
from tests.shards.workers import hold
if __name__ == "__main__":
    with Pool(1) as pool:
        list(pool.run(hold, [sys.argv[1]], None))
"""


def test_workers_end_with_a_killed_parent(tmp_path, repository):
    (tmp_path / "held.py").write_text(HELD)
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    process = subprocess.Popen([sys.executable, tmp_path / "held.py", tmp_path / "pid"], env=environment)
    worker = _wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    process.kill()
    process.wait()
    assert _wait_for(lambda: not Path(f"/proc/{worker}").exists() or _is_zombie(worker))


def _is_zombie(pid):
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


def _wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError("did not happen in time")


def test_when_decord_breaks_its_word_the_video_is_read_again_with_pyav(tmp_path, monkeypatch):
    from shards.video import DecoderDisagreesError, VideoFrames

    def broken(self):
        for number in range(20):  # two clips are recorded by then
            yield number, picture(number)
        raise DecoderDisagreesError("decord stopped at frame 20: test")

    expected = write([make_video(tmp_path / "in/a.mp4")], tmp_path / "one", size=32, clip_frames=8)
    monkeypatch.setattr(VideoFrames, "_decord", broken)
    manifest = write([tmp_path / "in/a.mp4"], tmp_path / "two", size=32, clip_frames=8)
    (report,) = manifest.fallbacks
    assert (report.decoder, report.fallback, report.frames) == ("pyav", "decord stopped at frame 20: test", 40)
    assert (tmp_path / "one/shard-000000.tar").read_bytes() == (tmp_path / "two/shard-000000.tar").read_bytes()
    assert expected.fallbacks == []


def test_second_run_on_the_same_folder_is_refused(tmp_path):
    import fcntl

    make_folder(tmp_path / "in", range(10))
    (tmp_path / "out/.staging").mkdir(parents=True)
    with (tmp_path / "out/.staging/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(FlickerError, match="another run is writing"):
            write([tmp_path / "in"], tmp_path / "out", size=32)
    assert write([tmp_path / "in"], tmp_path / "out", size=32).frames == 10


def test_a_full_disk_is_one_line_and_the_next_run_continues(tmp_path, monkeypatch):
    from shards.staging import Recorder

    real = Recorder.add

    def full(self, key, *rest, **named):
        if "s1" in key:
            raise OSError(28, "No space left on device")
        return real(self, key, *rest, **named)

    monkeypatch.setattr(Recorder, "add", full)
    with pytest.raises(FlickerError, match=r"cannot write .*: No space left on device: mend that and run again"):
        make_shards(tmp_path)
    monkeypatch.undo()
    assert make_shards(tmp_path).frames == 95


def test_a_full_disk_while_packing_keeps_finished_shards(tmp_path, monkeypatch):
    from shards.pack import ShardWriter

    real = ShardWriter.add

    def full(self, clip):
        if self._task.number == 1:
            raise OSError(28, "No space left on device")
        return real(self, clip)

    monkeypatch.setattr(ShardWriter, "add", full)
    with pytest.raises(FlickerError, match=r"cannot write .*: No space left on device: mend that and run again"):
        make_shards(tmp_path)
    before = contents(tmp_path / "out/.staging")
    assert not [name for name in before if name.startswith(".")], "half a shard is left"
    when = (tmp_path / "out/shard-000000.tar").stat().st_mtime_ns
    monkeypatch.undo()
    manifest = make_shards(tmp_path)
    assert manifest.frames == 95 and verify(manifest.directory) == []
    assert (tmp_path / "out/shard-000000.tar").stat().st_mtime_ns == when


@pytest.mark.parametrize("count", [0, 2])
def test_progress_counts_every_frame_once(sources, tmp_path, monkeypatch, count):
    import shards.writer as writer

    shown = []

    class Kept(writer.Progress):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            shown.append(self)

    monkeypatch.setattr(writer, "Progress", Kept)
    mixed = make_folder(tmp_path / "mixed", range(80), size=(32, 32))
    make_folder(tmp_path / "copied", range(70), size=(32, 32))
    make_folder(mixed, [80], suffix=".png")  # found at the end: the folder is read anew, and its frames counted anew
    manifest = write([sources, mixed, tmp_path / "copied"], tmp_path / "out", workers=count, **SMALL)
    encoding, packing = shown
    assert encoding.done == encoding.total == sum(frames_read(source) for source in manifest.sources) == 277
    assert packing.done == packing.total == manifest.frames
