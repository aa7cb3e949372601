"""HTNet's input: scaled maps, four areas cut from them and put together, mirrored clips.

Maps are float32 [B G G C], row (y) first; areas are centres (x, y) [B 4 2] on a grid of cells whose first centre is
(0, 0), in the order left eye, right eye, left corner of the mouth, right corner, left being the picture's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from finetune.heads.pooling import Standardise

NAMES = ("left eye", "right eye", "left lip", "right lip")
PLACES = (0, 2, 1, 3)
"""Which area stands at top left, top right, bottom left, bottom right: eye and lip of one side beside each other, the
left side on top, as the authors' code puts them together. That code itself takes the right eye for the left lip and
the left lip for the right eye: (0, 1, 2, 3)."""


def rescale(centres: Tensor, grid: int, to: int) -> Tensor:
    """Centres on a grid of `grid` cells to those of the same places on `to` cells."""
    return centres if grid == to else (centres + 0.5) * (to / grid) - 0.5


def corners(centres: Tensor, grid: int, side: int, release: bool = False) -> Tensor:
    """First cells (x, y) of the four windows of `side` cells, inside the grid: int64 [B 4 2], in the order of PLACES.

    release: the authors' code limits the numbers to [side/2, grid - side/2], drops fractions, and uses x as row and y
    as column. On an upright face that exchange turns the right eye into about the left corner of the mouth, so that
    its windows, misnamed too, still lie near the areas that they are named after.
    """
    if release:
        half = side // 2
        return centres.clamp(half, grid - half).floor().long().flip(-1) - half
    found = centres.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2)  # PLACES
    return (found - (side - 1) / 2).round().clamp(0, grid - side).long()


def arrange(maps: Tensor, first: Tensor, side: int) -> Tensor:
    """Windows of `side` cells from `first` [B 4 2] on, put together 2 × 2: [B G G C] -> [B 2·side 2·side C] (3.1)."""
    steps = torch.arange(side, device=maps.device)
    rows = (first[..., 1, None] + steps)[..., :, None]  # [B 4 side 1]
    columns = (first[..., 0, None] + steps)[..., None, :]  # [B 4 1 side]
    clips = torch.arange(len(maps), device=maps.device)[:, None, None, None]
    areas = maps[clips, rows, columns].unflatten(1, (2, 2))  # [B 2 2 side side C]
    return areas.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class MapScaling(nn.Module):
    """Maps [B G G C] scaled as `HTNetOptions.scaling` says; statistics come from training maps alone."""

    def __init__(self, how: str, channels: int):
        super().__init__()
        self.how = how
        self.standardise = Standardise(channels)

    def fit(self, maps: Tensor) -> None:
        """Statistics of training maps [n G G C]."""
        self.standardise.fit(self.centre(maps))

    def forward(self, maps: Tensor) -> Tensor:
        """[B G G C] -> [B G G C]"""
        if self.how == "none":
            return maps
        if self.how == "minmax":
            low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
            return 255 * (maps - low) / (high - low).clamp(min=1e-12)
        return self.standardise(self.centre(maps))

    def centre(self, maps: Tensor) -> Tensor:
        """Maps whose median of u and v, the motion of most of the face, is taken off."""
        if self.how != "centred":
            return maps
        shift = maps[..., :2].flatten(1, 2).median(dim=1).values[:, None, None]  # [B 1 1 2]
        return torch.cat([maps[..., :2] - shift, maps[..., 2:]], dim=-1)


def mirror_maps(maps: Tensor, still: Tensor | float = 0.0) -> Tensor:
    """Flow maps [B G G 3] of the mirrored faces: u turns round about `still`, its value where nothing moves."""
    flipped = maps.flip(2)
    return torch.cat([2 * still - flipped[..., :1], flipped[..., 1:]], dim=-1)


def mirror_areas(centres: Tensor, grid: int) -> Tensor:
    """Centres [B 4 2] of the mirrored faces: left and right change names."""
    swapped = centres.unflatten(1, (2, 2)).flip(2).flatten(1, 2)
    return torch.stack([grid - 1 - swapped[..., 0], swapped[..., 1]], dim=-1)
