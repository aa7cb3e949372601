"""The exponential moving average of a student's parts, which DINO and MoCo v3 take their targets from.

It is kept outside the trained module and in float32, so that no engine casts, shards or optimises it.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from pretrain.objective import Group, Objective


class MovingAverage:
    """A teacher (`pretrain.objective.Teacher`) without its `prepare`.

    Args:
        student: whose group the teacher's statistics are taken over.
        parts: the teacher's name of each part -> the student's attribute.
        momentum: of the weights at the start; grows to 1 along a cosine.
    """

    def __init__(self, student: Objective, parts: dict[str, str], momentum: float, device: torch.device):
        self.parts, self.momentum, self.device = parts, momentum, device
        copies = {name: copy.deepcopy(getattr(student, attribute)) for name, attribute in parts.items()}
        self.module: Any = nn.ModuleDict(copies).float().eval().to(device)
        self.module.requires_grad_(False)
        self._student = student

    @property
    def group(self) -> Group:
        """The student's, whenever it was set."""
        return self._student.group

    def autocast(self) -> torch.autocast:
        """The precision of a teacher's forward pass: bf16 on a GPU, float32 elsewhere; the weights stay float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    @torch.no_grad()
    def update(self, student: Any, progress: float) -> None:
        """Move the weights towards the student's; `progress` in 0..1 sets the momentum. The host does not wait."""
        momentum = 1 - (1 - self.momentum) * (math.cos(math.pi * progress) + 1) / 2
        old: list[Tensor] = []
        new: list[Tensor] = []
        for name, attribute in self.parts.items():
            pairs = zip(self.module[name].parameters(), getattr(student, attribute).parameters(), strict=True)
            for mine, theirs in pairs:
                if theirs.requires_grad:  # tables and frozen layers stay as they were copied
                    old.append(mine)
                    new.append(theirs.detach().float())
        torch._foreach_lerp_(old, new, 1 - momentum)

    def state_dict(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return dict(self.module.state_dict())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse."""
        self.module.load_state_dict(state)
