"""One small model of every objective, and batches for it."""

from __future__ import annotations

from typing import Any

import torch

from pretrain import create
from pretrain.architecture import AgreementConfig, MocoConfig
from pretrain.augment import AugmentConfig
from pretrain.objective import Objective, Views
from pretrain.swap import SwapConfig
from tests.sizes import SIZES

MOCO = MocoConfig(hidden_dim=48, out_dim=16)
KINDS: dict[str, dict[str, Any]] = {
    "micron_bert": {},
    "dino": {"objective": "micron_bert", "agreement": AgreementConfig(kind="dino", local_crops=2, out_dim=16)},
    "mae": {"objective": "mae"},
    "mocov3": {"objective": "mocov3", "mocov3": MOCO},
    "beit": {"objective": "beit"},
}
VIEWS = Views(SwapConfig(min_block=2), AugmentConfig(crop_area=(0.5, 1.0), brightness=0.2))


def build(kind: str, **options: Any) -> Any:
    """A small objective with weights of their own seed."""
    torch.manual_seed(0)
    return create("tiny", **{**SIZES, **KINDS[kind], **options})


def pairs(count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 [count 2 40 40 3] and seeds."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 255, (count, 2, 40, 40, 3), dtype=torch.uint8, generator=generator), torch.arange(count)


def prepared(model: Objective, count: int = 4) -> Any:
    """A batch with its targets."""
    batch = model.views(*pairs(count), VIEWS)
    teacher = model.make_teacher(torch.device("cpu"))
    if teacher is not None:
        teacher.prepare(batch)
    return batch
