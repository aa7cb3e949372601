"""AdamW's parameter groups and the learning rate's course."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from pretrain.config import OptimConfig


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trained parameters in two groups: matrices decay, vectors (biases, norms) and tokens do not."""
    decay: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (plain if parameter.ndim < 2 or name.endswith("_token") else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def adamw(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Fused AdamW over `parameter_groups`."""
    groups = parameter_groups(model, config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def learning_rate(step: int, steps: int, config: OptimConfig) -> float:
    """Linear warm-up, then a cosine to `final_lr` (Micron-BERT, section 5.2).

    Args:
        step: optimiser steps done so far, 0 for the first.
        steps: steps of the whole run.
    """
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(steps - config.warmup, 1)
    return config.final_lr + (config.lr - config.final_lr) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
