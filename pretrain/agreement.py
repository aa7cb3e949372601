"""Contextual agreement between a frame and its crop (Micron-BERT, eq. 10 and 15), by MSE or by DINO.

The paper states MSE; the released code trains with DINO (Caron et al., Emerging Properties in
Self-Supervised Vision Transformers, ICCV 2021). A constant contextual token satisfies plain MSE: the
training loop logs its spread over the batch and warns on collapse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.architecture import AgreementConfig
from pretrain.teacher import MovingAverage

if TYPE_CHECKING:
    from pretrain.batch import Batch
    from pretrain.objective import Objective


def mse_agreement(reference: Tensor, crop: Tensor, stop_gradient: bool) -> Tensor:
    """MSE between contextual features [B D] of I(t+δ) and of its crop (eq. 15) -> []."""
    target = reference.detach() if stop_gradient else reference
    return F.mse_loss(crop.float(), target.float())


class DinoHead(nn.Module):
    """Three-layer MLP with a bottleneck and weight-normalised prototypes: [B D] -> [B out_dim]."""

    def __init__(self, dim: int, config: AgreementConfig):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim // 2)
        )
        self.prototypes = nn.Linear(dim // 2, config.out_dim, bias=False)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Logits before temperature."""
        return F.linear(F.normalize(self.mlp(x), dim=-1), F.normalize(self.prototypes.weight, dim=-1))


def dino_loss(student: list[Tensor], teacher: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of the student's crops under the teacher's global crops, equal crops left out.

    Args:
        student: logits per crop size: first the two global crops [2B K] (crop-major), then the local [L·B K].
        teacher: probabilities of the two global crops, [2 B K].

    Returns:
        [] mean over the pairs of different crops.
    """
    batch = teacher.shape[1]
    crops = torch.cat([logits.view(-1, batch, logits.shape[-1]) for logits in student])  # [2+L B K]
    log_student = F.log_softmax(crops.float() / temperature, dim=-1)
    cross = -torch.einsum("tbk,sbk->tsb", teacher.float(), log_student).mean(-1)  # [2 2+L]
    different = ~torch.eye(2, len(crops), dtype=torch.bool, device=cross.device)
    return (cross * different).sum() / (cross.numel() - 2)  # indexing by a mask would wait for the device


class DinoTeacher(MovingAverage):
    """The moving average of a MicronBert's encoder and head, and the centre of its logits."""

    def __init__(self, student: Objective, device: torch.device):
        self.config = student.config.agreement
        super().__init__(student, {"encoder": "encoder", "head": "dino"}, self.config.teacher_momentum, device)
        self.centre = torch.zeros(self.config.out_dim, device=device)
        self._seen: list[Tensor] = []  # the mean logits [K] of each micro-batch since the last update

    def prepare(self, batch: Batch) -> None:
        """Fill in the batch's targets."""
        batch.teacher_probabilities = self.targets(batch.student_crops[0])

    @torch.no_grad()
    def targets(self, crops: Tensor) -> Tensor:
        """Probabilities of the two global crops [2B 3 H W] (crop-major) -> [2 B K]; notes their mean logits."""
        with self.autocast():
            logits = self.module["head"](self.module["encoder"].contextual(crops.float())).float()  # [2B K]
        self._seen.append(logits.mean(0))
        probabilities = ((logits - self.centre) / self.config.teacher_temperature).softmax(-1)
        return probabilities.view(2, -1, probabilities.shape[-1])

    @torch.no_grad()
    def update(self, student: Any, progress: float) -> None:
        """Move the weights towards the student's, and the centre towards the logits of all ranks. Collective."""
        super().update(student, progress)
        if self._seen:
            mean = self.group.sum(torch.stack(self._seen).mean(0)) / self.group.size
            self.centre = torch.lerp(mean, self.centre, self.config.centre_momentum)
            self._seen = []

    def state_dict(self) -> dict[str, Tensor]:
        """Weights and centre, for a checkpoint."""
        return {**super().state_dict(), "centre": self.centre}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        self.centre = state["centre"].to(self.centre)
        super().load_state_dict({name: value for name, value in state.items() if name != "centre"})
