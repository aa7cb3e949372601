"""FRL-DGT's Displacement Generation Module, its losses and its gradient from the classifier (section 3.1, eq. 1-4).

Stated by the paper: encoder-decoder of convolution, BatchNorm and nonlinear activation; D normalised before output,
in [-1, 1], times α = 0.2; λ = 10, 1, 0.2; the classification loss's gradient × 1e-6. Chosen here:

- unit of D: half the image's side (less one pixel), grid_sample's own, in which [-1, 1] is the whole image; α in
  pixels would allow a fifth of a pixel;
- direction: "moves the pixel at (x, y) in the onset frame to (x + D^x, y + D^y) of the approximate apex frame", so D
  points as optical flow from onset to apex. A bilinear *sampler* reads, and so reads at p - D(p): exact where D is
  constant. grid_sample's reading of the other sign is the option `samples`;
- stages: two 3×3 convolutions each, the first with stride 2, mirrored by bilinear enlargement and two convolutions
  down to 16 channels, connected at each size (U-Net); the text neither has nor excludes the connections;
- the first layer sees onset and 40·(apex - onset), a linear change of the pair, of unit deviation: in the plain pair
  a micro-expression is a few hundredths of what two faces differ by;
- "normalised": by the largest component of the clip, which alone makes small motions larger and large ones smaller
  without moving what is still; the options are instance normalisation with tanh, and tanh alone. Eq. 1-4 judge what
  is given out, as printed; the displacement before it is an option;
- |·| of a vector is the sum of its components' magnitudes, |·| of an image its mean over pixels and channels (eq. 1
  writes none, eq. 2 and 3 are means), so that the weights mean the same at every size.

Measured on simulated clips (72 px, three subjects to train, five clips of a fourth; one seed each; error of eq. 1,
0.0130 without displacement; correlation of |D| with dense inverse search flow over 6 px cells):

    plain pair, no connections          200 steps   0.0133   0.03
    plain pair, connections, raw        250 steps   0.0129   0.23
    difference, no connections, raw     250 steps   0.0132   0.07
    difference, connections, raw        400 steps   0.0094   0.10
    difference, connections (default)   400 steps   0.0099   0.50
    instance normalisation, plain pair  200 steps   0.0162   0.13

("raw": eq. 1-4 judge α·tanh before it is normalised.) With the flow itself as D, L_DGM falls from 0.128 to 0.072
(144 px) and with its sign turned it rises to 0.209: unit, direction and weights agree with one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune.heads.blocks import SafeNorm
from finetune.options.frl_dgt import FrlDgtOptions

LAST = 16  # channels at full size
SMALLEST = 1e-6
GAIN = 40.0  # of apex - onset: a micro-expression changes a pixel by a few hundredths


def _stage(inside: int, outside: int, stride: int) -> nn.Sequential:
    """Two blocks of convolution, batch normalisation and activation."""
    layers: list[nn.Module] = []
    for channels, step in ((inside, stride), (outside, 1)):
        layers += [nn.Conv2d(channels, outside, 3, step, 1, bias=False), SafeNorm(outside), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class Displacements(nn.Module):
    """The DGM: `dgm(onset, apex [B M H W] in 0..1) -> (given [B 2 H W], judged [B 2 H W])`.

    `given` is what the Transformer Fusion gets, in [-1, 1] (D / α); `judged` is D of eq. 1-4, in halves of the image.
    Channels are (x right, y down). Any image size from 2^stages px up.
    """

    def __init__(self, channels: int, options: FrlDgtOptions):
        super().__init__()
        self.options = options
        widths = list(options.dgm_widths)
        before = [2 * channels, *widths[:-1]]
        self.down = nn.ModuleList(_stage(a, b, 2) for a, b in zip(before, widths, strict=True))
        extra = [2 * channels, *widths] if options.dgm_skips else [0] * len(widths)
        after = [*reversed(widths[:-1]), LAST]
        self.up = nn.ModuleList(
            _stage(inside + extra[len(widths) - 1 - i], outside, 1)
            for i, (inside, outside) in enumerate(zip(reversed(widths), after, strict=True))
        )
        self.out = nn.Conv2d(LAST, 2, 3, 1, 1)

    def forward(self, onset: Tensor, apex: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        raw = self.raw(onset, apex)
        given = normalised(raw, self.options.normalise)
        judged = given if self.options.reconstruct == "normalised" else raw.tanh()
        return given, self.options.alpha * judged

    def raw(self, onset: Tensor, apex: Tensor) -> Tensor:
        """The displacement before it is normalised: [B M H W] twice -> [B 2 H W]."""
        second = (apex - onset) * GAIN if self.options.dgm_input == "difference" else (apex - 0.5) * 4
        x = torch.cat([(onset - 0.5) * 4, second], dim=1)  # about unit deviation
        seen = [x]
        for stage in self.down:
            seen.append(stage(seen[-1]))
        x = seen.pop()
        for stage in self.up:
            beside = seen.pop()
            x = F.interpolate(x, beside.shape[-2:], mode="bilinear", align_corners=False)
            x = stage(torch.cat([x, beside], dim=1) if self.options.dgm_skips else x)
        x = self.out(x)
        return x if x.dtype == torch.float64 else x.float()


def normalised(raw: Tensor, how: str) -> Tensor:
    """A displacement [B 2 H W] brought to [-1, 1], clip by clip (`FrlDgtOptions.normalise`)."""
    if how == "max":
        return raw / raw.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=SMALLEST)
    if how == "instance":
        deviation, mean = torch.std_mean(raw, dim=(2, 3), correction=0, keepdim=True)
        raw = (raw - mean) / deviation.clamp(min=SMALLEST)
    return raw.tanh()


def move(frame: Tensor, displacement: Tensor, direction: str = "moves") -> Tensor:
    """G_s of eq. 1: frame [B M H W] moved by D [B 2 H W] in halves of the image, bilinear; the border is repeated."""
    height, width = frame.shape[-2:]
    x = torch.linspace(-1, 1, width, device=frame.device, dtype=displacement.dtype)
    y = torch.linspace(-1, 1, height, device=frame.device, dtype=displacement.dtype)
    place = torch.stack(torch.broadcast_tensors(x, y[:, None]), dim=-1)  # [H W 2]
    step = displacement.permute(0, 2, 3, 1)
    where = place - step if direction == "moves" else place + step
    return F.grid_sample(frame.to(where.dtype), where, "bilinear", "border", align_corners=True)


def displacement_losses(onset: Tensor, apex: Tensor, d: Tensor, options: FrlDgtOptions) -> dict[str, Tensor]:
    """Eq. 1-3 and their weighted sum L_DGM (eq. 4), each [] and the mean over clips.

    onset, apex [B M H W] in 0..1; d: D [B 2 H W] in halves of the image.
    """
    rec = (move(onset, d, options.direction) - apex).abs().mean()
    size = d.abs().sum(dim=1).mean()
    smooth = (d[..., 1:] - d[..., :-1]).abs().sum(dim=1).mean()
    smooth = smooth + (d[..., 1:, :] - d[..., :-1, :]).abs().sum(dim=1).mean()
    total = options.rec_weight * rec + options.norm_weight * size + options.smooth_weight * smooth
    return {"displacement": total, "reconstruction": rec, "size": size, "smoothness": smooth}


class ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        """x as it is."""
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """The gradient of x."""
        return grad * ctx.factor, None


def scaled_gradient(x: Tensor, factor: float) -> Tensor:
    """x, through which gradients pass multiplied by `factor` (section 3.3: 1e-6)."""
    return ScaledGradient.apply(x, factor)


def dgm_flops(size: int, channels: int, widths: Sequence[int], skips: bool) -> float:
    """One frame pair through the DGM, forward: 2·9·inside·outside per output pixel of each convolution."""
    sides = [size]
    for _ in widths:
        sides.append((sides[-1] + 1) // 2)
    total, inside = 0.0, 2 * channels
    for place, width in enumerate(widths):
        total += 18.0 * sides[place + 1] ** 2 * width * (inside + width)
        inside = width
    beside = [2 * channels, *widths[:-1]]
    for place in reversed(range(len(widths))):
        width = widths[place - 1] if place else LAST
        extra = beside[place] if skips else 0
        total += 18.0 * sides[place] ** 2 * width * (inside + extra + width)
        inside = width
    return total + 18.0 * size**2 * LAST * 2
