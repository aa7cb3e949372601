"""FRL-DGT's fusion layer and modules: eq. 5-7 against literal loops, copies, what the ablations leave."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from finetune.heads.frl_dgt_fusion import Fusion, Layers, Linears, Module, TransFu, module_flops
from finetune.options.frl_dgt import FrlDgtOptions

SMALL = {"dim": 12, "heads": 3, "layers": 1, "mlp_ratio": 2.0}


def options(**changes: object) -> FrlDgtOptions:
    """Small modules."""
    return FrlDgtOptions(**{**SMALL, **changes})  # type: ignore[arg-type]


def stirred(module: nn.Module, seed: int = 0) -> nn.Module:
    """All parameters and statistics away from their starting values, in float64."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double()
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            value.copy_(1 + 0.2 * noise.abs() if "running_var" in name else value + 0.3 * noise)
    return module


def softmax(x: np.ndarray) -> np.ndarray:
    """Over a vector."""
    e = np.exp(x - x.max())
    return e / e.sum()


def literal_raw(layer: Fusion, x: np.ndarray, copy: int) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 5 of one copy by loops: x [B N C] -> W_raw [B h N] and the values [B h N c]."""
    weight, bias = layer.qkv.weight[copy].detach().numpy(), layer.qkv.bias[copy, 0].detach().numpy()
    mix = layer.mix[copy].detach().numpy()
    batch, tokens, dim = x.shape
    heads, c = layer.heads, dim // layer.heads
    raw, values = np.zeros((batch, heads, tokens)), np.zeros((batch, heads, tokens, c))
    for b in range(batch):
        rows = np.stack([x[b, n] @ weight + bias for n in range(tokens)])  # [N 3C]
        q, k, v = rows[:, :dim], rows[:, dim : 2 * dim], rows[:, 2 * dim :]
        for h in range(heads):
            part = slice(h * c, (h + 1) * c)
            query = np.zeros(c)
            for m in range(tokens):
                query += mix[h, m] * q[m, part]  # Lin([Q_1 .. Q_m])
            for n in range(tokens):
                raw[b, h, n] = query @ k[n, part]
            values[b, h] = v[:, part]
    return raw, values


def literal_fusion(layer: Fusion, x: np.ndarray, copy: int, training: bool) -> np.ndarray:
    """Eq. 5-7 of one copy: [B N C] -> [B C]; BatchNorm between the product and the softmax."""
    raw, values = literal_raw(layer, x, copy)
    batch, heads, tokens = raw.shape
    assert layer.norm is not None
    shape = (-1, heads, tokens) if layer.kind == "token" else (-1, heads, 1)
    scale, shift = (getattr(layer.norm, n).detach().numpy().reshape(shape)[copy] for n in ("weight", "bias"))
    if training:
        axes = (0,) if layer.kind == "token" else (0, 2)
        mean, var = raw.mean(axes, keepdims=True)[0], raw.var(axes, keepdims=True)[0]
    else:
        mean = layer.norm.running_mean.numpy().reshape(shape)[copy]  # type: ignore[union-attr,operator]
        var = layer.norm.running_var.numpy().reshape(shape)[copy]  # type: ignore[union-attr,operator]
    normed = (raw - mean) / np.sqrt(var + layer.norm.eps) * scale + shift
    out = np.zeros((batch, heads * values.shape[-1]))
    for b in range(batch):
        heads_out = [softmax(normed[b, h]) @ values[b, h] for h in range(heads)]
        out[b] = np.concatenate(heads_out)  # eq. 7
    return out


@pytest.mark.parametrize("kind", ["token", "head"])
@pytest.mark.parametrize("training", [True, False])
def test_the_fusion_layer_is_equations_5_to_7(kind: str, training: bool) -> None:
    layer = stirred(Fusion(2, 5, options(batch_norm=kind)))
    x = torch.randn(2, 4, 5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = [literal_fusion(layer, x[i].numpy(), i, training) for i in range(2)]  # type: ignore[arg-type]
    found = layer.train(training)(x)
    assert np.allclose(found.detach().numpy(), np.stack(expected), rtol=1e-10, atol=1e-12)


def test_batch_normalisation_stands_between_product_and_softmax() -> None:
    """In training the scale of W_raw is without effect, which only BN before the softmax brings about."""
    layer = Fusion(1, 5, options()).train()
    x = torch.randn(1, 6, 5, 12, generator=torch.Generator().manual_seed(0))
    before = layer(x)
    with torch.no_grad():
        layer.mix.mul_(7)
    assert torch.allclose(layer(x), before, atol=1e-3)
    layer.eval()
    with torch.no_grad():
        assert layer.norm is not None
        layer.norm.running_mean.zero_()  # type: ignore[union-attr,operator]
        layer.norm.running_var.fill_(1)  # type: ignore[union-attr,operator]
        flat = layer(x)
        layer.mix.mul_(7)
    assert not torch.allclose(layer(x), flat, atol=1e-3)  # in evaluation the scale matters


def test_equal_weights_of_the_linear_mapping_are_an_average() -> None:
    layer = Fusion(1, 4, options())
    x = torch.randn(1, 3, 4, 12)
    raw, _ = literal_raw(layer.double(), x[0].double().numpy(), 0)
    weight = layer.qkv.weight[0].detach().numpy()
    mean_query, keys = x[0].double().mean(1).numpy() @ weight[:, :12], x[0].double().numpy() @ weight[:, 12:24]
    for h in range(3):
        part = slice(4 * h, 4 * h + 4)
        assert np.allclose(raw[:, h], np.einsum("bc,bnc->bn", mean_query[:, part], keys[..., part]), atol=1e-6)


def test_the_order_after_is_attention_and_then_a_linear_mapping() -> None:
    layer = stirred(Fusion(2, 5, options(fusion="after")))
    assert isinstance(layer, Fusion) and layer.norm is None
    x = torch.randn(2, 3, 5, 12, dtype=torch.float64)
    for copy in range(2):
        expected = np.zeros((3, 12))
        rows = x[copy].numpy() @ layer.qkv.weight[copy].detach().numpy() + layer.qkv.bias[copy].detach().numpy()
        for b in range(3):
            q, k, v = np.split(rows[b], 3, axis=1)
            heads = []
            for h in range(3):
                part = slice(4 * h, 4 * h + 4)
                attention = np.stack([softmax(q[n, part] @ k[:, part].T / 2) for n in range(5)])  # √c = 2
                heads.append(attention @ v[:, part])
            expected[b] = layer.mix[copy, 0].detach().numpy() @ np.concatenate(heads, axis=1)
        assert np.allclose(layer(x)[copy].detach().numpy(), expected, atol=1e-10)


def test_the_two_orders_differ() -> None:
    x = torch.randn(1, 4, 5, 12)
    before, after = Fusion(1, 5, options()), Fusion(1, 5, options(fusion="after"))
    after.qkv.load_state_dict(before.qkv.state_dict())
    assert not torch.allclose(before(x), after(x), atol=1e-3)


def one_copy(module: nn.Module, single: nn.Module, copy: int, copies: int) -> nn.Module:
    """`single` with the weights of one of the copies of `module`."""
    state = {}
    for name, value in module.state_dict().items():
        if value.ndim and "norm.running" not in name and "fusion.norm" not in name:
            state[name] = value[copy : copy + 1]
        else:
            state[name] = value.reshape(copies, -1)[copy] if value.ndim else value
    single.load_state_dict(state)
    return single


@pytest.mark.parametrize("order", ["before", "after"])
def test_nine_modules_together_are_nine_modules(order: str) -> None:
    o = options(fusion=order)
    module = stirred(Module(9, 4, 7, o))
    x = torch.randn(9, 3, 4, 7, dtype=torch.float64)
    together = module.eval()(x)
    for copy in (0, 4, 8):
        single = one_copy(module, Module(1, 4, 7, o).double(), copy, 9).eval()
        assert torch.allclose(single(x[copy : copy + 1])[0], together[copy], atol=1e-10)


def test_a_transformer_layer_is_timms_with_the_same_weights() -> None:
    from timm.models.vision_transformer import Block

    o = options()
    layer = stirred(Layers(1, o))
    block = Block(o.dim, o.heads, mlp_ratio=o.mlp_ratio, qkv_bias=True).double()
    pairs = {"attn.qkv": layer.qkv, "attn.proj": layer.proj, "mlp.fc1": layer.fc1, "mlp.fc2": layer.fc2}
    state = {}
    for name, linear in pairs.items():
        state |= {f"{name}.weight": linear.weight[0].T, f"{name}.bias": linear.bias[0, 0]}  # type: ignore
    for name in ("norm1", "norm2"):
        norm = getattr(layer, name)
        state |= {f"{name}.weight": norm.scale.flatten(), f"{name}.bias": norm.shift.flatten()}
    block.load_state_dict(state)
    block.norm1.eps = block.norm2.eps = 1e-6
    x = torch.randn(2, 5, o.dim, dtype=torch.float64)
    assert torch.allclose(layer(x[None])[0], block(x), atol=1e-10)


def test_a_training_batch_of_one_and_evaluation_of_one_are_finite() -> None:
    module = Module(3, 4, 7, options())
    assert module.train()(torch.randn(3, 1, 4, 7)).isfinite().all()
    module.train()(torch.randn(3, 8, 4, 7))
    module.eval()
    x = torch.randn(3, 5, 4, 7)
    together = module(x)
    alone = torch.cat([module(x[:, i : i + 1]) for i in range(5)], dim=1)
    assert torch.allclose(together, alone, atol=1e-5)


def tensors(o: FrlDgtOptions, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Tokens of 4 patches per box and 6 of the face, 7 values each."""
    return torch.randn(9, batch, 4, 7), torch.randn(1, batch, 6, 7)


def test_local_modules_have_their_own_weights_and_see_their_own_box_only() -> None:
    fusion = TransFu(7, 4, 6, options())
    assert fusion.local.embed.weight.shape[0] == 9  # type: ignore[union-attr]
    x = torch.randn(9, 2, 4, 7)
    changed = x.clone()
    changed[3] += 1
    fusion.eval()
    moved = (fusion.local(x) - fusion.local(changed)).abs().amax(dim=(1, 2)) > 1e-6
    assert moved.tolist() == [i == 3 for i in range(9)]


def test_without_local_fusion_a_box_is_the_mean_of_its_patch_embeddings() -> None:
    o = options(local_fusion=False)
    fusion = TransFu(7, 4, 6, o)
    names = [name for name, _ in fusion.local.named_parameters()]
    assert sorted(names) == ["embed.bias", "embed.weight"] and isinstance(fusion.local.embed, Linears)
    regions, _ = tensors(o)
    weight, bias = fusion.local.embed.weight, fusion.local.embed.bias
    expected = torch.stack([regions[i].mean(1) @ weight[i] + bias[i] for i in range(9)])
    assert torch.allclose(fusion.local(regions), expected, atol=1e-6)


def test_without_global_fusion_the_local_vectors_are_averaged() -> None:
    fusion = TransFu(7, 4, 6, options(global_fusion=False)).eval()
    regions, face = tensors(options())
    assert fusion.overall is None
    assert torch.allclose(fusion(regions, face)[:, :12], fusion.local(regions).mean(0), atol=1e-6)


def test_without_the_full_face_only_regions_are_seen() -> None:
    fusion = TransFu(7, 4, 6, options(full_face=False)).eval()
    regions, face = tensors(options())
    assert fusion.face is None and fusion.width == 12
    assert torch.equal(fusion(regions, face), fusion(regions, face + 1))


def test_steps_of_a_clip_are_fused_over_time_and_clips_stay_apart() -> None:
    fusion = TransFu(7, 4, 6, options(), steps=3).eval()
    regions, face = torch.randn(9, 6, 4, 7), torch.randn(1, 6, 6, 7)  # two clips of three steps
    out = fusion(regions, face)
    assert out.shape == (2, 24)
    changed = regions.clone()
    changed[:, 4] += 1  # second clip
    moved = (fusion(changed, face) - out).abs().amax(dim=1) > 1e-6
    assert moved.tolist() == [False, True]
    assert not torch.allclose(fusion(regions[:, [1, 0, 2, 3, 4, 5]], face[:, [1, 0, 2, 3, 4, 5]])[0], out[0])


@pytest.mark.parametrize("order", ["before", "after"])
def test_flops_by_formula_are_those_of_the_products(order: str) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    o = options(fusion=order, mlp_ratio=3.0, layers=2)
    module = Module(1, 6, 7, o).eval()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        module(torch.randn(1, 1, 6, 7))
    assert module_flops(6, 7, o) == pytest.approx(counter.get_total_flops(), rel=1e-9)


def test_before_costs_less_than_after() -> None:
    assert module_flops(225, 10, options()) < module_flops(225, 10, options(fusion="after"))
