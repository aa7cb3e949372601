"""MAE on single frames (He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022).

The encoder sees the visible patches of I(t) alone; the decoder gets their tokens, a learned mask token at every
other place, and predicts the hidden patches' pixels. I(t+δ) is read and not used.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.architecture import ModelConfig
from pretrain.decoder import patch_targets
from pretrain.masking import Masked, shuffled, still_frames, take
from pretrain.objective import Losses, Objective, Views, build_decoder, cls_spread, detached


class Mae(Objective):
    """Masked autoencoder; `forward` takes `pretrain.masking.Masked`."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.decoder = build_decoder(self.config, masked=True)

    def views(self, frames: Tensor, seeds: Tensor, views: Views) -> Masked:
        """See `Objective.views`: I(t), its hidden patches and their pixels."""
        images = still_frames(frames, seeds, views.augment, self.config.image_size)
        order = shuffled(seeds, self.encoder.grid**2)
        count = round(self.config.mae.mask_ratio * order.shape[1])
        targets = patch_targets(images, self.config.patch_size, self.config.mae.normalise_pixels)
        return Masked(images, order[:, :count], order[:, count:], take(targets, order[:, :count]))

    def forward(self, batch: Masked) -> Losses:
        """MSE over the hidden patches' pixels."""
        tokens = self.encode(batch.frames, batch.visible)
        predicted = self.decoder.fill(tokens, batch.visible)  # [B N 3·patch²]
        loss = F.mse_loss(take(predicted, batch.hidden).float(), batch.targets)
        shown = detached({"predicted": predicted})
        return Losses(loss, cls_spread(tokens[:, 0]), detached({"reconstruction": loss}), shown)

    def encode(self, frames: Tensor, visible: Tensor) -> Tensor:
        """Tokens [B 1+V D] of some patches, the contextual token first: normalised frames [B 3 H W], int64 [B V]."""
        x = self.encoder.embed(frames)
        return self.encoder.run(torch.cat([x[:, :1], take(x[:, 1:], visible)], dim=1))

    def sheet(self, batch: Masked, losses: Losses) -> np.ndarray:
        """I(t), what the encoder sees of it, the hidden patches as predicted, and all patches as predicted."""
        from pretrain.pictures import reconstruction_sheet  # OpenCV is needed for nothing else here

        return reconstruction_sheet(batch, losses, self.config)
