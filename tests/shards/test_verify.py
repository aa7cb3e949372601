"""verify: every fault is found, and named."""

import pytest

from shards import verify
from shards.index import read_index
from tests.shards.material import make_shards

SHARD = "shard-000001"


@pytest.fixture
def folder(tmp_path):
    return make_shards(tmp_path).directory


def clips(folder, shard=SHARD):
    """Key, offsets and lengths of the frames, and place of KEY.json, of every clip of a shard."""
    index = read_index((folder / f"{shard}.idx").read_bytes(), shard)
    rows = [slice(index.row[clip], index.row[clip + 1]) for clip in range(len(index))]
    return [
        {
            "key": index.keys[clip],
            "offsets": index.offset[of].tolist(),
            "lengths": index.length[of].tolist(),
            "meta": index.meta(clip),
        }
        for clip, of in enumerate(rows)
    ]


def edit(path, change):
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def flip(path, position):
    def change(data):
        data[position] ^= 1

    edit(path, change)


def test_good_shards_have_no_problems(folder):
    assert verify(folder) == []


def test_flipped_byte_in_a_frame_names_the_frame(folder):
    clip = clips(folder)[1]
    flip(folder / f"{SHARD}.tar", clip["offsets"][3] + 50)
    assert verify(folder) == [
        f"{SHARD}.tar: its SHA-256 differs from the manifest's",
        f"{SHARD}.tar: {clip['key']}.003.jpg: its CRC32C differs from the index's",
    ]


def test_flipped_byte_in_the_metadata_names_it(folder):
    clip = clips(folder)[0]
    flip(folder / f"{SHARD}.tar", clip["meta"][0] + 5)
    assert f"{SHARD}.tar: {clip['key']}.json: its CRC32C differs from the index's" in verify(folder)


@pytest.mark.parametrize("position", [0, 110, 124, 150, 257])
def test_flipped_bit_in_a_tar_header_names_the_member(folder, position):
    clip = clips(folder)[0]
    flip(folder / f"{SHARD}.tar", clip["offsets"][2] - 512 + position)
    problems = verify(folder)
    assert any(f"{clip['key']}.002.jpg: its tar header is damaged" in problem for problem in problems), problems
    assert any("a plain webdataset reader finds" in problem for problem in problems), problems


def test_flipped_byte_in_the_padding_is_found(folder):
    clip = clips(folder)[0]
    flip(folder / f"{SHARD}.tar", clip["offsets"][2] + clip["lengths"][2])
    assert verify(folder) == [f"{SHARD}.tar: its SHA-256 differs from the manifest's"]


@pytest.mark.parametrize("where", ["member boundary", "inside a frame", "inside a header"])
def test_truncated_tar_names_the_clip(folder, where):
    clip = clips(folder)[1]
    end = clip["offsets"][0] + {"member boundary": -512, "inside a frame": 100, "inside a header": -200}[where]
    path = folder / f"{SHARD}.tar"
    path.write_bytes(path.read_bytes()[:end])
    problems = verify(folder)
    assert any(problem.startswith(f"{SHARD}.tar is cut short") for problem in problems)
    assert f"{SHARD}.tar: clip {clip['key']} is cut off from {clip['key']}.000.jpg on" in problems


def test_zero_filled_tail_is_found(folder):
    clip = clips(folder)[-1]
    path, start = folder / f"{SHARD}.tar", clip["offsets"][0] - 512
    edit(path, lambda data: data.__setitem__(slice(start, None), bytes(len(data) - start)))
    problems = verify(folder)
    assert any(
        f"{clip['key']}.000.jpg: its tar header is damaged (end of file header)" in problem for problem in problems
    )


def test_appended_bytes_are_found(folder):
    edit(folder / f"{SHARD}.tar", lambda data: data.extend(b"x" * 512))
    problems = verify(folder)
    assert any("is too long" in problem for problem in problems)
    assert any("does not end properly" in problem for problem in problems)


def test_missing_files_are_named(folder):
    (folder / f"{SHARD}.tar").unlink()
    (folder / "shard-000000.idx").unlink()
    problems = verify(folder)
    assert f"{SHARD}.tar is missing" in problems
    assert "shard-000000.idx is missing" in problems


def test_exchanged_and_extra_shards_are_found(folder):
    one, two = (folder / f"shard-00000{number}.tar" for number in range(2))
    one.rename(folder / "x"), two.rename(one), (folder / "x").rename(two)
    (folder / "shard-000099.tar").write_bytes(b"")
    problems = verify(folder)
    assert any(problem.startswith("shard-000000.tar: its SHA-256") for problem in problems)
    assert "shard-000099.tar is not in the manifest" in problems


def test_changed_index_is_found(folder):
    path = folder / f"{SHARD}.idx"
    flip(path, len(path.read_bytes()) - 1)
    assert f"{SHARD}.idx: its SHA-256 differs from the manifest's" in verify(folder)
    path.write_bytes(b"{}")
    problems = verify(folder)
    assert any("is damaged" in problem for problem in problems)


def test_manifest_of_other_shards_is_found(folder, tmp_path):
    other = make_shards(tmp_path / "other", folders=(40, 45, 20)).directory
    (folder / "manifest.json").write_bytes((other / "manifest.json").read_bytes())
    problems = verify(folder)
    assert any("the manifest says" in problem for problem in problems)


def test_changed_or_missing_manifest_is_one_problem(folder):
    edit(folder / "manifest.json", lambda data: data.__setitem__(slice(0, 1), b" "))
    assert len(verify(folder)) == 1
    (folder / "manifest.json").unlink()
    assert "not found" in verify(folder)[0]


def test_changed_tails_are_found(folder):
    flip(folder / "tails.safetensors", 200)
    assert any("tails.safetensors: its SHA-256 differs" in problem for problem in verify(folder))
