"""FDP's dynamic image construction module (section 3.4.1, Fig. 3): dynamic representation to dynamic image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune.heads.fdp_lgf import convolution_flops


def block(before: int, width: int) -> nn.Module:
    """3 × 3 convolution, batch norm, leaky ReLU."""
    return nn.Sequential(
        nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.LeakyReLU(0.01, inplace=True)
    )


class DynamicImageNet(nn.Module):
    """Encoder blocks (convolution, max pooling) and as many decoder blocks (deconvolution, convolution).

    A deconvolution of kernel and stride 2 undoes the pooling; the encoder's map of before that pooling is added to
    it (the skip connections of Fig. 3). A last 3 × 3 convolution gives the one channel that the sigmoid maps into
    (0, 1).
    """

    def __init__(self, channels: int, widths: Sequence[int]):
        super().__init__()
        inward = [widths[0], *widths[:-1]]
        self.encoder = nn.ModuleList(
            block(before, width) for before, width in zip([channels, *widths[:-1]], widths, strict=True)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(width, width, 2, stride=2) for width in widths)
        self.decoder = nn.ModuleList(block(width, before) for before, width in zip(inward, widths, strict=True))
        self.last = nn.Conv2d(widths[0], 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B C S S] -> [B S S] in (0, 1); 2^blocks divides S."""
        kept = []
        for encode in self.encoder:
            kept.append(encode(x))
            x = F.max_pool2d(kept[-1], 2)
        for skip, up, decode in reversed(list(zip(kept, self.up, self.decoder, strict=True))):
            x = decode(up(x) + skip)
        return torch.sigmoid(self.last(x)[:, 0])

    def flops(self, side: int) -> float:
        """One image of side × side px forward: two per multiply-add of convolutions."""
        total = convolution_flops(self.last, side)
        for level, (encode, up, decode) in enumerate(zip(self.encoder, self.up, self.decoder, strict=True)):
            cells = side // 2**level
            total += convolution_flops(encode, cells) + convolution_flops(decode, cells)
            total += convolution_flops(up, cells // 2)
        return total
