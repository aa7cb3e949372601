"""The decoding processes of a reader: each fills its rows of every batch; dead and stuck ones are replaced."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import FlickerError
from shards.fetch import Bad
from shards.ring import Ring
from shards.worker import pack

log = logging.getLogger(__name__)
MAX_RESTARTS = 5  # of all workers, over the last
RESTART_STEPS = 1000  # batches


@dataclass
class Worker:
    """One process and what it has been asked."""

    number: int
    process: subprocess.Popen[bytes]
    control: Connection
    asked: dict[int, bytes] = field(default_factory=dict)
    """requests without an answer, by ticket"""
    since: float = 0.0
    """when the oldest of them was made or the last answer came, s"""
    warned: bool = False


class WorkerGroup:
    """Processes that fill batches of a ring.

    Args:
        parts: the rows of a batch that each process fills.
        setup: as `shards.worker.serve` expects it.
        timeout: seconds without an answer after which a process is ended and replaced.

    Requests of a process that died are made again to its successor. Raises FlickerError (from `collect`) after more
    than MAX_RESTARTS deaths within RESTART_STEPS batches.
    """

    def __init__(self, parts: list[slice], ring: Ring, setup: dict[str, Any], timeout: float, counts: Counter[str]):
        self.parts, self.ring, self.timeout, self.counts = parts, ring, timeout, counts
        self._setup = json.dumps(setup | {"shape": ring.shape}).encode()
        self._answers: dict[int, list[Bad]] = {}
        self._left: Counter[int] = Counter()
        self._collected = 0
        self._deaths: list[int] = []
        """how many batches had been collected at each"""
        self._workers = [self._start(number) for number in range(len(parts))]

    @property
    def processes(self) -> list[int]:
        """Their process ids."""
        return [worker.process.pid for worker in self._workers]

    @property
    def outstanding(self) -> int:
        """Batches that were asked for and not yet collected."""
        return len(self._answers)

    def submit(
        self,
        ticket: int,
        slot: int,
        where: NDArray[np.int64],
        slots: NDArray[np.int32] | None,
        hints: list[NDArray[np.int64]],
    ) -> None:
        """Ask for batch `ticket` (ascending) in ring slot `slot`; `where` [4 B 2], `hints` one array per worker."""
        self._answers[ticket] = []
        self._left[ticket] = len(self._workers)
        for worker, part, ahead in zip(self._workers, self.parts, hints, strict=True):
            kept = None if slots is None else slots[part]
            self._send(worker, ticket, pack(ticket, slot, part.start, where[:, part], kept, ahead))

    def collect(self, ticket: int) -> list[Bad]:
        """Wait until batch `ticket` is filled; its bad frames, rows counted in the batch. Raises FlickerError."""
        while self._left[ticket]:
            self._receive()
        del self._left[ticket]
        self._collected += 1
        return self._answers.pop(ticket)

    def _receive(self) -> None:
        """Take in what has been answered; look after those that do not answer."""
        by_control = {worker.control: worker for worker in self._workers}
        for control in wait(list(by_control), timeout=min(self.timeout / 4, 5.0)):
            worker = by_control[control]  # type: ignore[index]
            try:
                self._answer(worker, json.loads(worker.control.recv_bytes()))
            except (EOFError, OSError):
                self._replace(worker, f"died ({_ended(worker.process)})")
        now = time.monotonic()
        for worker in self._workers:
            silent = now - worker.since
            if not worker.asked or silent < self.timeout / 2:
                continue
            if silent >= self.timeout:
                self._replace(worker, f"gave no answer for {silent:.0f} s")
            elif not worker.warned:
                worker.warned = True
                self.counts["slow_waits"] += 1
                log.warning("reader process %d has not answered for %.0f s", worker.number, silent)

    def _answer(self, worker: Worker, answer: dict[str, Any]) -> None:
        """One answer of a worker; an empty one says that it is ready."""
        worker.since, worker.warned = time.monotonic(), False
        if not answer:
            return
        if answer["fault"]:
            raise FlickerError(answer["fault"])
        del worker.asked[answer["ticket"]]
        first = self.parts[worker.number].start
        self._answers[answer["ticket"]] += [(first + row, which, why) for row, which, why in answer["bad"]]
        self._left[answer["ticket"]] -= 1

    def _replace(self, worker: Worker, what: str) -> None:
        """Start a process in place of one that died or hangs, and ask it what that one has not answered."""
        _end(worker)
        self.counts["worker_restarts"] += 1
        recent = (at for at in self._deaths if at > self._collected - RESTART_STEPS)
        self._deaths = [*recent, self._collected]
        if len(self._deaths) > MAX_RESTARTS:
            raise FlickerError(
                f"reader process {worker.number} {what}, the {len(self._deaths)}th within {RESTART_STEPS} batches: "
                "free memory, use fewer workers, or look at the storage"
            )
        log.warning("reader process %d %s: replaced", worker.number, what)
        fresh = self._start(worker.number)
        self._workers[worker.number] = fresh
        for waiting, request in worker.asked.items():
            self._send(fresh, waiting, request)

    def _send(self, worker: Worker, ticket: int, request: bytes) -> None:
        if not worker.asked:
            worker.since = time.monotonic()
        worker.asked[ticket] = request
        with contextlib.suppress(OSError):  # a dead worker is found, and asked anew, when answers are awaited
            worker.control.send_bytes(request)

    def _start(self, number: int) -> Worker:
        """A process of its own: it inherits neither threads nor locks, and runs none of the caller's script."""
        ours, theirs = socket.socketpair()
        ring = os.dup(self.ring.descriptor)
        home = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "shards.worker", str(theirs.fileno()), str(ring)]
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        try:
            process = subprocess.Popen(
                command,
                pass_fds=(theirs.fileno(), ring),
                stdin=subprocess.DEVNULL,
                env=os.environ | threads | {"PYTHONPATH": path},
            )
        except OSError as error:
            raise FlickerError(f"cannot start a reader process: {error.strerror}: use fewer workers") from None
        finally:
            theirs.close()
            os.close(ring)
        worker = Worker(number, process, Connection(ours.detach()), since=time.monotonic())
        with contextlib.suppress(OSError):
            worker.control.send_bytes(self._setup)
        return worker

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.control.close()
        for worker in self._workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(1)
            _end(worker)


def _end(worker: Worker) -> None:
    """End a process for good."""
    worker.control.close()
    worker.process.kill()
    worker.process.wait()


def _ended(process: subprocess.Popen[bytes]) -> str:
    """How a process ended."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        code = process.wait(1)
        return f"signal {-code}" if code < 0 else f"exit code {code}"
    return "no longer connected"
