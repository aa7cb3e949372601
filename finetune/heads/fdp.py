"""FDP: fine-grained dynamic perception (Shao et al. 2025): frames ranked in time, pooled, and a dynamic image.

frames -> code of each -> rank scores (training alone); codes as maps -> 3-D convolution -> F^(d) -> logits, and the
clip's dynamic image. What the paper leaves open stands in fdp_lgf.py, fdp_network.py and fdp_decoder.py; here:

- "each image is randomly cropped" is read as one crop per clip, and one flip;
- the dynamic image is of the same t grey frames as the network sees, from its smallest to its largest value 0..1;
- frames as -1..1; `relative: always` shows what changed since the first one, over its deviation in the fold's
  training clips: per-frame codes of whole faces fit the person, and their order cannot be told from one frame;
- L_Rank is summed over frames (eq. 5) and averaged over clips.

Released behaviour (`release`): grey frames aligned at `crop` px and scaled by mean and maximum of their split (in
`forward`, those of the batch: a test subject of more clips than a batch is scaled in parts), every (T // t)-th frame,
no crop, no flip, no rank loss, 8-bit targets, evaluation mode from the second epoch on, networks of fdp_release.py.
Scaling a test split by itself looks at test clips; it is there to repeat the release, not to be reported.

Plugged, the encoder's tokens take the place of the local-global feature-aware transformer. The reasoning: FDP's
frame code is a vector that a linear layer makes from pooled features and that is then laid out as a map, for the 3-D
convolution and the dynamic image to work on. A patch's token is a feature of a place already, so tokens are averaged
over cells × cells areas and each area is projected to its own part of the map: the code is laid out as the face is,
and the dynamic image is built where things moved. Tokens are taken relative to the first sampled frame. All three
tasks are about change: the coefficients of a dynamic image sum to zero, and S(F_0) = K(0) = 0 holds up to a constant
of the projection. Most of who the person is, which a pretrained token says above all, drops out. With a frozen
encoder, tokens and small grey pictures of all stored frames are kept, so that sampling still varies; crop and
flip would need the encoder (train.mirror gives flipped copies). An encoder that trains sees flipped clips as well.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from finetune.backbone import trainable_copy
from finetune.config import Mode
from finetune.folds import Portion
from finetune.heads import fdp_clips as clips
from finetune.heads.base import Head, Inputs
from finetune.heads.blocks import encoder_groups, split_decay
from finetune.heads.fdp_network import EncoderCodes, Network, rank_loss
from finetune.heads.pooling import pool_cells
from finetune.options.fdp import FdpOptions, check
from pretrain import MicronBert
from pretrain.flops import encoder_flops

FIT_BATCH = 16
ENCODED = 64  # frames through the encoder at a time
PUBLISHED: dict[str, Any] = {
    "parameters": 14.82e6,
    "accuracy": 0.8842,
    "f1": 0.8705,
    "seconds": 12600,
    "note": (
        "14.82 M (Table 10) is the frame representation alone: its ResNet-18 row, 13.27 M, is a grey ResNet-18 with "
        "a layer to 4096. The released code has 85.3 M in all; it chooses the epoch on the test subject"
    ),
}
"""FDP, Tables 4 and 10 and section 4.1.3: CASME II, five classes."""


class FdpHead(Head):
    """FDP, native (encoder None) or on an encoder's tokens.

    Inputs: 'sequence' RGB uint8 [B T S S 3] with 'sequence.index' int [B T] (not rising: padding); or what `extract`
    gives.

    Args:
        encoder: given, the head is plugged into it.
        plug: (width, grid side) of an encoder whose tokens come with the inputs.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        classes: int,
        options: FdpOptions,
        encoder: MicronBert | None = None,
        plug: tuple[int, int] | None = None,
    ):
        super().__init__()
        if encoder is not None:
            plug = (int(encoder.encoder.embed_dim), int(encoder.encoder.grid))
        check(options, plug)
        self.classes, self.options, self.encoder, self.plug = classes, options, encoder, plug
        self.encoder_lr_scale = 1.0
        self.cells = min(options.cells, plug[1]) if plug is not None else 0
        self.network = Network(classes, options, (plug[0], self.cells) if plug is not None else None)
        self.register_buffer("shift", torch.zeros(()))  # of frames, from the training clips (`fit`)
        self.register_buffer("scale", torch.ones(()))
        self._evaluated = False

    @property
    def plugged(self) -> bool:
        """Whether an encoder's tokens are in the frames' place."""
        return self.plug is not None

    def train(self, mode: bool = True) -> FdpHead:
        """As a module's; in the release a model that was evaluated once never returns to training mode."""
        if self.options.release:
            self._evaluated |= not mode
            mode = mode and not self._evaluated
        super().train(mode)
        return self

    def forward(self, inputs: Inputs) -> Tensor:
        """logits [B C]"""
        return self.network.logits(self.seen(self.sampled(inputs), own_scale=True))

    def sampled(self, inputs: Inputs, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The t frames that the network sees: see `fdp_clips.sampled`."""
        return clips.sampled(inputs, self.options, crops=not self.plugged, generator=generator)

    def augment(self, inputs: Inputs, generator: torch.Generator) -> dict[str, Tensor]:
        """Sampled clips: at a random offset, with random crop and flip (4.1.3)."""
        return self.sampled(inputs, generator)

    def seen(self, clip: Inputs, own_scale: bool = False) -> Tensor:
        """What the network reads: frames float32 [B t channels S S], or tokens [B t cells² D].

        own_scale: in the release, scale by the batch's statistics in place of the training split's.
        """
        if "clip.features" in clip:
            return clip["clip.features"].float()
        if self.encoder is not None:
            return self.tokens(clip["clip"])
        x = clips.frames(clip["clip"], self.options)
        shift, scale = clips.split_scale(x) if own_scale and self.options.release else (self.shift, self.scale)
        return (x - shift) / scale

    def tokens(self, frames: Tensor) -> Tensor:
        """The encoder's tokens of uint8 [B T E E 3], averaged over areas: [B T cells² D]."""
        assert self.encoder is not None
        batch, count = frames.shape[:2]
        rows = []
        for some in frames.flatten(0, 1).split(ENCODED):
            found = self.encoder.encoder(self.encoder.preprocess(some))[:, 1:].float()
            rows.append(pool_cells(found, self.cells).unflatten(1, (self.cells**2, -1)))
        return torch.cat(rows).unflatten(0, (batch, count))

    def target(self, clip: Inputs) -> Tensor:
        """The dynamic image of sampled clips [B S S] in 0..1."""
        if "clip.pictures" in clip:
            return clips.dynamic_images(clip["clip.pictures"].float())
        frames = clips.grey(clip["clip"], self.options.crop)
        if self.options.release:
            frames = (clips.released_frames(clip["clip"])[:, :, 0] + 1) / 2
        return clips.dynamic_images(frames, self.options.release)

    def loss(
        self, inputs: Inputs, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """L_MER + λ_d·L_DIC + λ_r·L_Rank (eq. 8), and those three."""
        clip = self.sampled(inputs)
        logits, image, scores = self.network(self.seen(clip))
        parts = {"classification": F.cross_entropy(logits, labels, weight=weights, label_smoothing=smoothing)}
        total = parts["classification"]
        if image is not None:
            parts["dynamic"] = F.mse_loss(image, self.target(clip))
            total = total + self.options.dynamic_weight * parts["dynamic"]
        if scores is not None:
            parts["rank"] = rank_loss(scores, self.options.slope)
            total = total + self.options.rank_weight * parts["rank"]
        return total, {name: value.detach() for name, value in parts.items()}

    def extract(self, inputs: Inputs) -> dict[str, Tensor]:
        """What does not depend on the fold: natively the inputs; plugged, of every stored frame, 'features'
        float32 [B T cells² D] and 'pictures' float32 [B T S S] in 0..1, with 'sequence.index'."""
        if self.encoder is None:
            return dict(inputs)
        frames = inputs["sequence"]
        small = [clips.grey(some, self.options.crop) for some in frames.split(1)]
        found = {"features": self.tokens(frames), "pictures": torch.cat(small)}
        return found | {name: inputs[name] for name in ("sequence.index",) if name in inputs}

    def readout(self) -> FdpHead:
        """An untrained model of what `extract` gives."""
        return FdpHead(self.classes, self.options, plug=self.plug)

    def trainable(self, mode: Mode, blocks: int, lr_scale: float) -> FdpHead:
        """A new head for one fold, with its own encoder whose gradients are as the mode says; DMA takes no part."""
        if self.encoder is None:
            return self.readout()
        encoder = trainable_copy(self.encoder, mode, blocks)
        if encoder.attention is not None:
            encoder.attention.requires_grad_(False)
        head = FdpHead(self.classes, self.options, encoder)
        head.encoder_lr_scale = lr_scale
        return head

    @torch.no_grad()
    def fit(self, portion: Portion) -> None:
        """Set statistics of tokens, of changes, or the release's. Raises LeakError unless a training portion."""
        portion.require_training("statistics of FDP's frames")
        codes, o = self.network.codes, self.options
        if not (isinstance(codes, EncoderCodes) or o.release or o.relative == "always"):
            return
        sampled = [
            self.sampled({name: value[start : start + FIT_BATCH] for name, value in portion.inputs.items()})
            for start in range(0, len(portion), FIT_BATCH)
        ]
        if isinstance(codes, EncoderCodes):
            codes.standardise.fit(torch.cat([codes.shown(self.seen(clip)) for clip in sampled]))
            return
        frames = torch.cat([clips.frames(clip["clip"], o) for clip in sampled])
        shift, scale = clips.split_scale(frames) if o.release else (self.shift, frames.std().clamp(min=1e-6))
        self.shift.copy_(shift)
        self.scale.copy_(scale)

    def groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Optimiser groups; an encoder's at `encoder_lr_scale`, less for deeper blocks (`layer_decay`)."""
        groups = split_decay(self.network.parameters(), lr, weight_decay)
        if self.encoder is not None:
            scaled = lr * self.encoder_lr_scale
            groups += encoder_groups(self.encoder, scaled, weight_decay, self.options.layer_decay)
        return groups

    def summary(self) -> dict[str, Any]:
        """Parameters, those of the frame representation, FLOP per clip forward, inputs, the paper's figures."""
        o, frames = self.options, self.network.codes if self.encoder is None else self.encoder.encoder
        counts = {part: sum(p.numel() for p in part.parameters()) for part in (self.network, frames)}
        parameters = counts[self.network] + (counts[frames] if self.encoder is not None else 0)
        flops = self.network.flops(o.frames, o.crop)
        if self.encoder is not None:
            flops += o.frames * encoder_flops(self.encoder.config)
        return {
            "parameters": parameters,
            "frame_parameters": counts[frames],
            "flops": flops,
            "inputs": {"sequence": f"{o.frames} frames from onset to offset"},
            "published": PUBLISHED,
        }


def needs(options: FdpOptions, encoder: MicronBert | None = None) -> dict[str, Any]:
    """Recipes of finetune.inputs by name."""
    from finetune.inputs import Sequence

    if encoder is not None:
        return {"sequence": Sequence(options.face, int(encoder.encoder.image_size), options.stored_plugged)}
    if options.release:
        return {"sequence": Sequence(options.face, options.crop, 0)}
    return {"sequence": Sequence(options.face, options.size, options.stored)}


def build(classes: int, encoder: MicronBert | None = None, **options: Any) -> FdpHead:
    """The head for `finetune.heads.create`."""
    return FdpHead(classes, FdpOptions(**options), encoder)
