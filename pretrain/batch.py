"""From uint8 frame pairs to a training batch, on the device and without a loop over samples."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.architecture import ModelConfig
from pretrain.augment import AugmentConfig, augment
from pretrain.encoder import IMAGE_MEAN, IMAGE_STD, normalise
from pretrain.random import uniform
from pretrain.swap import SwapConfig, swap_mask, swap_patches

CROP_STREAM = 2  # crop i of a frame has CROP_STREAM + 16·i; the swap has stream 1, augmentation 3 to 5


@dataclass
class Batch:
    """One micro-batch; frames are normalised float32 [B 3 H W]."""

    current: Tensor  # I(t)
    reference: Tensor  # I(t+δ)
    swapped: Tensor  # I(t/s)
    mask: Tensor  # bool [B N] patches of I(t/s) that come from I(t+δ)
    crop: Tensor | None = None  # agreement mse: Crop(I(t+δ)), resized to H x W
    student_crops: list[Tensor] = field(default_factory=list)  # agreement dino: [2B 3 H W], [L·B 3 h w]
    teacher_probabilities: Tensor | None = None  # agreement dino: [2 B K]

    def to(self, dtype: torch.dtype) -> Batch:
        """The frames in `dtype`; mask and probabilities stay as they are."""
        crop = None if self.crop is None else self.crop.to(dtype)
        students = [crops.to(dtype) for crops in self.student_crops]
        frames = (self.current.to(dtype), self.reference.to(dtype), self.swapped.to(dtype))
        return Batch(*frames, self.mask, crop, students, self.teacher_probabilities)


def assemble(
    frames: Tensor, seeds: Tensor, model: ModelConfig, swap: SwapConfig, augmentation: AugmentConfig
) -> Batch:
    """Build a batch; every random choice is a pure function of the sample's seed.

    Args:
        frames: uint8 [B 2 H W 3] RGB, I(t) and I(t+δ), any size.
        seeds: int64 [B].
    """
    pairs = augment(frames, seeds, augmentation, model.image_size)  # [B 2 3 S S], S = model.image_size
    current = normalise(pairs[:, 0], IMAGE_MEAN, IMAGE_STD)
    reference = normalise(pairs[:, 1], IMAGE_MEAN, IMAGE_STD)
    mask = swap_mask(seeds, model.image_size // model.patch_size, swap)
    batch = Batch(current, reference, swap_patches(current, reference, mask, model.patch_size), mask)
    agreement = model.agreement
    if agreement.kind == "mse":
        batch.crop = random_crop(reference, seeds, CROP_STREAM, agreement.crop_scale, model.image_size)
    elif agreement.kind == "dino":
        local = max(round(agreement.local_size * model.image_size / model.patch_size), 1) * model.patch_size
        batch.student_crops = [
            _crops(reference, seeds, 0, 2, agreement.crop_scale, model.image_size),
            _crops(reference, seeds, 2, agreement.local_crops, agreement.local_scale, local),
        ]
    return batch


def _crops(x: Tensor, seeds: Tensor, first: int, count: int, scale: tuple[float, float], size: int) -> Tensor:
    """`count` random crops of each frame, crop-major: [count·B 3 size size]."""
    return torch.cat([random_crop(x, seeds, CROP_STREAM + 16 * (first + i), scale, size) for i in range(count)])


def random_crop(x: Tensor, seeds: Tensor, stream: int, scale: tuple[float, float], size: int) -> Tensor:
    """A random square crop of each frame, resized (bilinear).

    Args:
        x: [B 3 H H]; seeds: int64 [B].
        scale: smallest and largest area of the crop, share of the frame.
        size: side of the result, pixels.

    Returns:
        [B 3 size size].
    """
    draws = uniform(seeds, stream, 3)  # [B 3]
    side = (scale[0] + draws[:, 0] * (scale[1] - scale[0])).sqrt()  # [B] share of the frame's side
    centre = (draws[:, 1:] - 0.5) * 2 * (1 - side)[:, None]  # [B 2] in -1..1, so that the crop stays inside
    theta = torch.zeros(len(x), 2, 3, device=x.device)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, :, 2] = centre
    grid = F.affine_grid(theta, [len(x), 3, size, size], align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
