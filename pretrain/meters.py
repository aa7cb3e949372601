"""What a run costs: pairs per second, waiting for data, model FLOP utilisation, memory."""

from __future__ import annotations

import time

import psutil
import torch

from pretrain.architecture import ModelConfig
from pretrain.flops import pair_flops, peak_flops


class Meters:
    """Wall-clock figures between two log lines. The caller marks the phases of each step."""

    def __init__(self, model: ModelConfig, device: torch.device, world: int):
        self.flops = pair_flops(model)
        self.device, self.world = device, world
        self.peak, self.peak_source = peak_flops(device)
        self._process = psutil.Process()
        self.restart()

    def restart(self) -> None:
        """Begin a new stretch: what came before does not count."""
        self._started, self._waited, self._pairs = time.perf_counter(), 0.0, 0

    def waited(self, seconds: float) -> None:
        """The training process stood still for data this long."""
        self._waited += seconds

    def counted(self, pairs: int) -> None:
        """This many pairs were trained on, over all ranks."""
        self._pairs += pairs

    def read(self) -> dict[str, float]:
        """Figures since the last reading: pairs_per_s, mfu (of all ranks' peak), data_wait (share), memory_gb."""
        elapsed = max(time.perf_counter() - self._started, 1e-9)
        rate = self._pairs / elapsed
        figures = {
            "pairs_per_s": rate,
            "mfu": rate * self.flops / (self.peak * self.world),
            "data_wait": self._waited / elapsed,
            "memory_gb": self._memory() / 2**30,
        }
        self.restart()
        return figures

    def _memory(self) -> float:
        """Bytes: the device's peak allocation, or this process's resident memory on a CPU."""
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.device))
        return float(self._process.memory_info().rss)
