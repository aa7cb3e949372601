"""SLSTT's networks: the spatial encoder of a frame, and what turns the frames' vectors into logits."""

from __future__ import annotations

from functools import partial

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from finetune.folds import Portion
from finetune.heads.base import Head, Inputs
from finetune.heads.pooling import Standardise
from finetune.options.slstt import SlsttOptions
from pretrain.flops import block_flops


def spatial(o: SlsttOptions) -> VisionTransformer:
    """ViT (SLSTT, 3.2, eq. 1-8) by timm: pictures [n 3 size size] to the class token after the final norm [n dim].

    Eq. 7 prints √D under the product of queries and keys. The ViT that the paper starts from was trained with √D_m
    (Dosovitskiy et al., eq. 6), the release has it, and so has this.
    """
    return VisionTransformer(
        img_size=o.size,
        patch_size=o.patch,
        embed_dim=o.dim,
        depth=o.depth,
        num_heads=o.heads,
        num_classes=0,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        act_layer=partial(nn.GELU, approximate="tanh" if o.activation == "gelu-tanh" else "none"),
    )


def spatial_flops(o: SlsttOptions) -> float:
    """One frame through `spatial`, FLOP."""
    patches = (o.size // o.patch) ** 2
    return o.depth * block_flops(patches + 1, o.dim) + 6.0 * patches * o.patch**2 * o.dim


class Temporal(nn.Module):
    """Frames' vectors [B T D] in time's order to logits [B C].

    lstm: `layers` layers (eq. 9-14) and what the last gives after the last frame; mean: eq. 17, which is the mean.
    Then two linear layers with ReLU between them (3.4; that it is ReLU the release shows). The release has one linear
    layer behind the mean (`single`).
    """

    def __init__(self, dim: int, classes: int, o: SlsttOptions):
        super().__init__()
        self.lstm: nn.LSTM | None = None
        if o.aggregation == "lstm":
            dropout = o.dropout if o.layers > 1 else 0.0
            self.lstm = nn.LSTM(dim, o.hidden, o.layers, batch_first=True, dropout=dropout)
            dim = o.hidden
        self.drop = nn.Dropout(o.dropout)
        single = o.release and o.aggregation == "mean"
        self.fc1 = nn.Identity() if single else nn.Sequential(nn.Linear(dim, o.classifier), nn.ReLU())
        self.fc2 = nn.Linear(dim if single else o.classifier, classes)

    def forward(self, frames: Tensor) -> Tensor:
        """[B T D] -> [B C]"""
        whole = frames.mean(dim=1) if self.lstm is None else self.lstm(frames)[0][:, -1]
        return self.fc2(self.drop(self.fc1(self.drop(whole))))

    def flops(self, frames: int) -> float:
        """One clip forward, FLOP: two per weight and frame, of the linear layers once."""
        found = 0.0
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                found += 2.0 * parameter.numel() * (frames if name.startswith("lstm") else 1)
        return found


class FrameNet(Head):
    """What follows the frames' features: input 'frames', natively [B T D], on an encoder [B T areas F].

    On an encoder they are standardised by training clips, and one linear layer turns the features of each area into
    D / areas numbers: a frame's vector is D wide, as natively, and says where in the face.
    """

    def __init__(self, classes: int, o: SlsttOptions, channels: int = 0):
        super().__init__()
        self.standardise = Standardise(channels) if channels else None
        self.project = nn.Linear(channels, o.dim // o.cells**2) if channels else None
        self.temporal = Temporal(o.dim, classes, o)

    def forward(self, inputs: Inputs) -> Tensor:
        """logits [B C]"""
        frames = inputs["frames"].float()
        if self.standardise is not None and self.project is not None:
            frames = self.project(self.standardise(frames)).flatten(2)
        return self.temporal(frames)

    def fit(self, portion: Portion) -> None:
        """Set the features' statistics from training clips. Raises LeakError for any other portion."""
        portion.require_training("statistics of frames' features")
        if self.standardise is not None:
            self.standardise.fit(portion.inputs["frames"])
