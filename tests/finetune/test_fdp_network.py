"""FDP's networks against literal computations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from finetune.heads import fdp_release
from finetune.heads.fdp_decoder import DynamicImageNet
from finetune.heads.fdp_lgf import GlobalAggregator, HeadAttention, HeadConvolution, LocalAggregator
from finetune.heads.fdp_network import Dynamics, EncoderCodes, Network, rank_loss
from finetune.options.fdp import FdpOptions

TINY = FdpOptions(
    frames=4, size=20, crop=16, widths=[8, 16], head_dim=4, mlp_ratio=2.0, decoder_widths=[4, 8], hidden=16
)


def _varied(module: nn.Module) -> nn.Module:
    """In evaluation mode, with batch norms that change something."""
    g = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for value in (part.weight.data, part.running_var, part.running_mean, part.bias.data):
                assert value is not None
                value.copy_(0.5 + torch.rand(value.shape, generator=g))
    return module.eval()


def _norm(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Batch norm in evaluation, written out."""
    assert norm.running_mean is not None and norm.running_var is not None
    rows = [v[:, None, None] for v in (norm.running_mean, norm.running_var, norm.weight, norm.bias)]
    return (x - rows[0]) / (rows[1] + norm.eps).sqrt() * rows[2] + rows[3]


def _mlp(x: Tensor, mlp: nn.Module) -> Tensor:
    norm, wide, _, narrow = mlp
    hidden = torch.einsum("oc,bchw->bohw", wide.weight[:, :, 0, 0], _norm(x, norm)) + wide.bias[:, None, None]
    return torch.einsum("oc,bchw->bohw", narrow.weight[:, :, 0, 0], hidden.clamp(min=0)) + narrow.bias[:, None, None]


def test_heads_of_a_convolution_block_are_slices_of_channels_in_order() -> None:
    torch.manual_seed(0)
    module, x = _varied(HeadConvolution(12, 4)), torch.randn(2, 12, 5, 5)
    assert isinstance(module, HeadConvolution)
    heads = []
    for head in range(3):
        slots = slice(4 * head, 4 * head + 4)
        heads.append(F.conv2d(x[:, slots], module.convolution.weight[slots], padding=1))
    expected = _norm(torch.cat(heads, dim=1), module.norm).clamp(min=0)
    assert torch.allclose(module(x), expected, atol=1e-5)
    swapped = _norm(torch.cat(heads[::-1], dim=1), module.norm).clamp(min=0)
    assert not torch.allclose(module(x), swapped, atol=1e-2)


def test_attention_is_equations_1_to_3_head_by_head() -> None:
    torch.manual_seed(0)
    module, x, d = HeadAttention(12, 4, 0.0).eval(), torch.randn(2, 12, 3, 3), 4
    tokens = x.flatten(2).transpose(1, 2).double()  # [B N C]
    heads = []
    for head in range(3):
        w_q, w_k, w_v = module.qkv.weight[12 * head : 12 * head + 12, :, 0, 0].double().split(d)
        mine = tokens[..., d * head : d * head + d]
        q, k, v = mine @ w_q.T, mine @ w_k.T, mine @ w_v.T  # eq. 1
        a = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(d), dim=-1) @ v  # eq. 2
        slots = slice(d * head, d * head + d)
        heads.append(a @ module.each.weight[slots, :, 0, 0].double().T + module.each.bias[slots].double())  # eq. 3
    expected = torch.cat(heads, -1) @ module.fuse.weight[:, :, 0, 0].double().T + module.fuse.bias.double()
    assert torch.allclose(module(x).flatten(2).transpose(1, 2).double(), expected, atol=1e-6)


def test_dropout_follows_the_layer_of_equation_3() -> None:
    torch.manual_seed(0)
    module, x = HeadAttention(8, 4, 0.5), torch.randn(1, 8, 2, 2)
    assert not torch.allclose(module.train()(x), module(x)) and torch.equal(module.eval()(x), module(x))


def test_local_aggregator_is_two_residuals() -> None:
    torch.manual_seed(0)
    module, x = _varied(LocalAggregator(8, 4, 2.0)), torch.randn(2, 8, 4, 4)
    assert isinstance(module, LocalAggregator)
    w, b = module.pointwise.weight[:, :, 0, 0], module.pointwise.bias
    assert b is not None
    x1 = x + torch.einsum("oc,bchw->bohw", w, module.convolution(x)) + b[:, None, None]
    assert torch.allclose(module(x), x1 + _mlp(x1, module.mlp), atol=1e-5)


def test_global_aggregator_is_a_pointwise_layer_and_three_residuals() -> None:
    torch.manual_seed(0)
    module, x = _varied(GlobalAggregator(8, 4, 2.0, 0.0)), torch.randn(2, 8, 4, 4)
    assert isinstance(module, GlobalAggregator) and module.pointwise.bias is not None
    y = torch.einsum("oc,bchw->bohw", module.pointwise.weight[:, :, 0, 0], x) + module.pointwise.bias[:, None, None]
    y = y + module.attention(_norm(y, module.norm))
    y = y + module.convolution(y)
    assert torch.allclose(module(x), y + _mlp(y, module.mlp), atol=1e-5)


def test_transformer_has_its_stages_and_a_head_of_norm_and_average() -> None:
    torch.manual_seed(0)
    net = _varied(Network(3, TINY))
    frames, x = net.codes, torch.randn(3, 3, 16, 16)
    assert isinstance(net, Network) and len(frames.stages) == 2
    for stage in frames.stages:
        kinds = [type(part) for part in stage]
        assert kinds == [nn.Conv2d, nn.BatchNorm2d, LocalAggregator, LocalAggregator, GlobalAggregator]
    y = F.conv2d(x, frames.stem.weight, frames.stem.bias, stride=2, padding=1)
    for stage, side in zip(frames.stages, (4, 2), strict=True):
        for part in stage:
            y = part(y)
        assert y.shape[-1] == side
    code = _norm(y, frames.norm).mean((2, 3)) @ frames.code.weight.T + frames.code.bias
    assert torch.allclose(frames(x), code, atol=1e-5)


def test_rank_loss_is_equation_5_and_scores_equation_4() -> None:
    torch.manual_seed(0)
    net, x = Network(3, TINY).eval().requires_grad_(False), torch.randn(2, 4, 3, 16, 16)
    codes, scores = net.encode(x), net(x)[2]
    assert net.scorer is not None and scores is not None
    u = net.scorer.weight[0]
    total = 0.0
    for clip in range(2):
        for k in range(4):
            score = float((u * codes[clip, k]).sum())
            assert abs(score - float(scores[clip, k])) < 1e-5
            total += abs(0.7 * k - score) / 2
    assert abs(float(rank_loss(scores, 0.7)) - total) < 1e-5
    assert float(rank_loss(torch.tensor([[0.0, 0.7, 1.4, 2.1]]), 0.7)) < 1e-6


def test_pooling_is_a_convolution_over_maps_in_chronological_order() -> None:
    torch.manual_seed(0)
    module, codes = Dynamics(4, 6, 3, 16, release=False), torch.randn(2, 4, 36)
    weight = module.pool.weight[:, 0].detach().double().numpy()  # [8 3 3 t]
    maps = np.pad(codes.double().numpy().reshape(2, 4, 6, 6), ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected = np.zeros((2, 8, 6, 6))
    for k in range(4):
        for row in range(6):
            for column in range(6):
                patch = maps[:, k, row : row + 3, column : column + 3]
                expected[:, :, row, column] += np.einsum("bij,oij->bo", patch, weight[..., k])
    expected += module.pool.bias.detach().double().numpy()[:, None, None]
    dynamic = module(codes)
    assert np.allclose(dynamic.detach().numpy(), expected, atol=1e-5)
    top = expected.reshape(2, 8, 2, 3, 2, 3).max((3, 5)).reshape(2, -1)
    hidden = (top @ module.hidden.weight.T.detach().numpy() + module.hidden.bias.detach().numpy()).clip(min=0)
    logits = hidden @ module.classify.weight.T.detach().numpy() + module.classify.bias.detach().numpy()
    assert np.allclose(module.logits(dynamic).detach().numpy(), logits, atol=1e-4)


def test_released_codes_are_joined_in_the_memorys_order() -> None:
    codes = torch.arange(2 * 4 * 36.0).reshape(2, 4, 36)
    maps = fdp_release.joined(codes, 6)
    for row, column, k in ((0, 0, 0), (0, 0, 3), (1, 2, 1), (5, 5, 3)):
        place = (row * 6 + column) * 4 + k
        assert maps[1, row, column, k] == codes[1, place // 36, place % 36]
    ours, theirs = (Dynamics(4, 6, 3, 16, release=flag) for flag in (False, True))
    theirs.load_state_dict(ours.state_dict())
    assert not torch.allclose(ours(codes), theirs(codes))


def test_decoder_adds_the_encoders_maps_and_undoes_each_pooling() -> None:
    torch.manual_seed(0)
    net, x = _varied(DynamicImageNet(8, [4, 6])), torch.randn(2, 8, 8, 8)
    assert isinstance(net, DynamicImageNet)

    def block(part: nn.Module, y: Tensor) -> Tensor:
        y = _norm(F.conv2d(y, part[0].weight, part[0].bias, padding=1), part[1])
        return torch.where(y > 0, y, 0.01 * y)

    one = block(net.encoder[0], x)
    two = block(net.encoder[1], F.max_pool2d(one, 2))
    y = F.conv_transpose2d(F.max_pool2d(two, 2), net.up[1].weight, net.up[1].bias, stride=2)
    y = block(net.decoder[1], y + two)
    y = block(net.decoder[0], F.conv_transpose2d(y, net.up[0].weight, net.up[0].bias, stride=2) + one)
    y = 1 / (1 + torch.exp(-F.conv2d(y, net.last.weight, net.last.bias, padding=1)))
    assert torch.allclose(net(x), y[:, 0], atol=1e-5) and net(x).shape == (2, 8, 8)


def test_encoder_codes_lie_where_their_tokens_do() -> None:
    torch.manual_seed(0)
    module, tokens = EncoderCodes(5, 2, 8), torch.randn(2, 3, 4, 5)
    module.standardise.fit(torch.randn(50, 5) * 2 + 1)
    code = module(tokens).reshape(2, 3, 8, 8)
    for cell in range(4):
        row, column = 4 * (cell // 2), 4 * (cell % 2)
        values = module.project(module.standardise(tokens[:, 2, cell] - tokens[:, 0, cell]))
        assert torch.allclose(code[:, 2, row : row + 4, column : column + 4], values.reshape(2, 4, 4), atol=1e-6)


@pytest.mark.parametrize("release", [False, True])
def test_flops_equal_a_count(release: bool, small_release: None) -> None:
    options = FdpOptions(**{**vars(TINY), "release": release, "crop": 32, "size": 32})
    net = Network(3, options).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.randn(1, 4, 1 if release else 3, 32, 32))
    assert counter.get_total_flops() == net.flops(4, 32)


@pytest.mark.parametrize("local", [0, 1, 2])
@pytest.mark.parametrize("overall", [0, 2])
def test_table_9s_transformers_run(local: int, overall: int) -> None:
    options = FdpOptions(**{**vars(TINY), "local_layers": local, "global_layers": overall})
    logits, image, scores = Network(5, options)(torch.randn(2, 4, 3, 16, 16))
    assert logits.shape == (2, 5) and image is not None and image.shape == (2, 16, 16)
    assert scores is not None and scores.shape == (2, 4)


def test_losses_that_count_for_nothing_have_no_network() -> None:
    net = Network(5, FdpOptions(**{**vars(TINY), "dynamic_weight": 0.0, "rank_weight": 0.0}))
    assert net.image is None and net.scorer is None
    assert net(torch.randn(2, 4, 3, 16, 16))[1:] == (None, None)


def test_the_released_network_has_no_global_blocks_and_one_group() -> None:
    with torch.device("meta"):
        net = Network(5, FdpOptions(release=True))
        frames = net.codes
        assert len(frames.features) == sum(fdp_release.DEPTHS) == 20
        assert all(part.mhca.group_conv3x3.groups == 1 for part in frames.features)
        assert frames.stem[0].conv.in_channels == 1 and net.scorer is None
        assert sum(p.numel() for p in net.parameters()) == 85_304_206
        assert frames(torch.randn(1, 1, 64, 64)).shape == (1, 4096)
