"""Byte ranges of a local folder."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shards.store
from shards.errors import UsageError
from shards.locations import open_store
from shards.store import LocalStore, Store, StoreError

DATA = bytes(range(251)) * 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.tar").write_bytes(DATA)
    (tmp_path / "b.tar").write_bytes(DATA[:100])
    (tmp_path / "empty").write_bytes(b"")
    return tmp_path


def open_files() -> int:
    """Descriptors of this process."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the store waited; nothing waits."""
    waited: list[float] = []
    monkeypatch.setattr(shards.store.time, "sleep", waited.append)
    return waited


@settings(max_examples=60, deadline=None)
@given(start=st.integers(0, len(DATA)), length=st.integers(0, len(DATA)))
def test_reads_equal_slices(tmp_path_factory: pytest.TempPathFactory, start: int, length: int) -> None:
    folder = tmp_path_factory.mktemp("store")
    (folder / "a").write_bytes(DATA)
    length = min(length, len(DATA) - start)
    assert LocalStore(folder).read("a", start, length) == DATA[start : start + length]


def test_whole_files_and_sizes(folder: Path) -> None:
    store = open_store(folder)
    assert not store.remote
    assert store.read_all("a.tar") == DATA
    assert store.read_all("empty") == b""
    assert store.sizes(["a.tar", "empty", "none"]) == {"a.tar": len(DATA), "empty": 0}
    assert store.counts["bytes_read"] == len(DATA)


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_opened_anew_with_its_arguments(folder: Path, prefix: str) -> None:
    store = open_store(f"{prefix}{folder}")
    again = open_store(**json.loads(json.dumps(store.arguments())))
    assert again.read("b.tar", 5, 7) == DATA[5:12]


def test_files_stay_open_up_to_a_limit(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number}").write_bytes(bytes([number % 256]) * 100)
    store = LocalStore(tmp_path)
    faults: list[str] = []

    def work(offset: int) -> None:
        for number in range(900):
            number = (number * 7 + offset) % 300
            if store.read(f"{number}", 10, 50) != bytes([number % 256]) * 50:
                faults.append(f"{number}")

    before = open_files()
    threads = [threading.Thread(target=work, args=(37 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert open_files() - before <= shards.store.OPEN_FILES
    store.close()
    assert open_files() == before


def test_a_cut_file_is_named_with_its_end(folder: Path, pauses: list[float]) -> None:
    store = LocalStore(folder)
    with pytest.raises(StoreError, match=r"b\.tar at byte 90: it ends at byte 100, before byte 110: .*--verify$"):
        store.read("b.tar", 90, 20)
    assert 0 < sum(pauses) < 2
    pauses.clear()
    with pytest.raises(StoreError):
        store.read("b.tar", 500, 20)
    assert pauses == [], "the file's end is known"
    assert store.read("b.tar", 80, 20) == DATA[80:100], "what is there can be read"


def test_a_lost_file_fails_at_once_for_some_seconds(
    folder: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(folder)
    with pytest.raises(StoreError, match=r"none\.tar at byte 0: No such file"):
        store.read("none.tar", 0, 1)
    assert store.counts["retries"] == 3
    pauses.clear()
    (folder / "none.tar").write_bytes(DATA)
    with pytest.raises(StoreError):
        store.read("none.tar", 7, 1)
    assert pauses == []
    now = shards.store.time.monotonic()
    monkeypatch.setattr(shards.store.time, "monotonic", lambda: now + 6)
    assert store.read("none.tar", 7, 1) == DATA[7:8]


@pytest.mark.parametrize("fault", ["short", "error"])
def test_passing_faults_are_tried_again(
    folder: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    real, calls = os.pread, []

    def pread(descriptor: int, length: int, offset: int) -> bytes:
        calls.append(offset)
        if len(calls) > (2 if fault == "error" else 4):
            return real(descriptor, length, offset)
        if fault == "error":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return b""

    monkeypatch.setattr(shards.store.os, "pread", pread)
    store = LocalStore(folder)
    assert store.read("a.tar", 3, 9) == DATA[3:12]
    assert store.counts["retries"] == 2 == len(pauses)


def test_a_read_in_pieces_is_put_together(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pread
    monkeypatch.setattr(shards.store.os, "pread", lambda file, length, start: real(file, min(length, 3), start))
    assert LocalStore(folder).read("a.tar", 3, 100) == DATA[3:103]


def test_a_bad_sector_costs_only_its_bytes(
    folder: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pread

    def pread(descriptor: int, length: int, offset: int) -> bytes:
        if offset <= 5000 < offset + length:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor, length, offset)

    monkeypatch.setattr(shards.store.os, "pread", pread)
    store = LocalStore(folder)
    with pytest.raises(StoreError, match="at byte 4990: Input/output error"):
        store.read("a.tar", 4990, 20)
    assert store.read("a.tar", 10, 20) == DATA[10:30]
    pauses.clear()
    with pytest.raises(StoreError):
        store.read("a.tar", 4990, 20)
    assert pauses == []


def test_a_replaced_file_is_opened_anew_after_forget(folder: Path) -> None:
    store = LocalStore(folder)
    assert store.read("b.tar", 0, 4) == DATA[:4]
    (folder / "new").write_bytes(b"new data")
    (folder / "new").replace(folder / "b.tar")
    store.forget("b.tar", 0, 4)
    assert store.read("b.tar", 0, 4) == b"new "


def test_a_file_that_was_completed_meanwhile_is_read(folder: Path, pauses: list[float]) -> None:
    store = LocalStore(folder)
    store.read("b.tar", 0, 4)
    (folder / "new").write_bytes(DATA)
    (folder / "new").replace(folder / "b.tar")
    assert store.read("b.tar", 200, 4) == DATA[200:204]
    assert len(pauses) == 1


def test_hints_raise_nothing(folder: Path) -> None:
    store: Store = LocalStore(folder)
    store.hint("a.tar", 0, 10**9)
    store.hint("none.tar", 0, 1)
    store.hint("a.tar", -5, 1)
    store.forget("none.tar", 0, 1)
    assert store.read("a.tar", 0, 5) == DATA[:5]


def test_missing_folder_and_file_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot read .*manifest\.json: No such file"):
        open_store(tmp_path / "nowhere").read_all("manifest.json")
    with pytest.raises(StoreError, match="cannot list"):
        open_store(tmp_path / "nowhere").sizes(["a"])


def test_values_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cache_bytes 1000 is too small"):
        open_store("http://127.0.0.1:1/", cache_dir=tmp_path, cache_bytes=1000)
    with pytest.raises(UsageError, match="attempts 0"):
        open_store("http://127.0.0.1:1/", cache_dir=tmp_path, attempts=0)
    with pytest.raises(UsageError, match="timeout"):
        open_store("http://127.0.0.1:1/", cache_dir=tmp_path, timeout=0)
