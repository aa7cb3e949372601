"""HTNet behind maps that are centred clip by clip: everything before the statistics is the same in every fold.

Centring (a median per clip), cutting and arranging the areas cost as much as a small network's layers. Where nothing
of them depends on the fold or on chance but the choice between a clip and its mirrored self, they are done once, down
to the cells of each token beside each other.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from finetune.folds import Portion
from finetune.heads import htnet_areas as areas
from finetune.heads.base import Head, Inputs
from finetune.heads.htnet_map import MapNet, chance
from finetune.heads.htnet_network import tokens


def tiles(net: MapNet, inputs: Inputs) -> Tensor:
    """'flow' [B G G C] and 'areas' [B 4 2] as tokens of the centred areas [B V h w p²·C]; V 2: mirrored ones too."""
    options, maps, centres = net.options, inputs["flow"].float(), inputs["areas"].float()
    both = [(maps, centres)]
    if options.mirror:
        both.append((areas.mirror_maps(maps), areas.mirror_areas(centres, options.grid)))
    cut = [net.cut(net.scaling.centre(maps), centres) for maps, centres in both]
    return tokens(torch.stack(cut, dim=1), net.hierarchy.shape.patch)


class TileNet(Head):
    """A `MapNet` that reads 'tiles' float32 [B V h w p²·C] (`tiles`); the first of V is what it sees."""

    def __init__(self, net: MapNet):
        super().__init__()
        self.standardise, self.hierarchy, self.mirror = net.scaling.standardise, net.hierarchy, net.options.mirror

    def forward(self, inputs: Inputs) -> Tensor:
        """logits [B C]"""
        return self.hierarchy(self.scaled(inputs))

    def split(self) -> tuple[Callable[[Inputs], Tensor], nn.Module]:
        """The scaled tiles, and the hierarchy behind them."""
        return self.scaled, self.hierarchy

    def scaled(self, inputs: Inputs) -> Tensor:
        """[B h w p²·C]"""
        return self.standardise(inputs["tiles"][:, 0])

    def fit(self, portion: Portion) -> None:
        """Set the statistics from training clips. Raises LeakError for any other portion."""
        portion.require_training("statistics of HTNet's tiles")
        self.standardise.fit(portion.inputs["tiles"][:, 0])

    def training_batch(self, inputs: Inputs, rows: Tensor, generator: torch.Generator) -> Inputs:
        """The clips at rows, some mirrored as the option says; of each only the one that is seen is read."""
        if not self.mirror:
            return super().training_batch(inputs, rows, generator)
        chosen = chance(len(rows), self.mirror, generator, rows.device)
        return {"tiles": inputs["tiles"][rows, chosen.long()][:, None]}
