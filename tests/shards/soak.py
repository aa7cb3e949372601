"""Reading at full speed for long, while everything goes wrong: `python tests/shards/soak.py --minutes 30`.

A reader with worker processes reads a copy of a small shard set. Meanwhile single bits of frames are flipped and put
back, a shard is cut short and restored, workers are killed, stopped for a while and stopped for good, the disk turns
slow, and the reader is closed and resumed from its state. Checked for every batch: it is the one that the clean set's
order has at this step, but for pairs whose frames were damaged at that time; every pixel is that of the frame that
the batch names. Checked at the end: every epoch had all its steps, every fault occurred, memory did not grow.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

import numpy as np
import psutil
import simplejpeg
from crc32c import crc32c as checksum

from shards import Manifest, PairReader, read_manifest, write
from shards.fetch import Fetcher
from shards.index import ShardIndex, read_index
from shards.workers import MAX_RESTARTS, RESTART_STEPS

BATCH = 64
HANG_SECONDS = 90
TIMEOUT = 20.0
"""Seconds after which the reader replaces a worker that does not answer."""
LINGER = 50.0
"""Seconds for which a fault may show after it was mended: batches read ahead, retries, stopped workers."""
GROWTH_MB = 24.0
SETTLE = 0.3
"""Share of the run before memory is looked at: caches fill, damaged frames are met for the first time."""


@dataclass
class Frame:
    """A stored frame, found in the clean set."""

    shard: int
    offset: int
    length: int
    pixels: int
    """CRC32C of the decoded frame"""
    until: float = 0.0
    """when it may last have been unreadable, s"""


class Frames:
    """All frames of a set by (stem of the key, real number)."""

    def __init__(self, manifest: Manifest):
        self.by_name: dict[tuple[str, int], Frame] = {}
        for number, shard in enumerate(manifest.shards):
            index = read_index((manifest.directory / shard.index).read_bytes(), shard.index)
            data = (manifest.directory / shard.name).read_bytes()
            for name, row in _rows(index):
                offset, length = int(index.offset[row]), int(index.length[row])
                image = simplejpeg.decode_jpeg(data[offset : offset + length], colorspace="RGB")
                self.by_name[name] = Frame(number, offset, length, checksum(image.tobytes()))
        self.all = list(self.by_name.values())

    def pair(self, key: str, delta: int) -> tuple[Frame, Frame]:
        """The frames of a pair that a batch names."""
        stem, number = _split(key)
        return self.by_name[stem, number], self.by_name[stem, number + delta]


def _rows(index: ShardIndex) -> Iterator[tuple[tuple[str, int], int]]:
    """(name, row) of every frame of a shard."""
    for clip, key in enumerate(index.keys):
        for position in range(int(index.frames[clip])):
            yield (key.rsplit("_", 1)[0], int(index.first[clip]) + position), int(index.row[clip]) + position


def _split(key: str) -> tuple[str, int]:
    """`STEM_0000001/17` to (STEM, 17)."""
    clip, number = key.split("/")
    return clip.rsplit("_", 1)[0], int(number)


@dataclass
class Faults:
    """Damages the copy in `folder`, and the reader's processes, one fault after the other, until told to stop."""

    folder: Path
    frames: Frames
    random: random.Random
    slow: Path
    pause: float
    """seconds between two faults"""
    counts: Counter[str] = field(default_factory=Counter)
    processes: list[int] = field(default_factory=list)
    batches: int = 0
    """read so far"""
    ended: list[int] = field(default_factory=list)
    """batches at which a worker was lost"""
    whole: threading.Lock = field(default_factory=threading.Lock)
    """held while a file has not its full length: a reader cannot be opened then"""
    stop: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None

    def run(self) -> None:
        """Fault after fault; those that last are undone before the next."""
        kinds = [self.flip, self.cut, self.kill, self.halt, self.hang, self.slow_disk]
        try:
            while not self.stop.is_set():
                for fault in self.random.sample(kinds, len(kinds)):
                    if not self.stop.wait(self.pause * self.random.uniform(0.5, 1.5)):
                        fault()
        except BaseException as error:  # handed to the main thread
            self.error = error

    def flip(self) -> None:
        """One bit of some frames, for a while."""
        chosen = self.random.sample(self.frames.all, 8)
        undo = []
        for frame in chosen:
            frame.until = float("inf")
            path, at = self._shard(frame.shard), frame.offset + self.random.randrange(frame.length)
            with path.open("r+b") as file:
                file.seek(at)
                byte = file.read(1)
                file.seek(at)
                file.write(bytes([byte[0] ^ 1 << self.random.randrange(8)]))
            undo.append((path, at, byte))
        self.stop.wait(self.pause)
        for path, at, byte in reversed(undo):
            with path.open("r+b") as file:
                file.seek(at)
                file.write(byte)
        for frame in chosen:
            frame.until = time.monotonic() + LINGER
        self.counts["flip"] += 1

    def cut(self) -> None:
        """A shard loses its second half, for a while."""
        number = self.random.randrange(1 + max(frame.shard for frame in self.frames.all))
        path = self._shard(number)
        with self.whole:
            data = path.read_bytes()
            half = len(data) // 2
            lost = [f for f in self.frames.all if f.shard == number and f.offset + f.length > half]
            for frame in lost:
                frame.until = float("inf")
            os.truncate(path, half)
            self.stop.wait(self.pause / 2)
            with path.open("r+b") as file:
                file.seek(half)
                file.write(data[half:])
            for frame in lost:
                frame.until = time.monotonic() + LINGER
        self.counts["cut"] += 1

    def kill(self) -> None:
        """A worker ends at once."""
        self._end("kill", signal.SIGKILL)

    def halt(self) -> None:
        """A worker stands still, for less than the reader's patience."""
        if (process := self._signal("halt", signal.SIGSTOP)) is not None:
            self.stop.wait(TIMEOUT / 3)
            _send(process, signal.SIGCONT)

    def hang(self) -> None:
        """A worker stands still for good."""
        self._end("hang", signal.SIGSTOP)

    def _end(self, kind: str, number: int) -> None:
        """A signal that costs a worker, unless the reader has lost nearly as many as it bears."""
        recent = [at for at in self.ended if at > self.batches - RESTART_STEPS - 100]
        if len(recent) < MAX_RESTARTS - 2 and self._signal(kind, number) is not None:
            self.ended = [*recent, self.batches]

    def slow_disk(self) -> None:
        """Some reads take 10 ms, for a while."""
        self.slow.touch()
        self.stop.wait(self.pause)
        self.slow.unlink()
        self.counts["slow_disk"] += 1

    def _signal(self, kind: str, number: int) -> int | None:
        """A signal to one of the reader's processes; which one."""
        process = self.random.choice(self.processes) if self.processes else None
        if process is None or not _send(process, number):
            return None
        self.counts[kind] += 1
        return process

    def _shard(self, number: int) -> Path:
        return self.folder / f"shard-{number:06d}.tar"


def _send(process: int, number: int) -> bool:
    """Send a signal; whether the process was there, and is one of ours."""
    try:
        if psutil.Process(process).ppid() != os.getpid():
            return False
        os.kill(process, number)
        return True
    except (psutil.NoSuchProcess, ProcessLookupError):
        return False


class Soak:
    """One long read under faults."""

    def __init__(self, clean: Path, folder: Path, minutes: float, seed: int):
        self.folder, self.seconds, self.random = folder, 60 * minutes, random.Random(seed)
        shutil.copytree(clean, folder)
        self.frames = Frames(read_manifest(clean))
        pause = min(5.0, self.seconds / 60)
        self.faults = Faults(folder, self.frames, random.Random(seed + 1), folder.parent / "slow", pause)
        self.clean = self._open(read_manifest(clean), workers=0)
        self.counts: Counter[str] = Counter()
        self.memory: list[tuple[float, float, float, int]] = []
        """(s, MB of this process, MB of its largest worker, kind of reader)"""
        self.kind = 0

    def run(self) -> dict[str, Any]:
        """Read until time is up. Raises AssertionError where something was lost, wrong, or grew."""
        started = time.monotonic()
        injector = threading.Thread(target=self.faults.run, daemon=True)
        injector.start()
        state: dict[str, Any] | None = None
        try:
            with _slow_workers(self.faults.slow), patch.object(Fetcher, "fill", _unfilled):
                while time.monotonic() - started < self.seconds:
                    state = self._stretch(state, started)
        finally:
            self.faults.stop.set()
            injector.join(60)
            faulthandler.cancel_dump_traceback_later()
        if self.faults.error is not None:
            raise self.faults.error
        return self._judge(time.monotonic() - started)

    def _open(self, manifest: Manifest, **options: Any) -> PairReader:
        fixed = {"seed": 3, "global_batch": BATCH, "window_frames": 2048, "max_bad": 1.0, "timeout": TIMEOUT}
        return PairReader(manifest, **{**fixed, **options})

    def _stretch(self, state: dict[str, Any] | None, started: float) -> dict[str, Any]:
        """One reader, from a state, for some hundred batches; returns the state at its end."""
        workers, pool = self.random.choice((1, 2)), self.random.random() < 0.4
        self.kind = 2 * workers + pool
        with self.faults.whole:
            reader = self._open(read_manifest(self.folder), workers=workers, pool=pool)
        if state is not None:
            reader.load_state_dict(state)
        left = self.random.randrange(500, 3000)
        try:
            while left > 0 and time.monotonic() - started < self.seconds:
                left = self._epoch(reader, left, started)
            self.counts["readers"] += 1
            self.counts.update(reader.counts)
            return dict(json.loads(json.dumps(reader.state_dict())))
        finally:
            self.faults.processes = []
            reader.close()

    def _epoch(self, reader: PairReader, left: int, started: float) -> int:
        """Read on to the end of the epoch, or as many batches as are left; how many are left then."""
        self.clean.epoch, self.clean.step = reader.epoch, reader.step
        expected = iter(self.clean)
        for batch in reader:
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            self.faults.processes, self.faults.batches = reader.processes, self.counts["batches"]
            self._check(batch, next(expected))
            left -= 1
            if left % 50 == 0:
                self._weigh(reader, started)
            if left <= 0 or time.monotonic() - started >= self.seconds:
                return 0
        assert next(expected, None) is None, "the epoch ended before its last step"
        self.counts["epochs"] += 1
        return left

    def _check(self, batch: Any, expected: Any) -> None:
        """Every pair is the expected one, or that one was damaged; every pixel is as stored."""
        now = time.monotonic()
        self.counts["batches"] += 1
        keys, wanted = batch.keys, expected.keys
        assert batch.seeds.tolist() == expected.seeds.tolist(), "another step's batch"
        pixels, deltas, plan = batch.frames.numpy(), batch.delta.tolist(), expected.delta.tolist()
        for row, key in enumerate(keys):
            if (key, deltas[row]) != (wanted[row], plan[row]):
                self.counts["replaced"] += 1
                lost = self.frames.pair(wanted[row], plan[row])
                assert any(frame.until > now for frame in lost), f"{wanted[row]} was replaced, but never damaged"
            for which, frame in enumerate(self.frames.pair(key, deltas[row])):
                found = checksum(pixels[row, which].tobytes())
                assert found == frame.pixels, f"{key}: wrong pixels"
        self.counts["pairs"] += len(keys)

    def _weigh(self, reader: PairReader, started: float) -> None:
        """Private memory of this process and of its largest worker, MB."""
        largest = 0.0
        for process in reader.processes:
            try:
                largest = max(largest, _own_mb(psutil.Process(process)))
            except psutil.NoSuchProcess:
                continue
        self.memory.append((time.monotonic() - started, _own_mb(psutil.Process()), largest, self.kind))

    def _judge(self, seconds: float) -> dict[str, Any]:
        """What the whole run must have had."""
        at, own, worker, kind = np.array([row for row in self.memory if row[0] > SETTLE * seconds]).T
        report: dict[str, Any] = {
            "seconds": round(seconds, 1),
            "pairs_per_s": round(self.counts["pairs"] / seconds, 1),
            **self.counts,
            "faults": dict(self.faults.counts),
            "main_mb": round(float(own.mean()), 1),
            "main_growth_mb": round(_growth(at, own, kind), 2),
            "worker_mb": round(float(worker.mean()), 1),
            "worker_growth_mb": round(_growth(at, worker, kind), 2),
        }
        missing = {"flip", "cut", "kill", "halt", "hang", "slow_disk"} - set(self.faults.counts)
        assert not missing, f"these faults never occurred: {sorted(missing)}"
        assert self.counts["replaced"], "no damage was ever met"
        assert report["main_growth_mb"] < GROWTH_MB, report
        assert report["worker_growth_mb"] < GROWTH_MB + 0.1 * report["worker_mb"], report
        return report


def _own_mb(process: psutil.Process) -> float:
    """Resident memory that is neither shared (the ring of batches) nor a file's, MB."""
    memory = process.memory_info()
    return float(memory.rss - memory.shared) / 1e6


def _growth(at: np.ndarray, memory: np.ndarray, kind: np.ndarray) -> float:
    """Rise of memory from first to last, MB: straight lines of one slope, one for each kind of reader."""
    columns = np.stack([at, *(kind == one for one in np.unique(kind))], axis=1)
    return float(np.linalg.lstsq(columns, memory, rcond=None)[0][0] * (at[-1] - at[0]))


def _unfilled(*_: Any) -> list[Any]:
    """In place of `Fetcher.fill`: in this process only the order is of interest; workers are other processes."""
    return []


@contextmanager
def _slow_workers(flag: Path) -> Iterator[None]:
    """Reader processes start as tests.shards.slow_worker."""
    start = subprocess.Popen

    def popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        return start([word.replace("shards.worker", "tests.shards.slow_worker") for word in command], **options)

    with patch("shards.workers.subprocess.Popen", popen), patch.dict(os.environ, {"FLICKER_SLOW": str(flag)}):
        yield


def main() -> None:
    """Make a set, soak, print the report as JSON."""
    from launch.benchmarks import crops

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (30)")
    parser.add_argument("--size", type=int, default=224, help="side of the frames, px (224)")
    parser.add_argument("--seed", type=int, default=0, help="of the faults (0)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="flicker-soak-") as folder:
        lengths = crops.draw_lengths(24, 40, 158, 400)
        material = crops.make(Path(folder), lengths, options.size, [])
        clean = Path(folder) / "shards"
        write([Path(folder) / "frames"], clean, size=options.size, shard_bytes=material.jpeg_bytes // 8)
        soak = Soak(clean, Path(folder) / "damaged", options.minutes, options.seed)
        print(json.dumps(soak.run(), indent=1))


if __name__ == "__main__":
    main()
