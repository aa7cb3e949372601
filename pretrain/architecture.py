"""Sizes and options of the model that is pretrained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from pretrain.agreement import AgreementConfig
from shards.errors import UsageError


@dataclass(frozen=True)
class ModelConfig:
    """Architecture and losses. The preset gives the sizes; 0 means "as the preset says"."""

    objective: Literal["micron_bert"] = "micron_bert"
    """What is learned: Micron-BERT (MB1, MB2 and MB3 by the options below)."""
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
