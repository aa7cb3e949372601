"""SLSTT: a spatial Transformer per frame of long-term flow, then an LSTM (or the mean) over the frames.

Native: flow from the onset to each of 11 frames around the apex, a ViT that gives each a vector, aggregation,
classification. Plugged: a pretrained Micron-BERT gives each frame's vector. The reasoning: SLSTT's spatial part says,
frame by frame, what has moved where since the onset. The onset is the one reference, so that motion adds up until the
apex (3.1). An encoder of faces sees appearance; what takes the place of long-term flow is DMA between the onset and
each frame (eq. 9 of Micron-BERT), again with the onset as the one reference. The frame's own tokens stand beside it,
or (`difference`) what is left of them without the onset's, which does not say who the person is. Patches are averaged
over areas of the face, not over all of it, since a micro-expression is somewhere; each area is projected to its part
of a vector as wide as the ViT's. Aggregation and classification are the same. The frames are those that
finetune.motion.sampling.around names: the apex and five on either side, the last one repeated where a side is short.
There is nothing to interpolate for: an encoder needs real frames, and a repeated one shows no false motion.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from finetune.backbone import trainable_copy, weights_digest
from finetune.config import Mode
from finetune.folds import Portion
from finetune.heads import slstt_weights
from finetune.heads.base import Head, Inputs
from finetune.heads.blocks import encoder_groups, split_decay
from finetune.heads.slstt_network import FrameNet, spatial, spatial_flops
from finetune.heads.slstt_pictures import Pictures
from finetune.heads.slstt_plug import encoded, encoded_flops, require
from finetune.options.slstt import SlsttOptions, effective
from pretrain import MicronBert
from shards.errors import UsageError

log = logging.getLogger(__name__)

FIT_BATCH = 16
FROZEN_BATCH = 64  # frames at a time through an encoder that keeps nothing for a backward pass
PUBLISHED: dict[str, Any] = {
    "accuracy": 0.7581,
    "f1": 0.753,
    "note": (
        "Table 1, CASME II, five classes, LSTM (mean: 0.7379, 0.723); the epoch that was best on the test subject. "
        "The paper states neither parameters nor time; its ViT-B/16 alone has 86.1 M"
    ),
}
"""SLSTT, Table 1."""


class SlsttHead(Head):
    """SLSTT, native (encoder None) or on an encoder's tokens and DMA.

    Inputs: natively 'flow' float32 [B F S S 2] (u, v) px of the crop, or 'pictures' (`extract`); plugged 'sequence'
    RGB uint8 [B T S S 3], the onset first, and 'sequence.apex' int [B].
    """

    def __init__(self, classes: int, options: SlsttOptions, encoder: MicronBert | None = None):
        super().__init__()
        self.classes, self.given, self.encoder = classes, options, encoder
        self.options = effective(options, None if encoder is None else int(encoder.encoder.grid))
        self.encoder_lr_scale = 1.0
        self.pictures: Pictures | None = None
        self.spatial: nn.Module | None = None
        if encoder is None:
            o = self.options
            self.pictures = Pictures(o.drawing, o.scale, o.size, o.steady)
            self.spatial = self._spatial()
        elif encoder.attention is None and "dma" in self.options.features:
            raise UsageError("head.slstt.features: dma: this encoder was built without DMA; use tokens or difference")
        self.net = self._net()

    @property
    def plugged(self) -> bool:
        """Whether an encoder is in the place of flow and ViT."""
        return self.encoder is not None

    @property
    def fixed(self) -> bool:
        """Whether a native head's frozen encoder, or the drawing of small pictures, is the same in every fold."""
        return self.frozen or self.smaller

    @property
    def frozen(self) -> bool:
        """Whether a native head's frozen encoder gives the same vectors in every fold."""
        return self.pictures is not None and self.options.freeze and not self.pictures.fitted

    @property
    def smaller(self) -> bool:
        """Whether a native encoder sees pictures smaller than the flow, which are then drawn once per clip."""
        return self.pictures is not None and not self.frozen and self.options.size < self.options.crop

    def _spatial(self) -> nn.Module:
        """The native encoder as a fold starts with it; a frozen random one is the same in every fold and run."""
        options = self.options
        if not options.freeze or options.weights:
            vit = spatial(options)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                vit = spatial(options)
        if options.weights:
            slstt_weights.start(vit, options.weights)
        return vit.requires_grad_(not options.freeze)

    def _net(self) -> FrameNet:
        """The part behind the frames' features, untrained."""
        if self.encoder is None:
            return FrameNet(self.classes, self.options)
        return FrameNet(self.classes, self.options, len(self.options.features) * int(self.encoder.encoder.embed_dim))

    def readout(self) -> Head:
        """An untrained model of what `extract` gives."""
        if self.plugged or self.frozen:
            return self._net()
        return SlsttHead(self.classes, self.given)

    def extract(self, inputs: Inputs) -> dict[str, Tensor]:
        """What does not depend on the fold.

        Plugged 'frames' [B F areas C]; of a native frozen encoder 'frames' [B F D]; of one that sees less than
        the flow 'pictures' float32 [B F 3 size size] (`Pictures.drawn`); otherwise the inputs.
        """
        if self.smaller:
            return {"pictures": torch.stack([self.drawn(inputs, row) for row in range(len(inputs["flow"]))])}
        return {"frames": self.frames(inputs)} if self.plugged or self.frozen else dict(inputs)

    def drawn(self, inputs: Inputs, row: int) -> Tensor:
        """Pictures of one clip before they are scaled: [F 3 size size]."""
        assert self.pictures is not None
        if "pictures" in inputs:
            return inputs["pictures"][row]
        return self.pictures.drawn(require(inputs, "flow")[row])

    def forward(self, inputs: Inputs) -> Tensor:
        """logits [B C]"""
        return self.net({"frames": self.frames(inputs)})

    def frames(self, inputs: Inputs) -> Tensor:
        """The frames' features: natively [B F D], plugged [B F areas C]."""
        if self.encoder is not None:
            return encoded(self.encoder, inputs, self.options)
        assert self.pictures is not None and self.spatial is not None
        given = inputs["pictures"] if "pictures" in inputs else require(inputs, "flow")
        shown = self.pictures.scaled if "pictures" in inputs else self.pictures
        if self.options.freeze or not torch.is_grad_enabled():
            with torch.no_grad():
                parts = given.flatten(0, 1).split(FROZEN_BATCH)
                vectors = torch.cat([self.spatial(shown(part)) for part in parts])
        else:
            vectors = self.spatial(shown(given.flatten(0, 1)))
        return vectors.unflatten(0, given.shape[:2])

    def fit(self, portion: Portion) -> None:
        """Set statistics of flow or features from training clips. Raises LeakError for any other portion."""
        portion.require_training("statistics of SLSTT's input")
        if self.pictures is not None:
            if self.pictures.fitted:
                self.pictures.fit(self.drawn(portion.inputs, row) for row in range(len(portion)))
            return
        with torch.no_grad():
            parts = [
                self.frames({name: value[start : start + FIT_BATCH] for name, value in portion.inputs.items()})
                for start in range(0, len(portion), FIT_BATCH)
            ]
        assert self.net.standardise is not None
        self.net.standardise.fit(torch.cat(parts))

    def trainable(self, mode: Mode, blocks: int, lr_scale: float) -> SlsttHead:
        """A new head for one fold, with its own encoder whose gradients are as the mode says (trainable_copy)."""
        encoder = None if self.encoder is None else trainable_copy(self.encoder, mode, blocks)
        head = SlsttHead(self.classes, self.given, encoder)
        head.encoder_lr_scale = lr_scale
        return head

    def groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Optimiser groups; an encoder's at `encoder_lr_scale`, less for deeper blocks (`layer_decay`)."""
        if self.encoder is None:
            return split_decay(self.parameters(), lr, weight_decay)
        scaled = lr * self.encoder_lr_scale
        plugged = encoder_groups(self.encoder, scaled, weight_decay, self.options.layer_decay)
        return split_decay(self.net.parameters(), lr, weight_decay) + plugged

    def initial(self) -> str:
        """Digest of weights that the folds do not start at random from; '' where there are none."""
        given = self.spatial is not None and (self.options.freeze or self.options.weights)
        return weights_digest(self.spatial) if given and self.spatial is not None else ""

    def summary(self) -> dict[str, Any]:
        """Parameters, FLOP per clip forward by formula, kinds of input, and what the paper states."""
        count, flops = self.options.frames, self.net.temporal.flops(self.options.frames)
        parts: list[nn.Module | None] = [self.net, self.spatial]
        if self.encoder is None:
            kinds = {"flow": f"u, v from the onset to {count} frames around the apex"}
            flops += count * spatial_flops(self.options)
        else:
            kinds = {"sequence": "frames from onset to offset", "sequence.apex": "the apex's place among them"}
            flops += encoded_flops(self.encoder, self.options)
            parts += [self.encoder.encoder, self.encoder.attention]
        parameters = sum(p.numel() for part in parts if part is not None for p in part.parameters())
        return {"parameters": parameters, "flops": flops, "inputs": kinds, "published": PUBLISHED}


def needs(options: SlsttOptions, encoder: MicronBert | None = None) -> dict[str, Any]:
    """Recipes of finetune.inputs by name."""
    from finetune.inputs import LongFlow, Sequence

    o = effective(options, None if encoder is None else int(encoder.encoder.grid))
    if encoder is None:
        return {"flow": LongFlow(o.face, o.crop, frames=o.frames, interpolation=o.interpolation)}
    return {"sequence": Sequence(o.face, int(encoder.encoder.image_size), frames=o.kept)}


def build(classes: int, encoder: MicronBert | None = None, **options: Any) -> SlsttHead:
    """The head for `finetune.heads.create`."""
    head = SlsttHead(classes, SlsttOptions(**options), encoder)
    if not head.plugged and head.options.freeze and not head.options.weights:
        log.warning("head.slstt: an encoder with random weights that does not train; give head.slstt.weights")
    return head
