"""What a training objective is to the loop: an encoder, a batch made from frame pairs, and a loss.

The loop, the engine, checkpoints, benchmarks and probes know only this; the objectives (`model.py`: Micron-BERT,
`mae.py`, `mocov3.py`, `beit.py`) know nothing of ranks, optimisers or files.
"""

from __future__ import annotations

import abc
import importlib
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from pretrain.architecture import ModelConfig, resolve
from pretrain.augment import AugmentConfig
from pretrain.decoder import Decoder
from pretrain.encoder import Encoder
from pretrain.swap import SwapConfig

CLASSES = {
    "micron_bert": ("pretrain.model", "MicronBert"),
    "mae": ("pretrain.mae", "Mae"),
    "mocov3": ("pretrain.mocov3", "MocoV3"),
    "beit": ("pretrain.beit", "Beit"),
}


class Group(Protocol):
    """What a loss may ask of the other ranks."""

    rank: int
    size: int

    def gather(self, x: Tensor) -> Tensor:
        """[B ...] of every rank, in the order of ranks: [size·B ...], without gradient."""

    def sum(self, x: Tensor) -> Tensor:
        """The sum over ranks; its gradient is summed over ranks too."""


class Alone:
    """The group of one process."""

    rank, size = 0, 1

    def gather(self, x: Tensor) -> Tensor:
        """x itself, without gradient."""
        return x.detach()

    def sum(self, x: Tensor) -> Tensor:
        """x itself."""
        return x


@dataclass(frozen=True)
class Views:
    """How a batch is made from frame pairs."""

    swap: SwapConfig = field(default_factory=SwapConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass
class Losses:
    """What a training step returns; every tensor is on the module's device."""

    total: Tensor
    """[] what is minimised"""
    cls_spread: Tensor
    """[] standard deviation of the contextual feature over the batch, mean over channels"""
    terms: dict[str, Tensor] = field(default_factory=dict)
    """[] each, detached, for the log; the same names at every step"""
    shown: dict[str, Tensor] = field(default_factory=dict)
    """detached, for pictures"""


class Teacher(Protocol):
    """Targets that follow the student; kept outside the trained module and in float32."""

    def prepare(self, batch: Any) -> None:
        """Fill in the batch's targets, before it is cast to the engine's precision."""

    def update(self, student: Any, progress: float) -> None:
        """After a step; `progress` is the share of the run that is done, 0..1. Collective."""

    def state_dict(self) -> dict[str, Tensor]:
        """For a checkpoint."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse."""


class Objective(nn.Module, abc.ABC):
    """An encoder and the loss that trains it. Built from a `ModelConfig`.

    `group` is set by whoever trains on several ranks; `encoder`'s keys in the state dict begin with "encoder.".
    """

    encoder: Encoder
    config: ModelConfig
    """resolved: no size is 0"""
    group: Group = Alone()

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = resolve(config)
        self.encoder = build_encoder(self.config)

    @property
    def can_collapse(self) -> bool:
        """Whether a contextual feature that is the same for every face satisfies the loss."""
        return False

    @abc.abstractmethod
    def views(self, frames: Tensor, seeds: Tensor, views: Views) -> Any:
        """A batch from pairs; every random choice is a pure function of a pair's seed.

        Args:
            frames: uint8 [B 2 H W 3] RGB, I(t) and I(t+δ), any size.
            seeds: int64 [B].

        Returns:
            A dataclass with `.to(dtype)`, which casts frames and leaves masks and targets as they are.
        """

    @abc.abstractmethod
    def forward(self, batch: Any) -> Losses:
        """One training step's losses."""

    def make_teacher(self, device: torch.device) -> Teacher | None:
        """The teacher that fills in a batch's targets, where there is one."""
        return None

    def sheet(self, batch: Any, losses: Losses) -> np.ndarray | None:
        """A picture of some samples, uint8 [H W 3] RGB."""
        return None


def build_encoder(config: ModelConfig) -> Encoder:
    """The encoder that a resolved config describes."""
    return Encoder(
        image_size=config.image_size,
        patch_size=config.patch_size,
        dim=config.dim,
        depth=config.depth,
        heads=config.heads,
    )


def build_decoder(config: ModelConfig, masked: bool = False) -> Decoder:
    """The decoder that a resolved config describes, with or without a mask token."""
    return Decoder(
        in_dim=config.dim,
        dim=config.decoder_dim,
        depth=config.decoder_depth,
        heads=config.decoder_heads,
        grid=config.image_size // config.patch_size,
        patch=config.patch_size,
        masked=masked,
    )


def create_objective(config: ModelConfig) -> Objective:
    """The objective that `config.objective` names, with random weights."""
    module, name = CLASSES[config.objective]
    objective: Objective = getattr(importlib.import_module(module), name)(config)
    return objective


def create(preset: str = "tiny", **overrides: Any) -> Any:
    """An objective's module with random weights; overrides are ModelConfig's fields.

    `create("small", poi="none")` is a MicronBert, `create("small", objective="mae")` a Mae.
    """
    return create_objective(ModelConfig(preset=preset, **overrides))  # type: ignore[arg-type]


def detached(values: dict[str, Any]) -> dict[str, Tensor]:
    """Without gradient; what is None is left out."""
    return {name: value.detach() for name, value in values.items() if value is not None}


def cls_spread(cls: Tensor) -> Tensor:
    """Standard deviation over the batch, mean over channels, float32: [B D] -> []. Near 0: collapse."""
    return cls.detach().float().std(dim=0, correction=0).mean()
