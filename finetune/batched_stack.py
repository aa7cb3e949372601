"""Networks of one kind as one: their parameters in one stack [F ...], one forward, backward and update for all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.utils._pytree import tree_map

from finetune.config import TrainConfig
from finetune.heads.taps import tap_first, tap_last
from finetune.training import make_schedule, optimise

NARROW = 32
"""Layers with fewer inputs or outputs than this are narrow."""


class Stack:
    """Networks of one kind as one, their parameters stacked [F ...]."""

    def __init__(self, cores: Sequence[nn.Module], groups: list[dict[str, Any]], settings: TrainConfig, steps: int):
        """`groups`: optimiser groups of the first network; `steps`: of the whole training."""
        self.core, self.count = cores[0], len(cores)
        names = {id(parameter): name for name, parameter in self.core.named_parameters()}
        parameters, self.buffers = stack_module_state(list(cores))  # type: ignore[arg-type]
        self.leaves = {name: stored(value.detach()).requires_grad_() for name, value in parameters.items()}
        for group in groups:
            group["params"] = [self.leaves[names[id(parameter)]] for parameter in group["params"]]
        self.optimiser = optimise(groups, settings)
        self.schedule = make_schedule(self.optimiser, settings, steps)
        shared = {name: value.detach() for name, value in self.parameters.items()}
        for place, core in enumerate(cores):  # so that the single networks hold no memory of their own
            for name, parameter in core.named_parameters():
                parameter.data = shared[name][place]

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Name -> [F ...]."""
        return {name: shown(leaf) for name, leaf in self.leaves.items()}

    def logits(self, inputs: Any, places: slice | list[int] | None = None) -> Tensor:
        """[F B C] of inputs [F B ...]; `places`: of these members alone.

        A network that says `takes_stacks` computes for several at once by itself; any other is vectorised.
        """

        def some(value: Tensor) -> Tensor:
            return value if places is None else value[places]

        parameters = {name: shown(some(leaf)) for name, leaf in self.leaves.items()}
        buffers = {name: some(value) for name, value in self.buffers.items()}

        def one(parameters: Any, buffers: Any, given: Any) -> Tensor:
            return functional_call(self.core, (parameters, buffers), (given,))  # type: ignore[no-any-return]

        if getattr(self.core, "takes_stacks", False):
            return one(parameters, buffers, inputs)
        return vmap(one)(parameters, buffers, inputs)  # type: ignore[no-any-return, call-arg]

    def step(self, inputs: Any, labels: Tensor, counts: Sequence[int], weights: Tensor, smoothing: float) -> Tensor:
        """One update of all members; returns the loss of each [F] before it.

        inputs [F B ...], labels int64 [F B], of which each member has the first `counts` [F]. Neighbours with equal
        counts are computed together: rows that fill up a batch would change the order of its sums.
        """
        self.core.train()
        found = []
        for start, stop in runs(counts):
            places = None if stop - start == self.count else slice(start, stop)
            own = tree_map(lambda value, a=start, b=stop: value[a:b, : counts[a]], inputs)
            logits = self.logits(own, places)
            wanted = targets(labels[start:stop, : counts[start]], weights[start:stop], smoothing)
            found.append(-(wanted * F.log_softmax(logits, dim=-1)).sum((1, 2)))
        losses = torch.cat(found)
        self.optimiser.zero_grad(set_to_none=True)
        losses.sum().backward()
        self.optimiser.step()
        self.schedule.step()
        return losses.detach()


def runs(counts: Sequence[int]) -> list[tuple[int, int]]:
    """[start, stop) of neighbours that are equal."""
    edges = [0, *(place for place in range(1, len(counts)) if counts[place] != counts[place - 1]), len(counts)]
    return list(pairwise(edges))


def stored(stacked: Tensor) -> Tensor:
    """Parameters [F ...] with their axes in the order in which gradients arise, so that these need not be copied.

    Not of narrow layers: products with few columns sum in another order there.
    """
    if stacked.ndim == 3 and min(stacked.shape[1:]) >= NARROW:
        return stacked.mT.contiguous()
    return tap_first(stacked).contiguous()


def shown(leaf: Tensor) -> Tensor:
    """`stored` undone."""
    return leaf.mT if leaf.ndim == 3 and min(leaf.shape[1:]) >= NARROW else tap_last(leaf)


def targets(labels: Tensor, weights: Tensor, smoothing: float) -> Tensor:
    """What log-probabilities are multiplied by, so that their sum is minus F.cross_entropy's weighted mean.

    labels int64 [F B]; weights float32 [F C] of the classes -> float32 [F B C].
    """
    classes = weights.shape[-1]
    chosen = F.one_hot(labels, classes) * weights[:, None]  # [F B C]
    spread = weights[:, None] / classes
    return ((1 - smoothing) * chosen + smoothing * spread) / chosen.sum((1, 2), keepdim=True)
