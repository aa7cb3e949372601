"""Packing: the index says where the bytes lie, whatever they are."""

import io
import tarfile

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.index import encode_index, read_index
from shards.pack import pack_shard, plan_shards
from shards.schema import Options, frame_member, slug
from shards.staging import append_clip, clips_path

clips_of_a_source = st.lists(
    st.tuples(st.lists(st.binary(min_size=1, max_size=1500), min_size=1, max_size=5), st.booleans()),
    min_size=1,
    max_size=6,
)


@given(st.lists(clips_of_a_source, min_size=1, max_size=3), st.integers(2_000, 30_000), st.integers(0, 2**40))
@settings(max_examples=25, deadline=None)
def test_index_and_tar_agree_for_any_contents(tmp_path_factory, sources, shard_bytes, seed):
    root = tmp_path_factory.mktemp("pack")
    (root / "staging").mkdir()
    staged, successor = [], {}
    for number, clips in enumerate(sources):
        run, before, entries = 0, None, []
        with clips_path(root / "staging", number).open("wb") as file:
            for position, (frames, continues) in enumerate(clips):
                meta = {"key": f"s{number}_{position:07d}", "source": f"s{number}", "fps": None}
                meta["numbers"] = list(range(len(frames)))
                run += not continues
                entries.append(append_clip(file, meta, frames, run))
                successor[meta["key"]] = None
                if before and continues:
                    successor[before] = meta["key"]
                before = meta["key"]
        staged.append((number, entries))
    tasks = plan_shards(staged, Options(shard_bytes=shard_bytes, seed=seed), root, root / "staging")
    infos = [pack_shard(task) for task in tasks]
    frames_of = {
        f"s{number}_{position:07d}": frames
        for number, clips in enumerate(sources)
        for position, (frames, _) in enumerate(clips)
    }
    indexes = {info.name[:-4]: read_index(root / info.index) for info in infos}
    assert {clip.key for index in indexes.values() for clip in index.clips} == set(frames_of)
    for info in infos:
        data = (root / info.name).read_bytes()
        assert len(data) == info.bytes and (info.bytes <= shard_bytes + 10_240 or info.clips == 1)
        with tarfile.open(fileobj=io.BytesIO(data)) as file:
            members = {item.name: item for item in file}
        for clip in indexes[info.name[:-4]].clips:
            assert clip.next == successor[clip.key]
            assert clip.next is None or clip.next in {c.key for c in indexes[clip.next_shard].clips}
            for position, frame in enumerate(frames_of[clip.key]):
                start, length = clip.offsets[position], clip.lengths[position]
                assert data[start : start + length] == frame
                assert clip.crc32c[position] == google_crc32c.value(frame)
                assert members[frame_member(clip.key, position)].offset_data == start
            assert members[f"{clip.key}.json"].offset_data == clip.meta[0]
        index = indexes[info.name[:-4]]
        assert encode_index(index) == (root / info.index).read_bytes()


@given(st.text(min_size=1, max_size=300), st.integers(0, 10**12))
def test_keys_are_plain_short_and_unique(name, number):
    key = f"{slug(name)}_{number:07d}"
    assert key.isascii() and "." not in key and "/" not in key
    assert len(frame_member(key, 999)) <= 100
    assert slug(name) != slug(name + "x")


@pytest.mark.parametrize(("one", "two"), [("a/b.mp4", "a-b.mp4"), ("ä.mp4", "ö.mp4"), ("x.mp4", "x.avi")])
def test_names_that_look_alike_get_different_keys(one, two):
    assert slug(one) != slug(two)
