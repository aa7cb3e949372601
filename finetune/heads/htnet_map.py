"""What follows HTNet's map, whether of flow or of an encoder: scaling, areas, hierarchy, and their augmentation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from finetune.folds import Portion
from finetune.heads import htnet_areas as areas
from finetune.heads.base import Head, Inputs
from finetune.heads.htnet_network import Hierarchy, Shape, sizes
from finetune.options.htnet import HTNetOptions
from shards.errors import UsageError

PAPER_GRID = 28


class MapNet(Head):
    """A map of the face and its areas to logits: scale, cut and arrange, hierarchy.

    Inputs: `name` float32 [B G G C], and 'areas' float32 [B 4 2], centres (x, y) on a grid of `options.grid` cells.
    """

    def __init__(self, name: str, channels: int, grid: int, classes: int, options: HTNetOptions):
        super().__init__()
        self.name, self.grid, self.options = name, grid, resolved(options)
        block = block_side(options.block, grid)
        patch = options.patch or (block if name == "flow" else 1)
        shape = Shape(channels, 4 * block, patch, options.dim, options.heads, tuple(options.depths), classes)
        check(self.options, shape, grid, name)
        self.side = 2 * block
        self.scaling = areas.MapScaling(self.options.scaling, channels)
        self.hierarchy = Hierarchy(
            shape,
            dropout=options.dropout,
            activation=self.options.activation,
            position=self.options.position,
        )

    def forward(self, inputs: Inputs) -> Tensor:
        """logits [B C]"""
        return self.hierarchy(self.arranged(inputs))

    def split(self) -> tuple[Callable[[Inputs], Tensor], nn.Module]:
        """The arranged map, and the hierarchy behind it."""
        return self.arranged, self.hierarchy

    def arranged(self, inputs: Inputs) -> Tensor:
        """The four areas of the scaled map, put together: [B 4·block 4·block C]."""
        return self.cut(self.scaling(inputs[self.name].float()), inputs["areas"].float())

    def cut(self, maps: Tensor, centres: Tensor) -> Tensor:
        """The areas around `centres` [B 4 2] of maps [B G G C], put together: [B 4·block 4·block C]."""
        centres = areas.rescale(centres, self.options.grid, self.grid)
        first = areas.corners(centres, self.grid, self.side, self.options.release)
        return areas.arrange(maps, first, self.side)

    def fit(self, portion: Portion) -> None:
        """Set the map's statistics from training clips. Raises LeakError for any other portion."""
        portion.require_training("statistics of HTNet's map")
        self.scaling.fit(portion.inputs[self.name].float())

    def augment(self, inputs: Inputs, generator: torch.Generator) -> Inputs:
        """Mirrored clips (flow maps only) and moved areas, as the options say."""
        changed = dict(inputs)
        centres = inputs["areas"]
        if self.options.mirror and self.name == "flow":
            chosen = chance(len(centres), self.options.mirror, generator, centres.device)
            still = self.scaling.standardise.mean[0]
            flow = inputs["flow"]
            changed["flow"] = torch.where(chosen[:, None, None, None], areas.mirror_maps(flow, still), flow)
            mirrored = areas.mirror_areas(centres, self.options.grid)
            centres = torch.where(chosen[:, None, None], mirrored, centres)
        if self.options.jitter:
            moved = 2 * torch.rand(len(centres), 1, 2, generator=generator) - 1
            centres = centres + self.options.jitter * moved.to(centres.device)
        return changed | {"areas": centres}


def chance(count: int, probability: float, generator: torch.Generator, device: torch.device) -> Tensor:
    """bool [count], each true with the probability."""
    return (torch.rand(count, generator=generator) < probability).to(device)


def resolved(options: HTNetOptions) -> HTNetOptions:
    """The options with what `release` overrides."""
    if not options.release:
        return options
    return replace(options, activation="gelu", position="scalar", scaling="minmax")


def block_side(block: int, grid: int) -> int:
    """Side of a bottom block on a map of `grid` cells: `block` is for 28 (7 of 28, 3 of 12, 4 of 14)."""
    return max(1, int(block * grid / PAPER_GRID + 0.5))


def check(options: HTNetOptions, shape: Shape, grid: int, name: str) -> None:
    """Raise UsageError naming the option that does not fit."""
    rules = {
        "dim": options.dim >= 1 and options.heads >= 1 and options.dim >= options.heads,
        "dropout": 0 <= options.dropout < 1,
        "mirror": 0 <= options.mirror <= 1,
        "jitter": options.jitter >= 0,
        "layer_decay": 0 < options.layer_decay <= 1,
        "block": options.block >= 1 and shape.size <= 2 * grid,
        "scaling": name == "flow" or options.scaling in ("standard", "none"),
        "patch": options.patch >= 0,
    }
    for key, fine in rules.items():
        if not fine:
            raise UsageError(f"head.htnet.{key}: {getattr(options, key)!r} is out of range for a map of {grid} cells")
    if wrong := sizes(shape.depths, shape.size, shape.patch):
        raise UsageError(f"head.htnet: {wrong}")
