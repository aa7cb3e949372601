"""What a guard reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

LISTED = 3  # names that a message gives
Severity = Literal["leak", "unknown", "stated"]


@dataclass(frozen=True)
class Finding:
    """One thing that a guard found."""

    name: str
    """Which guard: people, duplicates, labels, normalisation, statistics, pretraining, selection."""
    what: str
    """One or more clauses for people: what, where, how much."""
    severity: Severity
    """leak: test clips reach the training; unknown: it cannot be told; stated: a leak that the config allows."""


def listed(names: Sequence[str]) -> str:
    """The first few of many."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
