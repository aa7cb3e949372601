"""CPU time, bytes read and memory of this process and all that it started."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Usage:
    """What has been used up to a moment, or between two."""

    cpu: float
    """seconds, user and system, of this process and its living descendants"""
    wall: float
    """seconds"""
    read: int
    """bytes that read calls returned, whether from the page cache or not; 0 where the system does not count"""

    def __sub__(self, other: Usage) -> Usage:
        return Usage(self.cpu - other.cpu, self.wall - other.wall, self.read - other.read)


def usage() -> Usage:
    """Usage up to now. Descendants that have ended no longer count: compare moments with the same processes."""
    cpu, read = 0.0, 0
    for process in _tree():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            cpu += _cpu_seconds(process)
            read += getattr(process.io_counters(), "read_chars", 0) if hasattr(process, "io_counters") else 0
    return Usage(cpu, time.perf_counter(), read)


def memory_mb() -> float:
    """Memory of this process and its descendants, MB; pages that several share are counted once."""
    total = 0
    for process in _tree():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            memory = process.memory_full_info()
            total += getattr(memory, "pss", 0) or memory.uss
    return total / 1e6


def _tree() -> Iterator[psutil.Process]:
    """This process and its descendants."""
    own = psutil.Process()
    yield own
    yield from own.children(recursive=True)


def _cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a process; on Linux to the nanosecond, not in ticks of 10 ms."""
    with contextlib.suppress(AttributeError, OSError, OverflowError):
        return time.clock_gettime(~process.pid << 3 | 2)  # what clock_getcpuclockid(3) makes of a process id
    times = process.cpu_times()
    return float(times.user + times.system)
