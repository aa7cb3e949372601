"""How hard the synthetic data is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shards.errors import UsageError


@dataclass(frozen=True)
class Difficulty:
    """How hard the synthetic data is. Pixels are those of the written frame; 0 switches a nuisance off."""

    amplitude_px: tuple[float, float] = (0.5, 3.0)
    """Least and greatest amplitude of a facial movement, pixels (log-uniform between them)."""
    drift_px: float = 0.8
    """Root mean square of the head's wandering in each direction, pixels; it turns and nears in proportion."""
    distractor_px: float = 0.4
    """Greatest amplitude of small movements that have nothing to do with the label, pixels."""
    style: float = 0.2
    """Differences between people: standard deviation of the logarithm of each action unit's gain."""
    overlap: float = 0.12
    """Share of labelled clips that show an action-unit set of another class (the true units' accuracy is 1 - it)."""
    apex_error: float = 3.0
    """Standard deviation of the annotated onset, apex and offset about the true ones, frames."""
    blink: float = 0.15
    """Blinks a second."""
    flicker: float = 0.01
    """Standard deviation of the light's brightness, relative."""
    noise: float = 1.5
    """Standard deviation of the sensor's noise, grey levels (0 to 255)."""
    jpeg_quality: int = 92
    """JPEG quality of written frames, 1 to 100."""
    crf: int = 10
    """H.264 constant rate factor of written videos, 0 (best) to 51; above about 16 small movements vanish."""

    def __post_init__(self) -> None:
        low, high = self.amplitude_px
        if not 0 <= low <= high or (low == 0 < high):
            raise UsageError(f"amplitude_px {self.amplitude_px}: give 0 < least <= greatest, or 0 0 for no movement")
        for name in ("drift_px", "distractor_px", "style", "apex_error", "blink", "flicker", "noise"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} {getattr(self, name)}: must not be negative")
        if not 0 <= self.overlap <= 1:
            raise UsageError(f"overlap {self.overlap}: a share between 0 and 1")
        if not 1 <= self.jpeg_quality <= 100 or not 0 <= self.crf <= 51:
            raise UsageError(f"jpeg_quality {self.jpeg_quality} (1 to 100) or crf {self.crf} (0 to 51) out of range")

    def draw_amplitude(self, rng: np.random.Generator) -> float:
        """An amplitude, pixels."""
        low, high = self.amplitude_px
        return float(np.exp(rng.uniform(np.log(low), np.log(high)))) if high else 0.0
