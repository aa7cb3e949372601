"""What in a function has the host wait for the device, found without one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx

WAITING = ("_local_scalar_dense", "index.Tensor", "nonzero", "masked_select", "lift_fresh", "constant")


def waits(function: Callable[..., Any], *inputs: torch.Tensor, weights: Iterable[torch.Tensor] = ()) -> list[str]:
    """Values and sizes that it asks for, constants that it copies; `weights` are on the device and not copied."""
    traced = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
    there = {id(weight) for weight in weights}
    nodes = [node for node in traced.graph.nodes if any(word in str(node.target) for word in WAITING)]
    return [str(n.target) for n in nodes if n.op != "get_attr" or id(getattr(traced, n.target)) not in there]
