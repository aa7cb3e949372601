"""The manifest: what a shard folder holds, and its name as a data set (`digest`)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from shards import tails
from shards.errors import FlickerError
from shards.files import atomic_path, write_text
from shards.locations import open_store
from shards.schema import FORMAT, TAILS, VERSION, Options, ShardInfo, SourceReport, known
from shards.store import Store, StoreError, without_secrets

MANIFEST = "manifest.json"
_HEAD = re.compile(rb'\{\n "digest": "([0-9a-f]{64})",\n')


class ShardTable(Sequence[ShardInfo]):
    """The shards of a manifest in columns: 150 bytes each, however many there are."""

    def __init__(self, records: Sequence[dict[str, Any]]):
        self._text = {name: np.array([r[name] for r in records], "S") for name in ("name", "index")}
        self._text |= {name: np.array([r[name] for r in records], "S64") for name in ("sha256", "index_sha256")}
        self._numbers = {
            name: np.array([r[name] for r in records], np.int64) for name in ("bytes", "clips", "frames")
        }

    def __len__(self) -> int:
        return len(self._numbers["bytes"])

    @overload
    def __getitem__(self, at: int) -> ShardInfo: ...

    @overload
    def __getitem__(self, at: slice) -> list[ShardInfo]: ...

    def __getitem__(self, at: int | slice) -> ShardInfo | list[ShardInfo]:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        fields: dict[str, Any] = {name: bytes(column[at]).decode() for name, column in self._text.items()}
        fields.update({name: int(column[at]) for name, column in self._numbers.items()})
        return ShardInfo(**fields)

    def text(self, name: str) -> list[str]:
        """A column of text: name, index, sha256 or index_sha256."""
        return self._text[name].astype(str).tolist()

    def numbers(self, name: str) -> list[int]:
        """A column of numbers: bytes, clips or frames."""
        return self._numbers[name].tolist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


class Manifest:
    """A finished shard folder (or its copy behind a URL). `digest` (SHA-256 of everything else in it) names it."""

    def __init__(self, location: str, digest: str, record: dict[str, Any]):
        self.location, self.digest = location, digest
        self.options: dict[str, Any] = record["options"]
        self.shards = ShardTable(record["shards"])
        self.frames: int = record["frames"]
        self.clips: int = record["clips"]
        self.bytes: int = record["bytes"]
        self._tails: dict[str, str] = record["tails"]

    @property
    def name(self) -> str:
        """The location for messages, without secrets that a URL may hold."""
        return without_secrets(self.location)

    @property
    def directory(self) -> Path:
        """The folder. Raises FlickerError where the shards are behind a URL."""
        if "://" in self.location:
            raise FlickerError(f"{self.name} is not a folder: copy the shards to a local one for this")
        return Path(self.location)

    @cached_property
    def sources(self) -> list[SourceReport]:
        """What became of every source; read from the file when first asked for (readers never are)."""
        digest, record = _load(self.location)
        if digest != self.digest:
            raise FlickerError(f"{self.name}/{MANIFEST} was written anew meanwhile: start again")
        return [SourceReport(**known(SourceReport, source)) for source in record["sources"]]

    @property
    def failures(self) -> list[SourceReport]:
        """The sources that were skipped, each with its reason."""
        return [source for source in self.sources if source.status != "ok"]

    @property
    def fallbacks(self) -> list[SourceReport]:
        """The videos that PyAV read because decord disagreed with the container."""
        return [source for source in self.sources if source.fallback]

    def tails(self, store: Store | None = None) -> tails.Tails:
        """How many frames have how many after them. Raises FlickerError if the file is missing or damaged."""
        opened = store or open_store(self.location)
        try:
            data = opened.read_all(self._tails["file"])
        finally:
            if store is None:
                opened.close()
        if hashlib.sha256(data).hexdigest() != self._tails["sha256"]:
            raise FlickerError(
                f"{self.name}/{self._tails['file']}: its SHA-256 differs from the manifest's: restore it, or "
                "write the folder again"
            )
        return tails.decode(data, f"{self.name}/{self._tails['file']}")

    def coverage(self, delta: int) -> float:
        """Share of the stored frames that at least `delta` frames (1 to 128) follow in their run."""
        rows = self.tails()
        low = np.full(len(rows.shard), delta, np.int64)
        return float(rows.anchors(low, len(self.shards)).sum() / max(self.frames, 1))


def write_manifest(
    directory: Path,
    options: Options,
    shards: Sequence[ShardInfo],
    sources: Sequence[SourceReport],
    counts: tails.Tails,
) -> Manifest:
    """Write the tails, then `manifest.json` (which is what makes a folder finished), and return it."""
    data = tails.encode(counts)
    with atomic_path(directory / TAILS) as temporary:
        temporary.write_bytes(data)
    record = {
        "format": FORMAT,
        "version": VERSION,
        "clips": sum(shard.clips for shard in shards),
        "frames": sum(shard.frames for shard in shards),
        "bytes": sum(shard.bytes for shard in shards),
        "failures": sum(source.status != "ok" for source in sources),
        "fallbacks": sum(bool(source.fallback) for source in sources),
        "options": options.record(),
        "tails": {"file": TAILS, "sha256": hashlib.sha256(data).hexdigest()},
        "shards": [asdict(shard) for shard in shards],
        "sources": [asdict(source) for source in sources],
    }
    body = json.dumps(record, indent=1)[2:] + "\n"  # without its "{\n"
    digest = hashlib.sha256(body.encode()).hexdigest()
    write_text(directory / MANIFEST, f'{{\n "digest": "{digest}",\n{body}')
    return Manifest(str(directory), digest, record)


def read_manifest(location: str | Path) -> Manifest:
    """Read and check the manifest of a shard folder, or of one behind a URL.

    Raises FlickerError: no such file, not JSON, another format or version, or changed since it was written.
    """
    digest, record = _load(str(location))
    return Manifest(str(location), digest, record)


def _load(location: str) -> tuple[str, dict[str, Any]]:
    """Digest and contents of a manifest, checked."""
    name = f"{without_secrets(location)}/{MANIFEST}"
    store = open_store(location)
    try:
        data = store.read_all(MANIFEST)
    except StoreError:
        if not store.remote and not (Path(location) / MANIFEST).exists():
            raise _absent(Path(location)) from None
        raise
    finally:
        store.close()
    head = _HEAD.match(data)
    try:
        record = json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FlickerError(f"shard manifest is not valid JSON: {name}: {error}") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise FlickerError(f"{name} is not a shard manifest: write the folder with launch/shard.py")
    if record.get("version") != VERSION:
        raise FlickerError(
            f"{name} has version {record.get('version')}, this Flicker reads {VERSION}: write it again"
        )
    if head is None or hashlib.sha256(data[head.end() :]).hexdigest() != head[1].decode():
        raise FlickerError(f"{name} was changed after it was written (its digest differs): write the folder again")
    return head[1].decode(), record


def _absent(directory: Path) -> FlickerError:
    """Why there is no manifest."""
    if (directory / ".staging").exists():
        return FlickerError(f"{directory} is unfinished (no {MANIFEST}): run the same launch/shard.py command again")
    return FlickerError(f"shard manifest not found: {directory / MANIFEST}")
