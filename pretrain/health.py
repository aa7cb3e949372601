"""Whether losses and gradients are finite, without waiting for the device.

A step's loss and gradient norm are copied to the host while the device goes on; they are looked at when the step
after it has been queued, so that the device never runs out of work. On a CPU they are known at once.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class _Noted:
    """One step's figures on their way to the host."""

    step: int
    pairs: str
    names: tuple[str, ...]
    values: Tensor  # float32 [names] on the host, filled once `ready`
    ready: torch.cuda.Event | None

    def bad(self) -> str | None:
        """What is not finite, once it is known; waits for it."""
        if self.ready is not None:
            self.ready.synchronize()
        values = self.values.tolist()
        wrong = [f"{name} {value:.4g}" for name, value in zip(self.names, values, strict=True)]
        if all(math.isfinite(value) for value in values):
            return None
        return (
            f"the loss or gradient of step {self.step} is not finite ({', '.join(wrong)}; it read {self.pairs} ...)"
        )


class Health:
    """Notes every step's figures and tells of the first that is not finite."""

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._noted: deque[_Noted] = deque()
        self._found: str | None = None

    def note(self, step: int, figures: dict[str, Tensor], pairs: str) -> None:
        """Scalars of a step (any dtype, on the device) and the key of the first pair it read. Does not wait."""
        values = torch.stack([value.detach().float() for value in figures.values()])  # [names]
        ready = None
        if self._cuda:
            host = torch.empty(values.shape, pin_memory=True)
            host.copy_(values, non_blocking=True)
            ready = torch.cuda.Event()
            ready.record()
            values = host
        self._noted.append(_Noted(step, pairs, tuple(figures), values, ready))

    def bad(self, all_steps: bool = False) -> str | None:
        """What was not finite, or None. The newest step is looked at with `all_steps` (which waits), or on a CPU."""
        newest = 1 if self._cuda and not all_steps else 0
        while len(self._noted) > newest:
            bad = self._noted.popleft().bad()
            self._found = self._found or bad
        return self._found
