"""Byte ranges from S3."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.locations import open_store
from shards.store import StoreError
from tests.shards.servers import FAULTS, KEYS, Server, http_server, quick, s3_server, upload

DATA = random.Random(2).randbytes(120_001)
BLOCK = 4096
MANY = [f"shard-{number:06d}.idx" for number in range(25)]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[tuple[str, int]]:
    with s3_server() as address:
        upload(address, "bucket", "data/set", {"a.tar": DATA, "b.tar": DATA[:5000], "empty": b""})
        yield address


@pytest.fixture
def server(endpoint: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with faults in front of moto; credentials and endpoint are in the environment."""
    with http_server(upstream=endpoint) as running:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": running.url, "AWS_EC2_METADATA_DISABLED": "true"}.items():
            monkeypatch.setenv(name, value)
        yield running


def test_reads_hints_and_sizes(server: Server, tmp_path: Path) -> None:
    store = quick("s3://bucket/data/set/", tmp_path)
    assert store.remote
    assert store.sizes(["a.tar", "empty", "none"]) == {"a.tar": len(DATA), "empty": 0}
    assert store.read_all("b.tar") == DATA[:5000]
    server.requests.clear()
    assert store.read("a.tar", 5000, 50_000) == DATA[5000:55_000]
    assert store.read("a.tar", 119_000, 1001) == DATA[119_000:]
    assert [(start, end) for _, start, end in server.requests] == [
        (5000, 55_000),
        (29 * BLOCK, 30 * BLOCK),
    ]
    with pytest.raises(StoreError, match="it ends at byte 120001"):
        store.read("a.tar", 119_000, 2000)
    with pytest.raises(StoreError, match="it ends at byte"):
        store.read("b.tar", 10**6, 1)
    store.close()


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "slow"])
def test_passing_faults_are_tried_again(server: Server, tmp_path: Path, fault: str) -> None:
    store = quick("s3://bucket/data/set", tmp_path)
    server.faults = [fault] * 3
    assert store.read("a.tar", 9000, 30_000) == DATA[9000:39_000]
    assert store.counts["retries"] == 3
    assert len(server.requests) == 4, "only the store tries again"
    store.close()


def test_lasting_faults(server: Server, tmp_path: Path) -> None:
    store = quick("s3://bucket/data/set", tmp_path, attempts=2)
    with pytest.raises(StoreError, match=r"s3://bucket/data/set/none\.tar is missing"):
        store.read("none.tar", 0, 1)
    with pytest.raises(StoreError, match=r"is missing"):
        quick("s3://no-such-bucket/data", tmp_path).sizes(["a.tar"])
    server.statuses["a.tar"] = 403
    with pytest.raises(StoreError, match=r"no permission to read s3://bucket/data/set/a\.tar"):
        store.read("a.tar", 0, 1)
    server.statuses["b.tar"] = 503
    with pytest.raises(StoreError, match="tried 2 times"):
        store.read("b.tar", 0, 1)
    server.statuses["bucket"] = 403  # listing
    assert store.sizes(["a.tar"]) is None
    store.close()


def test_no_server(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"connection failed .*tried 2 times"):
        quick("s3://bucket/data/set", tmp_path, attempts=2).read("a.tar", 0, 1)


def test_no_credentials(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StoreError, match="credentials") as caught:
        open_store("s3://bucket/data/set", cache_dir=tmp_path).read("a.tar", 0, 1)
    assert "\n" not in str(caught.value)


def test_a_long_listing_has_all_pages(
    endpoint: tuple[str, int], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    upload(endpoint, "bucket", "many", dict.fromkeys(MANY, b"12"))
    store = quick("s3://bucket/many", tmp_path)
    before = server.listings
    assert store.sizes([*MANY, "none"]) == dict.fromkeys(MANY, 2)
    assert server.listings == before + 3
    store.close()
