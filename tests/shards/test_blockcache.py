"""Blocks on disk within a bound."""

from __future__ import annotations

import errno
import logging
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shards.blockcache
from shards.blockcache import HEAD, BlockCache, default_folder
from tests.shards.servers import disk_bytes


def test_kept_bytes_come_back_in_parts(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 10**6, "area")
    cache.put("key-0", b"0123456789")
    assert cache.piece("key-0") == (0, b"0123456789")
    assert cache.get("key-0", 3, 7) == b"3456"
    assert cache.get("key-0", 8, 12) is None, "too short"
    cache.put("key-0", b"5678", low=5)
    assert cache.piece("key-0") == (5, b"5678")
    assert cache.get("key-0", 6, 8) == b"67"
    assert cache.get("key-0", 4, 8) is None
    assert [cache.covers("key-0", *span) for span in ((5, 9), (4, 6), (8, 10), (7, 8))] == [True, False, False, True]
    assert cache.piece("key-1") is None
    assert BlockCache(tmp_path, 10**6, "other").piece("key-0") is None
    cache.drop("key-0")
    cache.drop("key-0")
    assert cache.piece("key-0") is None


@settings(max_examples=25, deadline=None)
@given(
    limit=st.integers(20_000, 200_000),
    sizes=st.lists(st.integers(1, 4096), min_size=1, max_size=250),
    areas=st.integers(1, 3),
)
def test_the_bound_holds_and_the_newest_stay(
    tmp_path_factory: pytest.TempPathFactory, limit: int, sizes: list[int], areas: int
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    caches = [BlockCache(folder, limit, f"area{number}") for number in range(areas)]
    for number, size in enumerate(sizes):
        caches[number % areas].put(f"{number}-0", bytes(size))
        assert disk_bytes(folder) <= limit + (areas - 1) * limit // 16 + 4096 + 8 * number
    recent, kept = 0, 0
    for number in reversed(range(len(sizes))):  # whatever fits in half of the bound is there
        recent += sizes[number] + HEAD.size
        if recent > limit // 2:
            break
        kept += caches[number % areas].covers(f"{number}-0", 0, sizes[number])
        assert kept == len(sizes) - number


def test_the_bound_holds_for_long(tmp_path: Path) -> None:
    cache, limit, most = BlockCache(tmp_path, 200_000, "area"), 200_000, 0
    for number in range(300):
        cache.put(f"{number}-0", bytes(4000))
        most = max(most, disk_bytes(tmp_path))
    assert limit * 0.9 < most <= limit


def test_a_smaller_bound_takes_effect_on_the_first_block(tmp_path: Path) -> None:
    large = BlockCache(tmp_path, 10**6, "area")
    for number in range(100):
        large.put(f"{number}-0", bytes(1000))
    small = BlockCache(tmp_path, 20_000, "another")
    small.put("new-0", bytes(1000))
    assert disk_bytes(tmp_path) <= 20_000
    assert small.piece("new-0") is not None


def test_old_temporary_files_and_empty_folders_go(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 10**6, "area")
    cache.put("aa-0", b"1")
    (tmp_path / "gone" / "bb").mkdir(parents=True)
    stale, fresh = tmp_path / "area" / "aa" / ".1-1", tmp_path / "area" / "aa" / ".1-2"
    stale.write_bytes(b"x")
    fresh.write_bytes(b"x")
    (tmp_path / "area" / "cc").mkdir()
    os.utime(stale, (0, 0))
    for _ in range(2):
        for folder in (tmp_path / "gone" / "bb", tmp_path / "gone"):
            if folder.exists():
                os.utime(folder, (0, 0))
        cache.shrink()
    assert not stale.exists()
    assert fresh.exists()
    assert not (tmp_path / "gone").exists()
    assert (tmp_path / "area" / "cc").exists(), "somebody may be about to write to it"


def test_another_process_that_removes_folders_does_no_harm(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 10**6, "area")
    cache.put("aa-0", b"1")
    cache.drop("aa-0")
    (tmp_path / "area" / "aa").rmdir()
    (tmp_path / "area").rmdir()
    cache.put("aa-0", b"2")
    assert cache.piece("aa-0") == (0, b"2")


def test_many_threads_start_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = BlockCache(tmp_path, 10**6, "area")

    def work(thread: int) -> None:
        for number in range(50):
            cache.put(f"{(number * 7 + thread) % 23:02d}-{thread}-{number}", bytes(3000))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.writable, caplog.text
    assert disk_bytes(tmp_path) <= 10**6 + 8 * 3008


def test_a_full_disk_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = BlockCache(tmp_path, 10**6, "area")
    cache.put("aa-0", b"1")

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shards.blockcache.os, "write", full)
    with caplog.at_level(logging.WARNING):
        cache.put("aa-1", b"2")
        cache.put("aa-2", b"3")
    assert [record.message for record in caplog.records] == [
        f"the cache folder {tmp_path} cannot be written (No space left on device): reading goes on without it"
    ]
    assert not cache.writable
    assert cache.piece("aa-1") is None
    assert cache.piece("aa-0") == (0, b"1")
    assert disk_bytes(tmp_path) == HEAD.size + 1, "no temporary file is left"


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "flicker" / "blocks"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_folder() == tmp_path / "home" / ".cache" / "flicker" / "blocks"
