"""The ranks of a run: who they are, what they tell each other beside training, and what to say when one is lost."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from shards.errors import FlickerError


@dataclass(frozen=True)
class World:
    """This process among all: its rank, how many there are, and its device."""

    rank: int
    size: int
    device: torch.device


@contextmanager
def told_of_lost_ranks() -> Iterator[None]:
    """Turn what gloo, NCCL or the store say when another rank is gone into one line. Raises FlickerError."""
    try:
        yield
    except RuntimeError as error:
        known = r"gloo|NCCL|[Ss]ocket|connectFullMesh"
        if not isinstance(error, dist.DistError) and not re.search(known, str(error)):
            raise
        raise _lost_rank(error) from None


def _lost_rank(error: Exception) -> FlickerError:
    """What to tell the user when a collective has failed."""
    text = " ".join(str(error).split())
    silent = re.search(r"(?<!Connection )[Tt]imed? ?out", text)
    what = "did not answer within engine.timeout" if silent else "has gone; its own message says why"
    reason = re.sub(r"^\[\S+\] ", "", text)[:120]
    return FlickerError(
        f"another rank {what} ({reason}); the same command continues from the last checkpoint, on any number of ranks"
    )


def limit_waiting(timeout: float) -> None:
    """Give every process group the time limit, seconds: those that DeepSpeed makes have gloo's 30 minutes."""
    set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
    for group in list(dist.distributed_c10d._world.pg_map):
        set_timeout(timedelta(seconds=timeout), group)


_side_groups: dict[str, Any] = {}


def side_group(purpose: str, size: int, timeout: float) -> Any:
    """A gloo group of all ranks beside the training's own, one per purpose; None for one process. Collective."""
    if size == 1:
        return None
    if purpose not in _side_groups:
        _side_groups[purpose] = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
    return _side_groups[purpose]


class Pending:
    """A result of the ranks that is being worked out."""

    def __init__(self, values: Tensor, work: Any = None):
        self._values, self._work = values, work

    def result(self) -> list[float]:
        """Wait for it. Raises RuntimeError if a rank has gone (see `told_of_lost_ranks`)."""
        if self._work is not None:
            self._work.wait()
            self._work = None
        return list(self._values.tolist())


class HostGroup:
    """All ranks, for small facts that live on the host: no device waits for them, whatever the main backend is."""

    def __init__(self, world: World, timeout: float = 600.0):
        """Collective. `timeout`: seconds to wait for the other ranks' values."""
        self._size, self._group = world.size, side_group("host", world.size, timeout)

    def max(self, values: list[float]) -> Pending:
        """The largest of every rank's values, one by one; finite numbers. Collective; the answer comes later."""
        tensor = torch.tensor(values, dtype=torch.float64)
        if self._group is None:
            return Pending(tensor)
        return Pending(tensor, dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._group, async_op=True))

    def gather(self, values: list[float]) -> list[list[float]]:
        """Every rank's values, in the order of ranks. Collective; waits for all ranks."""
        tensor = torch.tensor(values, dtype=torch.float64)
        if self._group is None:
            return [tensor.tolist()]
        parts = [torch.empty_like(tensor) for _ in range(self._size)]
        dist.all_gather(parts, tensor, group=self._group)
        return [part.tolist() for part in parts]


class RankGroup:
    """What a loss may ask of the other ranks (`pretrain.objective.Group`), over the training's process group."""

    def __init__(self, world: World):
        self.rank, self.size = world.rank, world.size

    def __deepcopy__(self, memo: dict[int, Any]) -> RankGroup:
        """Itself: copies of a module ask the same ranks."""
        return self

    @torch.compiler.disable
    def gather(self, x: Tensor) -> Tensor:
        """[B ...] of every rank, in the order of ranks: [size·B ...], without gradient. The same B everywhere."""
        own = x.detach().contiguous()
        if self.size == 1:
            return own
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own)
        return torch.cat(parts)

    @torch.compiler.disable
    def sum(self, x: Tensor) -> Tensor:
        """The sum over ranks; its gradient is summed over ranks too."""
        summed: Tensor = x if self.size == 1 else _Sum.apply(x)  # type: ignore[no-untyped-call]
        return summed


class _Sum(torch.autograd.Function):
    """Sum over ranks, forwards and backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def agreement(group: Any) -> Callable[[bool], bool]:
    """Whether all ranks of a side group say yes; called by one thread of each rank."""

    def agree(own: bool) -> bool:
        told = torch.tensor([int(own)])
        if group is not None:
            dist.all_reduce(told, dist.ReduceOp.MIN, group=group)
        return bool(told.item())

    return agree


def forget_side_groups() -> None:
    """When the process group is left."""
    _side_groups.clear()
