"""3 × 3 convolution of small maps as matrix products, one per tap, of the cells alone that the tap reaches.

On a map of 2 × 2 cells only 16 of the 36 products of cell and tap are not with padding, on 4 × 4 100 of 144. Maps and
kernels may have a leading axis of several networks: each then has kernels of its own, and gets to the last bit what
it gets alone. Kernels that lie in memory as [3 3 O D] (`tap_first`) are multiplied as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

Cells = tuple[slice, slice, slice, slice, slice]
SMALL = 64
"""Cells of the largest map for which this pays."""


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """Cross-correlation with padding 1, channels last: [B h w D], [O D 3 3] -> [B h w O]; or all with [F ...]."""
    return Taps.apply(x, weight)  # type: ignore[no-any-return]


def tap_first(kernels: Tensor) -> Tensor:
    """Kernels of several networks [F O D a b] as [F a b O D]; anything else as it is."""
    return kernels.movedim((-2, -1), (1, 2)) if kernels.ndim == 5 else kernels


def tap_last(kernels: Tensor) -> Tensor:
    """`tap_first` undone."""
    return kernels.movedim((1, 2), (-2, -1)) if kernels.ndim == 5 else kernels


def _taps(height: int, width: int) -> Iterator[tuple[int, int, Cells, Cells]]:
    """(row, column, cells of the result, cells of the map that the tap multiplies), the middle first."""
    for row, column in sorted(((i, j) for i in range(3) for j in range(3)), key=lambda tap: tap != (1, 1)):
        spans = [_span(row, height), _span(column, width)]
        if all(own.stop > own.start for own, _ in spans):
            yield (
                row,
                column,
                (_ALL, _ALL, spans[0][0], spans[1][0], _ALL),
                (_ALL, _ALL, spans[0][1], spans[1][1], _ALL),
            )


_ALL = slice(None)


def _span(tap: int, size: int) -> tuple[slice, slice]:
    """Places of the result along an axis, and of the map."""
    start, stop = max(0, 1 - tap), min(size, size + 1 - tap)
    return slice(start, stop), slice(start + tap - 1, stop + tap - 1)


def _rows(x: Tensor, cells: Cells) -> Tensor:
    """[F B h w D] at some cells as rows [F m D]."""
    return x[cells].flatten(1, 3)


class Taps(torch.autograd.Function):
    """`convolve` of [B h w D] and [O D 3 3], or of [F B h w D] and [F O D 3 3]."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        """The middle tap, and the others added to it."""
        if x.dim() == 4:
            return Taps.forward(x[None], weight[None])[0]
        count, batch, height, width, _ = x.shape
        kernels = weight.permute(3, 4, 0, 2, 1)  # [3 3 F D O]
        result = torch.empty(0)
        for row, column, to, of in _taps(height, width):
            part = torch.bmm(_rows(x, of), kernels[row, column])
            if (row, column) == (1, 1):
                result = part.view(count, batch, height, width, -1)
            else:
                target = result[to]
                target += part.view(target.shape)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Keep both factors."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Gradients of map and kernels."""
        x, weight = ctx.saved_tensors
        if x.dim() == 4:
            of_x, of_weight = _backward(x[None], weight[None], gradient[None])
            return of_x[0], of_weight[0]
        return _backward(x, weight, gradient)


def _backward(x: Tensor, weight: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of [F B h w D] and [F O D 3 3] from that of [F B h w O]."""
    kernels = weight.permute(3, 4, 0, 1, 2)  # [3 3 F O D]
    made = torch.empty_like if min(x.shape[2:4]) > 1 else torch.zeros_like  # one row of cells: some taps reach none
    of_weight = made(weight)  # laid out as the kernels are
    of_kernels = of_weight.permute(3, 4, 0, 1, 2)
    of_x = torch.empty(0)
    for row, column, to, of in _taps(*x.shape[2:4]):
        rows = _rows(gradient, to)
        torch.bmm(rows.transpose(1, 2), _rows(x, of), out=of_kernels[row, column])
        part = torch.bmm(rows, kernels[row, column])
        if (row, column) == (1, 1):
            of_x = part.view(x.shape)
        else:
            target = of_x[of]
            target += part.view(target.shape)
    return of_x, of_weight
