"""SLSTT's input: long-term flow as three channels, drawn on the device for all frames at once."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune.heads.pooling import Standardise
from finetune.options.slstt import Drawing
from pretrain.encoder import IMAGE_MEAN, IMAGE_STD, normalise

HUES, VALUES = 180, 256


class Pictures(nn.Module):
    """Flow in pixels to the encoder's input.

    raw: (u, v, length), standardised by training clips (`fit`), or over `scale` px. The strength of the motion stays.
    hsv: a picture (finetune.motion.drawing.hsv) as ImageNet's are scaled, as SLSTT's release has it.
    steady: the median flow of the frame is taken off first.
    """

    colours: Tensor

    def __init__(self, drawing: Drawing, scale: float, size: int, steady: bool = False):
        super().__init__()
        self.drawing, self.scale, self.size, self.steady = drawing, scale, size, steady
        self.standardise = Standardise(3)
        self.register_buffer("colours", colour_table(), persistent=False)

    @property
    def fitted(self) -> bool:
        """Whether what comes out depends on training clips."""
        return self.drawing == "raw" and not self.scale

    def forward(self, flow: Tensor) -> Tensor:
        """[n S S 2] -> [n 3 size size]"""
        return self.scaled(self.drawn(flow))

    def drawn(self, flow: Tensor) -> Tensor:
        """What no statistics are needed for: [n S S 2] -> [n 3 size size], of `raw` u, v, length in px."""
        flow = flow.float()
        if self.steady:
            flow = flow - flow.flatten(1, 2).median(dim=1).values[:, None, None]
        if self.drawing == "hsv":
            x = self.hsv(flow).movedim(-1, 1).float() / 255
            return resized(normalise(x, IMAGE_MEAN, IMAGE_STD), self.size)
        return resized(with_length(flow).movedim(-1, 1), self.size)

    def scaled(self, x: Tensor) -> Tensor:
        """`drawn`'s as the encoder sees them, [n 3 size size]."""
        if self.drawing == "hsv":
            return x
        return x / self.scale if self.scale else self.standardise(x.movedim(1, -1)).movedim(-1, 1)

    @torch.no_grad()
    def fit(self, drawn: Iterable[Tensor]) -> None:
        """Mean and deviation of u, v, length of clips, each `drawn` [T 3 size size]; a constant becomes 0."""
        total, squares = (torch.zeros(3, dtype=torch.float64, device=self.colours.device) for _ in range(2))
        count = 0
        for clip in drawn:
            x = clip.movedim(1, -1).flatten(0, 2).double()
            total += x.sum(0)
            squares += x.square().sum(0)
            count += len(x)
        mean = total / count
        deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
        constant = deviation <= 1e-6 * mean.abs() + 1e-7
        self.standardise.mean.copy_(mean)
        self.standardise.scale.copy_(torch.where(constant, torch.zeros_like(deviation), 1 / deviation))

    def hsv(self, flow: Tensor) -> Tensor:
        """finetune.motion.drawing.hsv of flow [... S S 2]: RGB uint8 [... S S 3].

        Equal to it, but for OpenCV's own rounding by 1, which depends on the picture's width.
        """
        u, v = flow.float().unbind(-1)
        hue = (torch.rad2deg(torch.atan2(v, u)) % 360 / 2).clamp(max=HUES - 1)
        value = 255 * self._share(torch.hypot(u, v))
        return self.colours[hue.long() * VALUES + value.long()]

    def _share(self, length: Tensor) -> Tensor:
        """Lengths [... S S] to 0..1."""
        if self.scale:
            return (length / self.scale).clamp(max=1)
        low = length.amin(dim=(-2, -1), keepdim=True)
        width = length.amax(dim=(-2, -1), keepdim=True) - low
        return (length - low) / torch.where(width > 0, width, torch.ones_like(width))


def with_length(flow: Tensor) -> Tensor:
    """(u, v) [... 2] -> (u, v, √(u² + v²)) [... 3], px."""
    flow = flow.float()
    return torch.cat([flow, torch.hypot(flow[..., :1], flow[..., 1:])], dim=-1)


def resized(x: Tensor, size: int) -> Tensor:
    """[n 3 S S] -> [n 3 size size]; a larger one is averaged, so that no motion falls between the pixels."""
    if x.shape[-1] == size:
        return x
    return F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)


def colour_table() -> Tensor:
    """RGB uint8 [180·256 3] of every hue and value at full saturation, by OpenCV's own conversion."""
    hue, value = np.meshgrid(np.arange(HUES), np.arange(VALUES), indexing="ij")
    table = np.stack([hue, np.full_like(hue, 255), value], axis=-1).astype(np.uint8)  # [180 256 3]
    return torch.from_numpy(cv2.cvtColor(table, cv2.COLOR_HSV2RGB).reshape(-1, 3).copy())
