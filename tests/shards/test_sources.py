"""Finding sources: what counts as one, links, names, fingerprints."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards import FlickerError
from shards.sources import SAMPLED_FILES, Source, discover, identity, image_names
from tests.shards.material import make_folder
from tests.shards.test_trees import plant


def listed(sources):
    return [(source.name, source.kind, source.reason) for source in sources]


def test_folders_of_frames_videos_and_what_is_neither(tmp_path):
    plant(
        tmp_path / "in", "a/b/1.JPG", "a/b/x.txt", "a/c.mp4", "a/2.bmp", "empty/", ".hidden/1.jpg", "_/__MACOSX/1.jpg"
    )
    assert listed(discover([tmp_path / "in"])) == [
        ("in/_", "unknown", "empty folder"),
        ("in/a", "folder", ""),
        ("in/a/b", "folder", ""),
        ("in/a/c.mp4", "video", ""),
        ("in/empty", "unknown", "empty folder"),
    ]


def test_files_given_by_name(tmp_path):
    plant(tmp_path, "v.MKV", "one.jpg", "notes.txt")
    found = discover([tmp_path / name for name in ("v.MKV", "one.jpg", "notes.txt")])
    assert listed(found) == [
        ("notes.txt", "unknown", "'.txt' is no known video suffix"),
        ("one.jpg", "unknown", "a single image: give its folder"),
        ("v.MKV", "video", ""),
    ]


def test_names_do_not_depend_on_the_place(tmp_path):
    for place in ("here", "there/far"):
        plant(tmp_path / place, "data/a/1.jpg", "data/b/v.mp4", "more/1.jpg")
    names = [
        [source.name for source in discover([tmp_path / place / "data", tmp_path / place / "more"])]
        for place in ("here", "there/far")
    ]
    assert names[0] == names[1] == ["data/a", "data/b/v.mp4", "more"]


def test_overlapping_paths_give_each_source_once(tmp_path):
    plant(tmp_path, "in/a/1.jpg", "in/b/v.mp4")
    every = [tmp_path / "in", tmp_path / "in/a", tmp_path / "in/b/v.mp4", tmp_path / "in"]
    for paths in (every, every[::-1]):
        assert [source.name for source in discover(paths)] == ["in/a", "in/b/v.mp4"]


def test_links_are_followed_once_and_loops_end(tmp_path):
    plant(tmp_path, "in/a/1.jpg", "else/b/1.jpg")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/again").symlink_to(tmp_path / "in/a")
    (tmp_path / "in/other").symlink_to(tmp_path / "else")
    assert [source.name for source in discover([tmp_path / "in"])] == ["in/a", "in/other/b"]


def test_the_folder_that_is_written_is_not_entered(tmp_path):
    plant(tmp_path, "in/a/1.jpg", "in/out/b/1.jpg")
    assert [source.name for source in discover([tmp_path / "in"], exclude=tmp_path / "in/out")] == ["in/a"]
    with pytest.raises(FlickerError, match="both a source and --out"):
        discover([tmp_path / "in"], exclude=tmp_path / "in")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_listed_is_reported(tmp_path):
    plant(tmp_path, "in/a/1.jpg", "in/b/1.jpg")
    (tmp_path / "in/b").chmod(0)
    try:
        assert listed(discover([tmp_path / "in"]))[1] == ("in/b", "unknown", "cannot be listed: Permission denied")
    finally:
        (tmp_path / "in/b").chmod(0o700)


def test_deep_trees_do_not_end_the_search(tmp_path):
    depth = sys.getrecursionlimit() + 50
    deepest = str(tmp_path)
    for _ in range(depth):
        deepest += "/d"
        Path(deepest).mkdir()
    image = Path(deepest, "1.jpg")
    image.touch()
    try:
        assert [source.kind for source in discover([tmp_path])] == ["folder"]
    finally:  # pytest could not remove it
        image.unlink()
        while Path(deepest) != tmp_path:
            Path(deepest).rmdir()
            deepest = deepest[:-2]


def source_of(path, kind="folder"):
    return Source(path, path.name, kind)


def test_a_fingerprint_sees_every_name_and_size_and_sampled_contents(tmp_path):
    folder = make_folder(tmp_path / "a", range(40))
    before = identity(source_of(folder))
    assert before == identity(source_of(folder.rename(tmp_path / "moved")))
    folder = tmp_path / "moved"
    names = image_names(folder)
    for name in (names[0], names[-1]):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(kept + b"x")
        assert identity(source_of(folder)) != before
        (folder / name).write_bytes(kept)
    (folder / names[0]).write_bytes((folder / names[0]).read_bytes()[:-1] + b"!")
    assert identity(source_of(folder)) != before


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 70))
def test_at_most_16_files_are_read(tmp_path_factory, count):
    folder = tmp_path_factory.mktemp("f")
    for number in range(count):
        (folder / f"{number:03d}.jpg").write_bytes(b"a")
    whole = identity(source_of(folder))
    changed = 0
    for number in range(count):
        (folder / f"{number:03d}.jpg").write_bytes(b"b")
        changed += identity(source_of(folder)) != whole
        (folder / f"{number:03d}.jpg").write_bytes(b"a")
    assert changed == min(count, SAMPLED_FILES)


def test_fingerprints_of_different_sources_differ(tmp_path):
    folders = [make_folder(tmp_path / str(number), range(number + 1)) for number in range(5)]
    sources = [*map(source_of, folders), source_of(tmp_path / "gone.mp4", "video")]
    assert len({identity(source) for source in sources}) == 6
