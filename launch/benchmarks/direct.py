"""Micron-BERT as a direct reading of the paper gives it, on the weights of a `MicronBert`.

What `launch/bench.py step` compares with.
Every attention map is written out, in all blocks and in DMA (eq. 8); Patch of Interest is a row of the last
encoder block's whole map (eq. 11); the encoder runs once for each of I(t/s), I(t+δ) and the crop; Algorithm 1 is
a loop over samples, blocks and patches. Random numbers are the product's own, so losses can be compared.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.augment import augment
from pretrain.batch import CROP_STREAM, Batch, random_crop
from pretrain.encoder import IMAGE_MEAN, IMAGE_STD, normalise
from pretrain.model import MicronBert
from pretrain.objective import Views
from pretrain.poi import scale_interest
from pretrain.random import uniform
from pretrain.swap import SWAP_STREAM, SwapConfig, max_blocks


def views(model: MicronBert, frames: Tensor, seeds: Tensor, options: Views) -> Batch:
    """The batch of one step from uint8 pairs [B 2 H W 3], swapped sample by sample."""
    config = model.config
    pairs = augment(frames, seeds, options.augment, config.image_size)  # [B 2 3 S S]
    current, reference = (normalise(pairs[:, i], IMAGE_MEAN, IMAGE_STD) for i in (0, 1))
    swapped, mask = swap(current, reference, seeds, config.patch_size, options.swap)
    crop = random_crop(reference, seeds, CROP_STREAM, config.agreement.crop_scale, config.image_size)
    return Batch(current, reference, swapped, mask, crop)


def swap(current: Tensor, reference: Tensor, seeds: Tensor, patch: int, options: SwapConfig) -> tuple[Tensor, Tensor]:
    """Algorithm 1: I(t/s) [B 3 H W], and which patches were swapped, bool [B N]."""
    side = current.shape[-1] // patch
    draws = uniform(seeds, SWAP_STREAM, 4 * max_blocks(side, options)).view(len(seeds), -1, 4).tolist()
    swapped, mask = current.clone(), torch.zeros(len(seeds), side * side, dtype=torch.bool, device=seeds.device)
    for sample, numbers in enumerate(draws):
        counted, block = 0, 0
        while counted <= options.ratio * side * side:
            size, aspect, down, right = numbers[block]
            high = max(options.ratio * side * side - counted, options.min_block)
            size = options.min_block + size * (high - options.min_block)
            aspect = options.min_aspect + aspect * (1 / options.min_aspect - options.min_aspect)
            m, n = (min(max(math.floor(math.sqrt(x)), 1), side) for x in (size * aspect, size / aspect))
            p, q = math.floor(down * (side - m + 1)), math.floor(right * (side - n + 1))
            for i in range(p, p + m):
                for j in range(q, q + n):
                    y, x = slice(i * patch, (i + 1) * patch), slice(j * patch, (j + 1) * patch)
                    swapped[sample, :, y, x] = reference[sample, :, y, x]
                    mask[sample, i * side + j] = True
            counted, block = counted + m * n, block + 1
    return swapped, mask


def loss(model: MicronBert, batch: Batch) -> Tensor:
    """Eq. 13 for MB3 with MSE agreement, []."""
    assert batch.crop is not None
    swapped, _ = encode(model, batch.swapped)
    reference, last = encode(model, batch.reference)
    crop, _ = encode(model, batch.crop)
    row = last[:, :, 0, 1:].mean(1)  # [B N] eq. 11: averaged over heads, patches only
    interest = row / row.sum(-1, keepdim=True)
    x = decode(model, micro_attention(model, swapped[:, 1:], reference[:, 1:], interest))
    reconstruction = model.reconstruction_loss(x, batch.current)
    agreement = F.mse_loss(crop[:, 0].float(), reference[:, 0].float())  # eq. 15
    return model.config.reconstruction_weight * reconstruction + model.config.agreement_weight * agreement


def encode(model: MicronBert, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 2-4: tokens [B 1+N D] and the last block's attention map [B heads 1+N 1+N]."""
    x = model.encoder.embed(frames)
    weights = x
    for block in model.encoder.blocks:
        x, weights = run_block(block, x)
    return model.encoder.norm(x), weights


def run_block(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 3: [B T D] -> [B T D] and the map [B heads T T]."""
    batch, length, dim = x.shape
    qkv = block.attn.qkv(block.norm1(x)).reshape(batch, length, 3, block.attn.num_heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B heads T D/heads]
    weights = torch.softmax(q @ k.transpose(-2, -1) * block.attn.scale, dim=-1)
    x = x + block.attn.proj((weights @ v).transpose(1, 2).reshape(batch, length, dim))
    return x + block.mlp(block.norm2(x)), weights


def micro_attention(model: MicronBert, swapped: Tensor, reference: Tensor, interest: Tensor) -> Tensor:
    """Eq. 8, 9, 12 with the whole map: tokens [B N D], S [B N] -> P_dma [B N D]."""
    attention = model.attention
    assert attention is not None and model.config.poi != "none"
    logits = attention.to_q(swapped) @ attention.to_k(reference).transpose(1, 2) * attention.scale
    diagonal = torch.softmax(logits, dim=-1).diagonal(dim1=1, dim2=2)  # [B N]
    weight = diagonal * scale_interest(interest, model.config.poi)
    return attention.proj(weight.unsqueeze(-1) * attention.to_v(swapped))


def decode(model: MicronBert, features: Tensor) -> Tensor:
    """Eq. 5, 6: [B N D] -> pixels [B N patch²·3]."""
    decoder = model.decoder
    x = decoder.embed(features) + decoder.pos_embed[:, 1:]
    for block in decoder.blocks:
        x, _ = run_block(block, x)
    return decoder.pred(decoder.norm(x))
