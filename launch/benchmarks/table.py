"""Plain text tables, and the JSON file of a benchmark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from shards.files import write_json


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; the first column is flush left, the others right."""
    cells = [list(map(text, row)) for row in [head, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    print(f"\n{title}")
    for row in cells:
        others = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  " + "  ".join([row[0].ljust(widths[0]), *others]).rstrip())


def text(value: Any) -> str:
    """A number with three or four significant digits; nothing for None."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def spread(values: Sequence[float]) -> str:
    """`median (lowest-highest)`."""
    return f"{text(float(median(values)))} ({text(float(min(values)))}-{text(float(max(values)))})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times as much theirs is as ours: the median over repeats, each compared with its neighbour in time."""
    return float(median(b / a for a, b in zip(ours, theirs, strict=True)))


def save(path: str, figures: dict[str, float], machine: dict[str, Any], settings: dict[str, Any]) -> None:
    """Write the JSON file of a benchmark; figures are rounded to five significant digits."""
    rounded = {name: _rounded(value) for name, value in figures.items()}
    write_json(Path(path), {"figures": rounded, "machine": machine, "settings": settings})


def _rounded(value: float) -> float:
    """Five significant digits."""
    if value == 0 or not math.isfinite(value):
        return value
    return round(value, 4 - math.floor(math.log10(abs(value))))
