"""PairReader: the same pairs whatever ranks, workers and restarts; damaged frames are replaced."""

import itertools
import json
import multiprocessing
import os
import pickle
import signal

import numpy as np
import pytest
import simplejpeg
import torch

from shards import FlickerError, PairReader, UsageError, read_manifest, write
from tests.shards.material import make_folder, make_shards


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("reader"))


def reader_of(manifest, **options):
    return PairReader(manifest, **{"seed": 7, "global_batch": 8, "window_shards": 2, **options})


def same(one, two):
    assert one.keys == two.keys
    for name in ("frames", "seeds", "delta"):
        assert torch.equal(getattr(one, name), getattr(two, name))


def test_a_batch_is_what_it_says(manifest):
    reader = reader_of(manifest)
    assert len(manifest.shards) > 2
    assert reader.coverage == (25 + 40 + 15) / 95
    assert reader.steps_per_epoch == 80 // 8
    batch = next(iter(reader))
    assert (batch.frames.shape, batch.frames.dtype) == ((8, 2, 32, 32, 3), torch.uint8)
    assert (batch.seeds.dtype, batch.delta.dtype) == (torch.int64, torch.int32)
    for row, name in enumerate(batch.keys):
        key, number = name.split("/")
        for which in range(2):
            wanted = stored(manifest, key, int(number) + which * int(batch.delta[row]))
            np.testing.assert_array_equal(batch.frames[row, which].numpy(), wanted)


def stored(manifest, key, number):
    """A frame by its source and number, cut out of the tar by the JSON index."""
    source = key.rsplit("_", 1)[0]
    for shard in manifest.shards:
        for clip in json.loads((manifest.directory / shard.index).read_text())["clips"]:
            if clip["key"].rsplit("_", 1)[0] == source and number in clip["numbers"]:
                at = clip["numbers"].index(number)
                data = (manifest.directory / shard.name).read_bytes()
                return simplejpeg.decode_jpeg(data[clip["offsets"][at] :][: clip["lengths"][at]])
    raise AssertionError((key, number))


def test_epochs_end_and_go_on(manifest):
    reader = reader_of(manifest)
    one, two = list(reader), list(reader)
    assert (len(one), len(two), reader.epoch, reader.step) == (10, 10, 2, 0)
    keys = [key for batch in one for key in batch.keys]
    assert len(set(keys)) == 80 and keys != [key for batch in two for key in batch.keys]


def test_ranks_together_give_the_global_batch(manifest):
    whole = list(reader_of(manifest))
    ranks = [list(reader_of(manifest, rank=rank, world=4)) for rank in range(4)]
    for step, batch in enumerate(whole):
        parts = [batches[step] for batches in ranks]
        assert batch.keys == [key for part in parts for key in part.keys]
        for name in ("frames", "seeds", "delta"):
            assert torch.equal(getattr(batch, name), torch.cat([getattr(part, name) for part in parts]))


def test_workers_give_the_same_batches_over_epochs_and_after_a_break(manifest):
    alone, helped = reader_of(manifest), reader_of(manifest, workers=2)
    for _ in range(2):
        for one, two in itertools.zip_longest(alone, helped):
            same(one, two)
    for one, two in itertools.islice(zip(alone, helped, strict=True), 3):
        same(one, two)
    assert alone.state_dict() == helped.state_dict()
    for one, two in itertools.zip_longest(alone, helped):  # both go on within the epoch
        same(one, two)


def test_resuming_continues_the_sequence_also_with_another_world(manifest):
    whole = reader_of(manifest)
    batches = [*whole, *whole]
    for stop in (0, 3, 10, 14):
        first = reader_of(manifest)
        taken = list(itertools.islice(itertools.chain(first, first), stop)) if stop else []
        state = json.loads(json.dumps(first.state_dict()))
        assert state["epoch"] * 10 + state["step"] == stop == len(taken)
        ranks = [reader_of(manifest, rank=rank, world=2) for rank in range(2)]
        for reader in ranks:
            reader.load_state_dict(state)
        parts = [next(iter(reader)) for reader in ranks]
        assert batches[stop].keys == parts[0].keys + parts[1].keys


def test_state_of_other_data_or_settings_is_refused(manifest):
    state = reader_of(manifest).state_dict()
    for name, other in {"manifest": "x", "seed": 1, "global_batch": 4, "delta": "1-2 ms"}.items():
        with pytest.raises(FlickerError, match=f"saved state has {name} {other}"):
            reader_of(manifest).load_state_dict({**state, name: other})


def test_frames_of_another_size_are_resized(manifest):
    batch = next(iter(reader_of(manifest, image_size=16)))
    assert batch.frames.shape == (8, 2, 16, 16, 3)
    full = next(iter(reader_of(manifest)))
    small = full.frames.float().reshape(8, 2, 16, 2, 16, 2, 3).mean(dim=(3, 5))
    assert (small - batch.frames.float()).abs().max() <= 1


def test_milliseconds(tmp_path):
    manifest = make_shards(tmp_path, folder_fps=200.0)
    assert set(
        torch.cat([batch.delta for batch in reader_of(manifest, delta=(25, 30), delta_unit="ms")]).tolist()
    ) == {
        5,
        6,
    }


def damage(manifest, frames):
    """Flip one bit in the middle of some frames; returns their names."""
    names = []
    for shard in manifest.shards:
        path = manifest.directory / shard.name
        data = bytearray(path.read_bytes())
        for clip in json.loads((manifest.directory / shard.index).read_text())["clips"]:
            for number, offset, length in zip(clip["numbers"], clip["offsets"], clip["lengths"], strict=True):
                if (clip["source"].rsplit("/")[-1], number) in frames:
                    data[offset + length // 2] ^= 4
                    names.append(f"{clip['key']}/{number}")
        path.write_bytes(data)
    return names


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_frames_are_replaced_counted_and_logged_once(tmp_path, caplog, workers):
    manifest = make_shards(tmp_path)
    clean = list(reader_of(manifest))
    names = damage(manifest, {("s0", 10), ("s1", 20)})
    assert len(names) == 2
    reader = reader_of(manifest, max_bad=0.05, workers=workers)
    batches = list(reader) + list(reader)
    assert len(batches) == 20
    assert set(reader.bad_frames) == set(names)
    assert sum("is unreadable" in record.message for record in caplog.records) == 2
    changed = [
        (one, two, row)
        for one, two in zip(clean, batches, strict=False)
        for row in range(8)
        if one.keys[row] != two.keys[row]
    ]
    assert 2 <= len(changed) <= 4
    for _, batch, row in changed:
        key, number = batch.keys[row].split("/")
        np.testing.assert_array_equal(batch.frames[row, 0].numpy(), stored(manifest, key, int(number)))
    again = [batch.keys for batch in reader_of(manifest, max_bad=0.05)]
    assert again == [batch.keys for batch in batches[:10]]


def test_too_many_damaged_frames_end_reading(tmp_path):
    manifest = make_shards(tmp_path)
    damage(manifest, {("s1", number) for number in range(10, 30)})
    with pytest.raises(FlickerError, match=r"2 unreadable frames, above max_bad; the last, .* checksum differs"):
        list(reader_of(manifest))
    with pytest.raises(FlickerError, match="1 unreadable frames, above max_bad"):
        list(reader_of(manifest, max_bad=0))


def test_missing_and_shortened_shards_are_all_named_at_the_start(tmp_path):
    manifest = make_shards(tmp_path)
    (manifest.directory / "shard-000000.tar").unlink()
    (manifest.directory / "shard-000001.idx").unlink()
    short = manifest.directory / "shard-000002.tar"
    short.write_bytes(short.read_bytes()[:-512])
    with pytest.raises(FlickerError) as caught:
        reader_of(manifest)
    for words in ("shard-000000.tar is missing", "shard-000001.idx is missing", "shard-000002.tar has"):
        assert words in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_shrinks_while_read_ends_reading_in_one_line(tmp_path, workers):
    manifest = make_shards(tmp_path)
    reader = reader_of(manifest, workers=workers)
    for shard in manifest.shards:
        (manifest.directory / shard.name).write_bytes(b"")
    with pytest.raises(FlickerError, match=r"cannot read .*shard-.*\.tar at byte \d+: 0 of \d+ bytes") as caught:
        list(reader)
    assert "\n" not in str(caught.value)


def test_a_killed_worker_is_one_line(manifest):
    before = set(multiprocessing.active_children())
    reader = reader_of(manifest, workers=1, global_batch=2)
    batches = iter(reader)
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - before
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(FlickerError, match="a reader process died: ") as caught:
        list(batches)
    assert "\n" not in str(caught.value)


def test_wrong_use_is_refused(manifest):
    with pytest.raises(UsageError, match="does not divide by 3 ranks"):
        reader_of(manifest, world=3)
    with pytest.raises(UsageError, match="rank 2 of world 2"):
        reader_of(manifest, rank=2, world=2)
    with pytest.raises(FlickerError, match="fewer than one global batch of 800"):
        reader_of(manifest, global_batch=800)


def test_changed_manifest_is_refused(tmp_path):
    path = make_shards(tmp_path).directory / "manifest.json"
    path.write_text(path.read_text().replace('"failures": 0', '"failures": 1'))
    with pytest.raises(FlickerError, match="was changed after it was written"):
        read_manifest(path.parent)


def test_resuming_late_reads_nothing_of_what_came_before(manifest, monkeypatch):
    import shards.fetch as fetch

    reads = []
    real = fetch.os.pread
    monkeypatch.setattr(fetch.os, "pread", lambda *arguments: reads.append(arguments[1]) or real(*arguments))
    reader = reader_of(manifest)
    reader.load_state_dict({**reader.state_dict(), "epoch": 50_000, "step": 9})
    next(iter(reader))
    assert len(reads) == 16  # two frames per pair, nothing else


def test_grey_frames_come_as_rgb(tmp_path):
    import cv2

    folder = make_folder(tmp_path / "in", range(20), size=(32, 32))
    for path in folder.iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
    manifest = write([folder], tmp_path / "out", size=32)
    frames = next(iter(reader_of(manifest))).frames
    assert torch.equal(frames[..., 0], frames[..., 2])


def test_fetcher_pickles_without_its_open_files(manifest):
    reader = reader_of(manifest)
    next(iter(reader))
    assert reader._fetcher._files
    assert not pickle.loads(pickle.dumps(reader._fetcher))._files
