"""What a run will take, by formula: parameters, memory per GPU, exchange between GPUs, disk. Nothing is run.

Bytes are written b (of a weight or an activation: 2 in bf16, 4 in fp32), P parameters, N patches, d width, R ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pretrain.architecture import ModelConfig, resolve
from pretrain.objective import create_objective

if TYPE_CHECKING:
    from pretrain.config import PretrainConfig

MEMORY = {"H200": 141e9, "H100": 80e9, "A100": 80e9, "L40S": 48e9, "A10": 24e9, "V100": 32e9, "4090": 24e9}
"""Bytes, by the names of `pretrain.flops.PEAK`: data sheets, the larger where there are two (A100 40, V100 16)."""
LIVE = 1_000_000_000
"""Parameters that ZeRO-3 holds whole at a time at most, where its JSON says nothing else."""
FIXED = 1.5e9
"""Bytes: CUDA context, workspaces of cuBLAS and cuDNN, NCCL's buffers. Assumed, not measured."""
BLOCK_SAVED = 10
"""Widths per token that a block keeps for its backward pass: input, q, k, v, attended, sum, and the MLP's 4; norms
and the GELU are made again (`pretrain.blocks`). A compiled block chooses for itself: not measured."""
CONTEXTUAL_SAVED = 4
"""The same of the last block, where the contextual token alone is wanted: input, q, k, v."""
BLOCK_GRADIENTS = 8
"""Widths per token of a block's gradients that exist at once: those of the MLP's 4 + 4."""
MAPS = 2
"""N x N float32 maps that diagonal micro-attention holds at once while it builds them again."""


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters of a model."""

    trained: dict[str, int]
    """by part"""
    fixed: int
    """that no gradient changes: position tables, a frozen patch projection"""
    teacher: int
    """of a moving average beside the model"""

    @property
    def total(self) -> int:
        """All that are trained."""
        return sum(self.trained.values())


def count_parameters(config: ModelConfig) -> Parameters:
    """Exactly those of the model, which is built without memory for its weights."""
    with torch.device("meta"):
        model = create_objective(config)
        teacher: Any = model.make_teacher(torch.device("meta"))
    trained = {name: _trained(part) for name, part in model.named_children()}
    trained["tokens"] = sum(p.numel() for p in model.parameters(recurse=False) if p.requires_grad)
    fixed = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    copied = 0 if teacher is None else sum(p.numel() for p in teacher.module.parameters())
    return Parameters({name: count for name, count in trained.items() if count}, fixed, copied)


def _trained(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters() if p.requires_grad)


@dataclass(frozen=True)
class Stack:
    """Tokens of a pair that go through a stack of blocks with a gradient."""

    whole: float
    """of frames all of whose tokens are wanted"""
    width: int
    depth: int
    contextual: float = 0.0
    """of frames whose contextual token alone is wanted"""

    @property
    def tokens(self) -> float:
        """All."""
        return self.whole + self.contextual

    def saved(self, checkpointing: bool) -> float:
        """Values that the blocks keep."""
        if checkpointing:
            return self.tokens * self.width * self.depth
        last = self.whole * BLOCK_SAVED + self.contextual * CONTEXTUAL_SAVED
        return (self.tokens * BLOCK_SAVED * (self.depth - 1) + last) * self.width


@dataclass(frozen=True)
class Work:
    """What a pair is to an objective: its stacks, and what else is kept for the backward pass."""

    encoder: Stack
    decoder: Stack | None
    pixels: float
    """of the frames that the encoder gets, all channels"""
    batch_pixels: float
    """of the frames that a batch holds"""
    kept: float
    """activations in the precision of the weights, outside blocks"""
    kept_float32: float
    """activations that are float32 always"""
    passing: float = 0.0
    """float32 values that exist for a moment before the encoder's backward pass"""


def describe_work(config: ModelConfig) -> Work:
    """The shapes of a pair under a config's objective."""
    c = resolve(config)
    makers: dict[str, Callable[[ModelConfig], Work]] = {"mae": _mae, "mocov3": _mocov3, "beit": _beit}
    return makers.get(c.objective, _micron_bert)(c)


def _micron_bert(c: ModelConfig) -> Work:
    """Two frames, and a crop of one (mse) or crops for DINO; the decoder sees every patch.

    Diagonal micro-attention keeps both inputs, q, k, v and the weighted v; full attention q, k and the map in
    float32; PoI a float32 copy of one frame's k in the last block; the loss predicted and true pixels in float32.
    """
    n, pixels = _patches(c), 3.0 * c.image_size**2
    frames, contextual = 2.0, 0.0
    if c.agreement.kind == "mse":
        frames, contextual = 3.0, float(n + 1)
    elif c.agreement.kind == "dino":
        side = max(round(c.agreement.local_size * c.image_size / c.patch_size), 1)
        frames = 4.0 + c.agreement.local_crops * (side * c.patch_size / c.image_size) ** 2
        contextual = 2.0 * (n + 1) + c.agreement.local_crops * (side**2 + 1)
    kept, kept_float32 = float(n * c.dim), 2 * pixels  # the decoder's input; pixels
    if c.dma == "diagonal":
        kept += (5 + c.dma_projection) * n * c.dim
    elif c.dma == "full":
        kept += (3 + c.dma_projection) * n * c.dim
        kept_float32 += 2 * n * c.dim + n * n
    if c.poi != "none" and c.dma == "diagonal":
        kept_float32 += (n + 1) * c.dim
    encoder = Stack(2.0 * (n + 1), c.dim, c.depth, contextual)
    maps = float(MAPS * n * n) if c.dma != "none" else 0.0
    decoder = Stack(n, c.decoder_dim, c.decoder_depth)
    return Work(encoder, decoder, frames * pixels, (frames + 1) * pixels, kept, kept_float32, maps)


def _mae(c: ModelConfig) -> Work:
    """The visible patches of one frame, a decoder over all; for the loss all patches as predicted, and of the hidden
    ones predicted and true pixels in float32."""
    n, pixels = _patches(c), 3.0 * c.image_size**2
    hidden = round(c.mae.mask_ratio * n)
    encoder, decoder = Stack(n - hidden + 1, c.dim, c.depth), Stack(n + 1, c.decoder_dim, c.decoder_depth)
    kept = (encoder.tokens + n) * c.dim + pixels
    return Work(encoder, decoder, pixels, pixels, kept, 2.0 * hidden * 3 * c.patch_size**2)


def _mocov3(c: ModelConfig) -> Work:
    """Two views of one frame, for their contextual tokens; three float32 values per unit of projector, predictor."""
    n, pixels = _patches(c), 3.0 * c.image_size**2
    units = 2.0 * (3 * c.mocov3.hidden_dim + 2 * c.mocov3.out_dim)
    encoder = Stack(0.0, c.dim, c.depth, 2.0 * (n + 1))
    return Work(encoder, None, 2 * pixels, 2 * pixels, 0.0, 3 * units)


def _beit(c: ModelConfig) -> Work:
    """One frame with every patch; the hidden patches' logits over the vocabulary in float32, and two gradients of
    them."""
    n, pixels = _patches(c), 3.0 * c.image_size**2
    hidden = round(c.beit.mask_ratio * n)
    logits = float(hidden * c.beit.vocabulary)
    return Work(Stack(n + 1, c.dim, c.depth), None, pixels, pixels, (hidden + n) * c.dim, logits, 2 * logits)


def _patches(c: ModelConfig) -> int:
    return (c.image_size // c.patch_size) ** 2


def saved_activations(config: ModelConfig, weight_bytes: int, checkpointing: bool = False) -> float:
    """Bytes per pair that the forward pass keeps for the backward pass.

    Blocks keep 10·d·b per token (d·b with activation checkpointing); the encoder its pixels, encoder and decoder what
    goes into their last norm, the decoder what comes out of it; and what `Work` says beside.
    """
    work = describe_work(config)
    encoder, decoder = work.encoder, work.decoder
    values = encoder.saved(checkpointing) + encoder.whole * encoder.width + work.pixels + work.kept
    if decoder is not None:
        values += decoder.saved(checkpointing) + 2 * decoder.tokens * decoder.width
    return values * weight_bytes + work.kept_float32 * 4


def passing_memory(config: ModelConfig, weight_bytes: int, checkpointing: bool = False) -> float:
    """Bytes per pair that the backward pass needs at its fullest moment beyond `saved_activations`.

    The moments are: the decoder's last block, with nothing freed yet; micro-attention's maps or BEiT's logits, and
    the encoder's last block, both once the decoder's activations are freed. A block needs 8·d·b per token for its
    gradients, and with activation checkpointing what it keeps, built again.
    """
    work = describe_work(config)
    widths = (BLOCK_GRADIENTS + (BLOCK_SAVED if checkpointing else 0)) * weight_bytes
    freed, moments = 0.0, []
    if work.decoder is not None:
        freed = work.decoder.saved(checkpointing) * weight_bytes
        moments = [work.decoder.tokens * work.decoder.width * widths]
    moments += [work.passing * 4 - freed, work.encoder.tokens * work.encoder.width * widths - freed]
    return max(0.0, *moments)


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU, by purpose."""

    per_run: dict[str, float]
    """whatever the micro-batch"""
    per_pair: dict[str, float]
    """for each pair of the micro-batch"""

    def total(self, pairs: int) -> float:
        """With a micro-batch of so many pairs."""
        return sum(self.per_run.values()) + pairs * sum(self.per_pair.values())

    def most_pairs(self, memory: float) -> int:
        """The largest micro-batch that fits."""
        return max(int((memory - self.total(0)) // max(sum(self.per_pair.values()), 1.0)), 0)


def weight_bytes(config: PretrainConfig) -> int:
    """b: bytes of a weight, a gradient or an activation on a GPU."""
    return 4 if config.engine.precision == "fp32" else 2


def estimate_memory(config: PretrainConfig, parameters: Parameters, ranks: int, frame: int, bucket: int) -> Memory:
    """Memory of one of R GPUs, uncompiled, without what the allocator loses to fragments.

    - weights: P·b (ZeRO-3: P·b/R, and those in use, P·b at most), tables P_fixed·b;
    - gradients: P·b (ZeRO-2, 3: P·b/R) and, with ZeRO-1 and 2, the buffer that they are collected in, `bucket`·b;
    - optimiser: float32 weights and two moments, 12·P/R (ZeRO-0: two moments, 8·P, on float32 weights);
    - teacher: 4 per parameter;
    - activations: `saved_activations`, `passing_memory`; frames: uint8 of two steps, and the batch in b.

    Args:
        frame: side of the frames that the reader hands over, pixels.
        bucket: elements of DeepSpeed's buffer (`reduce_bucket_size`).
    """
    b, stage, p = weight_bytes(config), config.engine.zero_stage, parameters.total
    share = 1 / max(ranks, 1)
    checkpointing = config.engine.activation_checkpointing
    weights = p * b * (share if stage == 3 else 1) + parameters.fixed * b
    per_run = {
        "weights": weights + (min(p, LIVE) * b if stage == 3 else 0),
        "gradients": p * b * (share if stage >= 2 else 1),
        "gradient buffer": float(bucket * b if stage in (1, 2) else 0),
        "optimiser": 12 * p * share if stage else 8.0 * p,
        "teacher": 4.0 * parameters.teacher,
        "CUDA, libraries (assumed)": FIXED,
    }
    accumulation = config.engine.accumulation
    per_pair = {
        "activations": saved_activations(config.model, b, checkpointing),
        "gradients and maps, passing": passing_memory(config.model, b, checkpointing),
        "frames": describe_work(config.model).batch_pixels * b + accumulation * 2 * 2 * 3.0 * frame**2,
    }
    return Memory({k: v for k, v in per_run.items() if v}, {k: v for k, v in per_pair.items() if v})


def exchanged_bytes(config: PretrainConfig, parameters: Parameters, ranks: int) -> float:
    """Bytes that a GPU sends per optimiser step: (R-1)/R of each of these.

    Gradients in g bytes are reduced and scattered, P·g (ZeRO-2, 3: in every micro-batch), and weights gathered, P·b
    (ZeRO-3: twice in every micro-batch); ZeRO-0 sums gradients, 2·P·g.
    """
    b, parts, stage = weight_bytes(config), config.engine.accumulation, config.engine.zero_stage
    g = {"auto": b, "fp32": 4, "bf16": 2, "fp16": 2}[config.engine.gradient_dtype]
    per_weight = {0: 2 * g, 1: g + b, 2: parts * g + b, 3: parts * (g + 2 * b)}[stage]
    return parameters.total * per_weight * (1 - 1 / ranks)


def checkpoint_bytes(config: PretrainConfig, parameters: Parameters) -> float:
    """Bytes of one checkpoint: DeepSpeed's weights and optimiser state, model.safetensors, the teacher in float32."""
    everything = parameters.total + parameters.fixed
    optimiser = (12 if config.engine.zero_stage else 8) * parameters.total
    return everything * (weight_bytes(config) + 4) + optimiser + 4 * parameters.teacher
