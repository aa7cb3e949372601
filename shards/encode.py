"""One source to finished clips: read, split into runs, crop, encode, cut into clips, write the staging file."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import cv2
import simplejpeg

from shards.crop import Crop, centre
from shards.folders import FolderFrames
from shards.frames import Frame, SourceError
from shards.runs import split
from shards.schema import Options, SourceReport, slug
from shards.sources import Source
from shards.staging import StagedClip, append_clip, clips_path, write_summary
from shards.video import DecoderDisagreesError, VideoFrames

Place = Callable[[int, Frame], "tuple[int, Crop] | None"]


@dataclass(frozen=True)
class StageTask:
    """Everything a worker needs for one source."""

    number: int
    source: Source
    identity: str
    options: Options
    staging: Path


def stage_source(task: StageTask) -> SourceReport:
    """Encode one source into its staging file and summary; a source that cannot be used is reported as skipped.

    Raises OSError where the staging folder cannot be written.
    """
    if multiprocessing.parent_process() is not None:
        cv2.setNumThreads(1)  # a worker among many; a caller's own process keeps its setting
    target = clips_path(task.staging, task.number)
    report = SourceReport(task.source.name, task.source.kind, task.identity)
    try:
        with target.open("wb") as file:
            report, clips = _encode(task, file, report)
    except SourceError as error:
        report, clips = replace(report, status="skipped", reason=str(error)), []
        target.unlink(missing_ok=True)
    write_summary(task.staging, task.number, report, clips)
    return report


def skip_source(task: StageTask, reason: str) -> SourceReport:
    """Report a source as skipped without reading it (again)."""
    report = SourceReport(task.source.name, task.source.kind, task.identity, status="skipped", reason=reason)
    write_summary(task.staging, task.number, report, [])
    return report


def _encode(task: StageTask, file: BinaryIO, report: SourceReport) -> tuple[SourceReport, list[StagedClip]]:
    """Encode with decord, or once more from the start with PyAV where decord does not keep its word."""
    try:
        return _encode_frames(task, file, report, "")
    except DecoderDisagreesError as error:
        file.seek(0)
        file.truncate()
        return _encode_frames(task, file, report, str(error))


def _open(source: Source, options: Options, force_pyav: str) -> VideoFrames | FolderFrames:
    """The frames of a source. Raises SourceError."""
    if source.kind == "video":
        return VideoFrames(source.path, force_pyav)
    if source.kind == "folder":
        return FolderFrames(source.path, options.folder_fps)
    raise SourceError(source.reason)


def _encode_frames(
    task: StageTask, file: BinaryIO, report: SourceReport, force_pyav: str
) -> tuple[SourceReport, list[StagedClip]]:
    """All clips of one source, and its report. Raises SourceError if nothing of it is usable."""
    frames = _open(task.source, task.options, force_pyav)
    counts: Counter[str] = Counter()
    place = _placer(frames, task.options, counts)
    cutter = ClipCutter(file, task, frames.fps, counts)
    for run, frame in split(frames, counts):
        if (placed := place(run, frame)) is not None:
            cutter.add(placed[0], frame, placed[1])
        else:
            counts["frames_without_face"] += 1
    cutter.end_run()
    counts.update(frames.counts)
    clips = cutter.clips
    if not clips:
        raise SourceError(_nothing(counts, task.options))
    report = replace(
        report,
        frames=sum(clip.frames for clip in clips),
        clips=len(clips),
        runs=len({clip.run for clip in clips}),
        fps=frames.fps,
        decoder=frames.decoder,
        fallback=frames.fallback,
        counts={name: count for name, count in sorted(counts.items()) if count},
    )
    return report, clips


def _placer(frames: VideoFrames | FolderFrames, options: Options, counts: Counter[str]) -> Place:
    """Where each frame is cropped: the central square, or by a first pass that looks for faces."""
    if options.face == "none":
        return lambda run, frame: (run, centre(frame.size, options.size))
    from shards.faces import survey  # dlib is an extra, and takes a second to import

    return survey(split(frames, Counter()), frames.fps, options, counts)


def _nothing(counts: Counter[str], options: Options) -> str:
    """Why a source gave no clip at all."""
    if counts["frames_without_face"] and not counts["short_runs"]:
        return f"no face found (sought in {counts['frames_searched']} frames)"
    parts = [f"{count} {name.replace('_', ' ')}" for name, count in sorted(counts.items()) if count]
    return f"no run of {options.min_run} consecutive usable frames" + (f" ({', '.join(parts)})" if parts else "")


@dataclass
class ClipCutter:
    """Collects encoded frames of one run and writes a clip whenever it is full or the run ends."""

    file: BinaryIO
    task: StageTask
    fps: float | None
    counts: Counter[str]
    clips: list[StagedClip] = field(default_factory=list)
    _run: int = -1
    _written: int = 0
    _frames: list[tuple[Frame, bytes]] = field(default_factory=list)
    _crop: Crop | None = None
    _size: tuple[int, int] = (0, 0)

    def add(self, run: int, frame: Frame, crop: Crop) -> None:
        """Encode one frame; a new `run` ends the one before."""
        if run != self._run:
            self.end_run()
            self._run, self._written = run, 0
        self._crop, self._size = crop, frame.size
        self._frames.append((Frame(frame.number, frame.time), self._encode(frame, crop)))
        if len(self._frames) == self.task.options.clip_frames:
            self._write()

    def end_run(self) -> None:
        """Write what is left; a run that is too short as a whole is dropped and counted."""
        if self._written == 0 and 0 < len(self._frames) < self.task.options.min_run:
            self.counts["short_runs"] += 1
            self.counts["frames_in_short_runs"] += len(self._frames)
        elif self._frames:
            self._write()
        self._frames = []

    def _encode(self, frame: Frame, crop: Crop) -> bytes:
        """The frame's JPEG: its own bytes where nothing changes."""
        if frame.jpeg is not None and crop.is_identity(frame.size):
            self.counts["copied_frames"] += 1
            return frame.jpeg
        try:
            image = crop.apply(frame.image)
        except ValueError as error:
            raise SourceError(f"frame {frame.number} cannot be decoded: {error}") from None
        return bytes(simplejpeg.encode_jpeg(image, self.task.options.quality, "RGB", "420"))

    def _write(self) -> None:
        """One clip to the staging file."""
        options, source = self.task.options, self.task.source
        assert self._crop is not None
        numbers = [frame.number for frame, _ in self._frames]
        times = [frame.time for frame, _ in self._frames]
        meta = {
            "key": f"{slug(source.name)}_{numbers[0]:07d}",
            "source": source.name,
            "first": numbers[0],
            "numbers": numbers,
            "times": None if None in times else times,
            "fps": self.fps,
            "face": options.face,
            **self._crop.record(),
            "source_size": list(self._size),
            "size": [options.size, options.size],
        }
        self.clips.append(append_clip(self.file, meta, [jpeg for _, jpeg in self._frames], self._run))
        self._written += 1
        self._frames = []
