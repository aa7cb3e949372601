"""What is on disk: names, options, the manifest. Knows neither torch nor pixels.

A shard folder holds `manifest.json`, `shard-000000.tar` … (plain webdataset) and `shard-000000.idx` … (JSON).
One sample is one clip: `KEY.json` and `KEY.000.jpg`, `KEY.001.jpg`, … of consecutive frames.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from shards.errors import FlickerError, UsageError
from shards.files import read_json, write_json

VERSION = 1
FORMAT = "flicker-shards"
FACES = ("none", "box", "align")
LONGEST_NAME = 100  # bytes; a longer tar member name needs a PAX header, which moves the offsets


@dataclass(frozen=True)
class Options:
    """What decides the bytes of the shards (the number of workers and the tolerated failures do not)."""

    size: int = 256
    """stored frames are size × size px"""
    face: str = "none"
    """none: centre crop; box: square around the face; align: eyes, nose and mouth moved to fixed places"""
    quality: int = 95
    """JPEG quality, 4:2:0"""
    clip_frames: int = 64
    """longest clip, frames"""
    shard_bytes: int = 256 * 2**20
    """longest shard, bytes (a single longer clip gets a shard of its own)"""
    seed: int = 0
    """order of the clips over the shards"""
    min_run: int = 6
    """runs of fewer consecutive frames are left out"""
    folder_fps: float | None = None
    """frames per second of frame folders (their files do not say)"""

    def __post_init__(self) -> None:
        limits = {"size": (16, 4096), "quality": (1, 100), "clip_frames": (1, 1000), "shard_bytes": (1, 2**42)}
        for name, (low, high) in (limits | {"min_run": (1, self.clip_frames), "seed": (0, 2**63 - 1)}).items():
            if not low <= (value := getattr(self, name)) <= high:
                raise UsageError(f"{name} {value} is out of range; give {low} to {high}")
        if self.face not in FACES:
            raise UsageError(f"face '{self.face}' is unknown; give one of {', '.join(FACES)}")
        if self.folder_fps is not None and not 0 < self.folder_fps < 1e6:
            raise UsageError(f"folder_fps {self.folder_fps} is out of range; give frames per second above 0")


@dataclass(frozen=True)
class ShardInfo:
    """One shard as the manifest lists it."""

    name: str
    index: str
    bytes: int
    sha256: str
    index_sha256: str
    clips: int
    frames: int


@dataclass(frozen=True)
class SourceReport:
    """What became of one source."""

    name: str
    """path below the sources' common folder, with `/`"""
    kind: str
    """video, folder, or unknown"""
    identity: str
    """fingerprint of the input, as `shards.sources.identity` makes it"""
    status: str = "ok"
    """ok or skipped"""
    reason: str = ""
    """why it was skipped, one line"""
    frames: int = 0
    clips: int = 0
    runs: int = 0
    fps: float | None = None
    decoder: str = ""
    """decord or pyav, for videos"""
    fallback: str = ""
    """why PyAV read it and not decord"""
    counts: dict[str, int] = field(default_factory=dict)
    """events: gaps, cuts, short_runs, unreadable_frames, frames_without_face, copied_frames, …"""


@dataclass(frozen=True)
class Manifest:
    """A finished shard folder. `digest` (SHA-256 of everything else in it) names the data set."""

    directory: Path
    digest: str
    options: dict[str, Any]
    shards: list[ShardInfo]
    sources: list[SourceReport]

    @property
    def frames(self) -> int:
        """Stored frames."""
        return sum(shard.frames for shard in self.shards)

    @property
    def clips(self) -> int:
        """Stored clips (samples)."""
        return sum(shard.clips for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Size of all tar files."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def failures(self) -> list[SourceReport]:
        """The sources that were skipped, each with its reason."""
        return [source for source in self.sources if source.status != "ok"]

    @property
    def fallbacks(self) -> list[SourceReport]:
        """The videos that PyAV read because decord disagreed with the container."""
        return [source for source in self.sources if source.fallback]


def slug(name: str) -> str:
    """A sample key's stem for a source: readable, unique, ASCII, without dots (webdataset cuts at the first)."""
    readable = re.sub(r"[^A-Za-z0-9-]+", "-", name.rsplit(".", 1)[0]).strip("-")[-40:].strip("-")
    return f"{readable or 'source'}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"


def frame_member(key: str, position: int) -> str:
    """The tar member that holds the frame at `position` of a clip."""
    return f"{key}.{position:03d}.jpg"


def shard_name(number: int) -> str:
    """`shard-000000`, without suffix."""
    return f"shard-{number:06d}"


def canonical(value: Any) -> bytes:
    """One byte string per JSON value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def write_manifest(
    directory: Path, options: Options, shards: list[ShardInfo], sources: list[SourceReport]
) -> Manifest:
    """Write `manifest.json` (atomically; it is what makes a folder finished) and return it."""
    manifest = Manifest(directory, "", asdict(options), shards, sources)
    body = _body(manifest)
    digest = hashlib.sha256(canonical(body)).hexdigest()
    write_json(directory / "manifest.json", {"digest": digest, **body})
    return Manifest(directory, digest, asdict(options), shards, sources)


def _body(manifest: Manifest) -> dict[str, Any]:
    """The manifest without its digest."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "clips": manifest.clips,
        "frames": manifest.frames,
        "bytes": manifest.bytes,
        "failures": len(manifest.failures),
        "fallbacks": len(manifest.fallbacks),
        "options": manifest.options,
        "shards": [asdict(shard) for shard in manifest.shards],
        "sources": [asdict(source) for source in manifest.sources],
    }


def read_manifest(directory: str | Path) -> Manifest:
    """Read and check `directory/manifest.json`.

    Raises FlickerError: no such file, not JSON, another format or version, or changed since it was written.
    """
    directory = Path(directory)
    path = directory / "manifest.json"
    if not path.exists() and (directory / ".staging").exists():
        raise FlickerError(
            f"{directory} is unfinished (no manifest.json): run the same launch/shard.py command again"
        )
    record = read_json(path, "shard manifest")
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise FlickerError(f"{path} is not a shard manifest: write the folder with launch/shard.py")
    if record.get("version") != VERSION:
        raise FlickerError(
            f"{path} has version {record.get('version')}, this Flicker reads {VERSION}: write it again"
        )
    digest = record.pop("digest", None)
    if hashlib.sha256(canonical(record)).hexdigest() != digest:
        raise FlickerError(f"{path} was changed after it was written (its digest differs): write the folder again")
    shards = [ShardInfo(**known(ShardInfo, shard)) for shard in record["shards"]]
    sources = [SourceReport(**known(SourceReport, source)) for source in record["sources"]]
    return Manifest(directory, str(digest), record["options"], shards, sources)


def known(record_class: type, values: dict[str, Any]) -> dict[str, Any]:
    """The part of `values` that `record_class` has fields for."""
    names = {item.name for item in fields(record_class)}
    return {name: value for name, value in values.items() if name in names}
