"""Diagonal micro-attention against an explicit float64 map."""

import pytest
import torch
from torch import Tensor

from pretrain.dma import DMA, DiagonalAttention, change_map


def explicit_paper(
    reference: Tensor, swapped: Tensor, q: torch.nn.Linear, k: torch.nn.Linear, scale: float
) -> Tensor:
    """Eq. 8 in the paper's letters: A(i,j) = exp(q_i·k_j) / Σ_i' exp(q_i'·k_j), q from I(t+δ), k from I(t/s)."""
    logits = q(reference) @ k(swapped).transpose(1, 2) * scale
    return logits.softmax(dim=1).diagonal(dim1=1, dim2=2)


def _tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("count, dim", [(16, 8), (144, 128), (784, 64)])
def test_values_and_gradients_equal_the_explicit_float64_diagonal(count: int, dim: int) -> None:
    q, k = _tokens(2, count, dim), _tokens(2, count, dim, seed=1)
    weight = _tokens(2, count, seed=2)
    scale = dim**-0.5
    q64, k64 = q.clone().requires_grad_(), k.clone().requires_grad_()
    expected = (q64 @ k64.transpose(1, 2) * scale).softmax(-1).diagonal(dim1=1, dim2=2)
    (expected * weight).sum().backward()
    q32, k32 = q.float().requires_grad_(), k.float().requires_grad_()
    diag = DiagonalAttention.apply(q32, k32, scale)
    (diag * weight.float()).sum().backward()
    assert diag.dtype == torch.float32
    assert (diag.double() - expected).abs().max() < 1e-6
    assert (q32.grad.double() - q64.grad).abs().max() < 1e-5
    assert (k32.grad.double() - k64.grad).abs().max() < 1e-5


def test_gradcheck_in_float64() -> None:
    q, k = _tokens(1, 5, 3).requires_grad_(), _tokens(1, 5, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: DiagonalAttention.apply(a, b, 0.7), (q, k))


@pytest.mark.parametrize("scaled", [False, True])
def test_equals_the_papers_equation_with_the_letters_exchanged(scaled: bool) -> None:
    dma = DMA(8, scaled=scaled, projection=False).double()
    swapped, reference = _tokens(2, 9, 8), _tokens(2, 9, 8, seed=1)
    features, diag = dma(swapped, reference)
    expected = explicit_paper(reference, swapped, q=dma.to_k, k=dma.to_q, scale=8**-0.5 if scaled else 1.0)
    assert torch.allclose(diag, expected, atol=1e-12)
    assert torch.allclose(features, expected[..., None] * dma.to_v(swapped), atol=1e-12)
    trap = (dma.to_q(reference) @ dma.to_k(swapped).transpose(1, 2)).softmax(-1).diagonal(dim1=1, dim2=2)
    assert (trap - expected).abs().max() > 1e-2, "queries from the reference over swapped keys is another function"


def test_interest_weighs_the_features_and_not_the_diagonal() -> None:
    dma = DMA(8, projection=False)
    swapped, reference = _tokens(2, 9, 8).float(), _tokens(2, 9, 8, seed=1).float()
    interest = torch.rand(2, 9)
    features, diag = dma(swapped, reference)
    weighted, same = dma(swapped, reference, interest)
    assert torch.equal(diag, same)
    assert torch.allclose(weighted, features * interest[..., None], atol=1e-6)


def test_bfloat16_inputs_keep_a_float32_diagonal() -> None:
    dma = DMA(64).bfloat16()
    x = _tokens(1, 49, 64).bfloat16()
    features, diag = dma(x, x)
    assert features.dtype == torch.bfloat16 and diag.dtype == torch.float32


def test_full_mode_is_cross_attention() -> None:
    dma = DMA(8, mode="full", projection=False).double()
    swapped, reference = _tokens(1, 6, 8), _tokens(1, 6, 8, seed=1)
    features, diag = dma(swapped, reference)
    attention = dma.map(swapped, reference)
    assert torch.allclose(attention.sum(-1), torch.ones(1, 6, dtype=torch.float64))
    assert torch.allclose(features, attention @ dma.to_v(swapped))
    assert torch.equal(diag, attention.diagonal(dim1=1, dim2=2))


def test_change_map_is_high_where_the_diagonal_is_low() -> None:
    diag = torch.tensor([[0.8, 0.2, 0.4]])
    assert torch.allclose(change_map(diag), torch.tensor([[0.0, 0.75, 0.5]]))
