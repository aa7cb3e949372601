"""What is on disk: names, options, records. Knows neither torch nor pixels.

A shard folder holds `manifest.json`, `tails.safetensors`, `shard-000000.tar` … (plain webdataset) and
`shard-000000.idx` …. One sample is one clip: `KEY.json` and `KEY.000.jpg`, `KEY.001.jpg`, … of consecutive frames.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from shards.errors import UsageError

VERSION = 2
FORMAT = "flicker-shards"
FACES = ("none", "box", "align")
TRACKS = ("fixed", "smooth")
TAILS = "tails.safetensors"
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
    thin: float | None = None
    """static stretches are thinned: grey levels that successive frames may differ by (none: keep all)"""
    track: str = "fixed"
    """fixed: one transform per stretch; smooth: a transform that follows the head slowly (box and align)"""
    dataset: str = ""
    """layout of the sources, where they are dataset roots"""
    exclude_subjects: tuple[str, ...] = ()
    """subjects whose sources were left out, sorted"""

    def __post_init__(self) -> None:
        limits = {"size": (16, 4096), "quality": (1, 100), "clip_frames": (1, 1000), "shard_bytes": (1, 2**42)}
        for name, (low, high) in (limits | {"min_run": (1, self.clip_frames), "seed": (0, 2**63 - 1)}).items():
            if not low <= (value := getattr(self, name)) <= high:
                raise UsageError(f"{name} {value} is out of range; give {low} to {high}")
        if self.face not in FACES:
            raise UsageError(f"face '{self.face}' is unknown; give one of {', '.join(FACES)}")
        if self.track not in TRACKS:
            raise UsageError(f"track '{self.track}' is unknown; give one of {', '.join(TRACKS)}")
        if self.track != "fixed" and self.face == "none":
            raise UsageError(f"track '{self.track}' needs a face to follow; give face box or align")
        if self.thin is not None and not 0 <= self.thin < 256:
            raise UsageError(f"thin {self.thin} is out of range; give grey levels, 0 to 255")
        if self.folder_fps is not None and not 0 < self.folder_fps < 1e6:
            raise UsageError(f"folder_fps {self.folder_fps} is out of range; give frames per second above 0")

    def record(self) -> dict[str, Any]:
        """The options as JSON holds them."""
        return asdict(self) | {"exclude_subjects": list(self.exclude_subjects)}


@dataclass(frozen=True, slots=True)
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
    dataset: str = ""
    """the layout that the source was found in, for dataset roots"""
    subject: str = ""
    """the person shown, where the layout tells"""
    counts: dict[str, int] = field(default_factory=dict)
    """events: gaps, cuts, short_runs, unreadable_frames, frames_without_face, copied_frames, …"""


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


def known(record_class: type, values: dict[str, Any]) -> dict[str, Any]:
    """The part of `values` that `record_class` has fields for."""
    names = {item.name for item in fields(record_class)}
    return {name: value for name, value in values.items() if name in names}
