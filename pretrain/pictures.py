"""Pictures of what the model does with a pair: swap, reconstruction, DMA's change map, PoI (Micron-BERT, Fig. 7)."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from pretrain.batch import Batch
from pretrain.decoder import patchify, unpatchify
from pretrain.dma import change_map
from pretrain.encoder import IMAGE_MEAN, IMAGE_STD
from pretrain.model import Losses, ModelConfig
from shards.files import atomic_path

TITLES = ("I(t)", "I(t+d)", "swapped", "reconstructed", "change (DMA)", "interest (PoI)")


def to_rgb(frames: Tensor) -> np.ndarray:
    """Normalised frames [B 3 H W] to uint8 [B H W 3] RGB."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGE_MEAN, IMAGE_STD))
    x = frames.detach().float().cpu() * std + mean
    return (x.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def heat_overlay(image: np.ndarray, values: np.ndarray, opacity: float = 0.5) -> np.ndarray:
    """A patch map over a frame as heat, from the map's 2nd to its 98th percentile.

    Args:
        image: uint8 [H W 3] RGB.
        values: float [N], a square grid row-major; high is hot.

    Returns:
        uint8 [H W 3] RGB.
    """
    grid = round(len(values) ** 0.5)
    low, high = np.percentile(values, [2, 98])
    scaled = np.clip((values - low) / max(high - low, 1e-12), 0, 1).reshape(grid, grid)
    large = cv2.resize((scaled * 255).astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    heat = cv2.cvtColor(cv2.applyColorMap(large, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    return cv2.addWeighted(heat, opacity, image, 1 - opacity, 0)


def outline_swapped(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Tint the swapped patches yellow. image uint8 [H W 3], mask bool [N] -> uint8 [H W 3]."""
    grid = round(len(mask) ** 0.5)
    pixels = cv2.resize(
        mask.reshape(grid, grid).astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST
    )
    tinted = cv2.addWeighted(image, 0.65, np.full_like(image, (255, 220, 0)), 0.35, 0)
    return np.where(pixels[..., None].astype(bool), tinted, image)


def reconstruct(losses: Losses, batch: Batch, model: ModelConfig) -> Tensor:
    """The decoder's output as frames [B 3 H W], undoing per-patch normalisation by the target's own statistics."""
    predicted = losses.predicted.float()
    if model.normalise_pixels:
        target = patchify(batch.current.float(), model.patch_size)
        predicted = predicted * (target.var(-1, keepdim=True) + 1e-6).sqrt() + target.mean(-1, keepdim=True)
    return unpatchify(predicted, model.patch_size)


def sheet(batch: Batch, losses: Losses, model: ModelConfig, rows: int = 4, scale: int = 2) -> np.ndarray:
    """A titled sheet, one pair per row: uint8 [H W 3] RGB."""
    current, reference, swapped = (to_rgb(x[:rows]) for x in (batch.current, batch.reference, batch.swapped))
    rebuilt = to_rgb(reconstruct(losses, batch, model)[:rows])
    lines = []
    for i in range(len(current)):
        images = [current[i], reference[i], outline_swapped(swapped[i], losses.mask[i].cpu().numpy()), rebuilt[i]]
        for values in (None if losses.diag is None else change_map(losses.diag), losses.interest):
            blank = np.zeros_like(current[i])
            images.append(blank if values is None else heat_overlay(reference[i], values[i].float().cpu().numpy()))
        lines.append(np.concatenate(images, axis=1))
    body = cv2.resize(np.concatenate(lines), None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    header = np.full((22, body.shape[1], 3), 255, np.uint8)
    for i, title in enumerate(TITLES):
        place = (4 + i * body.shape[1] // len(TITLES), 15)
        cv2.putText(header, title, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([header, body])


def write_png(path: Path, image: np.ndarray) -> None:
    """Write uint8 [H W 3] RGB as PNG, atomically."""
    with atomic_path(path) as temporary:
        cv2.imwrite(str(temporary), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
