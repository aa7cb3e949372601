"""HTNet: a hierarchy of local Transformers over four areas of a face's motion.

Native: the flow map of onset and apex (u, v, strain). Plugged: the encoder's DMA map of onset and apex takes the
place of the flow map. The reasoning: HTNet's own spatial input says, for each of 28 × 28 cells, what moved; P_dma
(eq. 9 of Micron-BERT) says, for each patch of the same grid (224 px / 8 px), how onset and apex agree there. So it
is cut into the same areas, each patch's vector becomes a token by a 1 × 1 projection (a linear layer), and the same
levels follow. A block then holds 7 × 7 tokens instead of one, so that its attention has something to compare.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from finetune.backbone import pair_cost, trainable_copy
from finetune.config import Mode
from finetune.folds import Portion
from finetune.heads import htnet_areas as areas
from finetune.heads.base import Head, Inputs
from finetune.heads.blocks import encoder_groups, split_decay
from finetune.heads.htnet_map import MapNet, chance
from finetune.heads.htnet_tiles import TileNet, tiles
from finetune.options.htnet import HTNetOptions
from pretrain import MicronBert
from shards.errors import UsageError

PUBLISHED: dict[str, Any] = {
    "parameters": 438.51e6,
    "seconds": 6942,
    "uf1": 0.8603,
    "uar": 0.8475,
    "note": (
        "Table 5's '438.51 M parameters' is the size of 114.4 M float32 parameters in MiB (436.5) with activations; "
        "UF1 and UAR are those of the epoch that was best on the test subject"
    ),
}
"""HTNet, Table 2 and Table 5, depths (2, 2, 8): all 68 folds of 800 epochs."""


class HTNetHead(Head):
    """HTNet, native (encoder None) or on an encoder's DMA map.

    Inputs: 'areas' float32 [B 4 2], and natively 'flow' float32 [B G G 3] (u, v, strain), plugged
    'pair' RGB uint8 [B 2 H W 3] (onset, apex).
    """

    def __init__(self, classes: int, options: HTNetOptions, encoder: MicronBert | None = None):
        super().__init__()
        if encoder is not None and encoder.attention is None:
            raise UsageError("the head 'htnet' reads an encoder's DMA map: this encoder was built without DMA")
        self.classes, self.options, self.encoder = classes, options, encoder
        self.encoder_lr_scale = 1.0
        self.net = self._net()

    @property
    def plugged(self) -> bool:
        """Whether an encoder is in the flow's place."""
        return self.encoder is not None

    def _net(self) -> MapNet:
        """The part behind `extract`, untrained."""
        if self.encoder is None:
            return MapNet("flow", 3, self.options.grid, self.classes, self.options)
        grid, channels = int(self.encoder.encoder.grid), int(self.encoder.encoder.embed_dim)
        return MapNet("map", channels, grid, self.classes, self.options)

    @property
    def fixed(self) -> bool:
        """Whether the native map is made ready once per clip (htnet_tiles.py)."""
        options = self.net.options
        return self.encoder is None and options.scaling == "centred" and not options.jitter

    def readout(self) -> Head:
        """An untrained model of what `extract` gives."""
        if self.fixed:
            return TileNet(self._net())
        return HTNetHead(self.classes, self.options) if self.encoder is None else self._net()

    def split(self) -> tuple[Callable[[Inputs], Any], nn.Module]:
        """Natively the map's; an encoder stands before the map."""
        return self.net.split() if self.encoder is None else super().split()

    def extract(self, inputs: Inputs) -> dict[str, Tensor]:
        """What does not depend on the fold: natively 'tiles' or the inputs, plugged 'map' [B g g D] and 'areas'."""
        if self.encoder is None:
            return {"tiles": tiles(self.net, inputs)} if self.fixed else dict(inputs)
        onset, apex = (self.encoder.preprocess(frames) for frames in inputs["pair"].unbind(1))
        grid = int(self.encoder.encoder.grid)
        features = self.encoder.dma(onset, apex)[0].float()  # [B N D]
        return {"map": features.unflatten(1, (grid, grid)), "areas": inputs["areas"]}

    def forward(self, inputs: Inputs) -> Tensor:
        """logits [B C]"""
        return self.net(inputs if self.encoder is None else self.extract(inputs))

    def fit(self, portion: Portion) -> None:
        """Set the map's statistics with the present encoder. Raises LeakError unless a training portion."""
        portion.require_training("statistics of HTNet's map")
        if self.encoder is None:
            self.net.fit(portion)
            return
        with torch.no_grad():
            parts = [
                self.extract({name: value[start : start + 16] for name, value in portion.inputs.items()})
                for start in range(0, len(portion), 16)
            ]
        self.net.scaling.fit(torch.cat([part["map"] for part in parts]))

    def augment(self, inputs: Inputs, generator: torch.Generator) -> Inputs:
        """Mirrored clips and moved areas, as the options say."""
        if self.encoder is None or not self.options.mirror:
            return self.net.augment(inputs, generator)
        chosen = chance(len(inputs["areas"]), self.options.mirror, generator, inputs["areas"].device)
        changed = dict(inputs)
        pair = inputs["pair"]
        changed["pair"] = torch.where(chosen[:, None, None, None, None], pair.flip(3), pair)
        mirrored = areas.mirror_areas(inputs["areas"], self.options.grid)
        changed["areas"] = torch.where(chosen[:, None, None], mirrored, inputs["areas"])
        return self.net.augment(changed, generator)

    def trainable(self, mode: Mode, blocks: int, lr_scale: float) -> HTNetHead:
        """A new head for one fold, with its own encoder whose gradients are as the mode says (trainable_copy)."""
        encoder = None if self.encoder is None else trainable_copy(self.encoder, mode, blocks)
        head = HTNetHead(self.classes, self.options, encoder)
        head.encoder_lr_scale = lr_scale
        return head

    def groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Optimiser groups; an encoder's at `encoder_lr_scale`, less for deeper blocks (`layer_decay`)."""
        groups = split_decay(self.net.parameters(), lr, weight_decay)
        if self.encoder is not None:
            scaled = lr * self.encoder_lr_scale
            groups += encoder_groups(self.encoder, scaled, weight_decay, self.options.layer_decay)
        return groups

    def summary(self) -> dict[str, Any]:
        """Parameters, FLOP per clip forward by formula, kinds of input, and what the paper states."""
        flops = self.net.hierarchy.shape.flops()
        parameters = sum(p.numel() for p in self.net.parameters())
        kinds = {"flow": "u, v, strain of onset and apex", "areas": "centres of eyes and mouth corners"}
        if self.encoder is not None:
            kinds = {"pair": "frames of onset and apex", "areas": kinds["areas"]}
            more, cost = pair_cost(self.encoder)
            parameters, flops = parameters + more, flops + cost
        return {"parameters": parameters, "flops": flops, "inputs": kinds, "published": PUBLISHED}


def needs(options: HTNetOptions, encoder: MicronBert | None = None) -> dict[str, Any]:
    """Recipes of finetune.inputs by name; 'areas' is the column of that name of `Regions`."""
    from finetune.inputs import FlowMap, Pair

    if encoder is None:
        flow = FlowMap(options.face, options.size, grid=options.grid)
        return {"flow": flow, "areas": _regions(options, options.size)}
    size = int(encoder.encoder.image_size)
    return {"pair": Pair(options.face, size), "areas": _regions(options, size)}


def _regions(options: HTNetOptions, size: int) -> Any:
    """The recipe of the areas' centres; its action unit boxes are not used here."""
    from finetune.inputs import Regions

    return Regions(options.face, size, side=min(90, size), grid=options.grid)


def build(classes: int, encoder: MicronBert | None = None, **options: Any) -> HTNetHead:
    """The head for `finetune.heads.create`."""
    return HTNetHead(classes, HTNetOptions(**options), encoder)
