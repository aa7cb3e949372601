"""Micron-BERT: encoder, diagonal micro-attention, patch of interest, decoder and losses in one module."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.agreement import DinoHead, DinoTeacher, dino_loss, mse_agreement
from pretrain.architecture import ModelConfig
from pretrain.batch import Batch, assemble
from pretrain.decoder import patch_targets
from pretrain.dma import DMA
from pretrain.objective import Losses, Objective, Teacher, Views, build_decoder, cls_spread, detached
from pretrain.poi import scale_interest


class MicronBert(Objective):
    """Micron-BERT (CVPR 2023).

    `forward` takes `pretrain.batch.Batch`; `dma` and `poi` are what recognition
    and pictures use. Frames are normalised float [B 3 H W] throughout (`preprocess` makes them from uint8).
    """

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        config = self.config
        self.attention: DMA | None = None
        if config.dma != "none":
            self.attention = DMA(
                config.dim, mode=config.dma, scaled=config.dma_scaled, projection=config.dma_projection
            )
        self.decoder = build_decoder(config)
        self.dino: DinoHead | None = None
        if config.agreement.kind == "dino":
            self.dino = DinoHead(config.dim, config.agreement)

    @property
    def can_collapse(self) -> bool:
        """Plain MSE agreement can."""
        return self.config.agreement.kind != "none"

    @property
    def uses_interest(self) -> bool:
        """Whether eq. 12's S weighs the features."""
        return self.config.poi != "none" and self.config.dma == "diagonal"

    def preprocess(self, frames: Tensor) -> Tensor:
        """uint8 [B H W 3] RGB to normalised float [B 3 S S]; see `Encoder.preprocess`."""
        return self.encoder.preprocess(frames)

    def views(self, frames: Tensor, seeds: Tensor, views: Views) -> Batch:
        """See `Objective.views`: I(t), I(t+δ), their swap (Algorithm 1) and crops."""
        return assemble(frames, seeds, self.config, views.swap, views.augment)

    def forward(self, batch: Batch) -> Losses:
        """The loss of eq. 13."""
        frames = [batch.swapped, batch.reference]
        if batch.crop is not None:
            frames.append(batch.crop)
        count = len(batch.swapped)
        interest = (count, 2 * count) if self.uses_interest else None  # of I(t+δ)
        alone = 0 if batch.crop is None else count
        tokens, cropped, scores = self.encoder.forward_views(torch.cat(frames), alone, interest)  # one pass
        swapped, reference = tokens.chunk(2)  # each [B 1+N D]
        features, diag = self._features(swapped, reference, scores)
        predicted = self.decoder(features)
        reconstruction = self.reconstruction_loss(predicted, batch.current)
        agreement = self._agreement(reference[:, 0], cropped if alone else None, batch)
        total = self.config.reconstruction_weight * reconstruction + self.config.agreement_weight * agreement
        terms = {"reconstruction": reconstruction, "agreement": agreement, **_swap_terms(batch.mask, diag)}
        shown = {"mask": batch.mask, "predicted": predicted, "diag": diag, "interest": scores}
        return Losses(total, cls_spread(reference[:, 0]), detached(terms), detached(shown))

    def make_teacher(self, device: torch.device) -> Teacher | None:
        """DINO's, where the agreement is DINO's."""
        if self.dino is None:
            return None
        return DinoTeacher(self, device)

    def sheet(self, batch: Batch, losses: Losses) -> np.ndarray:
        """Pairs, swap, reconstruction, DMA, PoI."""
        from pretrain.pictures import sheet  # OpenCV is needed for nothing else here

        return sheet(batch, losses, self.config)

    def _features(self, swapped: Tensor, reference: Tensor, scores: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The decoder's input from tokens [B 1+N D]: MB1 the swapped tokens, MB2 eq. 9, MB3 eq. 12."""
        if self.attention is None:
            return swapped[:, 1:], None
        interest = None
        if self.uses_interest and scores is not None:
            interest = scale_interest(scores, self.config.poi)  # type: ignore[arg-type]
        return self.attention(swapped[:, 1:], reference[:, 1:], interest)

    def reconstruction_loss(self, predicted: Tensor, current: Tensor) -> Tensor:
        """MSE to I(t) over all pixels (eq. 14), of patches normalised one by one if the config says so.

        predicted [B N patch²·3], current [B 3 H W] -> [].
        """
        target = patch_targets(current, self.config.patch_size, self.config.normalise_pixels)
        return F.mse_loss(predicted.float(), target)

    def _agreement(self, reference: Tensor, crop: Tensor | None, batch: Batch) -> Tensor:
        """The agreement loss of the contextual features [B D]; 0 where the config turns it off."""
        if crop is not None:
            return mse_agreement(reference, crop, self.config.agreement.stop_gradient)
        if self.dino is not None:
            assert batch.teacher_probabilities is not None
            student = [self.dino(self.encoder.contextual(crops)) for crops in batch.student_crops]
            return dino_loss(student, batch.teacher_probabilities, self.config.agreement.student_temperature)
        return reference.new_zeros((), dtype=torch.float32)

    def dma(self, swapped: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Features P_dma [B N D] and diag [B N] of two normalised frames [B 3 H W] (eq. 8, 9, 12).

        For recognition swapped = onset, reference = apex (section 5.3). Raises RuntimeError without DMA.
        """
        if self.attention is None:
            raise RuntimeError("this model was built without DMA (model.dma: none)")
        a = self.encoder(swapped)
        b, scores = self.encoder.forward_with_interest(reference, interest=self.uses_interest)
        features, diag = self._features(a, b, scores)
        assert diag is not None
        return features, diag

    def change(self, onset: Tensor, apex: Tensor) -> Tensor:
        """How much each patch changed between two normalised frames [B 3 H W] -> [B N]; see `DMA.change`.

        Raises RuntimeError without DMA.
        """
        if self.attention is None:
            raise RuntimeError("this model was built without DMA (model.dma: none)")
        return self.attention.change(self.encoder(onset)[:, 1:], self.encoder(apex)[:, 1:])

    def poi(self, frames: Tensor) -> Tensor:
        """S of eq. 11, summing to 1: normalised frames [B 3 H W] -> [B N]."""
        scores = self.encoder.forward_with_interest(frames)[1]
        assert scores is not None
        return scores


def _swap_terms(mask: Tensor, diag: Tensor | None) -> dict[str, Tensor]:
    """Share of swapped patches, and DMA's mean diagonal on swapped and kept ones; mask, diag [B N] -> [] each."""
    swapped = mask.float()
    terms = {"swapped_share": swapped.mean()}
    if diag is not None:
        terms["diag_swapped"] = (diag * swapped).sum() / swapped.sum().clamp(min=1)
        terms["diag_kept"] = (diag * (1 - swapped)).sum() / (1 - swapped).sum().clamp(min=1)
    return terms
