"""Which kernel computes self-attention: the fastest that runs here, found by trying, or the one that was asked for.

On a GPU: cuDNN's, FlashAttention, the memory-efficient one, or plain products. On a CPU: PyTorch's fused kernel
("flash"), or "math": plain products of one head at a time, whose map stays in the cache and is never kept.
The second is faster in bfloat16 where the CPU multiplies it natively, the first in float32.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pretrain.architecture import ModelConfig, resolve
from shards.errors import UsageError

Shape = tuple[int, int, int, int]
"""frames, heads, tokens, width of a head"""

BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
KINDS = {"cuda": ("cudnn", "flash", "efficient", "math"), "cpu": ("flash", "math")}
"""What each type of device may have, likeliest first."""
FEW = 4
"""Frames tried on a CPU, where time grows with their number alone."""

_plain = False  # on a CPU: products of one head at a time instead of the fused kernel


@dataclass(frozen=True)
class Choice:
    """A kernel, and what was measured to find it."""

    name: str
    device: str
    """its type"""
    milliseconds: dict[str, float] = field(default_factory=dict)
    """of each kernel that runs here, forward and backward; empty where nothing was measured"""

    def __str__(self) -> str:
        times = ", ".join(f"{name} {value:.3g} ms" for name, value in self.milliseconds.items())
        return f"{self.name} ({times})" if times else self.name


def choose(device: torch.device, shapes: Sequence[Shape], dtype: torch.dtype, wanted: str = "auto") -> Choice:
    """The kernel to use on a device.

    With several ranks, let one choose and give the others its name: `choose(device, shapes, dtype, name)` measures
    nothing, it only makes sure that the kernel runs.

    Args:
        shapes: of the step's attentions; their times are summed.
        dtype: of queries, keys and values.
        wanted: "auto", or a key of BACKENDS.

    Raises:
        UsageError: the wanted kernel does not run here.
    """
    known = KINDS.get(device.type, ("math",))
    if wanted != "auto":
        reason = f"it is not one of {', '.join(known)}" if wanted not in known else ""
        reason = reason or _fault(device, shapes, dtype, wanted)
        if reason:
            raise UsageError(f"engine.attention {wanted} does not run on {device.type}: {reason}; give auto")
        return Choice(wanted, device.type)
    names = [name for name in known if not _fault(device, shapes, dtype, name)]
    times = dict.fromkeys(names, 0.0)
    for shape in shapes:
        for name, milliseconds in _times(device, shape, dtype, names).items():
            times[name] += milliseconds
    return Choice(min(times, key=lambda name: times[name]), device.type, times)


@contextmanager
def using(choice: Choice) -> Iterator[None]:
    """Inside, self-attention is computed by the chosen kernel, or on a GPU the next one that can.

    Around the backward pass too, where blocks are computed again; the first call of a compiled model settles the
    kernel for good.
    """
    global _plain
    before, _plain = _plain, choice.device == "cpu" and choice.name == "math"
    try:
        with _kernels(choice):
            yield
    finally:
        _plain = before


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q·kᵀ/√d)·v of each head: q [B heads M d], k, v [B heads N d] -> [B heads M d]."""
    if _plain and q.device.type == "cpu" and not torch.compiler.is_compiling():
        return HeadByHead.apply(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def step_shapes(config: ModelConfig, batch: int) -> list[Shape]:
    """The attentions of a step of `batch` pairs, one per encoder and decoder."""
    c = resolve(config)
    patches = (c.image_size // c.patch_size) ** 2
    frames, tokens, decoded = batch, patches + 1, 0
    if c.objective == "micron_bert":
        frames, decoded = batch * (3 if c.agreement.kind == "mse" else 2), patches
    elif c.objective == "mae":
        tokens, decoded = patches - round(c.mae.mask_ratio * patches) + 1, patches + 1
    elif c.objective == "mocov3":
        frames = 2 * batch
    shapes = [(frames, c.heads, tokens, c.dim // c.heads)]
    if decoded:
        shapes.append((batch, c.decoder_heads, decoded, c.decoder_dim // c.decoder_heads))
    return shapes


class HeadByHead(torch.autograd.Function):
    """Attention by plain products, one head of one frame at a time; the backward pass makes each map again."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [B heads M d], k, v [B heads N d] -> [B heads M d], in memory [B M heads d]."""
        out = torch.empty_like(q.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
        for i, j in _heads(q):
            torch.mm(_map(q[i, j], k[i, j]), v[i, j], out=out[i, j])
        ctx.save_for_backward(q, k, v)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """∂L/∂q, ∂L/∂k, ∂L/∂v; with the three views of one tensor, so are they."""
        q, k, v = ctx.saved_tensors
        if q.shape == k.shape:
            batch, heads, length, width = q.shape
            joint = q.new_empty(batch, length, 3, heads, width)
            grads = joint.permute(2, 0, 3, 1, 4).unbind(0)
        else:
            grads = tuple(torch.empty_like(x) for x in (q, k, v))
        scale = q.shape[-1] ** -0.5
        for i, j in _heads(q):
            weights, g = _map(q[i, j], k[i, j]), grad[i, j]
            torch.mm(weights.mT, g, out=grads[2][i, j])
            spread = torch._softmax_backward_data(torch.mm(g, v[i, j].mT), weights, -1, weights.dtype)
            torch.mm(spread, k[i, j], out=grads[0][i, j]).mul_(scale)
            torch.mm(spread.mT, q[i, j], out=grads[1][i, j]).mul_(scale)
        return grads[0], grads[1], grads[2]


def _heads(q: Tensor) -> list[tuple[int, int]]:
    """Every frame's every head."""
    return [(i, j) for i in range(q.shape[0]) for j in range(q.shape[1])]


def _map(q: Tensor, k: Tensor) -> Tensor:
    """One head's attention map: [M d], [N d] -> [M N]."""
    return torch.softmax(torch.mm(q, k.mT).mul_(q.shape[-1] ** -0.5), -1)


def _kernels(choice: Choice) -> AbstractContextManager[Any]:
    """PyTorch's switch; the others stay allowed behind the chosen one, for shapes it does not take."""
    if choice.device != "cuda":
        return nullcontext()
    order = [choice.name, *(name for name in ("flash", "efficient", "math") if name != choice.name)]
    return sdpa_kernel([BACKENDS[name] for name in order], set_priority=True)


def _fault(device: torch.device, shapes: Sequence[Shape], dtype: torch.dtype, name: str) -> str:
    """Why a kernel does not run here; empty where it does."""
    try:
        for _, heads, tokens, width in shapes:
            _once(*_inputs(device, (1, heads, tokens, width), dtype), name)
    except RuntimeError as error:
        return " ".join(str(error).split())[:120] or "PyTorch has no such kernel here"
    return ""


def _inputs(device: torch.device, shape: Shape, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Queries, keys and values as a linear layer gives them, [B N 3 heads d], and a gradient [B heads N d]."""
    frames, heads, tokens, width = shape
    qkv = torch.randn(frames, tokens, 3, heads, width, device=device, dtype=dtype, requires_grad=True)
    return qkv, torch.randn(frames, tokens, heads, width, device=device, dtype=dtype).transpose(1, 2)


def _once(qkv: Tensor, grad: Tensor, name: str) -> None:
    """Forward and backward with one kernel and no other."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    if qkv.device.type == "cpu" and name == "math":
        out = HeadByHead.apply(q, k, v)
    else:
        with sdpa_kernel(BACKENDS[name]):
            out = F.scaled_dot_product_attention(q, k, v)
    torch.autograd.grad(out, qkv, grad)


def _times(device: torch.device, shape: Shape, dtype: torch.dtype, names: Sequence[str]) -> dict[str, float]:
    """Milliseconds of each kernel: the least of a few runs, taken in turn so that unrest meets all alike.

    On a CPU of a few frames, scaled to all of them.
    """
    on_cpu = device.type == "cpu"
    frames = min(shape[0], FEW) if on_cpu else shape[0]
    qkv, grad = _inputs(device, (frames, *shape[1:]), dtype)
    best = dict.fromkeys(names, float("inf"))
    for run in range(5 if on_cpu else 8):
        for name in names:
            _wait(device)
            started = time.perf_counter()
            _once(qkv, grad, name)
            _wait(device)
            if run:  # the first one sets things up
                best[name] = min(best[name], time.perf_counter() - started)
    return {name: seconds * 1e3 * shape[0] / frames for name, seconds in best.items()}


def _wait(device: torch.device) -> None:
    """Wait for the device's queue, where it has one."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
