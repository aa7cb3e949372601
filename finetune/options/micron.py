"""Options of the head `micron`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Pooling = Literal["mean", "attention", "grid"]
Classifier = Literal["linear", "mlp"]


@dataclass
class MicronOptions:
    """Options of the head `micron`."""

    face: str = "as-is-squash"
    """Geometry of the frames: as-is-squash (whole frame), as-is-crop (middle), as-is-pad (whole, sides kept), or by
    landmarks aligned, box, slstt."""
    features: list[str] = field(default_factory=lambda: ["dma"])
    """Taken per patch and concatenated: dma (the paper), difference (apex minus onset tokens), change (DMA's map),
    matching (similarity of each onset token to the apex tokens around it)."""
    radius: int = 2
    """Reach of `matching`, patches."""
    pooling: Pooling = "mean"
    """mean over patches; attention: learned weights; grid: means of `cells` x `cells` areas, keeping the place."""
    cells: int = 6
    """Areas per side for pooling `grid`."""
    classifier: Classifier = "linear"
    """linear, or mlp with one hidden layer."""
    hidden: int = 128
    """Width of the hidden layer of `mlp`."""
    dropout: float = 0.0
    """Dropout before each linear layer (0..1)."""
