"""What is known of sources before they are read: fingerprints, rough costs, how many frames to expect."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from shards.pool import Pool
from shards.progress import Progress
from shards.schema import SourceReport
from shards.sources import Source, identity

TOGETHER = 32  # sources that one task looks at
VIDEO_COST = 50  # a byte of video takes as long as so many bytes of a frame folder


@dataclass(frozen=True)
class Seen:
    """A source at first sight."""

    identity: str
    """its fingerprint, `shards.sources.identity`"""
    frames: int
    """files of a folder, an upper bound of its frames; 0 for a video, which does not tell cheaply"""
    bytes: int
    """of a video; of a folder, by the size of one file"""

    def cost(self, kind: str) -> int:
        """How long the source takes, in no unit: the longest are begun first, so that none is left for the end."""
        return self.bytes * (VIDEO_COST if kind == "video" else 1)


def look_at(sources: Sequence[Source], pool: Pool) -> list[Seen]:
    """Fingerprint and weigh all sources, in order; by the pool's workers where there are many."""
    found: dict[int, list[Seen]] = {}
    tasks = _batches(sources)
    with Progress(len(sources), "looking at sources", "sources", quiet=len(sources) <= TOGETHER) as progress:
        one = Pool(0) if len(sources) <= TOGETHER else pool
        for start, seen in one.run(_look, tasks, _unseen):
            found[start] = seen
            progress.advance(len(seen))
    return [seen for start in sorted(found) for seen in found[start]]


def _batches(sources: Sequence[Source]) -> Iterator[tuple[int, list[Source]]]:
    """(position, sources) of TOGETHER each."""
    remaining = iter(sources)
    for start in range(0, len(sources), TOGETHER):
        yield start, list(islice(remaining, TOGETHER))


def _look(task: tuple[int, list[Source]]) -> tuple[int, list[Seen]]:
    return task[0], [Seen(identity(source), *_weigh(source)) for source in task[1]]


def _unseen(task: tuple[int, list[Source]]) -> tuple[int, list[Seen]]:
    """Sources at which the process died twice."""
    return task[0], [Seen("unreadable", 0, 0) for _ in task[1]]


def _weigh(source: Source) -> tuple[int, int]:
    """(files or 0, bytes); nothing where it cannot be read: that is reported when it is."""
    try:
        if source.kind == "folder":
            return _weigh_folder(source.path)
        return 0, source.path.stat().st_size if source.kind == "video" else 0
    except OSError:
        return 0, 0


def _weigh_folder(folder: Path) -> tuple[int, int]:
    """Entries of a folder, and their bytes if all were as large as the last one listed."""
    count, last = 0, None
    with os.scandir(folder) as entries:
        for entry in entries:
            count, last = count + 1, entry
    return count, count * last.stat().st_size if last is not None else 0


def frames_read(report: SourceReport) -> int:
    """How many frames of a finished source were read, stored or not."""
    left_out = ("frames_in_short_runs", "frames_without_face", "frames_thinned")
    return report.frames + sum(report.counts.get(name, 0) for name in left_out)


class Outlook:
    """How many frames all sources have, as far as that can be told: folders by their files, videos by their bytes."""

    def __init__(self, sources: Sequence[Source], seen: Sequence[Seen]):
        self._known = sum(item.frames for item in seen)
        both = zip(seen, sources, strict=True)
        self._open_bytes = sum(item.bytes for item, source in both if source.kind == "video")
        self._bytes = self._frames = 0

    def finish(self, report: SourceReport, seen: Seen) -> None:
        """A source is done."""
        frames = frames_read(report)
        if report.kind == "video":
            self._open_bytes -= seen.bytes
            self._bytes += seen.bytes if frames else 0
            self._frames += frames
        else:
            self._known += frames - seen.frames

    @property
    def total(self) -> int | None:
        """Frames of all sources; None while nothing tells how many frames the videos have."""
        if self._open_bytes and not self._bytes:
            return None
        videos = self._frames * self._open_bytes // self._bytes if self._open_bytes else 0
        return self._known + self._frames + videos
