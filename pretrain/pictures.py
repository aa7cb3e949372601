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
from pretrain.decoder import patch_statistics, patchify, unpatchify
from pretrain.dma import change_map
from pretrain.encoder import IMAGE_MEAN, IMAGE_STD
from pretrain.masking import Masked, as_mask
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


YELLOW, GREEN, RED = (255, 220, 0), (0, 200, 0), (230, 0, 0)


def tint(image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int] = YELLOW) -> np.ndarray:
    """Tint some patches. image uint8 [H W 3], mask bool [N] -> uint8 [H W 3]."""
    tinted = cv2.addWeighted(image, 0.65, np.full_like(image, colour), 0.35, 0)
    return np.where(_pixels(mask, image), tinted, image)


def as_frames(predicted: Tensor, frames: Tensor, patch: int, normalised: bool) -> Tensor:
    """Predicted patches [B N patch²·3] as frames [B 3 H W].

    normalised: undo per-patch normalisation by the statistics of the true frames.
    """
    predicted = predicted.float()
    if normalised:
        mean, deviation = patch_statistics(patchify(frames.float(), patch))
        predicted = predicted * deviation + mean
    return unpatchify(predicted, patch)


def sheet(batch: Batch, losses: Losses, model: ModelConfig, rows: int = 4) -> np.ndarray:
    """A training batch, one pair per row: uint8 [H W 3] RGB."""
    current, reference, swapped = (to_rgb(x[:rows]) for x in (batch.current, batch.reference, batch.swapped))
    predicted = losses.shown["predicted"][:rows]
    rebuilt = to_rgb(as_frames(predicted, batch.current[:rows], model.patch_size, model.normalise_pixels))
    mask, diag = losses.shown["mask"][:rows].cpu().numpy(), losses.shown.get("diag")
    maps = (None if diag is None else change_map(diag), losses.shown.get("interest"))
    lines = []
    for i in range(len(current)):
        images = [current[i], reference[i], tint(swapped[i], mask[i]), rebuilt[i]]
        for values in maps:
            blank = np.zeros_like(current[i])
            images.append(blank if values is None else heat_overlay(reference[i], values[i].float().cpu().numpy()))
        lines.append(images)
    return table(lines, ("I(t)", "I(t+d)", "swapped", "reconstructed", "1 - diag (DMA)", "interest (PoI)"))


def reconstruction_sheet(batch: Masked, losses: Losses, model: ModelConfig, rows: int = 4) -> np.ndarray:
    """MAE's frames, one per row, as its Fig. 2: uint8 [H W 3] RGB."""
    frames, mask, hidden = _hidden(batch, rows)
    predicted = losses.shown["predicted"][:rows]
    rebuilt = to_rgb(as_frames(predicted, batch.frames[:rows], model.patch_size, model.mae.normalise_pixels))
    lines = []
    for i in range(len(frames)):
        filled = np.where(_pixels(mask[i], frames[i]), rebuilt[i], frames[i])
        lines.append([frames[i], hidden[i], filled, rebuilt[i]])
    return table(lines, ("I(t)", "visible", "hidden ones filled in", "predicted"))


def prediction_sheet(batch: Masked, losses: Losses, rows: int = 4) -> np.ndarray:
    """BEiT's frames, one per row, and which hidden patches' codes were found: uint8 [H W 3] RGB."""
    frames, mask, hidden = _hidden(batch, rows)
    places, right = batch.hidden[:rows], losses.shown["right"][:rows]
    found = torch.zeros(mask.shape, dtype=torch.bool).scatter(1, places.cpu(), right.cpu()).numpy()
    lines = []
    for i in range(len(frames)):
        told = tint(tint(frames[i], found[i], GREEN), mask[i] & ~found[i], RED)
        lines.append([frames[i], hidden[i], told])
    return table(lines, ("I(t)", "visible", "right (green), wrong (red)"))


def _hidden(batch: Masked, rows: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """The first frames uint8 [B H W 3], their hidden patches bool [B N], and the frames with those greyed out."""
    frames = to_rgb(batch.frames[:rows])
    count = batch.hidden.shape[1] + batch.visible.shape[1]
    mask = as_mask(batch.hidden[:rows], count).cpu().numpy()
    grey = np.full_like(frames[0], 128)
    return frames, mask, [np.where(_pixels(mask[i], grey), grey, frames[i]) for i in range(len(frames))]


def _pixels(mask: np.ndarray, image: np.ndarray) -> np.ndarray:
    """A patch mask [N] as bool [H W 1], of the image's size."""
    grid = round(len(mask) ** 0.5)
    size = image.shape[1::-1]
    return cv2.resize(mask.reshape(grid, grid).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)[..., None] > 0


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
