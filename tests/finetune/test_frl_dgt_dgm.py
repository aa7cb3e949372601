"""FRL-DGT's displacement module: eq. 1-4 against literal loops, direction, gradient scale, learning a translation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.heads.blocks import SafeNorm
from finetune.heads.frl_dgt_dgm import (
    Displacements,
    dgm_flops,
    displacement_losses,
    move,
    normalised,
    scaled_gradient,
)
from finetune.options.frl_dgt import FrlDgtOptions


def textures(count: int, size: int, channels: int = 1, seed: int = 0, smooth: int = 3) -> torch.Tensor:
    """Smooth random pictures float32 [count channels size size] in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(count, channels, math.ceil(size / smooth), math.ceil(size / smooth), generator=generator)
    return F.interpolate(small, (size, size), mode="bicubic").clamp(0, 1)


def literal_move(frame: np.ndarray, d: np.ndarray, sign: int) -> np.ndarray:
    """G_s of eq. 1, pixel by pixel in float64: frame [M H W] read at p + sign·D(p), D [2 H W] in half images."""
    channels, height, width = frame.shape
    out = np.zeros_like(frame, dtype=np.float64)
    for y in range(height):
        for x in range(width):
            u = min(max(x + sign * d[0, y, x] * (width - 1) / 2, 0), width - 1)
            v = min(max(y + sign * d[1, y, x] * (height - 1) / 2, 0), height - 1)
            x0, y0 = min(int(u), width - 2), min(int(v), height - 2)
            a, b = u - x0, v - y0
            for m in range(channels):
                top = (1 - a) * frame[m, y0, x0] + a * frame[m, y0, x0 + 1]
                bottom = (1 - a) * frame[m, y0 + 1, x0] + a * frame[m, y0 + 1, x0 + 1]
                out[m, y, x] = (1 - b) * top + b * bottom
    return out


def literal_losses(onset: np.ndarray, apex: np.ndarray, d: np.ndarray, sign: int) -> tuple[float, float, float]:
    """Eq. 1-3 of one clip as they are printed: sums over x and y in float64."""
    _, h, w = d.shape
    rec = np.abs(literal_move(onset, d, sign) - apex).mean()
    size = sum(abs(d[0, y, x]) + abs(d[1, y, x]) for x in range(w) for y in range(h)) / (w * h)
    along = sum(np.abs(d[:, y, x] - d[:, y, x - 1]).sum() for y in range(h) for x in range(1, w)) / (h * (w - 1))
    across = sum(np.abs(d[:, y, x] - d[:, y - 1, x]).sum() for x in range(w) for y in range(1, h)) / (w * (h - 1))
    return rec, size, along + across


@pytest.mark.parametrize(("direction", "sign"), [("moves", -1), ("samples", 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_losses_are_equations_1_to_4(direction: str, sign: int, channels: int) -> None:
    generator = torch.Generator().manual_seed(1)
    onset, apex = textures(2, 11, channels, 0)[..., :9], textures(2, 11, channels, 1)[..., :9]
    d = 0.4 * torch.rand(2, 2, 11, 9, generator=generator) - 0.2
    options = FrlDgtOptions(direction=direction)  # type: ignore[arg-type]
    found = displacement_losses(onset, apex, d, options)
    rows = [literal_losses(*(x[i].double().numpy() for x in (onset, apex, d)), sign) for i in range(2)]
    rec, size, smooth = np.mean(rows, axis=0)
    assert found["reconstruction"].item() == pytest.approx(rec, rel=1e-5)
    assert found["size"].item() == pytest.approx(size, rel=1e-5)
    assert found["smoothness"].item() == pytest.approx(smooth, rel=1e-5)
    assert found["displacement"].item() == pytest.approx(10 * rec + 1 * size + 0.2 * smooth, rel=1e-5)


def test_the_weights_of_equation_4_are_options() -> None:
    onset, apex = textures(1, 8), textures(1, 8, seed=2)
    d = torch.rand(1, 2, 8, 8) * 0.1
    found = displacement_losses(onset, apex, d, FrlDgtOptions(rec_weight=3, norm_weight=5, smooth_weight=7))
    expected = 3 * found["reconstruction"] + 5 * found["size"] + 7 * found["smoothness"]
    assert found["displacement"].item() == pytest.approx(expected.item())


@given(st.integers(-3, 3), st.integers(-3, 3))
@settings(max_examples=20, deadline=None)
def test_a_pixel_is_moved_by_d(dx: int, dy: int) -> None:
    frame = torch.zeros(1, 1, 15, 15)
    frame[0, 0, 7, 6] = 1
    d = torch.tensor([dx, dy], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 15, 15) / 7  # 7 px: half of 14
    moved = move(frame, d)
    assert moved[0, 0, 7 + dy, 6 + dx].item() == pytest.approx(1, abs=1e-6)
    assert moved.sum().item() == pytest.approx(1, abs=1e-6)
    assert move(frame, d, "samples")[0, 0, 7 - dy, 6 - dx].item() == pytest.approx(1, abs=1e-6)


@given(st.integers(0, 10_000), st.sampled_from(["max", "instance", "none"]))
@settings(max_examples=20, deadline=None)
def test_normalised_displacements_stay_in_the_unit_range(seed: int, how: str) -> None:
    raw = torch.randn(3, 2, 6, 5, generator=torch.Generator().manual_seed(seed)) * 10 ** (seed % 7 - 3)
    found = normalised(raw, how)
    assert found.abs().max() <= 1
    weak = normalised(raw * 1e-2, how)
    if how == "none":
        assert weak.abs().max() < found.abs().max() or found.abs().max() == 1
    else:
        assert torch.allclose(weak, found, atol=1e-3)  # strength is removed, shape is kept


def test_normalising_by_the_largest_component_is_per_clip_and_keeps_still_parts_still() -> None:
    raw = torch.zeros(2, 2, 4, 4)
    raw[0, 0, 1, 1], raw[1, 1, 2, 2] = 0.5, -40.0
    found = normalised(raw, "max")
    assert found[0, 0, 1, 1] == 1 and found[1, 1, 2, 2] == -1 and (found != 0).sum() == 2
    assert not normalised(torch.zeros(1, 2, 4, 4), "max").any()


@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize("size", [16, 27, 33])
def test_shapes_and_range_of_the_module(skips: bool, size: int) -> None:
    options = FrlDgtOptions(dgm_widths=[4, 6, 8], dgm_skips=skips, reconstruct="normalised")
    given_out, judged = Displacements(1, options)(textures(3, size), textures(3, size, seed=1))
    assert given_out.shape == judged.shape == (3, 2, size, size)
    assert given_out.abs().amax(dim=(1, 2, 3)).allclose(torch.ones(3))
    assert torch.equal(judged, options.alpha * given_out)
    raw = Displacements(1, FrlDgtOptions(dgm_widths=[4, 6, 8], reconstruct="raw", dgm_input="pair"))
    shown, seen = raw(textures(3, size), textures(3, size, seed=1))
    assert seen.abs().max() < options.alpha and not torch.allclose(seen, options.alpha * shown)


def test_evaluation_takes_clips_one_by_one() -> None:
    dgm = Displacements(1, FrlDgtOptions(dgm_widths=[4, 8]))
    onset, apex = textures(4, 16), textures(4, 16, seed=1)
    dgm(onset, apex)
    dgm.eval()
    together = dgm(onset, apex)[0]
    alone = torch.cat([dgm(onset[i : i + 1], apex[i : i + 1])[0] for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-4)


def test_batch_normalisation_of_a_single_value_uses_running_statistics() -> None:
    norm = SafeNorm(3).train()
    norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))  # type: ignore[union-attr,operator]
    x = torch.tensor([[1.0, 2.0, 4.0]])
    assert torch.allclose(norm(x), torch.tensor([[0.0, 0.0, 1.0]]), atol=1e-4)
    two = torch.tensor([[0.0, 1.0, 2.0], [2.0, 5.0, 2.0]])
    assert torch.allclose(norm(two).mean(0), torch.zeros(3), atol=1e-6)  # several values: the batch's own


def test_the_classifiers_gradient_is_scaled_and_no_other() -> None:
    options = FrlDgtOptions(dgm_widths=[4, 8])
    dgm = Displacements(1, options).double()
    onset, apex = textures(2, 16).double(), textures(2, 16, seed=1).double()
    weights = torch.randn(2, 2, 16, 16, dtype=torch.float64)

    def gradient(factor: float) -> torch.Tensor:
        dgm.zero_grad()
        (weights * scaled_gradient(dgm(onset, apex)[0], factor)).sum().backward()
        return dgm.out.weight.grad.clone()  # type: ignore[union-attr]

    plain, scaled = gradient(1.0), gradient(1e-6)
    assert plain.abs().max() > 0
    assert torch.allclose(scaled, 1e-6 * plain, rtol=1e-9, atol=0)
    x = torch.randn(5)
    assert torch.equal(scaled_gradient(x, 1e-6), x)  # forwards nothing changes, not even by rounding


def test_the_first_layer_sees_the_pair_or_the_amplified_difference() -> None:
    seen: dict[str, torch.Tensor] = {}
    onset, apex = textures(2, 8), textures(2, 8, seed=1)
    for name in ("pair", "difference"):
        dgm = Displacements(1, FrlDgtOptions(dgm_widths=[4], dgm_input=name))  # type: ignore[arg-type]
        dgm.down[0].register_forward_pre_hook(lambda _, x, name=name: seen.update({name: x[0]}))
        dgm(onset, apex)
    assert torch.allclose(seen["pair"], torch.cat([4 * onset - 2, 4 * apex - 2], dim=1), atol=1e-5)
    assert torch.allclose(seen["difference"], torch.cat([4 * onset - 2, 40 * (apex - onset)], dim=1), atol=1e-5)


@pytest.mark.parametrize("shift", [(3, 0), (-2, -3)])
def test_the_dgm_learns_a_known_translation(shift: tuple[int, int]) -> None:
    """α allows 0.2 · 15.5 = 3.1 px of 32; the onset's content moves by `shift` (x right, y down)."""
    torch.manual_seed(0)
    options = FrlDgtOptions(dgm_widths=[8, 16], norm_weight=0.0)
    dgm = Displacements(1, options)
    adam = torch.optim.Adam(dgm.parameters(), options.dgm_lr)
    dx, dy = shift
    for step in range(40):
        large = textures(8, 40, seed=step)
        onset, apex = large[..., 4:36, 4:36], large[..., 4 - dy : 36 - dy, 4 - dx : 36 - dx]
        loss = displacement_losses(onset, apex, dgm(onset, apex)[1], options)["displacement"]
        adam.zero_grad()
        loss.backward()
        adam.step()
    large = textures(8, 40, seed=999)
    onset, apex = large[..., 4:36, 4:36], large[..., 4 - dy : 36 - dy, 4 - dx : 36 - dx]
    mean = dgm.eval()(onset, apex)[1].mean(dim=(0, 2, 3)) * 15.5  # px
    assert torch.sign(mean[0]) == np.sign(dx) or abs(mean[0]) < 0.7
    assert torch.sign(mean[1]) == np.sign(dy) or abs(mean[1]) < 0.7
    cosine = F.cosine_similarity(mean, torch.tensor([dx, dy], dtype=torch.float32), dim=0)
    assert cosine > 0.9 and mean.norm() > 1.5


def test_flops_by_formula_equal_those_of_the_convolutions() -> None:
    for skips in (False, True):
        options = FrlDgtOptions(dgm_widths=[4, 6, 8], dgm_skips=skips)
        dgm, total = Displacements(1, options), [0.0]

        def count(layer: torch.nn.Module, _: object, out: torch.Tensor, total: list[float] = total) -> None:
            weight = layer.weight  # type: ignore[attr-defined]
            total[0] += 2.0 * weight[0].numel() * weight.shape[0] * out.shape[-1] * out.shape[-2]  # type: ignore

        for layer in dgm.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.register_forward_hook(count)  # type: ignore[arg-type]
        dgm(textures(2, 27), textures(2, 27, seed=1))
        assert dgm_flops(27, 1, [4, 6, 8], skips) == pytest.approx(total[0])
