"""Motion magnification, measured against pictures drawn with the magnified motion itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.motion import magnify as module
from finetune.motion.flow import preset
from finetune.motion.magnify import MagnifyConfig, magnified, magnify, warp
from shards.errors import FlickerError, UsageError
from tests.finetune import warps

SIZE = 128
EDGE = 12


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.dstack([grey] * 3)


class Case:
    """A known warp of a texture, and the true picture for any factor."""

    def __init__(self, texture: warps.Texture, field: warps.Field):
        self.texture, self.field = texture, field
        self.pair = warps.pair(texture, SIZE, field)
        self.truths = {factor: self._draw(factor) for factor in np.arange(0, 4.51, 0.5)}

    def _draw(self, factor: float) -> np.ndarray:
        """What the texture looks like after `factor` times the motion, drawn and not warped: uint8 [S S]."""
        return self.texture.draw(warps.backward(self.field, warps.grid(SIZE), factor))

    def shown(self, image: np.ndarray) -> float:
        """By how much of the true motion `image` has moved: the factor whose true picture is nearest to it."""
        factors = list(self.truths)
        errors = [difference(image, truth) for truth in self.truths.values()]
        best = int(np.clip(np.argmin(errors), 1, len(factors) - 2))
        low, middle, high = errors[best - 1 : best + 2]  # a parabola through the three nearest
        return float(factors[best] + 0.5 * (low - high) / (low - 2 * middle + high) / 2)


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared difference without the edge."""
    inner = (slice(EDGE, -EDGE),) * 2
    return float(np.square(first[inner].astype(float) - second[inner]).mean())


@pytest.fixture(scope="module")
def case() -> Case:
    """A face that moves by up to 1 px."""
    return Case(warps.face(SIZE, 1), warps.local(SIZE, 1.0, 11))


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0, 3.0])
def test_the_true_flow_gives_the_true_picture(case: Case, factor: float) -> None:
    """The redrawing alone: with exact flow, what differs from the truth is interpolation."""
    found, certain = warp(case.pair.second, case.pair.flow.astype(np.float32), factor)
    assert certain.all()
    truth = case.truths[factor]
    assert difference(found, truth) < 0.25 * difference(case.pair.second, truth)
    assert 10 * np.log10(255**2 / difference(found, truth)) > 45  # dB
    assert case.shown(found) == pytest.approx(factor, abs=0.05)


@pytest.mark.parametrize("name", ["slstt", "fine", "dis"])
@pytest.mark.parametrize("factor", [2.0, 3.0])
def test_measured_flow_magnifies_by_the_factor(case: Case, name: str, factor: float) -> None:
    first, second = rgb(case.pair.first), rgb(case.pair.second)
    found = magnify(first, second, factor, MagnifyConfig(flow=preset(name)))
    assert found.shape == (SIZE, SIZE, 3)
    assert found.dtype == np.uint8
    assert case.shown(found[..., 0]) == pytest.approx(factor, rel=0.1)


def test_factor_one_is_the_frame_itself(case: Case) -> None:
    first, second = rgb(case.pair.first), rgb(case.pair.second)
    np.testing.assert_array_equal(magnify(first, second, 1.0), second)


def test_a_still_pair_stays_as_it_is(case: Case) -> None:
    """Away from the edges, where OpenCV's Farnebäck invents motion; everywhere with the preset `fine`."""
    still = rgb(case.pair.first)
    default, fine = magnify(still, still, 5.0), magnify(still, still, 5.0, MagnifyConfig(flow=preset("fine")))
    np.testing.assert_array_equal(default[24:-24, 24:-24], still[24:-24, 24:-24])
    assert np.abs(fine.astype(int) - still).max() <= 1


def test_edges_repeat_and_keep_the_size() -> None:
    """Everything moves 2 px right; 3 times that uncovers 4 more columns, which show the left-most one."""
    picture = np.tile(np.arange(0, 240, 6, dtype=np.uint8), (20, 1))  # [20 40]
    flow = np.zeros((20, 40, 2), np.float32)
    flow[..., 0] = 2
    found, certain = warp(picture, flow, 3.0)
    assert certain.all()
    np.testing.assert_array_equal(found[:, :4], picture[:, :1].repeat(4, axis=1))
    np.testing.assert_array_equal(found[:, 4:], picture[:, :-4])


def test_folds_are_counted_and_leave_no_holes() -> None:
    """A field that falls by 0.8 px per px folds when doubled: where three points meet, none is certain."""
    picture = np.full((40, 60), 200, np.uint8)
    picture[:, ::2] = 180
    x = np.arange(60.0)
    flow = np.zeros((40, 60, 2), np.float32)
    flow[..., 0] = np.where(np.abs(x - 30) < 8, -0.8 * (x - 30), -6.4 * np.sign(x - 30))
    found, certain = warp(picture, flow, 2.0)
    assert found.min() >= 170
    lands = x + 2 * flow[0, :, 0]
    meet = [np.count_nonzero(np.diff(np.sign(lands - at)) != 0) > 1 for at in x]
    assert any(meet)
    for at in range(60):  # up to a pixel at the ends of the fold
        if all(meet[max(0, at - 1) : at + 2]):
            assert not certain[:, at].any()
        if not any(meet[max(0, at - 2) : at + 3]):
            assert certain[:, at].all()
    assert warp(picture, flow, 0.5)[1].all()


def test_tears_are_filled_by_stretching() -> None:
    """The halves part: what lay at the seam covers the gap, and no pixel is left empty."""
    picture = np.full((20, 60), 90, np.uint8)
    picture[:, 30:] = 210
    flow = np.zeros((20, 60, 2), np.float32)
    flow[..., 0] = np.where(np.arange(60) < 30, -2, 2)
    found, _ = warp(picture, flow, 3.0)
    assert set(np.unique(found[:, :22])) == {90}
    assert set(np.unique(found[:, 38:])) == {210}
    assert found.min() >= 70
    assert found.max() <= 230


def test_share_of_guesses_is_reported(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = rgb(case.pair.first), rgb(case.pair.second)
    assert magnified(first, second, 2.0).uncertain < 0.001
    torn = np.zeros((SIZE, SIZE, 2), np.float32)
    torn[:, : SIZE // 2, 0] = 9
    monkeypatch.setattr(module, "compute", lambda *_: torn)
    assert magnified(first, second, 2.0).uncertain > 0.01


# -- networks of the user's


class Blend(torch.nn.Module):
    """A stand-in for MagNet: reference + factor × difference."""

    def forward(self, reference: torch.Tensor, other: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        return reference + factor.reshape(-1, 1, 1, 1) * (other - reference)


class Small(torch.nn.Module):
    def forward(self, reference: torch.Tensor, other: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        return other[:, :, ::2]


class Unknown(torch.nn.Module):
    def forward(self, reference: torch.Tensor, other: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        return other / 0 * 0


class TwoInputs(torch.nn.Module):
    def forward(self, reference: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return other


def saved(network: torch.nn.Module, path: Path) -> MagnifyConfig:
    torch.jit.script(network).save(str(path))
    return MagnifyConfig(f"torchscript:{path}")


def frames() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    first = rng.integers(80, 120, (10, 14, 3), dtype=np.uint8)
    return first, first + rng.integers(0, 30, first.shape, dtype=np.uint8)


def test_a_network_is_called_with_frames_and_factor(tmp_path: Path) -> None:
    first, second = frames()
    found = magnify(first, second, 3.0, saved(Blend(), tmp_path / "blend.pt"))
    np.testing.assert_array_equal(found, first + 3 * (second - first))


@pytest.mark.parametrize(
    ("network", "message"),
    [(Small(), r"returned \[1, 3, 5, 14\]"), (Unknown(), "not finite"), (TwoInputs(), "failed on frames")],
)
def test_faults_of_a_network_name_its_file(tmp_path: Path, network: torch.nn.Module, message: str) -> None:
    config = saved(network, tmp_path / f"{type(network).__name__}.pt")
    with pytest.raises(FlickerError, match=message) as caught:
        magnify(*frames(), 2.0, config)
    assert type(network).__name__ in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_network(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"not a network")
    with pytest.raises(FlickerError, match=r"weights\.pth is not a TorchScript file"):
        magnify(*frames(), 2.0, MagnifyConfig(f"torchscript:{tmp_path / 'weights.pth'}"))
    with pytest.raises(FlickerError, match="no file"):
        magnify(*frames(), 2.0, MagnifyConfig(f"torchscript:{tmp_path / 'absent.pt'}"))


def test_keys_follow_parameters_and_the_networks_content(tmp_path: Path) -> None:
    keys = {MagnifyConfig().key(), MagnifyConfig(flow=preset("fine")).key(), MagnifyConfig(iterations=5).key()}
    path = tmp_path / "net.pt"
    for content in (b"one", b"two"):
        path.write_bytes(content)
        keys.add(MagnifyConfig(f"torchscript:{path}").key())
    assert len(keys) == 5


@pytest.mark.parametrize("factor", [-1.0, float("nan"), float("inf")])
def test_factors_are_numbers_of_zero_or_more(factor: float) -> None:
    with pytest.raises(UsageError, match="factor of 0 or more"):
        magnify(*frames(), factor)


def test_wrong_configs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="estimator 'magnet'"):
        MagnifyConfig("magnet")
    with pytest.raises(UsageError, match="0 iterations"):
        MagnifyConfig(iterations=0)
    first, second = frames()
    with pytest.raises(FlickerError, match="one size"):
        magnify(first, second[:-1], 2.0, saved(Blend(), tmp_path / "blend.pt"))
