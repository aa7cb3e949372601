"""Which rank holds the others up: every rank's figures side by side.

In data-parallel training every step lasts as long as on the slowest rank, so whole steps say nothing about a rank.
What differs is the time a rank needs for itself (`own_ms` of `pretrain.meters`): waiting for data, the forward pass.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from statistics import median

from pretrain.lines import Lines

Gather = Callable[[list[float]], list[list[float]]]
"""Every rank's numbers, in the order of ranks. Collective."""
GATHERED = ("step_ms", "step_ms_max", "own_ms", "data_wait")
SLOWEST = 8  # ranks in a line of ranks.jsonl
HOST_CHARACTERS = 64


class Stragglers:
    """Compares the ranks at each log line; rank 0 writes `run/ranks.jsonl`. Collective: every rank makes one.

    The diary gets six figures, however many ranks there are. A line of ranks.jsonl has the least, the median, the
    90th percentile and the largest of own_ms, step_ms and data_wait each, and the slowest ranks (all, if they are
    few) with their hosts.
    """

    def __init__(self, run: Path, gather: Gather, rank: int):
        self._gather, self._lines = gather, Lines(run / "ranks.jsonl") if rank == 0 else None
        self.hosts = gather_hosts(gather)
        """of every rank"""

    def truncate(self, step: int) -> None:
        """Forget the lines after `step`: a resumed run writes them again."""
        if self._lines is not None:
            self._lines.truncate(step)

    def compare(self, step: int, own: dict[str, float]) -> dict[str, float]:
        """Figures of all ranks from this rank's (`Meters.read`); {} where no step was measured. Collective.

        Returns:
            step_ms: median over ranks of their mean step; step_ms_max: the longest step of any rank; data_wait_max:
            the largest share of time that a rank stood still for data; data_wait_rank: which; straggler_rank: the
            rank with the largest own_ms; straggler_excess: its share above the median rank's, 0.25: a quarter more.
        """
        if any(name not in own for name in GATHERED):
            return {}
        rows = self._gather([own[name] for name in GATHERED])  # [ranks 4]
        columns = dict(zip(GATHERED, zip(*rows, strict=True), strict=True))
        if self._lines is not None:
            self._lines.append(step, self._describe(columns))
        slowest, hungriest = (_largest(columns[name]) for name in ("own_ms", "data_wait"))
        middle = max(median(columns["own_ms"]), 1e-9)
        return {
            "step_ms": median(columns["step_ms"]),
            "step_ms_max": max(columns["step_ms_max"]),
            "data_wait_max": columns["data_wait"][hungriest],
            "data_wait_rank": float(hungriest),
            "straggler_rank": float(slowest),
            "straggler_excess": columns["own_ms"][slowest] / middle - 1,
        }

    def _describe(self, columns: dict[str, tuple[float, ...]]) -> dict[str, object]:
        """A line of ranks.jsonl."""
        shown = ("own_ms", "step_ms", "data_wait")
        order = sorted(range(len(self.hosts)), key=lambda rank: (-columns["own_ms"][rank], rank))[:SLOWEST]
        slowest = [
            {"rank": rank, "host": self.hosts[rank]} | {name: _short(columns[name][rank]) for name in shown}
            for rank in order
        ]
        return {name: _spread(columns[name]) for name in shown} | {"slowest": slowest}


def gather_hosts(gather: Gather, name: str | None = None) -> list[str]:
    """The host name of every rank (`name` for this one), as characters' numbers. Collective."""
    own = list((name or socket.gethostname()).encode()[:HOST_CHARACTERS])
    rows = gather([float(byte) for byte in own + [0] * (HOST_CHARACTERS - len(own))])
    return [bytes(int(number) for number in row if number).decode(errors="replace") for row in rows]


def _largest(values: tuple[float, ...]) -> int:
    """The first place of the largest."""
    return max(range(len(values)), key=lambda place: values[place])


def _spread(values: tuple[float, ...]) -> list[float]:
    """Least, median, 90th percentile (of those that occur), largest."""
    ordered = sorted(values)
    return [_short(v) for v in (ordered[0], median(ordered), ordered[int(0.9 * (len(ordered) - 1))], ordered[-1])]


def _short(value: float) -> float:
    """Four digits that matter."""
    return float(f"{value:.4g}")
