"""Micron-BERT pretraining: the model, its training loop on DeepSpeed, and its weights.

Importing this package imports torch and timm, never deepspeed (that is `pretrain.engine`'s alone).
"""

from pretrain.architecture import ModelConfig
from pretrain.dma import change_map
from pretrain.model import MicronBert
from pretrain.objective import create
from pretrain.weights import describe, load_encoder, load_micron, load_without_dma, objective_of

__all__ = [
    "MicronBert",
    "ModelConfig",
    "change_map",
    "create",
    "describe",
    "load_encoder",
    "load_micron",
    "load_without_dma",
    "objective_of",
]
