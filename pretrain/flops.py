"""Arithmetic of a training step, by formula (a counter misses fused attention)."""

from __future__ import annotations

import time

import torch

from pretrain.architecture import ModelConfig, resolve

# Dense bf16 tensor-core peak, FLOP/s, by part of the device's name: vendors' data sheets, without sparsity;
# for the H200 the rate that large matrix products reach.
PEAK = {
    "H200": 790e12,
    "H100": 790e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10": 125e12,
    "V100": 125e12,
    "4090": 165e12,
}


def block_flops(tokens: int, dim: int) -> float:
    """One Transformer block forward: 24·N·d² for the linear layers, 4·N²·d for attention."""
    return 24.0 * tokens * dim**2 + 4.0 * tokens**2 * dim


def pair_flops(config: ModelConfig) -> float:
    """Forward and backward (3 x forward) of one frame pair, FLOP. 307.4e9 at the paper's size."""
    c = resolve(config)
    patches = (c.image_size // c.patch_size) ** 2
    pixels = 3 * c.patch_size**2
    encoder = c.depth * block_flops(patches + 1, c.dim) + 2.0 * pixels * c.dim * patches
    views = 2.0
    if c.agreement.kind == "mse":
        views += 1
    elif c.agreement.kind == "dino":
        views += 2 + 2 / 3 + c.agreement.local_crops * c.agreement.local_size**2  # the teacher has no backward
    decoder = (
        2.0 * patches * c.dim * c.decoder_dim
        + c.decoder_depth * block_flops(patches, c.decoder_dim)
        + 2.0 * patches * c.decoder_dim * pixels
    )
    attention = 0.0
    if c.dma != "none":
        linear = 4 if c.dma_projection else 3
        attention = 2.0 * linear * patches * c.dim**2 + 2.0 * patches**2 * c.dim
    return 3 * (views * encoder + decoder + attention)


def peak_flops(device: torch.device) -> tuple[float, str]:
    """The device's peak rate in FLOP/s and where the figure comes from (data sheet, or a short measurement)."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for part, peak in PEAK.items():
            if part in name:
                return peak, f"{part} bf16"
    side, repeats = (4096, 20) if device.type == "cuda" else (768, 60)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a = torch.randn(side, side, device=device, dtype=dtype)
    a @ a
    best = float("inf")
    for _ in range(repeats):
        _wait(device)
        started = time.perf_counter()
        a @ a
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * side**3 / best, f"measured {str(dtype)[6:]} matrix product"


def _wait(device: torch.device) -> None:
    """Wait for the device's queue, where it has one."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
