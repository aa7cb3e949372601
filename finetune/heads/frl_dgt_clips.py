"""FRL-DGT's way from prepared clips to pictures, random pairs and patches, all on the device and for whole batches.

A clip's frames are 'sequence' uint8 [B T S S 3]. Clips with fewer than T frames repeat their last one, recognised by
a real number ('sequence.index') that does not rise.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from finetune.motion import dynamic, tim
from shards.errors import FlickerError

GREY = (0.299, 0.587, 0.114)
Inputs = Mapping[str, Tensor]


def pictures(frames: Tensor, colour: str) -> Tensor:
    """RGB uint8 [... H W 3] to float32 [... M H W] in 0..1; M is 1 (ITU-R BT.601 luma) or 3."""
    x = frames.movedim(-1, -3).float() / 255
    if colour == "rgb":
        return x
    red, green, blue = x.unbind(-3)
    return (GREY[0] * red + GREY[1] * green + GREY[2] * blue).unsqueeze(-3)


def lengths(inputs: Inputs) -> Tensor:
    """How many of 'sequence's frames are the clip's own: int64 [B], 1 or more."""
    batch, frames = inputs["sequence"].shape[:2]
    index = inputs.get("sequence.index")
    if index is None:
        return torch.full((batch,), frames, dtype=torch.int64, device=inputs["sequence"].device)
    return 1 + (index[:, 1:] > index[:, :-1]).long().cumprod(dim=1).sum(dim=1)


def require(inputs: Inputs, name: str, why: str) -> Tensor:
    """An input. Raises FlickerError where it is absent, saying what it is for."""
    if name not in inputs:
        raise FlickerError(f"FRL-DGT: the input '{name}' is absent, {why}; prepare the inputs that `needs` names")
    return inputs[name]


def moved_apex(inputs: Inputs, jitter: int, generator: torch.Generator) -> dict[str, Tensor]:
    """The inputs with the apex of 'pair' moved by -jitter..jitter kept frames, all alike, staying behind the onset.

    Section 3.3: "select a frame before or after the original apex frame randomly when loading the data". A magnified
    copy ('pair.factor' float [B] other than 1) keeps its apex: its neighbours are not magnified.
    """
    pair = require(inputs, "pair", "which FRL-DGT recognises")
    sequence = require(inputs, "sequence", "from which the apex is moved (head.frl_dgt.jitter)")
    apex = require(inputs, "sequence.apex", "around which the apex is moved (head.frl_dgt.jitter)").long()
    batch = len(sequence)
    offset = torch.randint(-jitter, jitter + 1, (batch,), generator=generator).to(sequence.device)
    place = torch.minimum((apex + offset).clamp(min=1), lengths(inputs) - 1).clamp(min=0)
    frames = sequence[torch.arange(batch, device=sequence.device), place]
    if "pair.factor" in inputs:
        magnified = inputs["pair.factor"] != 1
        frames = torch.where(magnified[:, None, None, None], pair[:, 1], frames)
    return {**inputs, "pair": torch.stack([pair[:, 0], frames], dim=1)}


def random_pairs(sequences: Tensor, counts: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """`number` ordered pairs of different frames, each of one clip drawn at random: uint8 [number 2 S S 3].

    sequences uint8 [m T S S 3]; counts int64 [m] on the CPU: the clips' own frames.
    """
    rows = torch.randint(len(sequences), (number,), generator=generator)
    own = counts[rows]
    draws = torch.rand(2, number, generator=generator)
    first = (draws[0] * own).long()
    second = (first + 1 + (draws[1] * (own - 1)).long()) % own
    places = torch.stack([first, second], dim=1).to(sequences.device)  # [number 2]
    return sequences[rows.to(sequences.device)[:, None], places]


def interpolated(inputs: Inputs, count: int, colour: str) -> Tensor:
    """'sequence' at `count` instants by TIM, onset first: float32 [B count M H W]."""
    frames = pictures(require(inputs, "sequence", "which FRL-DGT-S recognises"), colour)
    own = lengths(inputs).tolist()
    weights = torch.stack([_tim_weights(n, frames.shape[1], count) for n in own]).to(frames.device)
    return torch.einsum("bpt,btmhw->bpmhw", weights, frames)


@lru_cache(maxsize=512)
def _tim_weights(own: int, frames: int, count: int) -> Tensor:
    """Weights float32 [count frames] of the first `own` frames."""
    weights = np.zeros((count, frames), np.float32)
    weights[:, :own] = tim.weights(own, np.linspace(0, own - 1, count))
    return torch.from_numpy(weights)


def dynamic_images(inputs: Inputs, colour: str) -> Tensor:
    """The clips' dynamic images (Bilen et al. 2016), each scaled by its own extremes to -1..1: [B M H W]."""
    frames = pictures(require(inputs, "sequence", "which the dynamic image is made of (ablation M2)"), colour)
    own = lengths(inputs).tolist()
    weights = torch.zeros(frames.shape[:2])
    for row, count in enumerate(own):
        weights[row, :count] = torch.from_numpy(dynamic.coefficients(count)).float()
    image = torch.einsum("bt,btmhw->bmhw", weights.to(frames.device), frames)
    low, high = image.amin(dim=(1, 2, 3), keepdim=True), image.amax(dim=(1, 2, 3), keepdim=True)
    return 2 * (image - low) / (high - low).clamp(min=1e-6) - 1


def even_boxes(batch: int, size: int, side: int, device: torch.device) -> Tensor:
    """M5's 3 × 3 even parts in place of AU boxes: int64 [B 9 4] (x, y, w, h), row by row."""
    corner = torch.linspace(0, size - side, 3).round().long()
    y, x = torch.meshgrid(corner, corner, indexing="ij")
    length = torch.full((9,), side)
    return torch.stack([x.flatten(), y.flatten(), length, length], dim=1).expand(batch, 9, 4).to(device)


def box_patches(features: Tensor, boxes: Tensor, side: int, patch: int) -> Tensor:
    """Boxes cut into patches, in one gather: [B M S S], int [B K 4] -> [K B (side/patch)² M·patch²].

    A box of side × side px is copied pixel by pixel; one of another size is resampled to it (nearest pixel); pixels
    outside the image repeat its border.
    """
    batch, channels, height, width = features.shape
    count = side // patch
    steps = 2 * torch.arange(side, device=features.device) + 1
    x, y, w, h = (boxes.long()[..., i, None] for i in range(4))  # [B K 1]
    columns = (x + steps * w // (2 * side)).clamp(0, width - 1)
    rows = (y + steps * h // (2 * side)).clamp(0, height - 1)
    index = rows[..., :, None] * width + columns[..., None, :]  # [B K side side]
    index = index.unflatten(3, (count, patch)).unflatten(2, (count, patch)).transpose(3, 4)  # [B K n n p p]
    taken = features.flatten(2).gather(2, index.reshape(batch, 1, -1).expand(-1, channels, -1))
    patches = taken.view(batch, channels, boxes.shape[1], count**2, patch**2)
    return patches.permute(2, 0, 3, 1, 4).flatten(3)


def face_patches(features: Tensor, patch: int) -> Tensor:
    """The whole face in patches: [B M S S] -> [1 B (S/patch)² M·patch²]."""
    return F.unfold(features, patch, stride=patch).transpose(1, 2)[None]


def box_tokens(grid: Tensor, boxes: Tensor, size: int, count: int) -> Tensor:
    """Tokens of boxes cut from a token grid: [B D g g], boxes [B K 4] in px of a size × size crop -> [B K count² D].

    Each box is divided into count × count cells; a cell is the mean of 2 × 2 bilinear samples (as RoIAlign).
    """
    batch, regions = boxes.shape[:2]
    steps = (torch.arange(2 * count, device=grid.device) + 0.5) / (2 * count)  # of a side
    x, y, w, h = (2 / size * boxes.to(grid.dtype)[..., i, None] for i in range(4))
    columns, rows = x + steps * w - 1, y + steps * h - 1  # [B K 2·count], the image is -1..1
    shape = (batch, regions, 2 * count, 2 * count)
    where = torch.stack([columns[:, :, None, :].expand(shape), rows[:, :, :, None].expand(shape)], dim=-1)
    taken = F.grid_sample(grid, where.flatten(1, 2), "bilinear", "border", align_corners=False)
    cells = F.avg_pool2d(taken, 2)  # [B D K·count count]
    return cells.unflatten(2, (regions, count)).permute(0, 2, 3, 4, 1).flatten(2, 3)
