"""What FDP's released code has in place of the paper's modules. Names are those of its weights.

- Frames: a convolutional network of 3, 4, 10 and 3 blocks (convolution and MLP, each a residual). Its global blocks
  are listed for the place after the last of each stage, which the loop that builds the stages does not reach; its
  "multi-head" convolution has one group, and neither batch norm, ReLU nor pointwise convolution.
- Dynamic image: SegNet (five stages, unpooling by the encoder's indices, ReLU, no skip connections).
- Codes are joined without exchanging axes: see `joined`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from finetune.heads.fdp_lgf import convolution_flops

DEPTHS, WIDTHS, STEM = (3, 4, 10, 3), (96, 192, 384, 768), (64, 32, 64, 64)
STRIDES = (2, 1, 1, 2)  # of the stem
RATIO = 3
PATH_DROPOUT = 0.1
SEGNET = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels and convolutions of each stage


class _Normed(nn.Module):
    """Convolution without bias, batch norm."""

    def __init__(self, before: int, width: int, kernel: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(before, width, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class _Block(nn.Module):
    """x + convolution(x), then x + MLP(norm(x)); the first block of a stage pools and widens before it."""

    def __init__(self, before: int, width: int, pooled: bool, path_dropout: float):
        super().__init__()
        self.pooled = pooled
        self.patch_embed = _Normed(before, width, 1) if pooled or before != width else nn.Identity()
        self.mhca = nn.ModuleDict({"group_conv3x3": nn.Conv2d(width, width, 3, padding=1, bias=False)})
        self.norm = nn.BatchNorm2d(width)
        wide = RATIO * width
        self.mlp = nn.ModuleDict({"conv1": nn.Conv2d(width, wide, 1), "conv2": nn.Conv2d(wide, width, 1)})
        self.path_dropout = DropPath(path_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B C h w] -> [B C' h' w']"""
        if self.pooled:
            x = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
        x = self.patch_embed(x)
        x = x + self.path_dropout(self.mhca["group_conv3x3"](x))
        return x + self.path_dropout(self.mlp["conv2"](F.relu(self.mlp["conv1"](self.norm(x)))))


class ReleasedFrames(nn.Module):
    """Grey frames [B 1 S S] to codes [B code]."""

    def __init__(self, code: int):
        super().__init__()
        self.code = code
        self.stem = nn.ModuleList()
        for before, width, stride in zip((1, *STEM[:-1]), STEM, STRIDES, strict=True):
            self.stem.append(_Normed(before, width, 3, stride))
        stages = [stage for stage, depth in enumerate(DEPTHS) for _ in range(depth)]
        rates = torch.linspace(0, PATH_DROPOUT, len(stages), device="cpu").tolist()
        self.features = nn.Sequential()
        width = STEM[-1]
        for place, (stage, rate) in enumerate(zip(stages, rates, strict=True)):
            first = place > 0 and stages[place - 1] != stage
            self.features.append(_Block(width, WIDTHS[stage], first, rate))
            width = WIDTHS[stage]
        self.norm = nn.BatchNorm2d(width)
        self.proj_head = nn.Sequential(nn.Linear(width, code))
        for part in self.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B 1 S S] -> [B code]"""
        for layer in self.stem:
            x = F.relu(layer(x))
        return self.proj_head(self.norm(self.features(x)).mean(dim=(2, 3)))

    def flops(self, side: int) -> float:
        """One frame of side × side px forward: two per multiply-add of convolutions and the code."""
        total = 2.0 * WIDTHS[-1] * self.code
        for layer, stride in zip(self.stem, STRIDES, strict=True):
            side = -(-side // stride)
            total += convolution_flops(layer, side)
        for part in self.features:
            side = -(-side // 2) if part.pooled else side
            total += convolution_flops(part, side)
        return total


class SegNet(nn.Module):
    """Dynamic representation [B C S S] to dynamic image [B S S] in (0, 1)."""

    def __init__(self, channels: int):
        super().__init__()
        before = channels
        for stage, (width, count) in enumerate(SEGNET, 1):
            for place in range(1, count + 1):
                self._add(f"{stage}{place}", before, width)
                before = width
        for stage, (width, count) in reversed(list(enumerate(SEGNET, 1))):
            for place in range(count, 1, -1):
                self._add(f"{stage}{place}d", width, width)
            self._add(f"{stage}1d", width, SEGNET[stage - 2][0] if stage > 1 else 1, norm=stage > 1)

    def _add(self, name: str, before: int, width: int, norm: bool = True) -> None:
        """A convolution, and a batch norm except after the last one."""
        self.add_module(f"conv{name}", nn.Conv2d(before, width, 3, padding=1))
        if norm:
            self.add_module(f"bn{name}", nn.BatchNorm2d(width))

    def _layer(self, name: str, x: Tensor) -> Tensor:
        x = self.get_submodule(f"conv{name}")(x)
        return F.relu(self.get_submodule(f"bn{name}")(x)) if name != "11d" else x

    def forward(self, x: Tensor) -> Tensor:
        """[B C S S] -> [B S S]"""
        places = []
        for stage, (_, count) in enumerate(SEGNET, 1):
            for place in range(1, count + 1):
                x = self._layer(f"{stage}{place}", x)
            x, indices = F.max_pool2d(x, 2, return_indices=True)
            places.append(indices)
        for stage, (_, count) in reversed(list(enumerate(SEGNET, 1))):
            x = F.max_unpool2d(x, places.pop(), [2, 2])
            for place in range(count, 0, -1):
                x = self._layer(f"{stage}{place}d", x)
        return torch.sigmoid(x[:, 0])

    def flops(self, side: int) -> float:
        """One image of side × side px forward: two per multiply-add of convolutions."""
        named = [(name, layer) for name, layer in self.named_children() if isinstance(layer, nn.Conv2d)]
        return sum(convolution_flops(layer, side // 2 ** (int(name[4]) - 1)) for name, layer in named)


def joined(codes: Tensor, side: int) -> Tensor:
    """Codes [B t side²] as the released code joins them: [B side side t], the memory read in another order.

    Place (row, column, k) is value (row · side + column) · t + k of the t codes one after another: a cell's t values
    are neighbours within one frame's code, and time runs along the rows.
    """
    return codes.reshape(len(codes), side, side, codes.shape[1])
