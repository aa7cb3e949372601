"""Several ranks in one process: a thread each, with collectives that meet at a barrier."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


class Meeting:
    """Where the ranks put their tensors down and take everybody's up."""

    def __init__(self, size: int):
        self.size, self.barrier, self.table = size, threading.Barrier(size, timeout=30), [torch.empty(0)] * size

    def exchange(self, rank: int, x: Tensor) -> list[Tensor]:
        """Everybody's tensors, in the order of ranks."""
        self.table[rank] = x.detach().clone()
        self.barrier.wait()
        everybody = list(self.table)
        self.barrier.wait()
        return everybody


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rank: int, meeting: Meeting) -> Tensor:
        ctx.rank, ctx.meeting = rank, meeting
        return torch.stack(meeting.exchange(rank, x)).sum(0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return torch.stack(ctx.meeting.exchange(ctx.rank, grad)).sum(0), None, None


class Piece:
    """A `pretrain.objective.Group` of threads."""

    def __init__(self, rank: int, meeting: Meeting):
        self.rank, self.size, self._meeting = rank, meeting.size, meeting

    def gather(self, x: Tensor) -> Tensor:
        return torch.cat(self._meeting.exchange(self.rank, x))

    def sum(self, x: Tensor) -> Tensor:
        return _Sum.apply(x, self.rank, self._meeting)


def on_ranks(size: int, work: Callable[[Piece], Result]) -> list[Result]:
    """`work(group)` of every rank, all at once."""
    meeting = Meeting(size)
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda rank: work(Piece(rank, meeting)), range(size)))
