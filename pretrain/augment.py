"""Random crop, mirroring, blur and colour of frame pairs: the whole batch at once, on the device.

A crop is resized by two matrix products, rows then columns, whose weights average over all the pixels that an
output pixel covers (PIL's antialiased bilinear filter): nothing aliases however much smaller the result is. A blur
multiplies the same matrices. Nothing waits for the device, and a sample's changes depend on its seed alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pretrain.random import uniform
from shards.errors import UsageError

FLIP_STREAM, AUGMENT_CROP_STREAM, COLOUR_STREAM = 3, 4, 5  # for I(t+δ), where it has draws of its own, 16 more
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of a pair. The paper names none; by default pairs are mirrored."""

    flip: bool = True
    """Mirror left-right with probability ½."""
    crop_area: tuple[float, float] = (1.0, 1.0)
    """Smallest and largest area of the random crop, share of the frame; 1 and 1: no crop."""
    crop_aspect: tuple[float, float] = (1.0, 1.0)
    """Smallest and largest width / height of the crop, relative to the frame's, where the crop's area leaves room."""
    brightness: float = 0.0
    """b: colours are multiplied by 1 - b to 1 + b."""
    contrast: float = 0.0
    """c: distances from the mean grey are multiplied by 1 - c to 1 + c."""
    saturation: float = 0.0
    """s: distances from a pixel's own grey are multiplied by 1 - s to 1 + s."""
    gamma: float = 0.0
    """g: colours in 0..1 are raised to the power of 1 / (1 + g) to 1 + g."""
    blur: float = 0.0
    """Gaussian blur: largest standard deviation, pixels of the model's image."""
    independent: Literal["none", "photometric", "all"] = "none"
    """What is drawn anew for the second frame of a pair: nothing, colour and blur, or crop and mirroring as well."""

    def __post_init__(self) -> None:
        low, high = self.crop_area
        if not 0 < low <= high <= 1:
            raise UsageError(
                f"data.augment.crop_area {low:g} {high:g} is no range of areas: give 0 < low <= high <= 1"
            )
        low, high = self.crop_aspect
        if not 0 < low <= 1 <= high:
            raise UsageError(f"data.augment.crop_aspect {low:g} {high:g} must hold 1: give 0 < low <= 1 <= high")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"data.augment.{name} is {getattr(self, name):g}: give 0 (off) to 1")
        for name in ("gamma", "blur"):
            if not 0 <= getattr(self, name) <= 10:
                raise UsageError(f"data.augment.{name} is {getattr(self, name):g}: give 0 (off) to 10")

    @property
    def crops(self) -> bool:
        """Whether less than the whole frame may be taken."""
        return self.crop_area[0] < 1

    @property
    def recolours(self) -> bool:
        """Whether colours may change."""
        return max(self.brightness, self.contrast, self.saturation, self.gamma) > 0


def augment(frames: Tensor, seeds: Tensor, config: AugmentConfig, size: int) -> Tensor:
    """Random changes of every pair, the same for its two frames unless `independent` says otherwise.

    In this order: crop, resizing, blur, mirroring, gamma, brightness, contrast, saturation. Where nothing is cropped
    or blurred and the frames have the model's size, pixels are not resampled and so stay exact.

    Args:
        frames: uint8 [B 2 H W 3] RGB, I(t) and I(t+δ), any H and W; or one frame [B 1 H W 3], which stays one
            unless `independent` gives the two frames of a pair their own draws.
        seeds: int64 [B].
        size: side S of the result, pixels.

    Returns:
        float32 [B 2 3 S S], RGB in 0..1.
    """
    if config.crops or config.blur or frames.shape[2:4] != (size, size):
        pairs = _resample(frames, seeds, config, size)
    else:
        pairs = frames.permute(0, 1, 4, 2, 3).float() / 255  # [B 2 3 S S]
    if config.flip:
        mirrored = _draw(seeds, FLIP_STREAM, 1, config.independent == "all")[..., None, None] < 0.5  # [B F 1 1 1]
        pairs = torch.where(mirrored, pairs.flip(-1), pairs)
    return _recolour(pairs, seeds, config) if config.recolours else pairs


def _draw(seeds: Tensor, stream: int, count: int, each: bool) -> Tensor:
    """U[0, 1) numbers [B F count]; F is 2 if each frame of a pair has its own, else 1."""
    streams = (stream, stream + 16) if each else (stream,)
    return torch.stack([uniform(seeds, number, count) for number in streams], dim=1)


def _resample(frames: Tensor, seeds: Tensor, config: AugmentConfig, size: int) -> Tensor:
    """Crop, resize and blur uint8 [B 2 H W 3] to float32 [B 2 3 S S] in 0..1."""
    count, height, width = frames.shape[1:4]
    top, left, tall, wide = _boxes(seeds, config)  # each [B F], shares of the frame
    rows = _weights(top * height, tall * height, height, size)  # [B F S H]
    columns = _weights(left * width, wide * width, width, size)  # [B F S W]
    if config.blur:
        kernel = _gaussian(seeds, config, size)  # [B F S S]
        rows, columns = kernel @ rows, kernel @ columns
    x = rows.expand(-1, count, -1, -1) @ frames.flatten(3).float()  # [B 2 S W·3]
    x = x.unflatten(-1, (width, 3)).permute(0, 1, 4, 2, 3).flatten(2, 3)  # [B 2 3·S W]
    x = x @ columns.expand(-1, count, -1, -1).mT  # [B 2 3·S S]
    return x.unflatten(2, (3, size)) / 255


def _boxes(seeds: Tensor, config: AugmentConfig) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width of the crops, each [B F], shares of the frame.

    Area is uniform, aspect log-uniform within what keeps a crop of that area inside the frame, place uniform.
    """
    area, aspect, top, left = _draw(seeds, AUGMENT_CROP_STREAM, 4, config.independent == "all").unbind(-1)
    low, high = config.crop_area
    area = low + area * (high - low)
    low, high = config.crop_aspect
    least, most = area.clamp(min=low).log(), area.reciprocal().clamp(max=high).log()
    aspect = (least + aspect * (most - least)).exp()
    tall, wide = (area / aspect).sqrt().clamp(max=1), (area * aspect).sqrt().clamp(max=1)
    return top * (1 - tall), left * (1 - wide), tall, wide


def _weights(start: Tensor, length: Tensor, pixels: int, size: int) -> Tensor:
    """Weights [B F size pixels] of an antialiased bilinear resize of [start, start + length) to `size` pixels.

    Args:
        start, length: [B F], pixels of the frame.
    """
    step = (length / size)[..., None]  # [B F 1]
    centre = start[..., None] + (torch.arange(size, device=start.device) + 0.5) * step  # [B F size]
    distance = torch.arange(pixels, device=start.device) + 0.5 - centre[..., None]  # [B F size pixels]
    weights = (1 - distance.abs() / step.clamp(min=1)[..., None]).clamp(min=0)
    return weights / weights.sum(-1, keepdim=True)


def _gaussian(seeds: Tensor, config: AugmentConfig, size: int) -> Tensor:
    """Blur matrices [B F size size], standard deviations uniform from 0 to `blur` pixels."""
    draws = _draw(seeds, COLOUR_STREAM, 5, config.independent != "none")[..., 4]  # [B F]
    sigma = (draws * config.blur).clamp(min=0.01)[..., None, None]
    place = torch.arange(size, device=seeds.device)
    weights = (((place[:, None] - place) / sigma) ** 2 / -2).exp()
    return weights / weights.sum(-1, keepdim=True)


def _recolour(pairs: Tensor, seeds: Tensor, config: AugmentConfig) -> Tensor:
    """Gamma, brightness, contrast and saturation of [B 2 3 S S] in 0..1, clamped once at the end.

    Contrast pivots on the mean grey of both frames of the pair together, or of each frame that has its own draws.
    """
    each = config.independent != "none"
    draws = _draw(seeds, COLOUR_STREAM, 5, each)[..., None, None] * 2 - 1  # [B F 5 1 1] in -1..1
    if config.gamma:
        pairs = pairs ** (1 + config.gamma) ** draws[:, :, 3:4]
    strengths = (config.brightness, config.contrast, config.saturation)
    bright, contrast, saturation = (1 + strengths[i] * draws[:, :, i : i + 1] for i in range(3))  # [B F 1 1 1]
    red, green, blue = (weight * pairs[:, :, i : i + 1] for i, weight in enumerate(LUMA))
    grey = red + green + blue  # [B 2 1 S S]
    pivot = grey.mean((2, 3, 4) if each else (1, 2, 3, 4), keepdim=True)  # [B F 1 1 1]
    gain = bright * contrast  # the three in one: each is affine, and saturation keeps a pixel's grey
    colour, offset = gain * saturation, bright * (1 - contrast) * pivot
    return (pairs * colour + (grey * (gain - colour) + offset)).clamp(0, 1)
