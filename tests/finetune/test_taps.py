"""Small 3 × 3 convolutions by taps, and layers that compute alone what they compute in a stack."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, stack_module_state

from finetune.heads.htnet_network import Hierarchy, Shape
from finetune.heads.layers import LayerNorm, Linear
from finetune.heads.taps import convolve, tap_first, tap_last


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3))
def test_taps_are_a_convolution_with_its_gradients(height: int, width: int, batch: int) -> None:
    generator = torch.Generator().manual_seed(height)
    x = torch.randn(batch, height, width, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    ours = convolve(x, weight)
    theirs = F.conv2d(x.permute(0, 3, 1, 2), weight, padding=1).permute(0, 2, 3, 1)
    assert torch.allclose(ours, theirs, atol=1e-12)
    g = torch.randn(ours.shape, dtype=torch.float64, generator=generator)
    for one, two in zip(*(torch.autograd.grad(y, (x, weight), g) for y in (ours, theirs)), strict=True):
        assert torch.allclose(one, two, atol=1e-12)


def test_several_networks_have_kernels_of_their_own() -> None:
    x, weight = torch.randn(3, 2, 4, 4, 5), torch.randn(3, 6, 5, 3, 3)
    for kernels in (weight, tap_last(tap_first(weight).contiguous())):
        found = convolve(x, kernels)
        assert all(torch.allclose(found[i], convolve(x[i], weight[i]), atol=1e-5) for i in range(3))


@pytest.mark.parametrize("bias", [True, False])
def test_layers_are_torchs(bias: bool) -> None:
    torch.manual_seed(1)
    x = torch.randn(2, 3, 4, 7)
    ours, theirs = Linear(7, 5, bias=bias), nn.Linear(7, 5, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    assert torch.allclose(ours(x), theirs(x), atol=1e-6) and ours(x).shape == (2, 3, 4, 5)
    norm, other = LayerNorm(7), nn.LayerNorm(7)
    for one in (norm, other):
        nn.init.constant_(one.weight, 1.5)
        nn.init.constant_(one.bias, -0.5)
    assert torch.allclose(norm(x), other(x), atol=1e-6)


@pytest.mark.parametrize(("size", "patch"), [(28, 7), (24, 3), (48, 3)])  # one token in a block, several, large maps
@pytest.mark.parametrize("position", ["vector", "scalar"])
def test_a_hierarchy_computes_alone_what_it_computes_in_a_stack(size: int, patch: int, position: str) -> None:
    shape = Shape(channels=3, size=size, patch=patch, dim=16, heads=2, depths=(1, 1, 1), classes=3)
    models = [Hierarchy(shape, position=position) for _ in range(3)]
    parameters, _ = stack_module_state(models)  # type: ignore[arg-type]
    x = torch.randn(3, 4, size, size, 3)
    found = functional_call(models[0], parameters, (x,))
    found.sum().backward()
    for place, model in enumerate(models):
        alone = model(x[place])
        alone.sum().backward()
        assert torch.allclose(found[place], alone, atol=1e-6)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                assert torch.allclose(parameters[name].grad[place], parameter.grad, rtol=1e-4, atol=1e-5), name
