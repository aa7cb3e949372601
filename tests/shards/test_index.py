"""The index finds every frame and what follows it; tails count what an index lists."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards import FlickerError, read_manifest, tails
from shards.index import REACH, After, ClipEntry, encode_index, member_bytes, read_index
from shards.tails import rate
from tests.shards.bare import Run, crc, make_bare

runs = st.lists(st.tuples(st.integers(1, 300), st.sampled_from([None, 25.0, 29.97, 200.0])), min_size=1, max_size=4)


@given(runs, st.integers(1, 64), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_every_frame_finds_those_that_follow_it(tmp_path_factory, lengths, clip_frames, shards):
    folder = tmp_path_factory.mktemp("index")
    listed = [Run(f"s{n}", frames, 10 * n, fps) for n, (frames, fps) in enumerate(lengths)]
    manifest = make_bare(folder, listed, clip_frames, shards)
    indexes = [read_index((folder / shard.index).read_bytes(), shard.index) for shard in manifest.shards]
    place = {}  # frame -> (shard, offset, length)
    for number, index in enumerate(indexes):
        for row, name in enumerate(index.crc.tolist()):
            place[name] = (number, int(index.offset[row]), int(index.length[row]))
    assert len(place) == manifest.frames == sum(frames for frames, _ in lengths)
    counted = {}
    for number, index in enumerate(indexes):
        for clip in range(len(index)):
            run, first = divmod(int(index.crc[index.row[clip]]), crc(1, 0))
            reach = min(lengths[run][0] - first, int(index.frames[clip]) + REACH)
            assert int(index.frames[clip] + index.after[clip]) == reach
            found = index.locate(number, np.full(reach, clip), np.arange(reach))
            expected = [(*place[crc(run, first + k)], crc(run, first + k)) for k in range(reach)]
            assert [tuple(column) for column in found.T.tolist()] == expected
            key = number, float(np.nan_to_num(rate(np.array([lengths[run][1] or np.nan])))[0])
            left = np.minimum(lengths[run][0] - 1 - first - np.arange(int(index.frames[clip])), REACH)
            counted.setdefault(key, np.zeros(REACH + 1, int))
            counted[key] += np.bincount(left, minlength=REACH + 1)
    rows = manifest.tails()
    for number, of, frames, tail in zip(rows.shard, np.nan_to_num(rows.rate), rows.frames, rows.tail, strict=True):
        assert tail.tolist() == counted[int(number), float(of)][:REACH].tolist()
        assert frames == counted.pop((int(number), float(of))).sum()
    assert not counted
    for delta in (1, 5, REACH):
        partners = sum(max(0, frames - delta) for frames, _ in lengths)
        assert manifest.coverage(delta) == pytest.approx(partners / manifest.frames)


def test_index_bytes_repeat_and_are_checked():
    entry = ClipEntry("k", "s", None, 7, 512, [10, 600], [1, 2], 30, 9, "l", [After(3, 0, [5], [4])])
    data = encode_index("shard-000000", 4096, "ab", [entry])
    assert data == encode_index("shard-000000", 4096, "ab", [entry])
    index = read_index(data, "x.idx", hashlib.sha256(data).hexdigest())
    assert (index.keys, index.next, index.sources, np.isnan(index.fps[0])) == (["k"], ["l"], ["s"], True)
    assert index.offset.tolist() == [1024, 2048]
    assert index.meta(0) == (512 + 1024 + 512 + 1024 + 512, 30, 9)
    with pytest.raises(FlickerError, match="SHA-256 differs"):
        read_index(data, "x.idx", "0" * 64)
    with pytest.raises(FlickerError, match="is damaged"):
        read_index(data[:-3], "x.idx")


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=50))
def test_member_bytes_are_those_of_a_tar(sizes):
    import io
    import tarfile

    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, size in enumerate(sizes):
            info = tarfile.TarInfo(f"m{number}")
            info.size = size
            tar.addfile(info, io.BytesIO(bytes(size)))
        end = tar.offset
    assert member_bytes(np.array(sizes)).sum() == end


def test_rates_to_three_digits():
    assert rate(np.array([29.97, 23.976, 59.94, 200.0, 1000.4, 0.5])).tolist() == [30.0, 24.0, 59.9, 200, 1000, 0.5]
    assert np.isnan(rate(np.array([np.nan, 0.0]))).all()


def test_damaged_tails_are_refused(tmp_path):
    manifest = make_bare(tmp_path, [Run("a", 100)])
    path = tmp_path / "tails.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(FlickerError, match=r"tails.safetensors: its SHA-256 differs"):
        manifest.tails()
    with pytest.raises(FlickerError, match="is damaged"):
        tails.decode(b"nonsense", "x")


def test_manifest_is_read_as_written(tmp_path):
    written = make_bare(tmp_path, [Run("a", 100), Run("b", 50)])
    read = read_manifest(tmp_path)
    assert (read.digest, read.frames, list(read.shards)) == (written.digest, 150, list(written.shards))
    assert read.shards[1] == written.shards[1] and read.shards[:2] == written.shards[:2]
    assert [source.name for source in read.sources] == ["a", "b"]
    path = tmp_path / "manifest.json"
    for change in (b'"clips"', b'"frames"'):
        path.write_bytes(path.read_bytes().replace(change, change[:-1] + b'x"'))
        with pytest.raises(FlickerError):
            read_manifest(tmp_path)
