"""HTNet's hierarchy against literal computations of its equations, and the sizes in its tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from finetune.heads.htnet_network import Aggregation, Attention, Hierarchy, Layer, Shape, sizes, tokens

SMALL = Shape(channels=3, size=28, patch=7, dim=12, heads=3, depths=(1, 1, 2), classes=3)
PAPER = Shape(channels=3, size=28, patch=7, dim=256, heads=3, depths=(2, 2, 8), classes=3)
TABLE5 = {2: 149.57, 4: 245.88, 6: 342.20, 8: 438.51, 10: 534.82, 12: 631.13}


def _values(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: p.detach().double().numpy() for name, p in module.named_parameters()}


def _norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Eq. 6 with the usual small constant under the root."""
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def _attend(x: np.ndarray, w: dict[str, np.ndarray], heads: int) -> np.ndarray:
    """Eq. 5, head by head and query by query: x [n D]."""
    inner = w["attention.out.weight"].shape[1]
    q, k = (x @ part.T for part in w["attention.qk.weight"].reshape(2, inner, -1))
    v = x @ w["attention.v.weight"].T
    out, d = np.zeros_like(q), inner // heads
    for head in range(heads):
        span = slice(head * d, (head + 1) * d)
        for i in range(len(x)):
            scores = np.array([q[i, span] @ k[j, span] / np.sqrt(d) for j in range(len(x))])
            weights = np.exp(scores) / np.exp(scores).sum()
            out[i, span] = sum(weight * v[j, span] for j, weight in enumerate(weights))
    return out @ w["attention.out.weight"].T + w["attention.out.bias"]


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("width", [12, 16])  # 16 does not divide by 3 heads: 15 are used
def test_a_layer_equals_equations_4_to_6(count: int, width: int) -> None:
    torch.manual_seed(0)
    layer = Layer(width, heads=3, ratio=4, dropout=0.0, activation="relu").eval()
    x = torch.randn(2, count, width)
    w = _values(layer)
    for row, found in zip(x.double().numpy(), layer(x).detach().numpy(), strict=True):
        middle = row + _attend(_norm(row, w["norm1.weight"], w["norm1.bias"]), w, 3)
        hidden = np.maximum(
            0, _norm(middle, w["norm2.weight"], w["norm2.bias"]) @ w["wide.weight"].T + w["wide.bias"]
        )
        assert np.allclose(found, middle + hidden @ w["narrow.weight"].T + w["narrow.bias"], atol=1e-5)


def test_gelu_is_another_function() -> None:
    torch.manual_seed(0)
    relu = Layer(12, 3, 4, 0.0, "relu")
    gelu = Layer(12, 3, 4, 0.0, "gelu")
    gelu.load_state_dict(relu.state_dict())
    x = torch.randn(1, 1, 12)
    assert not torch.allclose(relu(x), gelu(x), atol=1e-4)


def test_one_token_attends_to_itself_with_the_gradients_of_the_whole_computation() -> None:
    torch.manual_seed(0)
    layer, x = Attention(12, 3, 0.0), torch.randn(4, 1, 12, requires_grad=True)
    layer(x).square().sum().backward()
    short = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
    twice = x.detach().repeat(1, 2, 1)  # two equal tokens: the long way, the same result
    assert torch.allclose(layer(twice)[:, 0], layer(x)[:, 0], atol=1e-6)
    assert "qk.weight" not in short
    layer.zero_grad()
    layer(x.detach().repeat(1, 2, 1))[:, 0].square().sum().backward()
    assert layer.qk.weight.grad.abs().max() < 1e-6
    assert all(torch.allclose(layer.get_parameter(name).grad, value, atol=1e-5) for name, value in short.items())


def test_dropout_of_attention_also_works_with_one_token() -> None:
    torch.manual_seed(0)
    layer, x = Attention(12, 3, 0.5).train(), torch.randn(64, 1, 12)
    assert not torch.allclose(layer(x), layer(x))
    assert torch.allclose(layer.eval()(x), layer(x))


def test_aggregation_equals_convolution_norm_and_maximum_written_out() -> None:
    torch.manual_seed(0)
    module, x = Aggregation(3), torch.randn(1, 4, 4, 3)
    w = _values(module)
    padded = np.pad(x[0].double().numpy(), ((1, 1), (1, 1), (0, 0)))
    made = np.zeros((4, 4, 6))
    for row in range(4):
        for column in range(4):
            patch = padded[row : row + 3, column : column + 3].transpose(2, 0, 1)
            made[row, column] = (w["convolution.weight"] * patch).sum((1, 2, 3)) + w["convolution.bias"]
    made = _norm(made, w["norm.weight"], w["norm.bias"])
    padded = np.pad(made, ((1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    expected = [[padded[2 * r : 2 * r + 3, 2 * c : 2 * c + 3].max((0, 1)) for c in range(2)] for r in range(2)]
    assert np.allclose(module(x)[0].detach().numpy(), np.array(expected), atol=1e-5)


def test_tokens_are_squares_cell_by_cell() -> None:
    x = torch.arange(2 * 6 * 6 * 2).reshape(2, 6, 6, 2)
    rows = tokens(x, 3)
    assert torch.equal(rows[1, 1, 0], torch.cat([x[1, 3 + r, c] for r in range(3) for c in range(3)]))
    assert torch.equal(tokens(x, 1), x)


def test_the_bottom_level_stays_inside_its_blocks() -> None:
    torch.manual_seed(0)
    model = Hierarchy(replace(SMALL, size=8, patch=1)).eval()
    x, changed = torch.randn(1, 8, 8, 3), torch.zeros(1, 8, 8, 3)
    changed[0, 3, 5] = 1.0  # in the block of rows 2-3 and columns 4-5
    level = model.levels[0]
    moved = (level(model.embed(x + changed)) - level(model.embed(x))).abs().sum(-1)[0] > 0
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2:4, 4:6] = True
    assert torch.equal(moved, expected)


def test_positions_are_the_same_in_every_block() -> None:
    torch.manual_seed(0)
    level = Hierarchy(replace(SMALL, size=8, patch=1, depths=(0, 0, 1))).levels[0]
    positions = level(torch.zeros(1, 8, 8, 12))[0]
    assert torch.equal(positions[:2, :2], positions[4:6, 6:8]) and not torch.equal(positions[0, 0], positions[0, 1])
    assert torch.equal(positions[0, 1], level.position[1])


def test_position_is_a_vector_or_one_number() -> None:
    vector, scalar = Hierarchy(SMALL), Hierarchy(SMALL, position="scalar")
    assert vector.levels[1].position.shape == (1, 24) and scalar.levels[1].position.shape == (1, 1)


@pytest.mark.parametrize("top", TABLE5)
@pytest.mark.parametrize("position", ["scalar", "vector"])
def test_parameters_by_formula_and_the_sizes_of_table_5(top: int, position: str) -> None:
    shape = replace(PAPER, depths=(2, 2, top))
    with torch.device("meta"):
        count = sum(p.numel() for p in Hierarchy(shape, position=position).parameters())
    expected = 147 * 256 + 256 + 2 * 1024 + 1024 * 3 + 3
    for width, heads, depth in ((256, 3, 2), (512, 6, 2), (1024, 12, top)):
        inner = width // heads * heads
        expected += depth * (4 * inner * width + width + 8 * width**2 + 5 * width + 4 * width)
        expected += 1 if position == "scalar" else width
        expected += 0 if width == 1024 else 9 * width * 2 * width + 2 * width + 4 * width
    assert count == expected
    assert 0 < TABLE5[top] - 4 * count / 2**20 < 0.01 * TABLE5[top]  # its "millions" are MiB, activations included


@pytest.mark.parametrize("patch", [1, 7])
def test_flops_equal_a_count(patch: int) -> None:
    shape = replace(SMALL, patch=patch)
    model = Hierarchy(shape).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randn(1, 28, 28, 3))
    counted = counter.get_total_flops()
    if patch == 7:  # queries, keys and their products are not computed for one token
        for width, depth, blocks in zip(shape.widths, shape.depths, shape.blocks, strict=True):
            counted += depth * blocks**2 * (2 * 2 * width * width + 4 * width)
            padding = (3 * blocks) ** 2 - (3 * blocks - 2) ** 2  # products of taps with cells outside of a small map
            counted += 2 * padding * width * 2 * width if blocks > 1 else 0
    assert counted == shape.flops()


@pytest.mark.parametrize("block", [5, 6, 7, 8, 9, 10])
@pytest.mark.parametrize("depths", [(2, 2, 2), (1, 1, 4), (2, 2)])
@pytest.mark.parametrize("heads", [1, 2, 3, 4, 6])
def test_sizes_of_the_tables_run(block: int, depths: tuple[int, ...], heads: int) -> None:
    patch = block if len(depths) == 3 else 2 * block
    shape = replace(SMALL, size=4 * block, patch=patch, depths=depths, heads=heads)
    assert Hierarchy(shape)(torch.randn(2, 4 * block, 4 * block, 3)).shape == (2, 3)


@pytest.mark.parametrize("dim", [64, 96, 128, 192, 256])
def test_widths_run(dim: int) -> None:
    shape = replace(SMALL, dim=dim, depths=(1, 1, 1))
    with torch.no_grad():
        assert Hierarchy(shape)(torch.randn(1, 28, 28, 3)).shape == (1, 3)
    assert shape.widths == [dim, 2 * dim, 4 * dim]


def test_sizes_that_do_not_divide_are_named() -> None:
    assert "4 × 4 blocks" in sizes((2, 2, 8), 28, 3)
    assert "depths" in sizes((), 28, 7) and "depths" in sizes((1, -1), 28, 7)
    assert sizes((2, 2, 8), 28, 7) == ""
