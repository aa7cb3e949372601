"""Charts of the report as SVG text: they follow the page's colours (CSS classes) and need nothing else.

Every label is escaped. Classes used: ink, muted, grid, accent, inner, leak (see templates/report.html).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

CELL, LABEL = 54, 96


def _svg(width: float, height: float, parts: Sequence[str], title: str) -> str:
    """An SVG element that scales to its container, with a title for screen readers."""
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" '
        f'aria-label="{escape(title, quote=True)}">{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, text: object, anchor: str = "middle", style: str = "ink", turn: int = 0) -> str:
    """A text element; `turn` rotates it by that many degrees about its anchor."""
    rotate = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{style}"{rotate}>{escape(str(text))}</text>'


def confusion(counts: np.ndarray, classes: Sequence[str], title: str) -> str:
    """A confusion matrix [C C]: cells show the share of the true class in percent, hover text the counts."""
    totals = counts.sum(1, keepdims=True)
    share = counts / np.maximum(totals, 1)
    size = len(classes) * CELL
    parts = [_text(LABEL + size / 2, 14, "predicted", style="muted")]
    for row, name in enumerate(classes):
        middle = 24 + row * CELL + CELL / 2
        parts.append(_text(LABEL - 8, middle + 4, _cut(name), "end"))
        place = LABEL + row * CELL + CELL / 2
        parts.append(_text(place, 24 + size + 14, _cut(name, 10), "end", turn=-38))
        for column, other in enumerate(classes):
            value = float(share[row, column])
            x, y = LABEL + column * CELL, 24 + row * CELL
            side, opacity = CELL - 2, f"{0.04 + 0.96 * value:.3f}"
            tip = f"{name} as {other}: {int(counts[row, column])} of {int(totals[row, 0])}"
            style = "on-dark" if value > 0.5 else "ink"
            text = f"{100 * value:.0f}" if totals[row, 0] else "–"
            parts.append(
                f'<g><title>{escape(tip)}</title><rect x="{x + 1}" y="{y + 1}" width="{side}" height="{side}" '
                f'rx="4" class="cell" style="fill-opacity:{opacity}"/>'
                f"{_text(x + CELL / 2, y + CELL / 2 + 5, text, style=style)}</g>"
            )
    return _svg(LABEL + size + 4, 24 + size + 70, parts, f"confusion matrix, {title}")


def _cut(name: str, limit: int = 11) -> str:
    """A class name that fits beside the matrix."""
    return name if len(name) <= limit else name[: limit - 1] + "…"


def subjects(rows: Sequence[Mapping[str, float | str]]) -> str:
    """Bars of accuracy per subject: rows of 'subject', 'clips', 'last', 'inner', 'oracle' (0..1)."""
    left = 20 + 7 * max((len(_cut(str(row["subject"]), 24)) for row in rows), default=6)
    width, bar = left + 566, 18
    scale = width - left - 96
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x = left + tick * scale
        parts.append(f'<line x1="{x}" x2="{x}" y1="18" y2="{22 + bar * len(rows)}" class="grid"/>')
        parts.append(_text(x, 12, f"{tick * 100:.0f} %", style="muted small"))
    for place, row in enumerate(rows):
        y = 22 + place * bar
        last, inner, oracle = (float(row[name]) for name in ("last", "inner", "oracle"))
        tip = f"{row['subject']}: last {last:.0%}, inner {inner:.0%}, oracle {oracle:.0%}, {row['clips']} clips"
        parts.append(f"<g><title>{escape(tip)}</title>")
        parts.append(_text(left - 8, y + 12, _cut(str(row["subject"]), 24), "end", "ink small"))
        parts.append(
            f'<rect x="{left}" y="{y + 2}" width="{oracle * scale:.1f}" height="{bar - 5}" class="leak-bar"/>'
        )
        parts.append(f'<rect x="{left}" y="{y + 2}" width="{last * scale:.1f}" height="{bar - 5}" class="accent"/>')
        x = left + inner * scale
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + bar - 1}" class="inner-mark"/>')
        parts.append(_text(width - 84, y + 12, f"{last:.0%} of {row['clips']}", "start", "muted small") + "</g>")
    return _svg(width, 28 + bar * len(rows), parts, "accuracy per subject")


def curves(
    series: Sequence[tuple[str, str, np.ndarray]],
    title: str,
    limits: tuple[float, float],
    across: np.ndarray | None = None,
    unit: str = "epoch",
) -> str:
    """Lines over epochs: (name, css class, values [E]) within the y limits.

    `across` are the places on the x axis, ascending integers [E] counted in `unit`; epochs 1 to E where absent.
    """
    width, height, left, bottom = 400, 220, 44, 34
    low, high = limits
    span = max(high - low, 1e-9)
    inner_width, inner_height = width - left - 12, height - bottom - 24
    parts = [_text(left, 14, title, "start", "ink")]
    for tick in np.linspace(low, high, 5):
        y = 24 + (high - tick) / span * inner_height
        parts.append(f'<line x1="{left}" x2="{width - 12}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(_text(left - 6, y + 4, f"{tick:.2f}", "end", "muted small"))
    if across is None:
        across = np.arange(1, max((len(values) for _, _, values in series), default=1) + 1)
    first, last = int(across[0]), int(across[-1])
    places = left + (across - first) / max(last - first, 1) * inner_width
    for tick in sorted({first, (first + last) // 2, last}):
        x = left + (tick - first) / max(last - first, 1) * inner_width
        parts.append(_text(x, height - bottom + 16, tick, style="muted small"))
    parts.append(_text(left + inner_width / 2, height - 4, unit, style="muted small"))
    for name, style, values in series:
        down = 24 + (high - np.clip(values, low, high)) / span * inner_height
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(places.tolist(), down.tolist(), strict=True))
        parts.append(f'<polyline points="{path}" class="line {style}"><title>{escape(name)}</title></polyline>')
    return _svg(width, height, parts, title)


def forest(rows: Sequence[tuple[str, str, float, float | None, float | None]], title: str) -> str:
    """A score (0..1) per row with its interval: (label, css class, value, low, high); None where there is none."""
    width, left, bar = 940, 280, 26
    scale, height = width - left - 74, 26 + bar * len(rows)
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x = left + tick * scale
        parts.append(f'<line x1="{x}" x2="{x}" y1="18" y2="{height - 4}" class="grid"/>')
        parts.append(_text(x, 12, f"{tick:.2f}", style="muted small"))
    for place, (label, style, value, low, high) in enumerate(rows):
        y = 22 + place * bar + bar / 2
        between = "" if low is None or high is None else f", interval {low:.3f} to {high:.3f}"
        parts.append(f"<g><title>{escape(f'{label}: {value:.3f}{between}')}</title>")
        parts.append(_text(left - 12, y + 4, _cut(label, 38), "end", "ink small"))
        if low is not None and high is not None:
            ends = f'x1="{left + low * scale:.1f}" x2="{left + high * scale:.1f}" y1="{y}" y2="{y}"'
            parts.append(f'<line {ends} class="whisker {style}-mark"/>')
        parts.append(f'<circle cx="{left + value * scale:.1f}" cy="{y}" r="5" class="{style}-dot"/>')
        parts.append(_text(width - 62, y + 4, f"{value:.3f}", "start", "ink small") + "</g>")
    return _svg(width, height, parts, title)


def reliability(
    counts: Sequence[int], confidence: Sequence[float | None], accuracy: Sequence[float | None], title: str
) -> str:
    """A reliability diagram: accuracy against mean confidence per bin (dots), and how many each bin holds."""
    side, left, top, hist = 230, 44, 10, 54
    height = top + side + 14 + hist + 36
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x, y = left + tick * side, top + (1 - tick) * side
        parts.append(f'<line x1="{left}" x2="{left + side}" y1="{y}" y2="{y}" class="grid"/>')
        parts.append(_text(left - 6, y + 4, f"{tick:.2f}", "end", "muted small"))
        parts.append(_text(x, height - 20, f"{tick:.2f}", style="muted small"))
    parts.append(f'<line x1="{left}" x2="{left + side}" y1="{top + side}" y2="{top}" class="ideal"/>')
    highest, wide = max([*counts, 1]), side / len(counts)
    base = top + side + 14 + hist
    for place, (n, sure, right) in enumerate(zip(counts, confidence, accuracy, strict=True)):
        if not n or sure is None or right is None:
            continue
        x, y, fits = left + sure * side, top + (1 - right) * side, top + (1 - sure) * side
        tip = f"{n} predictions, mean confidence {sure:.3f}, accuracy {right:.3f}"
        parts.append(f"<g><title>{escape(tip)}</title>")
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y:.1f}" y2="{fits:.1f}" class="gap"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" class="accent-dot"/>')
        tall = n / highest * hist
        parts.append(
            f'<rect x="{left + place * wide + 1:.1f}" y="{base - tall:.1f}" width="{wide - 2:.1f}" '
            f'height="{tall:.1f}" class="accent"/></g>'
        )
    parts.append(_text(left + side / 2, height - 4, "largest probability", style="muted small"))
    parts.append(_text(left - 6, base - hist + 8, highest, "end", "muted small"))
    return _svg(left + side + 16, height, parts, title)
