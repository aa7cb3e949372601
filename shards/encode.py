"""One source to finished clips: read, split into runs, crop, encode, cut into clips, write the staging file."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import simplejpeg
from crc32c import crc32c as checksum

from shards import pool
from shards.copying import FolderScan, scan
from shards.crop import Crop, centre
from shards.files import atomic_path
from shards.folders import FolderFrames
from shards.frames import Frame, SourceError
from shards.place import place
from shards.runs import split
from shards.schema import Options, SourceReport, canonical, slug
from shards.sources import Source
from shards.staging import Recorder, staged_path
from shards.thin import thin

if TYPE_CHECKING:
    from shards.video import VideoFrames


@dataclass(frozen=True)
class StageTask:
    """Everything a worker needs for one source."""

    number: int
    source: Source
    identity: str
    options: Options
    staging: Path

    @property
    def report(self) -> SourceReport:
        """What is known of the source before it is read."""
        source = self.source
        return SourceReport(source.name, source.kind, self.identity, dataset=source.dataset, subject=source.subject)


class Ticker:
    """Tells the pool of frames read; `restart` takes them back."""

    def __init__(self) -> None:
        self._told = 0

    def __call__(self, frames: int) -> None:
        pool.tick(frames)
        self._told += frames

    def restart(self) -> None:
        """The source is read anew."""
        self(-self._told)


def stage_source(task: StageTask) -> SourceReport:
    """Encode one source into its staging file and summary; a source that cannot be used is reported as skipped.

    Raises OSError where the staging folder cannot be written.
    """
    if multiprocessing.parent_process() is not None:
        cv2.setNumThreads(1)  # a worker among many; a caller's own process keeps its setting
    try:
        with _recorder(task) as clips:
            report = _encode(task, clips)
            clips.end(report)
            return report
    except SourceError as error:
        return skip_source(task, str(error))


def skip_source(task: StageTask, reason: str) -> SourceReport:
    """Report a source as skipped without reading it (again)."""
    report = replace(task.report, status="skipped", reason=" ".join(reason.split()))
    with _recorder(task) as clips:
        clips.end(report)
    return report


@contextlib.contextmanager
def _recorder(task: StageTask) -> Iterator[Recorder]:
    """A recorder whose file gets its name at the end."""
    with atomic_path(staged_path(task.staging, task.number)) as temporary, temporary.open("wb") as file:
        yield Recorder(file)


def _encode(task: StageTask, clips: Recorder) -> SourceReport:
    """The report on one source, whose clips go to `clips`. Raises SourceError if nothing of it is usable."""
    tick = Ticker()
    if task.source.kind == "folder":
        return _encode_folder(task, clips, tick)
    if task.source.kind != "video":
        raise SourceError(task.source.reason)
    from shards.video import DecoderDisagreesError, VideoFrames  # folders need no video decoders

    try:
        return _encode_frames(task, clips, VideoFrames(task.source.path), tick)
    except DecoderDisagreesError as error:  # once more from the start, with PyAV
        tick.restart()
        clips.restart()
        return _encode_frames(task, clips, VideoFrames(task.source.path, str(error)), tick)


def _encode_folder(task: StageTask, clips: Recorder, tick: Ticker) -> SourceReport:
    """A folder whose files need no change is only looked through; any other one is decoded."""
    options = task.options
    folder = FolderFrames(task.source.path, options.folder_fps if task.source.fps is None else task.source.fps)
    if options.face == "none" and options.thin is None:
        counts: Counter[str] = Counter()
        if (found := scan(folder, options.size, counts, tick)) is not None:
            cutter = ClipCutter(clips, task, folder.fps, counts)
            cutter.add_scan(folder, found)
            return _report(task, folder, cutter)
        tick.restart()
    return _encode_frames(task, clips, folder, tick)


def _encode_frames(
    task: StageTask, clips: Recorder, frames: VideoFrames | FolderFrames, tick: Ticker
) -> SourceReport:
    """All clips of a source whose frames are decoded one by one."""
    counts: Counter[str] = Counter()

    def read(counts: Counter[str]) -> Iterator[tuple[int, Frame]]:
        """(run, frame) of the source, thinned where that is asked for."""
        return thin(split(frames, counts), task.options.thin, task.options.clip_frames, counts)

    cutter = ClipCutter(clips, task, frames.fps, counts)
    for run, frame, crop in place(read, frames.fps, task.options, counts, tick):
        cutter.add(run, frame, crop)
    cutter.end_run()
    return _report(task, frames, cutter)


def _report(task: StageTask, frames: VideoFrames | FolderFrames, cutter: ClipCutter) -> SourceReport:
    """What came of a source. Raises SourceError if that is nothing."""
    counts, clips = cutter.counts, cutter.clips
    counts.update(frames.counts)
    if not clips.clips:
        raise SourceError(_nothing(counts, task.options))
    return replace(
        task.report,
        frames=clips.frames,
        clips=clips.clips,
        runs=clips.runs,
        fps=frames.fps,
        decoder=frames.decoder,
        fallback=frames.fallback,
        counts={name: count for name, count in sorted(counts.items()) if count},
    )


def _nothing(counts: Counter[str], options: Options) -> str:
    """Why a source gave no clip at all."""
    if counts["frames_without_face"] and not counts["short_runs"]:
        return f"no face found (sought in {counts['frames_searched']} frames)"
    parts = [f"{count} {name.replace('_', ' ')}" for name, count in sorted(counts.items()) if count]
    return f"no run of {options.min_run} consecutive usable frames" + (f" ({', '.join(parts)})" if parts else "")


@dataclass(frozen=True)
class StoredFrame:
    """A frame that is ready for its clip."""

    number: int
    time: float | None
    crop: Crop
    jpeg: bytes
    file: str
    """the file that holds `jpeg`, where it is taken over unchanged"""


@dataclass
class ClipCutter:
    """Collects encoded frames of one run and records a clip whenever it is full or the run ends."""

    clips: Recorder
    task: StageTask
    fps: float | None
    counts: Counter[str]
    _run: int = -1
    _written: int = 0
    _frames: list[StoredFrame] = field(default_factory=list)
    _size: tuple[int, int] = (0, 0)

    def add(self, run: int, frame: Frame, crop: Crop) -> None:
        """Encode one frame; a new `run` ends the one before."""
        if run != self._run:
            self.end_run()
            self._run, self._written = run, 0
        self._size = frame.size
        self._frames.append(self._encode(frame, crop))
        if len(self._frames) == self.task.options.clip_frames:
            self._write()

    def end_run(self) -> None:
        """Record what is left; a run that is too short as a whole is dropped and counted."""
        if self._written == 0 and 0 < len(self._frames) < self.task.options.min_run:
            self._short(len(self._frames))
        elif self._frames:
            self._write()
        self._frames = []

    def add_scan(self, folder: FolderFrames, found: FolderScan) -> None:
        """Record all clips of a folder whose frames are stored as they are."""
        options = self.task.options
        crop, self._size = centre((options.size, options.size), options.size), (options.size, options.size)
        for first, end in found.runs:
            if end - first < options.min_run:
                self._short(end - first)
                continue
            for start in range(first, end, options.clip_frames):
                rows = slice(start, min(end, start + options.clip_frames))
                numbers = found.numbers[rows].tolist()
                key, meta = self._meta(numbers, [folder.time(number) for number in numbers], [crop])
                files = [name for _, name in folder.files[rows]]
                self.clips.add(key, meta, found.lengths[rows], found.crc32c[rows], files, continues=start > first)
                self.counts["copied_frames"] += len(numbers)

    def _short(self, frames: int) -> None:
        """A run that is left out."""
        self.counts["short_runs"] += 1
        self.counts["frames_in_short_runs"] += frames

    def _encode(self, frame: Frame, crop: Crop) -> StoredFrame:
        """The frame's JPEG: its own bytes where nothing changes."""
        if frame.jpeg is not None and crop.is_identity(frame.size):
            return StoredFrame(frame.number, frame.time, crop, frame.jpeg, frame.file)
        try:
            image = crop.apply(frame.image)
        except ValueError as error:
            raise SourceError(f"frame {frame.number} cannot be decoded: {error}") from None
        jpeg = simplejpeg.encode_jpeg(image, self.task.options.quality, "RGB", "420")
        return StoredFrame(frame.number, frame.time, crop, jpeg, "")

    def _meta(self, numbers: list[int], times: list[float | None], crops: list[Crop]) -> tuple[str, bytes]:
        """A clip's key and KEY.json; one entry in `crops` where all frames share it."""
        options, source = self.task.options, self.task.source
        key = f"{slug(source.name)}_{numbers[0]:07d}"
        meta: dict[str, Any] = {
            "key": key,
            "source": source.name,
            "first": numbers[0],
            "numbers": numbers,
            "times": None if None in times else times,
            "fps": self.fps,
            "face": options.face,
            **_geometry(crops),
            "source_size": list(self._size),
            "size": [options.size, options.size],
        }
        return key, canonical(meta)

    def _write(self) -> None:
        """One clip to the staging file."""
        frames = self._frames
        crops = [frame.crop for frame in frames]
        numbers, times = [frame.number for frame in frames], [frame.time for frame in frames]
        key, meta = self._meta(numbers, times, crops[:1] if all(crop is crops[0] for crop in crops) else crops)
        files = [frame.file for frame in frames]
        copied = sum(map(bool, files))
        self.counts["copied_frames"] += copied
        self.clips.add(
            key,
            meta,
            [len(frame.jpeg) for frame in frames],
            [checksum(frame.jpeg) for frame in frames],
            files if copied else (),
            [frame.jpeg for frame in frames if not frame.file],
            continues=self._written > 0,
        )
        self._written += 1
        self._frames = []


def _geometry(crops: list[Crop]) -> dict[str, Any]:
    """`crop` and `transform` of KEY.json: one that all frames share, or a list with one for each."""
    records = [crop.record() for crop in crops]
    if len(records) == 1:
        return records[0]
    return {name: [record[name] for record in records] for name in records[0]}
