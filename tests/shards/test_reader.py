"""PairReader: the same pairs whatever ranks, workers and restarts; damaged frames are replaced."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch

from shards import FlickerError, PairReader, UsageError, read_manifest, verify, write
from shards.index import read_index
from tests.shards.material import make_folder, make_shards


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("reader"))


def reader_of(manifest, **options):
    return PairReader(manifest, **{"seed": 7, "global_batch": 8, "window_frames": 40, **options})


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


def places(manifest):
    """(source, number, key, shard, offset, length) of every stored frame, from the indexes."""
    for shard in manifest.shards:
        index = read_index((manifest.directory / shard.index).read_bytes(), shard.index)
        for clip, key in enumerate(index.keys):
            for position, row in enumerate(range(index.row[clip], index.row[clip + 1])):
                source = index.sources[index.source[clip]]
                number = int(index.first[clip]) + position
                yield source, number, key, shard.name, int(index.offset[row]), int(index.length[row])


def stored(manifest, key, number):
    """A frame by its source and number, cut out of the tar."""
    for _, other, name, shard, offset, length in places(manifest):
        if name.rsplit("_", 1)[0] == key.rsplit("_", 1)[0] and other == number:
            return simplejpeg.decode_jpeg((manifest.directory / shard).read_bytes()[offset:][:length])
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


def damage(manifest, frames, change=lambda data, offset, length: data.__setitem__(offset + length // 2, 0x5A)):
    """Damage the bytes of some frames; returns how they are called."""
    names = []
    for source, number, _, shard, offset, length in list(places(manifest)):
        if (source.rsplit("/")[-1], number) in frames:
            path = manifest.directory / shard
            data = bytearray(path.read_bytes())
            change(data, offset, length)
            path.write_bytes(data)
            names.append(f"{source} frame {number} in {manifest.location} ({shard}, byte {offset})")
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
        (step, two, row)
        for step, (one, two) in enumerate(zip(clean, batches, strict=False))
        for row in range(8)
        if one.keys[row] != two.keys[row]
    ]
    touched = {
        (step, row)
        for step, batch in enumerate(clean)
        for row, (name, delta) in enumerate(zip(batch.keys, batch.delta.tolist(), strict=True))
        for number in (int(name.split("/")[1]), int(name.split("/")[1]) + delta)
        if ("-s0-" in name and number == 10) or ("-s1-" in name and number == 20)
    }
    assert {(step, row) for step, _, row in changed} == touched and touched
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
    with pytest.raises(FlickerError, match=r"unreadable frames, above max_bad; .*it ends at byte 0") as caught:
        list(reader)
    assert "\n" not in str(caught.value)


def test_a_killed_worker_is_replaced(manifest, caplog):
    alone = list(reader_of(manifest, global_batch=2))
    reader = reader_of(manifest, workers=2, global_batch=2)
    seen = []
    for batch in reader:
        seen.append((batch.keys, batch.frames.clone()))
        if reader.step in (2, 9, 20):
            os.kill(reader.processes[reader.step % 2], signal.SIGKILL)
    assert [keys for keys, _ in seen] == [batch.keys for batch in alone]
    assert all(torch.equal(frames, batch.frames) for (_, frames), batch in zip(seen, alone, strict=True))
    assert reader.counts["worker_restarts"] == 3
    assert sum("died (signal 9): replaced" in record.message for record in caplog.records) == 3


def test_workers_that_keep_dying_end_reading_in_one_line(manifest):
    reader = reader_of(manifest, workers=1, global_batch=1)
    with pytest.raises(FlickerError, match=r"reader process 0 died \(signal 9\), the 6th within 1000") as caught:
        for _ in reader:
            os.kill(reader.processes[0], signal.SIGKILL)
    assert "\n" not in str(caught.value)


def test_deaths_are_forgotten_after_so_many_batches_whatever_the_epoch(manifest, monkeypatch):
    monkeypatch.setattr("shards.workers.RESTART_STEPS", 4)
    reader = reader_of(manifest, workers=1, global_batch=2)
    assert reader.steps_per_epoch > 6
    for _ in range(7):
        for _ in reader:
            if reader.step == reader.steps_per_epoch - 1:
                os.kill(reader.processes[0], signal.SIGKILL)
    reader.close()
    assert reader.counts["worker_restarts"] >= 6


def test_a_stopped_worker_is_replaced(manifest, caplog):
    alone = list(reader_of(manifest))
    reader = reader_of(manifest, workers=2, timeout=1.0)
    seen = []
    for batch in reader:
        seen.append(batch.keys)
        if reader.step == 3:
            os.kill(reader.processes[1], signal.SIGSTOP)
    assert seen == [batch.keys for batch in alone]
    assert reader.counts["worker_restarts"] == 1
    assert any("gave no answer for" in record.message for record in caplog.records)


def test_workers_end_with_the_reader(manifest):
    reader = reader_of(manifest, workers=2)
    next(iter(reader))
    processes = reader.processes
    reader.close()
    assert not any(_runs(process) for process in processes)


def test_workers_end_when_the_reader_is_killed(manifest):
    code = (
        "import sys, time; from shards import PairReader, read_manifest\n"
        "reader = PairReader(read_manifest(sys.argv[1]), seed=0, global_batch=8, workers=2)\n"
        "next(iter(reader)); print(*reader.processes, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, manifest.location], stdout=subprocess.PIPE) as process:
        workers = [int(word) for word in process.stdout.readline().split()]
        assert len(workers) == 2 and all(map(_runs, workers))
        process.kill()
    deadline = time.monotonic() + 20
    while any(map(_runs, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_runs, workers))


def _runs(process):
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_stay_valid_for_as_long_as_they_are_held(manifest, workers):
    reader = reader_of(manifest, workers=workers)
    held = list(reader)
    for batch, other in zip(held, reader_of(manifest), strict=True):
        assert torch.equal(batch.frames, other.frames)


@pytest.mark.parametrize("workers", [0, 2])
def test_decoding_once_changes_no_pixel(manifest, workers):
    options = {"window_frames": 40, "global_batch": 4}
    for one, two in zip(
        reader_of(manifest, **options), reader_of(manifest, pool=True, workers=workers, **options), strict=True
    ):
        same(one, two)


def test_decoding_once_decodes_once(manifest, monkeypatch):
    reader = reader_of(manifest, pool=True, window_frames=1000, global_batch=2)
    decoded = []
    real = reader._fetcher._decode
    monkeypatch.setattr(reader._fetcher, "_decode", lambda data, target: decoded.append(data) or real(data, target))
    for _ in reader:
        pass
    assert len(decoded) <= manifest.frames  # 2 per pair otherwise: 160


def test_a_worker_that_dies_in_decode_once_mode_loses_nothing(manifest):
    options = {"pool": True, "window_frames": 1000, "global_batch": 2}
    reader = reader_of(manifest, workers=1, **options)
    for batch, other in zip(reader, reader_of(manifest, **options), strict=True):
        same(batch, other)
        if reader.step in (10, 20):
            os.kill(reader.processes[0], signal.SIGKILL)


def test_shards_may_be_missing_where_allowed(tmp_path, caplog):
    manifest = make_shards(tmp_path, (60, 60, 60))
    whole = reader_of(manifest)
    (manifest.directory / manifest.shards[1].name).unlink()
    reader = reader_of(manifest, allow_missing=True)
    assert reader.digest != whole.digest and reader.steps_per_epoch < whole.steps_per_epoch
    assert any("shard-000001.tar is missing: left out" in record.message for record in caplog.records)
    batches = list(reader)
    assert len(batches) == reader.steps_per_epoch and not reader.bad_frames
    assert reader.counts["missing_partners"] > 0
    lost = {key for *_, key, shard, _, _ in places_of_index(manifest) if shard == manifest.shards[1].name}
    assert not lost & {key.split("/")[0] for batch in batches for key in batch.keys}
    ranks = [list(reader_of(manifest, allow_missing=True, rank=rank, world=2, workers=rank)) for rank in range(2)]
    for batch, *parts in zip(batches, *ranks, strict=True):
        assert batch.keys == parts[0].keys + parts[1].keys
        assert torch.equal(batch.frames, torch.cat([part.frames for part in parts]))


def places_of_index(manifest):
    """As `places`."""
    return list(places(manifest))


@pytest.mark.parametrize("fault", ["cut at a member boundary", "zero-filled tail", "flipped header bit"])
def test_what_plain_readers_lose_in_silence_is_counted_or_harmless(tmp_path, fault):
    """A tar whose rest a sequential reader would skip: frames that are whole are still read, others are counted."""
    manifest = make_shards(tmp_path, (60, 60, 60))
    clean = [batch.keys for batch in reader_of(manifest, global_batch=2)]
    rows = sorted((offset, length) for *_, shard, offset, length in places(manifest) if shard == "shard-000001.tar")
    offset = rows[len(rows) // 2][0] - 512
    path = manifest.directory / "shard-000001.tar"
    data = bytearray(path.read_bytes())
    reader = reader_of(manifest, global_batch=2, max_bad=1.0)
    if fault == "flipped header bit":
        data[offset + 100] ^= 1
    elif fault == "zero-filled tail":
        data[offset:] = bytes(len(data) - offset)
    else:
        data = data[:offset]
    path.write_bytes(data)
    if fault == "cut at a member boundary":
        with pytest.raises(FlickerError, match=r"shard-000001\.tar has \d+ bytes, not"):
            reader_of(manifest)
    seen = [batch.keys for batch in reader]
    lost = 0 if fault == "flipped header bit" else len(rows) - len(rows) // 2
    assert len(reader.bad_frames) <= lost and (len(reader.bad_frames) > 0) == (lost > 0)
    assert len(seen) == len(clean)
    if not lost:
        assert seen == clean
    assert any("shard-000001.tar" in problem for problem in verify(manifest.directory))


def test_wrong_use_is_refused(manifest):
    with pytest.raises(UsageError, match="does not divide by 3 ranks"):
        reader_of(manifest, world=3)
    with pytest.raises(UsageError, match=r"it does by 1, 2, 4$"):
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
    reader = reader_of(manifest)
    store = reader._fetcher.stores[0]
    reads = []
    real = store.view
    monkeypatch.setattr(store, "view", lambda name, *rest: reads.append(rest[1]) or real(name, *rest))
    reader.load_state_dict({**reader.state_dict(), "epoch": 50_000, "step": 9})
    batch = next(iter(reader))
    assert len(reads) == 16  # two frames per pair, nothing else
    sizes = {(key, number): length for _, number, key, _, _, length in places(manifest)}
    firsts = [sizes[name.split("/")[0], int(name.split("/")[1])] for name in batch.keys]
    assert set(firsts) <= set(reads)


def test_grey_frames_come_as_rgb(tmp_path):
    import cv2

    folder = make_folder(tmp_path / "in", range(20), size=(32, 32))
    for path in folder.iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
    manifest = write([folder], tmp_path / "out", size=32)
    frames = next(iter(reader_of(manifest))).frames
    assert torch.equal(frames[..., 0], frames[..., 2])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_frame_that_was_damaged_before_it_was_stored_is_replaced(tmp_path, workers):
    """Its checksum is right, and copying does not decode every frame."""
    folder = make_folder(tmp_path / "in", range(40), size=(32, 32))
    path = folder / "reg_img13.jpg"
    data = bytearray(path.read_bytes())
    data[-60:-58] = b"\xff\xd9"  # the picture ends here
    path.write_bytes(data)
    manifest = write([folder], tmp_path / "out", size=32)
    assert manifest.sources[0].counts["copied_frames"] == 40 and verify(manifest.directory) == []
    reader = reader_of(manifest, max_bad=0.05, workers=workers)
    batches = list(reader)
    assert len(batches) == reader.steps_per_epoch == 35 // 8
    (reason,) = reader.bad_frames.values()
    assert "it does not decode" in reason
    shown = {int(name.split("/")[1]) + which * delta for batch in batches
             for name, delta in zip(batch.keys, batch.delta.tolist(), strict=True) for which in range(2)}  # fmt: skip
    assert 13 not in shown


def test_a_window_that_lies_in_a_lost_shard_is_replaced_from_elsewhere(tmp_path):
    manifest = make_shards(tmp_path, (90, 90, 90))
    reader = reader_of(manifest, window_frames=8, max_bad=1.0)
    path = manifest.directory / "shard-000001.tar"
    path.write_bytes(bytes(path.stat().st_size))
    batches = list(reader)
    assert len(batches) == reader.steps_per_epoch
    lost = {(key, number) for _, number, key, shard, _, _ in places(manifest) if shard == path.name}
    shown = {(name.split("/")[0], int(name.split("/")[1])) for batch in batches for name in batch.keys}
    assert shown and not shown & lost
