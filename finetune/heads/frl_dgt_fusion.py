"""FRL-DGT's Transformer Fusion: Attn blocks, the fusion layer, the local, global and full-face modules (section 3.2).

Stated by the paper: nine local modules, each with its own weights; one global, one full-face module; each an Attn
block (LayerNorm, multi-head attention, MLP) and a fusion layer; C = 256, 8 heads; no class token. Chosen here:

- Lin of eq. 5 maps the m queries of a head to one vector by m weights, without bias: "when all weights of linear
  mappings are equal, it corresponds to an averaging operation", which is how it starts. BatchNorm is over a batch of
  vectors W_raw, so each head and token has its own statistics ("layers", one per head); one per head is an option;
- `after`, M4's order: scaled attention with softmax, then m weights over its outputs, shared by the heads;
- pre-norm layers with a last LayerNorm and learned positions, as in ViT, which section 3.2.2 follows;
- M7 (no local fusion) takes the mean of a box's patch embeddings, M8 (no global fusion) the mean of the local
  vectors: what the fusion layer itself is with equal weights;
- FRL-DGT-S: one more such module over the T - 1 steps, for the global and the full-face vectors each.

The nine modules are computed together: weights and tokens have a leading axis of copies.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune.heads.blocks import SafeNorm
from finetune.options.frl_dgt import FrlDgtOptions
from pretrain.flops import block_flops

REGIONS = 9  # K


class Linears(nn.Module):
    """K linear layers side by side: [K B N inside] -> [K B N outside], Xavier-uniform, zero bias."""

    def __init__(self, copies: int, inside: int, outside: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(copies, inside, outside))
        self.bias = nn.Parameter(torch.zeros(copies, 1, outside))
        bound = (6 / (inside + outside)) ** 0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return torch.baddbmm(self.bias, x.flatten(1, 2), self.weight).unflatten(1, x.shape[1:3])


class Norms(nn.Module):
    """K LayerNorms side by side: [K B N C] -> the same."""

    def __init__(self, copies: int, dim: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(copies, 1, 1, dim))
        self.shift = nn.Parameter(torch.zeros(copies, 1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return F.layer_norm(x, x.shape[-1:], eps=1e-6) * self.scale + self.shift


class Layers(nn.Module):
    """One pre-norm Transformer layer, K times side by side: [K B N C] -> the same."""

    def __init__(self, copies: int, o: FrlDgtOptions):
        super().__init__()
        hidden = round(o.mlp_ratio * o.dim)
        self.heads = o.heads
        self.norm1, self.norm2 = Norms(copies, o.dim), Norms(copies, o.dim)
        self.qkv, self.proj = Linears(copies, o.dim, 3 * o.dim), Linears(copies, o.dim, o.dim)
        self.fc1, self.fc2 = Linears(copies, o.dim, hidden), Linears(copies, hidden, o.dim)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        q, k, v = split_heads(self.qkv(self.norm1(x)), self.heads)
        attended = F.scaled_dot_product_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
        x = x + self.proj(attended.transpose(1, 2).flatten(2).unflatten(0, x.shape[:2]))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


def split_heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """[K B N 3·C] -> queries, keys, values, each [K B h N c]."""
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(3, 0, 1, 4, 2, 5).unbind(0)
    return q, k, v


class Fusion(nn.Module):
    """The fusion layer (eq. 5-7), K times side by side: N vectors to one, [K B N C] -> [K B C].

    Per head: W_raw = Lin([Q_1 .. Q_m])·Kᵀ, head = Softmax(BN(W_raw))·V; F = Concat(heads).
    """

    def __init__(self, copies: int, tokens: int, o: FrlDgtOptions):
        super().__init__()
        self.heads, self.order, self.kind = o.heads, o.fusion, o.batch_norm
        self.qkv = Linears(copies, o.dim, 3 * o.dim)
        lines = o.heads if o.fusion == "before" else 1
        self.mix = nn.Parameter(torch.full((copies, lines, tokens), 1 / tokens))
        self.norm: SafeNorm | None = None
        if o.fusion == "before":
            self.norm = SafeNorm(copies * o.heads * (tokens if o.batch_norm == "token" else 1))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        q, k, v = split_heads(self.qkv(x), self.heads)
        if self.norm is None:
            attended = F.scaled_dot_product_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
            vectors = attended.transpose(1, 2).flatten(2).unflatten(0, x.shape[:2])  # [K B N C]
            return torch.einsum("kn,kbnc->kbc", self.mix[:, 0], vectors)
        query = torch.einsum("khm,kbhmc->kbhc", self.mix, q)  # Lin of eq. 5
        raw = torch.einsum("kbhc,kbhnc->kbhn", query, k)  # W_raw
        return torch.einsum("kbhn,kbhnc->kbhc", self._weights(raw), v).flatten(2)

    def _weights(self, raw: Tensor) -> Tensor:
        """Softmax(BN(W_raw)) of eq. 6: [K B h N] -> the same, each row of sum 1."""
        assert self.norm is not None
        copies, batch, heads, tokens = raw.shape
        exact = raw if raw.dtype == torch.float64 else raw.float()
        channels = exact.transpose(0, 1)  # [B K h N]
        if self.kind == "token":
            channels = self.norm(channels.reshape(batch, -1))
        else:
            channels = self.norm(channels.reshape(batch, copies * heads, tokens))
        weights = channels.reshape(batch, copies, heads, tokens).transpose(0, 1).softmax(-1)
        return weights.to(raw.dtype)


class Module(nn.Module):
    """K fusion modules side by side: embed, Attn block, fusion layer. [K B N inside] -> [K B C].

    Args:
        inside: width of the tokens that are embedded; 0: they have width C already.
        fuse: False: the mean of the embedded tokens alone (M7).
    """

    def __init__(self, copies: int, tokens: int, inside: int, o: FrlDgtOptions, fuse: bool = True):
        super().__init__()
        self.embed = Linears(copies, inside, o.dim) if inside else nn.Identity()
        self.layers, self.fusion = nn.Sequential(), None
        if fuse:
            self.position = nn.Parameter(0.02 * torch.randn(copies, 1, tokens, o.dim))
            self.layers = nn.Sequential(*(Layers(copies, o) for _ in range(o.layers)), Norms(copies, o.dim))
            self.fusion = Fusion(copies, tokens, o)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.embed(x)
        if self.fusion is None:
            return x.mean(dim=2)
        return self.fusion(self.layers(x + self.position))


class TransFu(nn.Module):
    """Transformer Fusion: tokens of the AU boxes and of the whole face to one vector per clip.

    `transfu(regions [9 B·P N inside], face [1 B·P F inside]) -> [B width]`, P = `steps` displacements per clip.
    """

    def __init__(self, inside: int, tokens: int, face_tokens: int, o: FrlDgtOptions, steps: int = 1):
        super().__init__()
        self.steps = steps
        self.local = Module(REGIONS, tokens, inside, o, o.local_fusion)
        self.overall = Module(1, REGIONS, 0, o) if o.global_fusion else None
        self.face = Module(1, face_tokens, inside, o) if o.full_face else None
        branches = 2 if o.full_face else 1
        self.temporal = Module(branches, steps, 0, o) if steps > 1 else None
        self.width = branches * o.dim

    def forward(self, regions: Tensor, face: Tensor) -> Tensor:
        """See the class."""
        local = self.local(regions)  # [9 B·P C]
        found = [local.mean(dim=0) if self.overall is None else self.overall(local.transpose(0, 1)[None])[0]]
        if self.face is not None:
            found.append(self.face(face)[0])
        vectors = torch.stack(found)  # [branches B·P C]
        if self.temporal is not None:
            vectors = self.temporal(vectors.unflatten(1, (-1, self.steps)))
        return vectors.transpose(0, 1).flatten(1)


def module_flops(tokens: int, inside: int, o: FrlDgtOptions, fuse: bool = True) -> float:
    """One fusion module, forward, FLOP: embedding, Transformer layers, queries, keys and values, weighted sums.

    The order `before` needs 4·N·C for products and sums, `after` 4·N²·C: the paper's "simplified computation".
    """
    total = 2.0 * tokens * inside * o.dim
    if not fuse:
        return total
    layer = block_flops(tokens, o.dim) + 4.0 * tokens * o.dim**2 * (o.mlp_ratio - 4)
    products = 6.0 * tokens * o.dim if o.fusion == "before" else 4.0 * tokens**2 * o.dim + 2.0 * tokens * o.dim
    return total + o.layers * layer + 6.0 * tokens * o.dim**2 + products


def fusion_flops(inside: int, tokens: int, face_tokens: int, o: FrlDgtOptions, steps: int = 1) -> float:
    """The whole Transformer Fusion per clip, forward, FLOP."""
    total = REGIONS * module_flops(tokens, inside, o, o.local_fusion)
    if o.global_fusion:
        total += module_flops(REGIONS, 0, o)
    if o.full_face:
        total += module_flops(face_tokens, inside, o)
    branches = 2 if o.full_face else 1
    return steps * total + (branches * module_flops(steps, 0, o) if steps > 1 else 0.0)
