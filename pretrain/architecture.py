"""Sizes and options of the model that is pretrained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, get_args, get_type_hints

from shards.errors import UsageError


@dataclass(frozen=True)
class AgreementConfig:
    """The contextual agreement loss and its crops."""

    kind: Literal["none", "mse", "dino"] = "mse"
    """none (MB1, MB2), mse (the paper, eq. 15), dino (the released code)."""
    stop_gradient: bool = False
    """mse: treat the whole frame's contextual feature as a constant target (guards against collapse)."""
    crop_scale: tuple[float, float] = (0.4, 1.0)
    """Area of a random (global) crop, share of the frame."""
    local_crops: int = 8
    """dino: small crops per frame."""
    local_scale: tuple[float, float] = (0.05, 0.4)
    """dino: area of a local crop, share of the frame."""
    local_size: float = 0.43
    """dino: side of a local crop, share of the frame's side, rounded to whole patches (96 of 224 px)."""
    out_dim: int = 128
    """dino: prototypes."""
    student_temperature: float = 0.1
    """dino: softmax temperature of the student."""
    teacher_temperature: float = 0.04
    """dino: softmax temperature of the teacher."""
    centre_momentum: float = 0.9
    """dino: momentum of the teacher's centre."""
    teacher_momentum: float = 0.996
    """dino: first momentum of the teacher's weights; grows to 1 along a cosine."""


@dataclass(frozen=True)
class MaeConfig:
    """Masked autoencoder (He et al., CVPR 2022)."""

    mask_ratio: float = 0.75
    """Share of patches that are hidden; every frame has exactly round(ratio·N) of them."""
    normalise_pixels: bool = True
    """Reconstruct each patch normalised by its own mean and deviation."""


@dataclass(frozen=True)
class MocoConfig:
    """MoCo v3 (Chen, Xie, He, ICCV 2021). Its two views are drawn with data.augment, each on its own."""

    hidden_dim: int = 4096
    """Width inside the projector and the predictor."""
    out_dim: int = 256
    """Width of what is compared."""
    temperature: float = 0.2
    """τ of the contrast."""
    momentum: float = 0.99
    """First momentum of the teacher's weights; grows to 1 along a cosine."""
    frozen_patches: bool = True
    """Leave the random patch projection as it is (the paper, section 4: steadier)."""


@dataclass(frozen=True)
class BeitConfig:
    """Masked prediction (BEiT, Bao et al., ICLR 2022) of a random-projection quantiser's codes."""

    mask_ratio: float = 0.4
    """Share of patches that are hidden; every frame has exactly round(ratio·N) of them."""
    min_block: int = 16
    """Smallest block that is hidden, in patches."""
    min_aspect: float = 0.3
    """Smallest aspect ratio of a block; the largest is its inverse."""
    vocabulary: int = 8192
    """Codes."""
    code_dim: int = 16
    """Width of the projection that codes are found in."""
    tokeniser_seed: int = 0
    """Seeds the projection and the codes."""


@dataclass(frozen=True)
class ModelConfig:
    """Architecture and losses. The preset gives the sizes; 0 means "as the preset says"."""

    objective: Literal["micron_bert", "mae", "mocov3", "beit"] = "micron_bert"
    """What is learned: Micron-BERT (MB1, MB2 and MB3 by the options below), or from single frames for comparison."""
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
    mae: MaeConfig = field(default_factory=MaeConfig)
    """Objective mae."""
    mocov3: MocoConfig = field(default_factory=MocoConfig)
    """Objective mocov3."""
    beit: BeitConfig = field(default_factory=BeitConfig)
    """Objective beit."""


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
    patches = (config.image_size // config.patch_size) ** 2
    for name in ("mae", "beit"):
        ratio = getattr(config, name).mask_ratio
        if not 0 < round(ratio * patches) < patches:
            raise UsageError(f"model.{name}.mask_ratio {ratio:g} hides none or all of {patches} patches")
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
    """The inverse of `config_to_dict`, also after JSON. Raises UsageError on a key or objective it does not know."""
    config = _from_dict(ModelConfig(), values, "")
    known = get_args(get_type_hints(ModelConfig)["objective"])
    if config.objective not in known:
        raise UsageError(
            f"the checkpoint's objective '{config.objective}' is not known to this version; it has {', '.join(known)}"
        )
    return config


def _from_dict(default: Any, values: dict[str, Any], prefix: str) -> Any:
    """`default`, a dataclass, with the given values; lists are tuples, as JSON has no others."""
    known = {item.name for item in fields(default)}
    given = {}
    for name, value in values.items():
        if name not in known:
            raise UsageError(
                f"the checkpoint's config has a key that this version does not know: model.{prefix}{name}"
            )
        inner = getattr(default, name)
        if is_dataclass(inner) and isinstance(value, dict):
            value = _from_dict(inner, value, f"{prefix}{name}.")
        given[name] = tuple(value) if isinstance(value, list) else value
    return replace(default, **given)
