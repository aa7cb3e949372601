"""What a run costs: pairs per second, waiting for data, model FLOP utilisation, memory, and the times of steps."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any, Protocol

import psutil
import torch

from pretrain.architecture import ModelConfig
from pretrain.flops import pair_flops, peak_flops

OWN = "forward"  # the phase in which a rank depends on no other


class Clock(Protocol):
    """Marks on a time line; taking one never waits."""

    def mark(self) -> Any:
        """Now, in the order of the work that was queued."""

    def seconds(self, marks: list[Any]) -> list[float]:
        """The times between neighbouring marks, once the last has passed; marks but the last are used again."""


class HostClock:
    """This process's time: on a CPU, work is done when the call that does it returns."""

    def mark(self) -> float:
        """Seconds."""
        return time.perf_counter()

    def seconds(self, marks: list[float]) -> list[float]:
        """See Clock."""
        return [b - a for a, b in pairwise(marks)]


class DeviceClock:
    """The GPU's time: events in its queue. This process waits for them when times are read, not at the marks."""

    def __init__(self) -> None:
        self._unused: list[torch.cuda.Event] = []

    def mark(self) -> torch.cuda.Event:
        """An event on the current stream."""
        event = self._unused.pop() if self._unused else torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, marks: list[torch.cuda.Event]) -> list[float]:
        """See Clock."""
        marks[-1].synchronize()
        found = [a.elapsed_time(b) / 1e3 for a, b in pairwise(marks)]
        self._unused += marks[:-1]
        return found


class Phases:
    """Times of the phases of every step since the last reading, for example data, forward, backward.

    `begin(name)` at the start of a phase ends the one before it; `end_step()` ends the last of a step. What happens
    until the next `begin` (log lines, pictures, checkpoints) is part of no step.
    """

    def __init__(self, clock: Clock):
        self._clock, self._marks, self._names = clock, list[Any](), list[str]()

    def begin(self, name: str) -> None:
        """The phase `name` begins now."""
        self._marks.append(self._clock.mark())
        self._names.append(name)

    def end_step(self) -> None:
        """The step is done."""
        if self._names and self._names[-1]:
            self.begin("")

    def read(self) -> list[dict[str, float]]:
        """Seconds per phase of each finished step since the last reading."""
        if not self._names or self._names[-1]:
            return []  # amid a step, or nothing yet
        times = self._clock.seconds(self._marks)
        steps: list[dict[str, float]] = [{}]
        for name, seconds in zip(self._names, times, strict=False):
            if name:
                steps[-1][name] = steps[-1].get(name, 0.0) + seconds
            else:
                steps.append({})
        self._marks, self._names = self._marks[-1:], [""]
        return [step for step in steps if step]


class Meters:
    """Figures of this rank between two log lines. The caller marks the phases of each step.

    For each step: `phase("data")`; wait for the batch; `waited(seconds)`; `phase("forward")`; views and forward pass;
    `phase("backward")` before the first exchange with other ranks; backward pass and update; `counted(pairs)`.
    """

    def __init__(self, model: ModelConfig, device: torch.device, world: int):
        self.flops = pair_flops(model)
        self.device, self.world = device, world
        self.peak, self.peak_source = peak_flops(device)
        self._process = psutil.Process()
        self._phases = Phases(DeviceClock() if device.type == "cuda" else HostClock())
        self.restart()

    def restart(self) -> None:
        """Begin a new stretch: what came before does not count."""
        self._phases.read()
        self._started, self._waited, self._pairs, self._steps = time.perf_counter(), 0.0, 0, 0

    def phase(self, name: str) -> None:
        """The phase `name` of a step begins now: data, forward or backward."""
        self._phases.begin(name)

    def waited(self, seconds: float) -> None:
        """The training process stood still for data this long."""
        self._waited += seconds

    def counted(self, pairs: int) -> None:
        """A step is done; this many pairs were trained on, over all ranks."""
        self._phases.end_step()
        self._pairs += pairs
        self._steps += 1

    def read(self) -> dict[str, float]:
        """Figures since the last reading.

        pairs_per_s: of all ranks, everything included (log lines, checkpoints). mfu: of all ranks' peak. data_wait:
        share of the time that this process stood still for data. memory_gb: see `_memory`. step_ms, step_ms_max: mean
        and longest step. own_ms: mean per step of what this rank does alone: waiting for data, and up to the first
        exchange with other ranks; the rest of a step takes every rank as long as the slowest. (In ZeRO-3 and MoCo v3
        the forward pass exchanges too, and own_ms differs less between ranks than they do.)
        """
        elapsed = max(time.perf_counter() - self._started, 1e-9)
        rate = self._pairs / elapsed
        figures = {
            "pairs_per_s": rate,
            "mfu": rate * self.flops / (self.peak * self.world),
            "data_wait": self._waited / elapsed,
            "memory_gb": self._memory() / 2**30,
        }
        if steps := self._phases.read():
            whole = [1e3 * sum(step.values()) for step in steps]
            own = sum(step.get(OWN, 0.0) for step in steps) / len(steps) + self._waited / max(self._steps, 1)
            figures |= {"step_ms": sum(whole) / len(whole), "step_ms_max": max(whole), "own_ms": 1e3 * own}
        self.restart()
        return figures

    def _memory(self) -> float:
        """Bytes: the device's peak allocation, or this process's resident memory on a CPU."""
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.device))
        return float(self._process.memory_info().rss)
