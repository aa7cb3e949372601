"""What a run tells its owner while it runs: collapse, numbers that are not finite, loss spikes, stalls, slow data."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import math
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from shards.files import atomic_path

log = logging.getLogger(__name__)
NO_COLLAPSE = math.nan  # a limit that nothing is under


@dataclass(frozen=True)
class Limits:
    """When the owner is told. A line is a log line; times are seconds."""

    cls_spread: float = 0.02
    """spread of the contextual feature over the batch (its channels have unit variance) below which it has collapsed;
    NO_COLLAPSE for batches that may hold one face only"""
    spike: float = 0.5
    """share of its running median that the loss is above it, and 8 median deviations at least"""
    spike_lines: int = 50
    """of the running median; a fifth of them must be there"""
    diverging_lines: int = 3
    """lines in a row with a spike, after which it is no spike any more"""
    data_wait: float = 0.1
    """share of the time that some rank stands still for data"""
    straggler: float = 0.25
    """share that the slowest rank needs above the median rank"""
    lines: int = 5
    """lines in a row of the two before"""
    stall: float = 60.0
    stall_steps: float = 20.0
    """a stall is no step for the longer of `stall` and this many median steps"""
    first_step: float = 1800.0
    """the same for the first step, in which kernels are compiled"""
    busy: float = 1800.0
    """the same while a checkpoint is written or a probe runs"""
    again: float = 3600.0
    """until the same is told again"""


class Alerts:
    """Tells the owner: each kind of thing at once, then every so many seconds, with how often it was in between."""

    def __init__(self, alert: Callable[[str, str], None], again: float, clock: Callable[[], float]):
        self._alert, self._again, self._clock = alert, again, clock
        self._told: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def tell(self, title: str, text: str) -> bool:
        """Log and alert, unless this title was told lately; whether it was told."""
        now = self._clock()
        if title in self._told and now - self._told[title] < self._again:
            self._held[title] = self._held.get(title, 0) + 1
            return False
        if held := self._held.pop(title, 0):
            text += f" ({held} more times since it was last told)"
        self._told[title] = now
        log.warning("%s: %s", title, text)
        self._alert(title, text)
        return True


class Watch:
    """Looks at figures (rank 0) and at whether steps still end (every rank, from a thread of its own).

    Args:
        alert: called with a title and a text; from the thread for stalls.
        run: where `stall-rank-N.txt` goes.
        rank, hosts: this rank, and the hosts of all ranks where they are known.
        workers: data.workers, for the advice.
        clock: seconds that only grow.
        interval: seconds between the thread's looks; 0 starts none.
    """

    def __init__(
        self,
        alert: Callable[[str, str], None],
        run: Path,
        rank: int = 0,
        *,
        hosts: Sequence[str] = (),
        workers: int = 0,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        interval: float = 5.0,
    ):
        self.limits = limits or Limits()
        self.alerts = Alerts(alert, self.limits.again, clock)
        self._rank, self._hosts, self._workers = rank, hosts, workers
        self._losses: deque[float] = deque(maxlen=self.limits.spike_lines)
        self._spikes = self._hungry = self._slow = 0
        self._slowest = -1
        self._stalls = Stalls(self.alerts, run, rank, self.limits, clock)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look, args=(interval,), name="watch", daemon=True)
        if interval > 0:
            self._thread.start()

    def step(self, step: int) -> None:
        """Step `step` has ended."""
        self._stalls.step(step)

    @contextlib.contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """For the time of a checkpoint or a probe, `what`: steps may take longer, and it counts for none of them."""
        self._stalls.begin(what)
        try:
            yield
        finally:
            self._stalls.begin("")

    def figures(self, step: int, figures: dict[str, float]) -> None:
        """The figures of a log line, the same on all ranks; rank 0 tells what is wrong with them.

        Looked at, where they are there: loss, cls_spread, data_wait_max or data_wait, data_wait_rank, straggler_rank,
        straggler_excess; and that all are finite.
        """
        if self._rank:
            return
        broken = sorted(name for name, value in figures.items() if not math.isfinite(value))
        if broken:
            self.alerts.tell("not finite", f"step {step}: {', '.join(broken)}; lower optim.lr or look at the frames")
        self._look_at_spread(step, figures)
        self._look_at_loss(step, figures.get("loss", math.nan))
        self._look_at_data(step, figures)
        self._look_at_ranks(step, figures)

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(1)

    def _look(self, interval: float) -> None:
        while not self._closed.wait(interval):
            self._stalls.look()

    def _look_at_spread(self, step: int, figures: dict[str, float]) -> None:
        spread = figures.get("cls_spread", math.inf)
        if spread < self.limits.cls_spread:
            self.alerts.tell(
                "collapse",
                f"step {step}: the contextual feature hardly differs between faces (cls_spread {spread:.4f}, limit "
                f"{self.limits.cls_spread:g}); lower optim.lr or, for Micron-BERT, model.agreement_weight",
            )

    def _look_at_loss(self, step: int, loss: float) -> None:
        """Against the running median, spikes included: a new level is normal after half its lines."""
        if not math.isfinite(loss):
            return
        known = list(self._losses)
        self._losses.append(loss)
        if len(known) < self.limits.spike_lines / 5:
            return
        middle = median(known)
        deviation = median(abs(value - middle) for value in known)
        if loss - middle <= max(self.limits.spike * abs(middle), 8 * deviation):
            self._spikes = 0
            return
        self._spikes += 1
        what = f"step {step}: loss {loss:.4g}, its running median is {middle:.4g}"
        if self._spikes == self.limits.diverging_lines:
            advice = "lower optim.lr, lengthen optim.warmup, or go back to an older checkpoint"
            self.alerts.tell("divergence", f"{what}, for {self._spikes} log lines; {advice}")
        elif self._spikes == 1:
            self.alerts.tell("loss spike", what)

    def _look_at_data(self, step: int, figures: dict[str, float]) -> None:
        wait = figures.get("data_wait_max", figures.get("data_wait", 0.0))
        self._hungry = self._hungry + 1 if wait > self.limits.data_wait else 0
        if self._hungry >= self.limits.lines:
            rank = int(figures.get("data_wait_rank", self._rank))
            self.alerts.tell(
                "waiting for data",
                f"step {step}: {self._name(rank)} stands still for data {wait:.0%} of the time, for {self._hungry} "
                f"log lines; more data.workers (now {self._workers}), data.pool, or a faster place for the shards",
            )

    def _look_at_ranks(self, step: int, figures: dict[str, float]) -> None:
        excess, rank = figures.get("straggler_excess", 0.0), int(figures.get("straggler_rank", -1))
        slow = excess > self.limits.straggler
        self._slow = (self._slow + 1 if rank == self._slowest else 1) if slow else 0
        self._slowest = rank
        if self._slow >= self.limits.lines:
            self.alerts.tell(
                "straggler",
                f"step {step}: {self._name(rank)} needs {excess:.0%} longer than the median rank for its own part of "
                f"a step, for {self._slow} log lines, and all wait for it; look at that machine (other processes, "
                "clock rates, its disk); ranks.jsonl has the slowest ranks",
            )

    def _name(self, rank: int) -> str:
        """The rank and, where it is known, its host."""
        return f"rank {rank} ({self._hosts[rank]})" if 0 <= rank < len(self._hosts) else f"rank {rank}"


class Stalls:
    """Notices that no step has ended for long; writes down what every thread was doing."""

    def __init__(self, alerts: Alerts, run: Path, rank: int, limits: Limits, clock: Callable[[], float]):
        self._alerts, self._limits, self._clock = alerts, limits, clock
        self._path, self._rank = run / f"stall-rank-{rank}.txt", rank
        self._lock = threading.Lock()
        self._times: deque[float] = deque(maxlen=200)
        self._since, self._step, self._first, self._stalled, self._busy = clock(), 0, True, False, ""

    def step(self, step: int) -> None:
        """Step `step` has ended."""
        with self._lock:
            now = self._clock()
            took, stalled = now - self._since, self._stalled
            if not self._first:
                self._times.append(took)
            self._since, self._step, self._first, self._stalled = now, step, False, False
        if stalled:
            log.warning("rank %d goes on: step %d ended after %.0f s", self._rank, step, took)

    def begin(self, what: str) -> None:
        """From now on something else than a step is done; "": a step again."""
        with self._lock:
            self._since, self._busy = self._clock(), what

    def look(self) -> None:
        """Tell about a stall, once."""
        with self._lock:
            took, limit = self._clock() - self._since, self._limit()
            if self._stalled or took <= limit:
                return
            self._stalled = True
            during = f" during {self._busy}" if self._busy else ""
            text = (
                f"rank {self._rank} on {socket.gethostname()}: no step has ended for {took:.0f} s after step "
                f"{self._step}{during} (limit {limit:.0f} s)"
            )
        where = self._dump(text)
        if not self._alerts.tell("stall", f"{text}; {where}"):
            log.warning("stall: %s; %s", text, where)

    def _limit(self) -> float:
        """Seconds without the end of a step that are too long."""
        if self._first:
            return self._limits.first_step
        usual = median(self._times) if self._times else 0.0
        limit = max(self._limits.stall, self._limits.stall_steps * usual)
        return max(limit, self._limits.busy) if self._busy else limit

    def _dump(self, text: str) -> str:
        """Write every thread's stack; returns where, and how to read it."""
        try:
            with atomic_path(self._path) as temporary, temporary.open("w") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError as error:
            return f"its stacks cannot be written: {error}"
        return f"stacks of its threads in {self._path}; a rank whose stack is in no collective holds the others up"
