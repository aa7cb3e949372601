"""SLSTT's input and networks against literal computations of its equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from finetune.heads.slstt_network import Temporal, spatial, spatial_flops
from finetune.heads.slstt_pictures import Pictures, resized, with_length
from finetune.motion import drawing
from finetune.options.slstt import SlsttOptions

SMALL = SlsttOptions(size=16, patch=8, dim=12, depth=2, heads=3, hidden=5, layers=3, classifier=4)


def _values(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: p.detach().double().numpy() for name, p in module.named_parameters()}


def _random(module: torch.nn.Module) -> None:
    """Weights of a size at which every part matters."""
    g = torch.Generator().manual_seed(0)
    for p in module.parameters():
        p.data.copy_(0.5 * torch.randn(p.shape, generator=g))


def _norm(x: np.ndarray, w: dict[str, np.ndarray], name: str) -> np.ndarray:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * w[f"{name}.weight"] + w[f"{name}.bias"]


def _linear(x: np.ndarray, w: dict[str, np.ndarray], name: str) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _gelu(x: np.ndarray, activation: str) -> np.ndarray:
    if activation == "gelu-tanh":
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))


def _layer(z: np.ndarray, w: dict[str, np.ndarray], prefix: str, heads: int, activation: str) -> np.ndarray:
    """Eq. 2-8, head by head and query by query: z [1+N D]."""
    q, k, v = np.split(_linear(_norm(z, w, f"{prefix}.norm1"), w, f"{prefix}.attn.qkv"), 3, axis=1)  # eq. 4-6
    found, d = np.zeros_like(q), q.shape[1] // heads
    for head in range(heads):
        span = slice(head * d, (head + 1) * d)
        for i in range(len(z)):
            scores = np.exp([q[i, span] @ k[j, span] / np.sqrt(d) for j in range(len(z))])  # eq. 7
            found[i, span] = (scores / scores.sum()) @ v[:, span]
    z = z + _linear(found, w, f"{prefix}.attn.proj")  # eq. 8, 2
    hidden = _gelu(_linear(_norm(z, w, f"{prefix}.norm2"), w, f"{prefix}.mlp.fc1"), activation)
    return z + _linear(hidden, w, f"{prefix}.mlp.fc2")  # eq. 3


@pytest.mark.parametrize("activation", ["gelu", "gelu-tanh"])
def test_the_spatial_encoder_equals_equations_1_to_8(activation: str) -> None:
    options = SlsttOptions(**{**vars(SMALL), "activation": activation})
    vit = spatial(options).eval()
    _random(vit)
    pictures = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    w = _values(vit)
    for picture, found in zip(pictures.double().numpy(), vit(pictures).detach().numpy(), strict=True):
        kernel = w["patch_embed.proj.weight"].reshape(12, -1)
        corners = [(row, column) for row in (0, 8) for column in (0, 8)]
        patches = [kernel @ picture[:, r : r + 8, c : c + 8].ravel() + w["patch_embed.proj.bias"] for r, c in corners]
        z = np.stack([w["cls_token"][0, 0], *patches]) + w["pos_embed"][0]  # eq. 1
        for block in range(2):
            z = _layer(z, w, f"blocks.{block}", 3, activation)
        assert np.allclose(found, _norm(z, w, "norm")[0], rtol=1e-4, atol=1e-5)


def test_the_two_gelus_differ() -> None:
    exact, tanh = spatial(SMALL), spatial(SlsttOptions(**{**vars(SMALL), "activation": "gelu-tanh"}))
    _random(exact)
    tanh.load_state_dict(exact.state_dict())
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(exact(x), tanh(x), atol=1e-6)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_the_lstm_equals_equations_9_to_14() -> None:
    temporal = Temporal(12, 3, SMALL).eval()
    _random(temporal)
    w, clips = _values(temporal), torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(1))
    for clip, found in zip(clips.double().numpy(), temporal(clips).detach().numpy(), strict=True):
        below = list(clip)
        for layer in range(3):
            joined = np.concatenate([w[f"lstm.weight_hh_l{layer}"], w[f"lstm.weight_ih_l{layer}"]], axis=1)
            bias = w[f"lstm.bias_hh_l{layer}"] + w[f"lstm.bias_ih_l{layer}"]
            z, c, above = np.zeros(5), np.zeros(5), []
            for x in below:
                i, f, cell, o = np.split(joined @ np.concatenate([z, x]) + bias, 4)  # [Z_l^{t-1}, Z_{l-1}^t]
                c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(cell)  # eq. 9, 10, 12, 13
                z = _sigmoid(o) * np.tanh(c)  # eq. 11, 14
                above.append(z)
            below = above
        hidden = np.maximum(0, _linear(below[-1], w, "fc1.0"))
        assert np.allclose(found, _linear(hidden, w, "fc2"), atol=1e-5)


def test_the_mean_equals_equation_17_and_two_linear_layers() -> None:
    temporal = Temporal(12, 3, SlsttOptions(**{**vars(SMALL), "aggregation": "mean"})).eval()
    _random(temporal)
    w, clips = _values(temporal), torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(1))
    for clip, found in zip(clips.double().numpy(), temporal(clips).detach().numpy(), strict=True):
        z = np.zeros(12)
        for t, x in enumerate(clip, 1):
            z = (t - 1) / t * z + x / t
        assert np.allclose(found, _linear(np.maximum(0, _linear(z, w, "fc1.0")), w, "fc2"), atol=1e-5)


def test_the_lstm_sees_the_order_of_frames_and_the_mean_does_not() -> None:
    clips = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(1))
    for kind, same in (("mean", True), ("lstm", False)):
        temporal = Temporal(12, 3, SlsttOptions(**{**vars(SMALL), "aggregation": kind})).eval()
        _random(temporal)
        assert torch.allclose(temporal(clips), temporal(clips.flip(1)), atol=1e-5) is same


def test_formulas_count_what_runs() -> None:
    with torch.device("meta"):
        vit, temporal = spatial(SlsttOptions(depth=2)), Temporal(768, 5, SlsttOptions())
        counter = FlopCounterMode(display=False)
        with counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            vit(torch.empty(1, 3, 384, 384))
    assert counter.get_total_flops() == pytest.approx(spatial_flops(SlsttOptions(depth=2)), rel=0.01)
    parameters = sum(p.numel() for name, p in temporal.named_parameters() if "weight" in name)
    ends = 512 * 256 + 256 * 5
    assert temporal.flops(11) == 2 * (11 * (parameters - ends) + ends)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    strength=st.sampled_from([0.0, 0.01, 1.0, 30.0]),
    scale=st.sampled_from([None, 0.5, 8.0]),
    whole=st.booleans(),
    side=st.sampled_from([9, 64]),
)
def test_the_picture_is_motion_drawing_hsv(
    seed: int, strength: float, scale: float | None, whole: bool, side: int
) -> None:
    flow = strength * np.random.default_rng(seed).standard_normal((1, 2, side, side, 2))
    flow = (np.round(flow) if whole else flow).astype(np.float32)
    found = Pictures("hsv", scale or 0.0, side).hsv(torch.from_numpy(flow)).numpy().astype(int)
    difference = np.abs(found - drawing.hsv(flow, scale))
    assert (difference > 1).mean() < 1e-3  # another rounding of an angle that lies between two hues
    assert difference.max(initial=0) <= 9
    if side == 64:  # below, OpenCV itself rounds a conversion by 1 otherwise
        assert (difference > 0).mean() < 1e-3


def test_hsv_without_a_scale_loses_the_strength_and_raw_keeps_it() -> None:
    flow = torch.randn(2, 8, 8, 2, generator=torch.Generator().manual_seed(0))
    drawn, fixed, raw = Pictures("hsv", 0.0, 8), Pictures("hsv", 4.0, 8), Pictures("raw", 2.0, 8)
    assert (drawn.hsv(flow).int() - drawn.hsv(8 * flow)).abs().max() <= 2
    assert (fixed.hsv(flow).int() - fixed.hsv(2 * flow)).abs().max() > 20
    assert torch.allclose(2 * raw(flow), raw(2 * flow)) and torch.allclose(2 * raw(flow)[:, :2], flow.movedim(-1, 1))


def test_pictures_are_scaled_as_imagenets() -> None:
    flow = torch.randn(2, 8, 8, 2, generator=torch.Generator().manual_seed(0))
    pictures = Pictures("hsv", 0.0, 8)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (pictures.hsv(flow).float() / 255 - mean) / deviation
    assert torch.allclose(pictures(flow), expected.movedim(-1, 1), atol=1e-6)


def test_raw_is_standardised_by_what_it_was_fitted_on() -> None:
    flow = 3 + torch.randn(4, 5, 8, 8, 2, generator=torch.Generator().manual_seed(0))
    pictures = Pictures("raw", 0.0, 8)
    pictures.fit(pictures.drawn(clip) for clip in flow)
    seen = pictures(flow.flatten(0, 1)).double()
    assert torch.allclose(seen.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-5)
    assert torch.allclose(seen.std((0, 2, 3), correction=0), torch.ones(3, dtype=torch.float64), atol=1e-4)
    still = torch.zeros(2, 5, 8, 8, 2)
    pictures.fit(pictures.drawn(clip) for clip in still)
    assert torch.equal(pictures(still[0]), torch.zeros(5, 3, 8, 8))


def test_length_and_resizing() -> None:
    assert torch.allclose(with_length(torch.tensor([3.0, -4.0])), torch.tensor([3.0, -4.0, 5.0]))
    x = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    assert resized(x, 12) is x and resized(x, 30).shape == (1, 3, 30, 30)
    spot = torch.zeros(1, 1, 16, 16)
    spot[..., 7, 7] = 16.0
    assert resized(spot, 4).sum() == pytest.approx(1.0, abs=0.15)  # averaged, not skipped


@pytest.mark.parametrize("drawing", ["raw", "hsv"])
def test_steady_takes_off_the_shift_of_the_whole_head(drawing: str) -> None:
    flow = torch.randn(3, 9, 9, 2, generator=torch.Generator().manual_seed(0))
    moved = flow + torch.tensor([5.0, -7.0])
    pictures = Pictures(drawing, 3.0, 9, steady=True)
    assert torch.allclose(pictures(flow), pictures(moved), atol=0.02)
    assert not torch.allclose(Pictures(drawing, 3.0, 9)(flow), Pictures(drawing, 3.0, 9)(moved), atol=0.02)
    if drawing == "raw":
        expected = flow.numpy() - np.median(flow.numpy().reshape(3, 81, 2), axis=1)[:, None, None]
        assert np.allclose(3 * pictures(flow)[:, :2].movedim(1, -1).numpy(), expected, atol=1e-5)
