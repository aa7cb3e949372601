"""PairReader on remote shards: the same batches as from the local folder, whatever the network does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from shards import FlickerError, Manifest, PairReader, read_manifest, write
from shards.index import read_index
from tests.shards.servers import KEYS, Server, http_server, s3_server, upload

SIZE = 96
RUNS = (70, 90, 45, 64)


def write_noise(folder: Path, frames: int, seed: int) -> None:
    """Frames that compress to about 10 KB each, as real ones do."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    scene = draw.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    for number in range(frames):
        picture = cv2.add(scene, draw.integers(0, 12, scene.shape, dtype=np.uint8))
        assert cv2.imwrite(str(folder / f"img{number:03d}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 95])


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    root = tmp_path_factory.mktemp("noise")
    for number, frames in enumerate(RUNS):
        write_noise(root / "in" / f"s{number}", frames, number)
    return write([root / "in"], root / "out", size=SIZE, shard_bytes=1_000_000, clip_frames=32)


@pytest.fixture
def http(local: Manifest) -> Iterator[Server]:
    with http_server(local.directory) as server:
        yield server


@pytest.fixture(scope="module")
def bucket(local: Manifest) -> Iterator[tuple[str, int]]:
    with s3_server() as address:
        upload(address, "bucket", "data", {path.name: path.read_bytes() for path in local.directory.iterdir()})
        yield address


@pytest.fixture
def s3(bucket: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with http_server(upstream=bucket) as server:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": server.url, "AWS_EC2_METADATA_DISABLED": "true"}.items():
            monkeypatch.setenv(name, value)
        yield server


def epoch(manifest: Manifest, **options: Any) -> list[tuple[list[str], torch.Tensor, torch.Tensor, torch.Tensor]]:
    """All batches of an epoch."""
    reader = PairReader(manifest, **{"seed": 3, "global_batch": 16, "window_frames": 128, **options})
    try:
        return [(list(b.keys), b.delta.clone(), b.seeds.clone(), b.frames.clone()) for b in reader]
    finally:
        reader.close()


def assert_same(one: list[Any], two: list[Any]) -> None:
    assert len(one) == len(two) > 10
    for (keys, *tensors), (other_keys, *other_tensors) in zip(one, two, strict=True):
        assert keys == other_keys
        assert all(torch.equal(a, b) for a, b in zip(tensors, other_tensors, strict=True))


@pytest.mark.parametrize("faults", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_http_gives_the_same_batches(
    local: Manifest, http: Server, tmp_path: Path, workers: int, faults: bool
) -> None:
    http.share, http.most = (1.0, 1) if faults else (0.0, 0)
    remote = read_manifest(http.url)
    assert remote.digest == local.digest
    assert_same(epoch(remote, workers=workers, cache_dir=tmp_path), epoch(local))
    if faults:
        assert min(Counter(http.requests).values()) >= 2, "each was spoiled once"


@pytest.mark.parametrize("faults", [False, True])
def test_s3_gives_the_same_batches(local: Manifest, s3: Server, tmp_path: Path, faults: bool) -> None:
    s3.share, s3.most = (1.0, 1) if faults else (0.0, 0)
    assert_same(epoch(read_manifest("s3://bucket/data"), workers=1, cache_dir=tmp_path), epoch(local))
    assert min(Counter(s3.requests).values()) >= (2 if faults else 1)


def test_hardly_more_bytes_than_the_frames_used(local: Manifest, http: Server, tmp_path: Path) -> None:
    used = sum(
        int(read_index((local.directory / shard.index).read_bytes(), shard.index).length.sum())
        for shard in local.shards
    )
    remote = read_manifest(http.url)
    first = epoch(remote, cache_dir=tmp_path)
    sent = sum(end - start for _, start, end in http.requests if start is not None and end is not None)
    assert 0.9 * used < sent <= 1.1 * used
    count = len(http.requests)
    assert_same(epoch(remote, cache_dir=tmp_path), first)
    assert {name for name, _, _ in http.requests[count:]} <= {"manifest.json"}, "all of it is kept"


def test_damaged_blocks_on_disk_are_fetched_anew(local: Manifest, http: Server, tmp_path: Path) -> None:
    remote = read_manifest(http.url)
    first = epoch(remote, cache_dir=tmp_path)
    for path in sorted(tmp_path.rglob("*-[0-9]*")):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    assert_same(epoch(remote, cache_dir=tmp_path), first)


def test_a_missing_shard_over_http_ends_reading(local: Manifest, http: Server, tmp_path: Path) -> None:
    """A plain server lists nothing, so the shard is missed when it is read."""
    http.statuses[local.shards[1].name] = 404
    with pytest.raises(FlickerError, match=f"{local.shards[1].name} is missing"):
        epoch(read_manifest(http.url), cache_dir=tmp_path)


def test_a_missing_shard_on_s3_is_named_at_the_start(
    local: Manifest, bucket: tuple[str, int], s3: Server, tmp_path: Path
) -> None:
    files = {path.name: path.read_bytes() for path in local.directory.iterdir()}
    del files[local.shards[1].name]
    upload(bucket, "bucket", "less", files)
    with pytest.raises(FlickerError, match=local.shards[1].name):
        PairReader(read_manifest("s3://bucket/less"), seed=1, global_batch=16, cache_dir=tmp_path)
    assert all(end is None for _, _, end in s3.requests), "no frame was read"


def test_rewritten_shards_are_not_read_from_the_cache(local: Manifest, tmp_path: Path) -> None:
    write_noise(tmp_path / "in" / "s0", 120, 77)
    other = write([tmp_path / "in"], tmp_path / "out", size=SIZE, shard_bytes=1_000_000, clip_frames=32)
    with http_server(local.directory) as server:
        epoch(read_manifest(server.url), cache_dir=tmp_path / "cache", global_batch=8)
        server.folder = other.directory
        now = epoch(read_manifest(server.url), cache_dir=tmp_path / "cache", global_batch=8)
    assert_same(now, epoch(other, global_batch=8))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_an_outage_ends_reading_in_one_line_and_changes_no_pair(
    local: Manifest, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is down is no reason to train on other pairs; workers take ten seconds to be sure of it."""
    monkeypatch.setattr("shards.remote.time.sleep", lambda seconds: None)
    options = {"seed": 3, "global_batch": 16, "window_frames": 16}
    with http_server(local.directory) as server:
        reader = PairReader(read_manifest(server.url), workers=workers, cache_dir=tmp_path, **options)
        batches = iter(reader)
        keys = [next(batches).keys]
        server.share = 1.0  # whatever is asked from now on fails
        with pytest.raises(FlickerError, match=r"tried 5 times: check the server and the network") as caught:
            for batch in batches:
                keys.append(batch.keys)
    assert "\n" not in str(caught.value)
    assert not reader.bad_frames
    expected = [batch.keys for batch in PairReader(local, **options)]
    assert keys == expected[: len(keys)]
    assert reader.state_dict()["step"] == len(keys)
