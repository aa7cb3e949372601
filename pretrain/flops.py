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
    """One frame pair's training step, FLOP: the backward pass counts twice the forward, a teacher has none.

    307.4e9 for Micron-BERT at the paper's size. Frames count whole, as the papers have them, also where only the
    contextual feature is needed and the last block computes no more. Element-wise work, batch norms and MoCo v3's
    comparison of queries with keys (2·B·C per query) are left out.
    """
    c = resolve(config)
    formulas = {"micron_bert": _micron_bert, "mae": _mae, "mocov3": _mocov3, "beit": _beit}
    forward, teacher = formulas[c.objective](c)
    return 3 * forward + teacher


def skipped_flops(config: ModelConfig) -> float:
    """How much of `pair_flops` is not computed: a view whose contextual feature alone counts needs no more of its
    last encoder block than keys and values of all tokens and the rest of one (`Encoder.forward_views`).
    """
    c = resolve(config)
    tokens = _sizes(c)[0] + 1
    spared = 18.0 * (tokens - 1) * c.dim**2 + 4.0 * (tokens - 1) * tokens * c.dim  # of a view's last block, forward
    trained, taught = 0.0, 0.0
    if c.objective == "mocov3":
        trained, taught = 2.0, 2.0
    elif c.objective == "micron_bert" and c.agreement.kind == "mse":
        trained = 1.0
    elif c.objective == "micron_bert" and c.agreement.kind == "dino":
        trained, taught = 2 + c.agreement.local_crops * c.agreement.local_size**2, 2.0
    return (3 * trained + taught) * spared


def _sizes(c: ModelConfig) -> tuple[int, int]:
    """Patches of a frame, values of a patch."""
    return (c.image_size // c.patch_size) ** 2, 3 * c.patch_size**2


def encoder_flops(c: ModelConfig, tokens: int = 0) -> float:
    """One frame through the encoder; `tokens` of its blocks where they do not get all 1+N."""
    patches, pixels = _sizes(c)
    return c.depth * block_flops(tokens or patches + 1, c.dim) + 2.0 * pixels * c.dim * patches


def _decoder(c: ModelConfig, given: int, tokens: int) -> float:
    """`given` features embedded, `tokens` through the blocks and the prediction."""
    blocks = c.decoder_depth * block_flops(tokens, c.decoder_dim)
    return 2.0 * given * c.dim * c.decoder_dim + blocks + 2.0 * tokens * c.decoder_dim * _sizes(c)[1]


def _micron_bert(c: ModelConfig) -> tuple[float, float]:
    """Two frames or more, DMA and the decoder; DINO's teacher sees the two global crops."""
    patches, _ = _sizes(c)
    views, taught = 2.0, 0.0
    if c.agreement.kind == "mse":
        views += 1
    elif c.agreement.kind == "dino":
        views, taught = views + 2 + c.agreement.local_crops * c.agreement.local_size**2, 2.0
    attention = 0.0
    if c.dma != "none":
        linear = 4 if c.dma_projection else 3
        attention = 2.0 * linear * patches * c.dim**2 + 2.0 * patches**2 * c.dim
    encoder = encoder_flops(c)
    return views * encoder + _decoder(c, patches, patches) + attention, taught * encoder


def _mae(c: ModelConfig) -> tuple[float, float]:
    """Visible patches and the contextual token through the encoder, all places through the decoder."""
    patches, _ = _sizes(c)
    visible = patches - round(c.mae.mask_ratio * patches) + 1
    return encoder_flops(c, visible) + _decoder(c, visible, patches + 1), 0.0


def _mocov3(c: ModelConfig) -> tuple[float, float]:
    """Two views through encoder, projector and predictor; the teacher has no predictor."""
    hidden, out = c.mocov3.hidden_dim, c.mocov3.out_dim
    projector = 2.0 * (c.dim * hidden + hidden**2 + hidden * out)
    predictor = 4.0 * hidden * out
    taught = 2 * (encoder_flops(c) + projector)
    return taught + 2 * predictor, taught


def _beit(c: ModelConfig) -> tuple[float, float]:
    """One frame through the encoder, the hidden patches through the head; their codes are found once."""
    patches, pixels = _sizes(c)
    hidden, codes = round(c.beit.mask_ratio * patches), c.beit.vocabulary
    tokeniser = 2.0 * hidden * c.beit.code_dim * (pixels + codes)
    return encoder_flops(c) + 2.0 * hidden * c.dim * codes, tokeniser


def peak_flops(device: torch.device, dtype: torch.dtype | None = None) -> tuple[float, str]:
    """The device's peak rate in FLOP/s and where the figure comes from (data sheet, or a short measurement).

    dtype: of the product that is measured where no data sheet is known (default: float32 on a CPU, else bfloat16).
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for part, peak in PEAK.items():
            if part in name:
                return peak, f"{part} bf16"
    side, repeats = (4096, 20) if device.type == "cuda" else (768, 60)
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
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
