"""Micron-BERT: encoder, diagonal micro-attention, patch of interest, decoder and losses in one module."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.agreement import AgreementConfig, DinoHead, dino_loss, mse_agreement
from pretrain.decoder import Decoder, patchify
from pretrain.dma import DMA
from pretrain.encoder import Encoder
from pretrain.poi import scale_interest
from shards.errors import UsageError


@dataclass(frozen=True)
class ModelConfig:
    """Architecture and losses. The preset gives the sizes; 0 means "as the preset says"."""

    preset: Literal["tiny", "small", "base", "large"] = "tiny"
    """tiny: tests and demo; small: the paper's (224 px, patch 8, width 512, 4 + 4 blocks); base, large: for scale."""
    image_size: int = 0
    """Side of the input frames, pixels (0: the preset's)."""
    patch_size: int = 0
    """Side of a patch, pixels (0: the preset's)."""
    dim: int = 0
    """Width of the encoder's tokens (0: the preset's)."""
    depth: int = 0
    """Encoder blocks (0: the preset's)."""
    heads: int = 0
    """Encoder attention heads (0: the preset's)."""
    decoder_dim: int = 0
    """Width of the decoder's tokens (0: the preset's)."""
    decoder_depth: int = 0
    """Decoder blocks (0: the preset's)."""
    decoder_heads: int = 0
    """Decoder attention heads (0: the preset's)."""
    dma: Literal["none", "diagonal", "full"] = "diagonal"
    """Diagonal micro-attention: none (MB1), diagonal (the paper), full (cross-attention, the released weights)."""
    dma_scaled: bool = True
    """Multiply DMA's logits by width^-1/2 (released code; eq. 8 writes no scale)."""
    dma_projection: bool = True
    """A linear layer after DMA's weighting (released code; absent from eq. 9)."""
    poi: Literal["none", "sum1", "mean1"] = "mean1"
    """Patch of Interest in W = diag(A)·S: none (MB1, MB2, released code), sum1 (eq. 11), mean1 (times N)."""
    normalise_pixels: bool = False
    """Reconstruct each patch normalised by its own mean and deviation (option of the released code)."""
    reconstruction_weight: float = 1.0
    """γ of eq. 13."""
    agreement_weight: float = 0.01
    """β of eq. 13 (the paper gives no value; at 1 the contextual token collapses and reconstruction stalls)."""
    agreement: AgreementConfig = field(default_factory=AgreementConfig)
    """The contextual agreement loss (eq. 10, 15)."""


# image, patch, dim, depth, heads, decoder dim, depth, heads
_SIZES = (
    "image_size",
    "patch_size",
    "dim",
    "depth",
    "heads",
    "decoder_dim",
    "decoder_depth",
    "decoder_heads",
)
PRESETS = {
    "tiny": (96, 8, 128, 2, 4, 128, 1, 4),
    "small": (224, 8, 512, 4, 4, 512, 4, 4),
    "base": (224, 8, 768, 12, 12, 512, 4, 4),
    "large": (224, 8, 1024, 24, 16, 512, 8, 8),
}


def resolve(config: ModelConfig) -> ModelConfig:
    """Fill the sizes left at 0 from the preset, and check them.

    Raises UsageError: patches that do not tile the frame, heads that do not divide the width.
    """
    preset = dict(zip(_SIZES, PRESETS[config.preset], strict=True))
    sizes: dict[str, Any] = {name: getattr(config, name) or preset[name] for name in _SIZES}
    config = replace(config, **sizes)
    if config.image_size % config.patch_size:
        raise UsageError(
            f"model.image_size {config.image_size} is not a multiple of model.patch_size {config.patch_size}"
        )
    for width, heads in (("dim", "heads"), ("decoder_dim", "decoder_heads")):
        if getattr(config, width) % (4 * getattr(config, heads)):
            raise UsageError(f"model.{width} {getattr(config, width)} is not a multiple of 4 x model.{heads}")
    return config


@dataclass
class Losses:
    """What a training step returns; every field is a tensor of the module's device."""

    total: Tensor  # [] the loss of eq. 13
    reconstruction: Tensor  # [] eq. 14
    agreement: Tensor  # [] eq. 15 or DINO; 0 where it is off
    cls_spread: Tensor  # [] standard deviation of the contextual feature over the batch, mean over channels
    mask: Tensor  # [B N] the swapped patches
    diag: Tensor | None  # [B N] diagonal of DMA's map
    interest: Tensor | None  # [B N] S of eq. 11, sum 1
    predicted: Tensor  # [B N patch²·3]


class MicronBert(nn.Module):
    """Micron-BERT (CVPR 2023). Knows nothing of ranks, optimisers or files.

    `forward(batch)` takes `pretrain.batch.Batch` and returns `Losses`; `dma` and `poi` are what recognition
    and pictures use. Frames are normalised float [B 3 H W] throughout (`preprocess` makes them from uint8).
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config = resolve(config)
        self.encoder = Encoder(
            image_size=config.image_size,
            patch_size=config.patch_size,
            dim=config.dim,
            depth=config.depth,
            heads=config.heads,
        )
        self.attention: DMA | None = None
        if config.dma != "none":
            self.attention = DMA(
                config.dim, mode=config.dma, scaled=config.dma_scaled, projection=config.dma_projection
            )
        self.decoder = Decoder(
            in_dim=config.dim,
            dim=config.decoder_dim,
            depth=config.decoder_depth,
            heads=config.decoder_heads,
            grid=self.encoder.grid,
            patch=config.patch_size,
        )
        self.dino: DinoHead | None = None
        if config.agreement.kind == "dino":
            self.dino = DinoHead(config.dim, config.agreement)

    @property
    def uses_interest(self) -> bool:
        """Whether eq. 12's S weighs the features."""
        return self.config.poi != "none" and self.config.dma == "diagonal"

    def preprocess(self, frames: Tensor) -> Tensor:
        """uint8 [B H W 3] RGB to normalised float [B 3 S S]; see `Encoder.preprocess`."""
        return self.encoder.preprocess(frames)

    def forward(self, batch: Any) -> Losses:
        """One training step's losses for a `pretrain.batch.Batch`."""
        frames = [batch.swapped, batch.reference]
        if self.config.agreement.kind == "mse":
            frames.append(batch.crop)
        tokens, interest = self.encoder.forward_with_interest(torch.cat(frames))  # one pass for all frames
        swapped, reference, *crop = tokens.chunk(len(frames))  # each [B 1+N D]
        scores = interest.chunk(len(frames))[1] if interest is not None else None  # of I(t+δ)
        features, diag = self._features(swapped, reference, scores)
        predicted = self.decoder(features)
        reconstruction = self.reconstruction_loss(predicted, batch.current)
        agreement = self._agreement(reference[:, 0], crop[0][:, 0] if crop else None, batch)
        total = self.config.reconstruction_weight * reconstruction + self.config.agreement_weight * agreement
        spread = reference[:, 0].detach().float().std(dim=0, correction=0).mean()
        return Losses(
            total,
            reconstruction,
            agreement,
            spread,
            batch.mask,
            _detached(diag),
            _detached(scores),
            predicted.detach(),
        )

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
        target = patchify(current, self.config.patch_size).float()
        if self.config.normalise_pixels:
            mean, var = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
            target = (target - mean) / (var + 1e-6).sqrt()
        return F.mse_loss(predicted.float(), target)

    def _agreement(self, reference: Tensor, crop: Tensor | None, batch: Any) -> Tensor:
        """The agreement loss of the contextual features [B D]; 0 where the config turns it off."""
        if crop is not None:
            return mse_agreement(reference, crop, self.config.agreement.stop_gradient)
        if self.dino is not None:
            student = [self.dino(self.encoder(crops)[:, 0]) for crops in batch.student_crops]
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


def _detached(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach()


def create(preset: str = "tiny", **overrides: Any) -> MicronBert:
    """A randomly initialised MicronBert: `create("small", poi="none")`. Overrides are ModelConfig's fields."""
    return MicronBert(ModelConfig(preset=preset, **overrides))  # type: ignore[arg-type]


def config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """Plain values, for JSON."""
    return asdict(config)


def config_from_dict(values: dict[str, Any]) -> ModelConfig:
    """The inverse of `config_to_dict`. Raises UsageError on a key this version does not know."""
    values = dict(values)
    try:
        agreement = AgreementConfig(**values.pop("agreement", {}))
        return ModelConfig(**values, agreement=agreement)
    except TypeError as error:
        raise UsageError(f"the checkpoint's config has a key that this version does not know: {error}") from None
