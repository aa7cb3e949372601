"""Byte ranges over HTTP, with faults."""

from __future__ import annotations

import builtins
import itertools
import json
import logging
import multiprocessing
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import shards.blockcache
from shards.locations import open_store
from shards.remote import HINTS, RemoteStore
from shards.store import StoreError, without_secrets
from tests.shards.servers import FAULTS, Server, disk_bytes, http_server, quick, read_randomly

BLOCK = 4096
DATA = random.Random(1).randbytes(150_001)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "a.tar").write_bytes(DATA)
    (folder / "b.tar").write_bytes(DATA[: 2 * BLOCK])
    (folder / "empty").write_bytes(b"")
    return folder


@pytest.fixture
def server(files: Path) -> Iterator[Server]:
    with http_server(files) as running:
        yield running


@pytest.fixture
def store(server: Server, tmp_path: Path) -> Iterator[RemoteStore]:
    opened = quick(server.url, tmp_path / "cache")
    yield opened
    opened.close()


def landed(store: RemoteStore, size: int) -> None:
    """Wait until this many bytes have been fetched."""
    for _ in range(2000):
        if store.counts["bytes_fetched"] >= size and not store._flights:
            return
        time.sleep(0.005)
    raise AssertionError("the hint did not come")


@pytest.mark.parametrize(
    ("start", "length"),
    [(0, 1), (0, BLOCK), (BLOCK - 1, 2), (BLOCK - 9, 9), (5, 50_000), (150_000, 1), (149_000, 1001), (77, 0)],
)
def test_one_request_for_neighbouring_blocks(store: RemoteStore, server: Server, start: int, length: int) -> None:
    assert store.read("a.tar", start, length) == DATA[start : start + length]
    assert len(server.requests) == (1 if length else 0)
    assert store.read("a.tar", start, length) == DATA[start : start + length]
    assert len(server.requests) == store.counts["requests"] == (1 if length else 0)
    blocks = {byte // BLOCK for byte in range(start, start + length)}
    assert server.bytes_asked() == (length if length >= BLOCK else len(blocks) * BLOCK)


def test_only_what_is_missing_is_fetched(store: RemoteStore, server: Server) -> None:
    store.read("a.tar", 3 * BLOCK, 2 * BLOCK)
    assert store.read("a.tar", 0, 10 * BLOCK) == DATA[: 10 * BLOCK]
    assert server.requests[1:] == [("a.tar", 0, 3 * BLOCK), ("a.tar", 5 * BLOCK, 10 * BLOCK)]
    assert store.counts["cache_hits"] == 2
    assert store.counts["bytes_fetched"] == 10 * BLOCK


def test_whole_files(server: Server, tmp_path: Path) -> None:
    store = quick(server.url, tmp_path, version="1")
    assert store.read_all("a.tar") == DATA
    assert store.read_all("empty") == b""
    assert store.sizes(["a.tar"]) is None
    count = len(server.requests)
    assert store.read_all("a.tar") == DATA
    assert len(server.requests) == count
    store.forget("a.tar", 0, 1)
    assert store.read_all("a.tar") == DATA
    assert len(server.requests) == count + 1


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "slow"])
@pytest.mark.parametrize("times", [1, 4])
def test_passing_faults_are_tried_again(store: RemoteStore, server: Server, fault: str, times: int) -> None:
    server.faults = [fault] * times
    assert store.read("a.tar", 9000, 30_000) == DATA[9000:39_000]
    assert store.counts["retries"] == times
    assert len(server.requests) == times + 1
    server.faults = [fault] * times
    assert store.read_all("b.tar") == DATA[: 2 * BLOCK]
    assert store.counts["retries"] == 2 * times


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("busy", "the server answered 503"),
        ("drop", "the connection broke"),
        ("short", "4096 of 8192 bytes"),
        ("long", "8196 of 8192 bytes"),
        ("lie", "4096 of 8192 bytes"),
    ],
)
def test_lasting_faults_end_after_the_attempts(store: RemoteStore, server: Server, fault: str, reason: str) -> None:
    server.faults = [fault] * 100
    with pytest.raises(StoreError, match=rf"a\.tar at byte 0: {reason}.*, tried 5 times: check") as caught:
        store.read("a.tar", 0, 2 * BLOCK)
    assert "\n" not in str(caught.value)
    assert len(server.requests) == 5
    with pytest.raises(StoreError):
        store.read("a.tar", 0, 2 * BLOCK)
    assert len(server.requests) == 5, "it fails at once for some seconds"
    server.faults.clear()
    assert store.read("b.tar", 0, 9) == DATA[:9]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    block=st.sampled_from([1000, 4096, 65_536, 262_144]),
    limit=st.integers(30_000, 400_000),
    share=st.sampled_from([0.0, 0.3]),
    reads=st.lists(st.tuples(st.integers(0, len(DATA)), st.integers(0, 60_000), st.booleans()), max_size=12),
)
def test_random_reads_equal_slices(
    server: Server,
    tmp_path_factory: pytest.TempPathFactory,
    block: int,
    limit: int,
    share: float,
    reads: list[tuple[int, int, bool]],
) -> None:
    server.share = share
    cache = tmp_path_factory.mktemp("cache")
    store = quick(server.url, cache, block_bytes=block, cache_bytes=limit, attempts=30, pause=0.0001)
    for start, length, hinted in reads:
        length = min(length, len(DATA) - start)
        if hinted:
            store.hint("a.tar", start, length)
        assert store.read("a.tar", start, length) == DATA[start : start + length]
    store.close()


def test_a_hint_spares_the_read_a_request(store: RemoteStore, server: Server) -> None:
    store.hint("a.tar", 100, 60_000)
    landed(store, 60_000)
    assert store.read("a.tar", 100, 60_000) == DATA[100:60_100]
    assert server.requests == [("a.tar", 100, 60_100)]
    store.hint("a.tar", 100, 60_000)
    store.hint("a.tar", 50_000, 30_000)
    landed(store, 79_900)
    assert server.requests[1:] == [("a.tar", 60_100, 80_000)]


def test_stretches_of_a_block_grow_together(store: RemoteStore, server: Server) -> None:
    """Only a small gap between them is fetched too; nothing is fetched twice."""
    for start, end in ((8000, 18_000), (21_000, 30_000), (0, 7500), (18_500, 20_600)):
        before = store.counts["bytes_fetched"]
        store.hint("a.tar", start, end - start)
        landed(store, before + end - start)
        assert store.read("a.tar", start, end - start) == DATA[start:end]
    assert server.requests == [
        ("a.tar", 8000, 18_000),
        ("a.tar", 21_000, 30_000),  # of another block: the gap stays
        ("a.tar", 0, 8000),
        ("a.tar", 18_000, 21_000),
    ]
    assert store.read("a.tar", 0, 30_000) == DATA[:30_000]
    assert len(server.requests) == 4


def test_neighbouring_clips_in_any_order_are_fetched_once(store: RemoteStore, server: Server) -> None:
    edges = [*range(0, len(DATA), 5555), len(DATA)]
    clips = list(itertools.pairwise(edges))
    random.Random(3).shuffle(clips)
    used = 0
    for start, end in clips:
        store.hint("a.tar", start + 100, end - start - 100)  # a header that nobody reads
        used += end - start - 100
        landed(store, used)
    for start, end in clips:
        for frame in range(start + 100, end, 500):
            length = min(500, end - frame)
            assert store.read("a.tar", frame, length) == DATA[frame : frame + length]
    assert used <= server.bytes_asked() <= len(DATA)
    assert len(server.requests) <= len(clips)


def test_a_read_waits_for_the_hint_that_is_under_way(store: RemoteStore, server: Server) -> None:
    server.delay = 0.3
    store.hint("a.tar", 0, 40_000)
    while not server.requests:
        time.sleep(0.002)
    assert store.read("a.tar", 10_000, 20_000) == DATA[10_000:30_000]
    assert len(server.requests) == 1
    assert store.read("a.tar", 30_000, 20_000) == DATA[30_000:50_000], "half of it is another request's"
    assert server.requests[1:] == [("a.tar", 40_000, 50_000)]


def test_a_failed_hint_is_tried_by_the_read(server: Server, tmp_path: Path) -> None:
    store = quick(server.url, tmp_path, attempts=1)
    server.statuses["a.tar"] = 503
    store.hint("a.tar", 0, 10)
    while not store._lost:
        time.sleep(0.002)
    server.statuses.clear()
    with pytest.raises(StoreError):
        store.read("a.tar", 0, 10)
    store._lost.clear()  # the seconds have passed
    assert store.read("a.tar", 0, 10) == DATA[:10]


def test_hints_never_wait(store: RemoteStore, server: Server) -> None:
    server.delay = 0.5
    for number in range(HINTS + 100):
        store.hint("a.tar", number, 1)
    assert 80 <= store.counts["hints_dropped"] <= 100
    store.hint("none", -1, 5)
    store.hint("none", 10**12, 5)


def test_many_threads_fetch_each_block_once(store: RemoteStore, server: Server) -> None:
    server.delay = 0.02
    wrong: list[int] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(30):
            start = chance.randrange(len(DATA) - 30_000)
            if store.read("a.tar", start, 30_000) != DATA[start : start + 30_000]:
                wrong.append(start)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert store.counts["bytes_fetched"] <= len(DATA)


def test_kept_blocks_outlive_the_server(files: Path, tmp_path: Path) -> None:
    with http_server(files) as server:
        store = quick(server.url, tmp_path, version="digest")
        store.read("a.tar", 0, 100_000)
        store.read_all("b.tar")
        store.close()
    again = quick(server.url, tmp_path, version="digest", attempts=1)
    assert again.read("a.tar", 5000, 90_000) == DATA[5000:95_000]
    assert again.read_all("b.tar") == DATA[: 2 * BLOCK]
    assert again.counts["requests"] == 0
    with pytest.raises(StoreError, match="cannot connect"):
        again.read("a.tar", 120_000, 10)


def test_another_version_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    for version in ("1", "2", "", ""):
        before = len(server.requests)
        quick(server.url, tmp_path, version=version).read("a.tar", 0, 10)
        assert len(server.requests) == before + 1
    quick(server.url, tmp_path, version="1").read("a.tar", 0, 10)
    assert len(server.requests) == before + 1


def test_without_a_version_whole_files_are_not_kept(store: RemoteStore, server: Server, tmp_path: Path) -> None:
    assert store.read_all("b.tar") == store.read_all("b.tar") == DATA[: 2 * BLOCK]
    assert len(server.requests) == 2
    assert not (tmp_path / "cache").exists() or not disk_bytes(tmp_path / "cache")


def test_a_cache_folder_that_cannot_be_made(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot make the cache folder .*: Not a directory: give another"):
        open_store(server.url, cache_dir=tmp_path / "file" / "blocks")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    store = open_store(server.url)  # where nobody asked for it, it is no error
    assert store.read("a.tar", 0, 5) == DATA[:5]
    assert "reading goes on without it" in caplog.text
    assert open_store(**store.arguments()).read("a.tar", 0, 5) == DATA[:5]


def test_stores_with_the_same_arguments_share_blocks(server: Server, tmp_path: Path) -> None:
    first = open_store(server.url, cache_dir=tmp_path)
    first.read("a.tar", 0, 10)
    second = open_store(**json.loads(json.dumps(first.arguments())))
    assert second.read("a.tar", 0, 10) == DATA[:10]
    assert len(server.requests) == 1


def test_a_damaged_block_is_forgotten(store: RemoteStore, server: Server, tmp_path: Path) -> None:
    store.read("a.tar", 0, 20_000)
    blocks = [path for path in (tmp_path / "cache").rglob("*-1") if path.is_file()]
    damaged = bytearray(blocks[0].read_bytes())
    damaged[10] ^= 1
    blocks[0].write_bytes(damaged)
    assert store.read("a.tar", 0, 20_000) != DATA[:20_000], "checksums are the reader's"
    store.forget("a.tar", BLOCK, 20)
    assert store.read("a.tar", 0, 20_000) == DATA[:20_000]
    assert server.requests[1:] == [("a.tar", BLOCK, 2 * BLOCK)]


@pytest.mark.parametrize("left", [0, 100])
def test_a_block_cut_on_disk_is_fetched_anew(store: RemoteStore, tmp_path: Path, left: int) -> None:
    store.read("a.tar", 0, 20_000)
    for path in (tmp_path / "cache").rglob("*-2"):
        path.write_bytes(path.read_bytes()[:left])
    assert store.read("a.tar", 0, 20_000) == DATA[:20_000]
    assert store.counts["requests"] == 2


def test_two_processes_hold_the_bound(files: Path, tmp_path: Path) -> None:
    limit = 60_000
    with http_server(files) as server:
        server.share = 0.05
        context = multiprocessing.get_context("spawn")
        arguments = (server.url, str(tmp_path), str(files / "a.tar"))
        processes = [context.Process(target=read_randomly, args=(*arguments, seed, limit, 80)) for seed in (1, 2)]
        for process in processes:
            process.start()
        most = 0
        while any(process.is_alive() for process in processes):
            most = max(most, disk_bytes(tmp_path))
            time.sleep(0.002)
        assert [process.exitcode for process in processes] == [0, 0]
    assert limit // 2 < most <= limit + 2 * limit // 16 + 2 * 10 * BLOCK  # and what ten threads have in hand


def test_reading_goes_on_without_a_cache(
    store: RemoteStore, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards.blockcache.os, "write", full)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert store.read("a.tar", 5000, 10) == DATA[5000:5010]
    assert len(caplog.records) == 1
    assert server.requests[1:] == [("a.tar", 5000, 5010)] * 2, "no more than what is used"
    store.hint("a.tar", 0, 50_000)
    assert len(server.requests) == 3
    with pytest.raises(StoreError, match="ends at byte 150001"):
        store.read("a.tar", 150_000, 5)


def test_missing_and_forbidden_files(store: RemoteStore, server: Server) -> None:
    with pytest.raises(StoreError, match=r"/none\.tar is missing: "):
        store.read("none.tar", 0, 5)
    server.statuses["a.tar"] = 403
    with pytest.raises(StoreError, match=r"no permission to read .*/a\.tar: "):
        store.read("a.tar", 0, 5)
    server.statuses["b.tar"] = 418
    with pytest.raises(StoreError, match=r"b\.tar: the server answered 418"):
        store.read_all("b.tar")
    assert len(server.requests) == 3
    assert store.counts["retries"] == 0


def test_the_end_of_a_file(store: RemoteStore, server: Server) -> None:
    for start, length in ((150_000, 2), (150_001, 1), (10**9, 7)):
        store._lost.clear()
        with pytest.raises(StoreError, match="it ends at byte"):
            store.read("a.tar", start, length)
    assert store.read("a.tar", 149_000, 1001) == DATA[149_000:]
    with pytest.raises(StoreError, match="it ends at byte"):
        store.read("b.tar", 0, 2 * BLOCK + 1)
    assert store.read("b.tar", 0, 2 * BLOCK) == DATA[: 2 * BLOCK]


def test_a_server_without_ranges_is_refused(store: RemoteStore, server: Server) -> None:
    server.ranges = False
    with pytest.raises(StoreError, match="ignores Range requests: use another server, or copy"):
        store.read("a.tar", 0, 5)
    assert len(server.requests) == 1


def test_a_server_that_is_silent_is_given_up(server: Server, tmp_path: Path) -> None:
    server.delay = 1.0
    store = quick(server.url, tmp_path, timeout=0.05, attempts=2)
    with pytest.raises(StoreError, match="no answer in time, tried 2 times"):
        store.read("a.tar", 0, 5)


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(StoreError, match=r"cannot connect \(.*\), tried 2 times"):
        quick(url, tmp_path, attempts=2).read("a.tar", 0, 5)


def test_secrets_are_sent_but_not_shown(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.url.replace("//", "//user:pass@word@") + "/data?token=hidden"
    caplog.set_level(logging.DEBUG, logger="shards")
    store = quick(url, tmp_path, attempts=2, version="1")
    assert store.read("a.tar", 0, 5) == DATA[:5]
    assert server.headers[0]["Authorization"].startswith("Basic ")
    server.share, server.kinds = 1.0, ("busy",)
    texts = [repr(store), store.location]
    for name in ("a.tar", "none.tar"):
        store.hint(name, 100_000, 5)
        with pytest.raises(StoreError) as caught:
            store.read(name, 50_000, 5)
        texts.append(str(caught.value))
    shown = "\n".join([*texts, caplog.text, *(str(path) for path in tmp_path.rglob("*"))])
    assert not any(secret in shown for secret in ("pass", "word", "token", "hidden", "user"))
    assert store.arguments()["location"] == url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:p@host/x/y?sig=1#f", "https://host/x/y"),
        ("s3://bucket/key", "s3://bucket/key"),
        ("http://u:a?b@host/x", "http://host/x"),
    ],
)
def test_without_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


@pytest.mark.parametrize(
    ("url", "missing", "advice"),
    [
        (
            "s3://bucket/data",
            "s3fs",
            r"reading s3://bucket/data needs fsspec and s3fs: pip install -e '\.\[remote\]'",
        ),
        ("https://host/data", "aiohttp", r"needs fsspec and aiohttp: pip install -e '\.\[remote\]'"),
        ("s3://bucket/data", "fsspec", "needs fsspec and s3fs"),
        ("nothing://x/y", "", "reading nothing://x/y is not possible: .*check the location"),
    ],
)
def test_missing_packages_and_unknown_urls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, missing: str, advice: str
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if missing and name.partition(".")[0] == missing:
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(StoreError, match=advice):
        open_store(url, cache_dir=tmp_path)


def test_any_url_of_fsspec(tmp_path: Path) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe({"/flicker/data/a.tar": DATA})
    store = quick("memory://flicker/data", tmp_path)
    assert store.read("a.tar", 149_000, 1001) == DATA[149_000:]
    assert store.read_all("a.tar") == DATA
    assert store.sizes(["a.tar", "b.tar"]) == {"a.tar": len(DATA)}
    with pytest.raises(StoreError, match="it ends at byte 150001"):
        store.read("a.tar", 149_000, 2000)
    with pytest.raises(StoreError, match="missing"):
        store.read("b.tar", 0, 1)


def test_closed_and_used_again(store: RemoteStore, server: Server) -> None:
    store.hint("a.tar", 0, 5)
    landed(store, 5)
    store.close()
    store.close()
    assert store.read("a.tar", 50_000, 5) == DATA[50_000:50_005]
    store.hint("a.tar", 90_000, 5)
    landed(store, BLOCK + 10)
    assert len(server.requests) == 3


def test_a_forked_process_is_told_to_open_its_own(store: RemoteStore) -> None:
    store._process = os.getpid() + 1
    with pytest.raises(StoreError, match="opened in another process"):
        store.read("a.tar", 0, 5)
    store.hint("a.tar", 0, 5)
    assert store._hints is None
