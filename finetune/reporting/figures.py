"""Figures as files for papers and slides, beside the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from finetune.results import SELECTION_TITLES, Results
from shards.files import atomic_path


def write_confusions(path: Path, results: Results) -> None:
    """The pooled confusion matrices of all selections side by side, counts and row shares, as PNG at 200 dpi."""
    count = len(results.classes)
    figure = Figure(figsize=(3.2 * len(results.selections) + 0.6, 3.6), layout="constrained")
    for place, (name, scores) in enumerate(results.selections.items()):
        axes = figure.add_subplot(1, len(results.selections), place + 1)
        counts = np.array(scores["confusion"])
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(count, count):
            colour = "white" if share[row, column] > 0.55 else "black"
            text = f"{share[row, column]:.0%}\n{counts[row, column]}"
            axes.text(column, row, text, ha="center", va="center", fontsize=6, color=colour)
        axes.set_xticks(range(count), results.classes, rotation=40, ha="right", fontsize=7)
        axes.set_yticks(range(count), results.classes if place == 0 else [], fontsize=7)
        axes.set_title(f"{name}: UF1 {scores['uf1']:.3f}\n{SELECTION_TITLES[name]}", fontsize=7)
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=200, format="png")
