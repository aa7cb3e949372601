"""Masked prediction of visual codes (Bao et al., BEiT: BERT Pre-Training of Image Transformers, ICLR 2022).

Blocks of I(t)'s patches are replaced by a learned token before the encoder, which predicts the code of each of them.
BEiT's codes come from DALL-E's discrete VAE, whose weights are not part of this project; here they come from a
random-projection quantiser (Chiu et al., Self-supervised Learning with Random-projection Quantizer for Speech
Recognition, ICML 2022), which needs no training: a seed is the whole tokeniser. I(t+δ) is read and not used.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.architecture import BeitConfig, ModelConfig
from pretrain.decoder import patch_targets
from pretrain.masking import Masked, as_mask, blocks_first, still_frames, take
from pretrain.objective import Losses, Objective, Views, cls_spread, detached
from pretrain.random import uniform
from pretrain.swap import SwapConfig

PROJECTION_STREAM, RADIUS_STREAM, ANGLE_STREAM = 9, 10, 11
CHUNK = 1024  # codes compared at a time: bounds the memory of the similarities


class Quantiser:
    """Codes of patches: the nearest of V random directions to a random projection of the patch.

    code(x) = argmin_v ‖c_v/|c_v| - xA/|xA|‖ with A Xavier-uniform [P E], c normal [V E], both drawn once from a
    seed. Patches are normalised by their own mean and deviation before. Not a module: nothing here is trained, cast
    or saved. In float64, so that a code does not depend on how a batch is split.
    """

    def __init__(self, pixels: int, config: BeitConfig):
        seed = torch.tensor([config.tokeniser_seed])
        shape, count = (pixels, config.code_dim), config.vocabulary * config.code_dim
        bound = math.sqrt(6 / (pixels + config.code_dim))
        self.projection = (uniform(seed, PROJECTION_STREAM, math.prod(shape)).double().view(shape) * 2 - 1) * bound
        radius = (-2 * torch.log1p(-uniform(seed, RADIUS_STREAM, count).double())).sqrt()  # Box and Muller
        normal = radius * torch.cos(2 * math.pi * uniform(seed, ANGLE_STREAM, count).double())
        self.codes = F.normalize(normal.view(config.vocabulary, config.code_dim), dim=-1)

    @torch.no_grad()
    def __call__(self, patches: Tensor) -> Tensor:
        """Normalised patches [B M P] -> int64 [B M] in 0..V-1."""
        if self.codes.device != patches.device:
            self.projection, self.codes = self.projection.to(patches.device), self.codes.to(patches.device)
        x = F.normalize(patches.double() @ self.projection, dim=-1)  # [B M E]
        best, codes = (x @ self.codes[:CHUNK].T).max(-1)  # the nearest direction has the largest product
        for first in range(CHUNK, len(self.codes), CHUNK):
            value, place = (x @ self.codes[first : first + CHUNK].T).max(-1)
            codes = torch.where(value > best, place + first, codes)
            best = best.maximum(value)
        return codes


class Beit(Objective):
    """Masked prediction; `forward` takes `pretrain.masking.Masked`."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        config = self.config
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.head = nn.Linear(config.dim, config.beit.vocabulary)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.quantiser = Quantiser(3 * config.patch_size**2, config.beit)

    def views(self, frames: Tensor, seeds: Tensor, views: Views) -> Masked:
        """See `Objective.views`: I(t), its hidden patches and their codes."""
        options = self.config.beit
        images = still_frames(frames, seeds, views.augment, self.config.image_size)
        blocks = SwapConfig(ratio=options.mask_ratio, min_block=options.min_block, min_aspect=options.min_aspect)
        order = blocks_first(seeds, self.encoder.grid, blocks)
        count = round(options.mask_ratio * order.shape[1])
        patches = take(patch_targets(images, self.config.patch_size, normalised=True), order[:, :count])
        return Masked(images, order[:, :count], order[:, count:], self.quantiser(patches))

    def forward(self, batch: Masked) -> Losses:
        """Cross-entropy of the hidden patches' codes (BEiT, eq. 2)."""
        tokens = self.encode(batch.frames, batch.hidden)
        logits = self.head(take(tokens[:, 1:], batch.hidden)).float()  # [B M V]
        loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        right = logits.detach().argmax(-1) == batch.targets  # [B M]
        terms = {"prediction": loss, "accuracy": right.float().mean(), "codes": self._used(batch.targets)}
        return Losses(loss, cls_spread(tokens[:, 0]), detached(terms), {"right": right})

    def encode(self, frames: Tensor, hidden: Tensor) -> Tensor:
        """Tokens [B 1+N D] with the mask token at the hidden patches: normalised frames [B 3 H W], int64 [B M]."""
        x = self.encoder.embed(frames)
        assert self.encoder.pos_embed is not None
        blank = (self.mask_token + self.encoder.pos_embed[:, 1:]).to(x.dtype)  # [1 N D]
        mask = as_mask(hidden, blank.shape[1])[..., None]
        return self.encoder.run(torch.cat([x[:, :1], torch.where(mask, blank, x[:, 1:])], dim=1))

    def _used(self, codes: Tensor) -> Tensor:
        """How many codes are in use, e to their entropy over the micro-batch: int64 [B M] -> []."""
        flat = codes.flatten()
        counts = torch.zeros(self.config.beit.vocabulary, device=codes.device)
        shares = counts.scatter_add(0, flat, torch.ones_like(flat, dtype=counts.dtype)) / len(flat)
        return torch.special.entr(shares).sum().exp()

    def sheet(self, batch: Masked, losses: Losses) -> np.ndarray:
        """I(t), what the encoder sees of it, and which hidden patches' codes it found."""
        from pretrain.pictures import prediction_sheet  # OpenCV is needed for nothing else here

        return prediction_sheet(batch, losses)
