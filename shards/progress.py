"""Progress: a bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

from tqdm import tqdm

LOG_EVERY_SECONDS = 15.0


class Progress:
    """Counts work done and shows it: a tqdm bar where stderr is a terminal, log lines elsewhere.

    Use as a context manager; call `advance(n, **figures)` as work gets done. `total` None: not known (yet).
    """

    def __init__(self, total: int | None, what: str, unit: str = "it", done: int = 0, quiet: bool = False):
        self.total, self.what, self.unit, self.done = total, what, unit, done
        self._started, self._initial, self._logged = time.monotonic(), done, time.monotonic()
        self._quiet = quiet
        self._figures: dict[str, float | int | str] = {}
        self._log = logging.getLogger(__name__)
        on_terminal = sys.stderr.isatty() and not quiet
        self._bar = tqdm(total=total, desc=what, unit=unit, initial=done) if on_terminal else None

    def advance(self, n: int = 1, **figures: float | int | str) -> None:
        """Count `n` more; `figures` are shown beside the count until others take their place."""
        self.done += n
        self._figures |= figures
        if self._bar is not None:
            if figures:
                self._bar.set_postfix(self._figures, refresh=False)
            self._bar.update(n)
        elif not self._quiet and time.monotonic() - self._logged >= LOG_EVERY_SECONDS:
            self._logged = time.monotonic()
            self._log.info(self._line())

    def expect(self, total: int | None) -> None:
        """A better estimate of the total."""
        self.total = total
        if self._bar is not None:
            self._bar.total = total

    def _line(self) -> str:
        """The log line: count, rate, time left, figures."""
        elapsed = max(time.monotonic() - self._started, 1e-9)
        rate = (self.done - self._initial) / elapsed
        text = f"{self.what}: {self.done}" + (f"/{self.total}" if self.total else "") + f" {self.unit}, {rate:.3g}/s"
        if self.total and rate > 0:
            text += f", {duration(max(self.total - self.done, 0) / rate)} left"
        return text + "".join(f", {name} {value}" for name, value in self._figures.items())

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None and not self._quiet:
            self._log.info(self._line())


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`, `4 d 2 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours = round(seconds / 3600)
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
