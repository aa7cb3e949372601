"""Packing: the tar is webdataset's own, and the index says where the bytes lie, whatever they are."""

import io
import itertools
import tarfile

import numpy as np
import pytest
import webdataset
from crc32c import crc32c as checksum
from hypothesis import given, settings
from hypothesis import strategies as st

from shards import FlickerError, dealing, pack
from shards.dealing import deal
from shards.index import read_index
from shards.pack import pack_shard
from shards.schema import Options, SourceReport, canonical, frame_member, slug
from shards.staging import COLUMNS, Recorder, read_summary, staged_path
from shards.tarfiles import header

clips_of_a_source = st.lists(
    st.tuples(st.lists(st.tuples(st.binary(min_size=1, max_size=1500), st.booleans()), min_size=1, max_size=5)),
    min_size=1,
    max_size=6,
)
continues = st.lists(st.booleans(), min_size=6, max_size=6)


def stage(root, number, clips, goes_on):
    """One source: (frames, each in a file of its own or not) per clip; frames are numbered on and on.

    Returns (key, its frames, continues the one before) per clip.
    """
    folder = root / f"s{number}"
    folder.mkdir(parents=True, exist_ok=True)
    (root / "staging").mkdir(exist_ok=True)
    made, first = [], 0
    with staged_path(root / "staging", number).open("wb") as file:
        recorder = Recorder(file)
        for position, (frames,) in enumerate(clips):
            files = [f"{first + k}.jpg" if apart else "" for k, (_, apart) in enumerate(frames)]
            for name, (data, _) in zip(files, frames, strict=True):
                if name:
                    (folder / name).write_bytes(data)
            on = bool(position and goes_on[position])
            meta = {"key": f"s{number}_{first:07d}", "source": f"s{number}", "fps": None, "first": first}
            recorder.add(
                meta["key"],
                canonical(meta),
                [len(data) for data, _ in frames],
                [checksum(data) for data, _ in frames],
                files if any(files) else (),
                [data for data, apart in frames if not apart],
                continues=on,
            )
            made.append((meta, [data for data, _ in frames], on))
            first += len(frames)
        recorder.end(SourceReport(f"s{number}", "folder", ""))
    return made


def packed(root, sources, **options):
    """The plan and shards of staged sources."""
    plan = deal([read_summary(root / "staging", number)[1] for number in range(sources)], Options(**options))
    folders = {number: root / f"s{number}" for number in range(sources)}
    tasks = [plan.task(number, root, root / "staging", folders) for number in range(len(plan))]
    return [pack_shard(task).info for task in tasks]


def by_webdataset(samples):
    """The tar that webdataset writes of (meta, frames)."""
    file = io.BytesIO()
    writer = webdataset.TarWriter(file, encoder=False, compress=False, mtime=0, user="", group="", mode=0o644)
    for meta, frames in samples:
        named = {f"{k:03d}.jpg": data for k, data in enumerate(frames)}
        writer.write({"__key__": meta["key"], "json": canonical(meta), **named})
    writer.close()
    return file.getvalue()


@given(st.lists(st.tuples(clips_of_a_source, continues), min_size=1, max_size=3), st.integers(2_000, 40_000))
@settings(max_examples=25, deadline=None)
def test_index_and_tar_agree_for_any_contents(tmp_path_factory, sources, shard_bytes):
    root = tmp_path_factory.mktemp("pack")
    made = [stage(root, number, clips, on) for number, (clips, on) in enumerate(sources)]
    contents = {meta["key"]: (meta, frames) for clips in made for meta, frames, _ in clips}
    following = {
        one[0]["key"]: two[0]["key"] if two[2] else None
        for clips in made
        for one, two in itertools.pairwise([*clips])
    }
    infos = packed(root, len(sources), shard_bytes=shard_bytes, seed=3)
    indexes = [read_index((root / info.index).read_bytes(), info.index, info.index_sha256) for info in infos]
    tars = [(root / info.name).read_bytes() for info in infos]
    assert sorted(key for index in indexes for key in index.keys) == sorted(contents)
    for info, index, tar in zip(infos, indexes, tars, strict=True):
        assert tar == by_webdataset(contents[key] for key in index.keys)
        assert len(tar) == info.bytes == index.bytes and (info.bytes <= shard_bytes or info.clips == 1)
        assert info.frames == sum(len(contents[key][1]) for key in index.keys)
        with tarfile.open(fileobj=io.BytesIO(tar)) as file:
            members = {item.name: item for item in file}
        for clip, key in enumerate(index.keys):
            rows = range(index.row[clip], index.row[clip + 1])
            offsets = [members[frame_member(key, position)].offset_data for position in range(len(rows))]
            assert index.offset[rows].tolist() == offsets
            assert index.crc[rows].tolist() == [checksum(data) for data in contents[key][1]]
            assert index.meta(clip)[0] == members[f"{key}.json"].offset_data
            assert index.next[clip] == following.get(key)
            check_following(index, clip, expected_after(key, following, contents), tars)


def expected_after(key, following, contents, reach=128):
    """The frames after a clip, by walking from clip to clip."""
    frames = []
    while (key := following.get(key)) is not None:
        frames += contents[key][1]
    return frames[:reach]


def check_following(index, clip, expected, tars):
    """The frames after a clip lie where its entry says, in whatever shard."""
    rows = range(index.after_row[clip], index.after_row[clip + 1])
    found = zip(index.after_in[rows], index.after_offset[rows], index.after_length[rows], strict=True)
    assert [tars[shard][start : start + length] for shard, start, length in found] == expected


def test_a_clip_lists_no_more_than_reach_frames_after_it(tmp_path, monkeypatch):
    monkeypatch.setattr(dealing, "REACH", 7)
    monkeypatch.setattr(pack, "REACH", 7)
    clips = [([(bytes([n, k]), False) for k in range(4)],) for n in range(5)]
    made = stage(tmp_path, 0, clips, [True] * 5)
    contents = {meta["key"]: (meta, frames) for meta, frames, _ in made}
    keys = list(contents)
    infos = packed(tmp_path, 1, shard_bytes=11_000)
    tars = [(tmp_path / info.name).read_bytes() for info in infos]
    assert len(infos) > 2
    for info in infos:
        index = read_index((tmp_path / info.index).read_bytes(), info.index)
        for clip, key in enumerate(index.keys):
            expected = expected_after(key, dict(itertools.pairwise(keys)), contents, 7)
            check_following(index, clip, expected, tars)
            assert index.after[clip] == min(7, 4 * (4 - keys.index(key)))


@given(st.binary(min_size=1, max_size=100).filter(lambda name: b"\0" not in name), st.integers(0, 8**11 - 1))
def test_headers_are_those_of_the_standard_library(name, size):
    member = tarfile.TarInfo(name.decode("latin-1"))
    member.size, member.mode = size, 0o644
    assert header(name, size) == member.tobuf(tarfile.USTAR_FORMAT, "latin-1")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b"other"), "has changed since this run first read it"),
        (lambda path: path.write_bytes(path.read_bytes() + b"+"), "has changed since this run first read it"),
        (lambda path: path.unlink(), r"cannot be read any more \(No such file or directory\)"),
    ],
)
def test_a_frame_that_changed_since_it_was_staged_is_named(tmp_path, damage, message):
    stage(tmp_path, 0, [([(b"1st frame", True), (b"second", True)],)], [False])
    damage(tmp_path / "s0/1.jpg")
    with pytest.raises(FlickerError, match=rf"s0/1.jpg {message}: restore it and run again"):
        packed(tmp_path, 1)
    assert not list(tmp_path.glob("shard-*"))


def test_damaged_intermediate_files_are_no_shards(tmp_path):
    stage(tmp_path, 0, [([(b"some frame", False)],)], [False])
    path = staged_path(tmp_path / "staging", 0)
    path.write_bytes(path.read_bytes().replace(b"some frame", b"sOme frame"))
    with pytest.raises(FlickerError, match=r"the intermediate files in .* are damaged: delete it and run again"):
        packed(tmp_path, 1)


def test_a_finished_shard_is_not_written_again(tmp_path):
    for number in range(3):
        stage(tmp_path, number, [([(bytes(4000), False)],)] * 2, [False] * 2)
    infos = packed(tmp_path, 3, shard_bytes=12_000)
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in tmp_path.glob("shard-*")}
    (tmp_path / "shard-000001.idx").unlink()
    (tmp_path / "shard-000002.tar").write_bytes(b"cut")
    assert packed(tmp_path, 3, shard_bytes=12_000) == infos
    kept = {path for path in before if (path.stat().st_ino, path.stat().st_mtime_ns) == before[path]}
    rewritten = {"shard-000001.tar", "shard-000001.idx", "shard-000002.tar", "shard-000002.idx"}
    assert {path.name for path in before} - {path.name for path in kept} == rewritten


def columns(sizes):
    """Columns of one source whose clips take these bytes in a tar."""
    many = len(sizes)
    values = {"offset": range(many), "tar_bytes": sizes, "frames": [2] * many, "continued": [False] * many}
    return {name: np.array(values[name], dtype) for name, dtype in COLUMNS.items()}


@given(st.lists(st.lists(st.integers(1, 60).map(lambda n: 512 * n), max_size=20), min_size=1), st.integers(1, 10**5))
def test_clips_are_dealt_without_gaps_and_shards_are_filled(sizes, shard_bytes):
    plan = deal([columns(of) if of else {} for of in sizes], Options(shard_bytes=shard_bytes, seed=1))
    flat = [size for of in sizes for size in of]
    assert sorted(plan.order.tolist()) == list(range(len(flat)))
    room = shard_bytes // 10_240 * 10_240 - 1024
    begin = 0
    for number, end in enumerate(plan.ends.tolist()):
        clips = plan.order[begin:end].tolist()
        used = [flat[clip] for clip in clips]
        assert plan.start[clips].tolist() == [sum(used[:k]) for k in range(len(used))]
        assert set(plan.shard[clips].tolist()) == {number}
        assert sum(used) <= room or len(used) == 1
        if end < len(flat):
            assert sum(used) + flat[plan.order[end]] > room
        begin = end
    assert begin == len(flat)


def test_a_source_of_each_row_is_found_past_skipped_ones(tmp_path):
    plan = deal([{}, columns([512, 512]), {}, {}, columns([512])], Options())
    task = plan.task(0, tmp_path, tmp_path, {1: tmp_path, 4: tmp_path / "x"})
    assert sorted(zip(task.source.tolist(), task.offset.tolist(), strict=True)) == [(1, 0), (1, 1), (4, 0)]
    assert task.folders == {1: tmp_path, 4: tmp_path / "x"}


@given(st.text(min_size=1, max_size=300), st.integers(0, 10**12))
def test_keys_are_plain_short_and_unique(name, number):
    key = f"{slug(name)}_{number:07d}"
    assert key.isascii() and "." not in key and "/" not in key
    assert len(frame_member(key, 999)) <= 100
    assert slug(name) != slug(name + "x")


@pytest.mark.parametrize(("one", "two"), [("a/b.mp4", "a-b.mp4"), ("ä.mp4", "ö.mp4"), ("x.mp4", "x.avi")])
def test_names_that_look_alike_get_different_keys(one, two):
    assert slug(one) != slug(two)
