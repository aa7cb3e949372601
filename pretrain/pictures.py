"""Pictures of what the model does with a pair: swap, reconstruction, DMA's change map, PoI (Micron-BERT, Fig. 7)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from pretrain.architecture import ModelConfig
from pretrain.batch import Batch
from pretrain.decoder import patchify, unpatchify
from pretrain.dma import change_map
from pretrain.encoder import IMAGE_MEAN, IMAGE_STD
from pretrain.objective import Losses
from shards.files import atomic_path


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
    predicted = losses.shown["predicted"].float()
    if model.normalise_pixels:
        target = patchify(batch.current.float(), model.patch_size)
        predicted = predicted * (target.var(-1, keepdim=True) + 1e-6).sqrt() + target.mean(-1, keepdim=True)
    return unpatchify(predicted, model.patch_size)


def sheet(batch: Batch, losses: Losses, model: ModelConfig, rows: int = 4) -> np.ndarray:
    """A training batch, one pair per row: uint8 [H W 3] RGB."""
    current, reference, swapped = (to_rgb(x[:rows]) for x in (batch.current, batch.reference, batch.swapped))
    rebuilt = to_rgb(reconstruct(losses, batch, model)[:rows])
    mask, diag = losses.shown["mask"][:rows].cpu().numpy(), losses.shown.get("diag")
    maps = (None if diag is None else change_map(diag), losses.shown.get("interest"))
    lines = []
    for i in range(len(current)):
        images = [current[i], reference[i], outline_swapped(swapped[i], mask[i]), rebuilt[i]]
        for values in maps:
            blank = np.zeros_like(current[i])
            images.append(blank if values is None else heat_overlay(reference[i], values[i].float().cpu().numpy()))
        lines.append(images)
    return table(lines, ("I(t)", "I(t+d)", "swapped", "reconstructed", "1 - diag (DMA)", "interest (PoI)"))


@torch.no_grad()
def seen(model: Any, onset: Tensor, apex: Tensor) -> np.ndarray:
    """What the model sees between two frames, as Micron-BERT's Fig. 7, one pair per row.

    Args:
        model: a MicronBert.
        onset, apex: uint8 [B H W 3] RGB.

    Returns:
        uint8 [H W 3] RGB: both frames, four times their difference, DMA's change, PoI, and their product.
    """
    a, b = model.preprocess(onset), model.preprocess(apex)
    change, interest = model.change(a, b).clamp(min=0), model.poi(b)
    first, second = to_rgb(a), to_rgb(b)
    lines = []
    for i in range(len(first)):
        difference = np.clip(np.abs(second[i].astype(int) - first[i]) * 4, 0, 255).astype(np.uint8)
        maps = [values[i].float().cpu().numpy() for values in (change, interest, change * interest)]
        lines.append([first[i], second[i], difference, *(heat_overlay(second[i], values) for values in maps)])
    return table(lines, ("onset", "apex", "4 x difference", "change (DMA)", "interest (PoI)", "change x interest"))


def table(lines: list[list[np.ndarray]], titles: tuple[str, ...], side: int = 192) -> np.ndarray:
    """Pictures in rows under titles, each scaled to `side` pixels: uint8 [H W 3] RGB."""
    scaled = [[cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in line] for line in lines]
    body = np.concatenate([np.concatenate(line, axis=1) for line in scaled])
    header = np.full((24, body.shape[1], 3), 255, np.uint8)
    for i, title in enumerate(titles):
        cv2.putText(header, title, (6 + i * side, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([header, body])


def write_png(path: Path, image: np.ndarray) -> None:
    """Write uint8 [H W 3] RGB as PNG, atomically."""
    with atomic_path(path) as temporary:
        cv2.imwrite(str(temporary), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
