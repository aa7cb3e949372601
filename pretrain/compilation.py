"""torch.compile for any objective: block by block, or the whole forward pass in one graph.

Modules are compiled in place, so parameters keep their names and a checkpoint never hears of it.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from pretrain.blocks import Block
from pretrain.dma import DMA
from shards.errors import UsageError

Mode = Literal["auto", "blocks", "whole", "off"]
Tuning = Literal["default", "max-autotune-no-cudagraphs"]
SHAPES = 64
"""Input shapes that one function may be compiled for: views and crops differ, and so do encoder and decoder."""


def resolve_mode(mode: Mode, device: torch.device, zero_stage: int = 1) -> Mode:
    """What "auto" means: blocks on a GPU; nothing on a CPU (it gains little there) nor with ZeRO-3.

    Raises UsageError for "whole" with ZeRO-3, whose hooks fetch each layer's weights in between.
    """
    if mode == "whole" and zero_stage == 3:
        raise UsageError("engine.compile whole does not work with engine.zero_stage 3: give blocks or off")
    if mode == "auto":
        return "blocks" if device.type == "cuda" and zero_stage < 3 else "off"
    return mode


def compile_objective(
    module: nn.Module,
    mode: Mode,
    device: torch.device,
    zero_stage: int = 1,
    *,
    tuning: Tuning = "default",
    backend: str = "inductor",
) -> Mode:
    """Have the module compiled, in place, at its first call; returns what "auto" came to.

    Args:
        mode: "blocks": every Transformer block and DMA; blocks of equal shape share one graph, so it starts soon.
            "whole": the forward pass without graph breaks; fuses more and takes longer to start. "off": nothing.
            "auto": see `resolve_mode`.
        zero_stage: of the engine that trains the module.
        tuning: "max-autotune-no-cudagraphs" tries every matrix product's kernels: minutes more at the start.
        backend: of torch.compile.

    Raises UsageError: a mode that does not work with the ZeRO stage.
    """
    mode = resolve_mode(mode, device, zero_stage)
    if mode == "off":
        return mode
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
    inductor = tuning if tuning != "default" and backend == "inductor" else None
    parts = [part for part in module.modules() if isinstance(part, (Block, DMA))] if mode == "blocks" else [module]
    for part in parts:
        part.compile(fullgraph=True, dynamic=False, mode=inductor, backend=backend)
    return mode
