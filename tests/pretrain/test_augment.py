"""Augmentation against a literal implementation, one sample and one pixel at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pretrain.architecture import ModelConfig, resolve
from pretrain.augment import AugmentConfig, augment
from pretrain.batch import assemble
from pretrain.encoder import IMAGE_MEAN, IMAGE_STD
from pretrain.random import uniform
from pretrain.swap import SwapConfig
from shards.errors import UsageError
from tests.pretrain.waiting import waits

OFF = AugmentConfig(flip=False)
FULL = AugmentConfig(
    crop_area=(0.3, 1.0), crop_aspect=(0.75, 4 / 3), brightness=0.4, contrast=0.4, saturation=0.4, gamma=0.3, blur=2.0
)
WORD = 2**64


def _hash(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) % WORD
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % WORD
    return x ^ (x >> 31)


def _draws(seed: int, stream: int, count: int) -> list[float]:
    """U[0, 1) numbers in Python integers."""
    base = _hash((seed + stream * 0x632BE59BD9B4E019) % WORD)
    return [(_hash((base + i * 0x9E3779B97F4A7C15) % WORD) >> 40) / 2**24 for i in range(count)]


def _box(seed: int, config: AugmentConfig, second: int) -> tuple[float, float, float, float]:
    """Top, left, height, width of a crop, shares of the frame."""
    area_draw, aspect_draw, top, left = _draws(seed, 4 + second, 4)
    area = config.crop_area[0] + area_draw * (config.crop_area[1] - config.crop_area[0])
    low, high = max(config.crop_aspect[0], area), min(config.crop_aspect[1], 1 / area)
    aspect = low * (high / low) ** aspect_draw
    height, width = math.sqrt(area / aspect), math.sqrt(area * aspect)
    return top * (1 - height), left * (1 - width), height, width


def _line(values: np.ndarray, start: float, length: float, size: int) -> np.ndarray:
    """[n ...] resized along its first axis to `size`: each output is a weighted mean of what it covers."""
    step, result = length / size, []
    for i in range(size):
        centre = start + (i + 0.5) * step
        weights = [max(0.0, 1 - abs(j + 0.5 - centre) / max(step, 1)) for j in range(len(values))]
        result.append(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
    return np.array(result)


def _blur(values: np.ndarray, sigma: float) -> np.ndarray:
    """[n ...] blurred along its first axis."""
    result = []
    for i in range(len(values)):
        weights = [math.exp(-((i - j) ** 2) / (2 * sigma**2)) for j in range(len(values))]
        result.append(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
    return np.array(result)


def _grey(x: np.ndarray) -> np.ndarray:
    return 0.299 * x[..., 0:1] + 0.587 * x[..., 1:2] + 0.114 * x[..., 2:3]


def _literal(pair: np.ndarray, seed: int, config: AugmentConfig, size: int) -> np.ndarray:
    """One pair, uint8 [2 H W 3] -> float64 [2 3 S S]."""
    shape, colour = 16 * (config.independent == "all"), 16 * (config.independent != "none")
    shaped = [_shaped(pair[i] / 255, seed, config, size, shape * i, colour * i) for i in range(2)]
    means = [float(_grey(x).mean()) for x in shaped]
    done = []
    for i, x in enumerate(shaped):
        strengths = (config.brightness, config.contrast, config.saturation)
        draws = _draws(seed, 5 + colour * i, 3)
        bright, contrast, saturation = (1 + s * (2 * draw - 1) for s, draw in zip(strengths, draws, strict=True))
        pivot = bright * (means[i] if colour else sum(means) / 2)
        x = (x * bright - pivot) * contrast + pivot
        done.append(_grey(x) + saturation * (x - _grey(x)))
    return np.clip(np.stack(done), 0, 1).transpose(0, 3, 1, 2)


def _shaped(x: np.ndarray, seed: int, config: AugmentConfig, size: int, shape: int, colour: int) -> np.ndarray:
    """One frame [H W 3] in 0..1, cropped, blurred, mirrored and with its gamma; `shape`, `colour`: stream offsets."""
    top, left, height, width = _box(seed, config, shape)
    rows, columns = x.shape[:2]
    x = _line(x, top * rows, height * rows, size)
    x = _line(x.swapaxes(0, 1), left * columns, width * columns, size).swapaxes(0, 1)
    draws = _draws(seed, 5 + colour, 5)
    if config.blur:
        sigma = max(draws[4] * config.blur, 0.01)
        x = _blur(_blur(x, sigma).swapaxes(0, 1), sigma).swapaxes(0, 1)
    if config.flip and _draws(seed, 3 + shape, 1)[0] < 0.5:
        x = x[:, ::-1]
    return x ** (1 + config.gamma) ** (2 * draws[3] - 1)


def _frames(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 2, height, width, 3), dtype=torch.uint8, generator=generator)


SHARES = st.floats(0, 1, width=32)


@given(
    height=st.integers(3, 24),
    width=st.integers(3, 24),
    size=st.integers(2, 16),
    areas=st.tuples(st.floats(0.0625, 1, width=32), st.floats(0.0625, 1, width=32)).map(sorted),
    aspect=st.floats(1, 3, width=32),
    strengths=st.tuples(SHARES, SHARES, SHARES, SHARES),
    blur=st.sampled_from([0.0, 0.5, 3.0]),
    flip=st.booleans(),
    independent=st.sampled_from(["none", "photometric", "all"]),
    seed=st.integers(0, 2**63 - 1),
)
@settings(max_examples=40, deadline=None)
def test_equals_the_literal_implementation(
    height, width, size, areas, aspect, strengths, blur, flip, independent, seed
) -> None:
    brightness, contrast, saturation, gamma = strengths
    config = AugmentConfig(
        flip, tuple(areas), (1 / aspect, aspect), brightness, contrast, saturation, gamma, blur, independent
    )
    seeds = [seed, seed ^ 12345]
    frames = _frames(2, height, width, seed % 1000)
    result = augment(frames, torch.tensor(seeds), config, size).double().numpy()
    literal = np.stack([_literal(pair, one, config, size) for pair, one in zip(frames.numpy(), seeds, strict=True)])
    assert result.shape == (2, 2, 3, size, size)
    assert np.abs(result - literal).max() < 2e-4  # a step of 8 bits is 4e-3; x^gamma is steep near 0


@pytest.mark.parametrize("area", [0.1, 0.5, 1.0])
def test_crop_and_resize_equal_pils(area: float) -> None:
    frames, config, size = _frames(3, 60, 60), replace(OFF, crop_area=(area, area), crop_aspect=(0.5, 2)), 24
    result = augment(frames, torch.arange(3), config, size) * 255
    for i in range(3):
        top, left, height, width = (60 * share for share in _box(i, config, 0))
        box = (left, top, min(left + width, 60), min(top + height, 60))
        for which in range(2):
            for channel in range(3):
                plane = Image.fromarray(frames[i, which, :, :, channel].numpy().astype(np.float32))
                expected = np.asarray(plane.resize((size, size), Image.Resampling.BILINEAR, box=box))
                assert np.abs(result[i, which, channel].numpy() - expected).max() < 0.01


def test_only_mirrored_batches_equal_those_of_earlier_runs_bit_for_bit() -> None:
    frames, seeds = _frames(64, 32, 32), torch.arange(64) * 977 + 5
    pairs = frames.permute(0, 1, 4, 2, 3).float() / 255
    mirrored = uniform(seeds, 3, 1).view(-1, 1, 1, 1, 1) < 0.5
    pairs = torch.where(mirrored, pairs.flip(-1), pairs)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    model = resolve(ModelConfig(image_size=32, dim=32, heads=2))
    batch = assemble(frames, seeds, model, SwapConfig(min_block=2), AugmentConfig())
    assert torch.equal(batch.current, (pairs[:, 0] - mean) / std)
    assert torch.equal(batch.reference, (pairs[:, 1] - mean) / std)


def test_without_augmentation_pixels_are_exact() -> None:
    frames = _frames(3, 20, 20)
    assert torch.equal(augment(frames, torch.arange(3), OFF, 20), frames.permute(0, 1, 4, 2, 3).float() / 255)


@given(seed=st.integers(0, 2**62), independent=st.sampled_from(["none", "photometric", "all"]))
@settings(max_examples=20, deadline=None)
def test_frames_that_agree_still_agree_unless_asked(seed: int, independent: str) -> None:
    frames = _frames(4, 24, 24)
    frames[:, 1, :, 12:] = frames[:, 0, :, 12:]  # the right half does not move
    seeds, config = torch.arange(4) + seed, replace(FULL, flip=False, crop_area=(1, 1), blur=0.0)
    both = augment(frames, seeds, replace(config, independent=independent), 24)
    assert torch.equal(both[:, 0, :, :, 12:], both[:, 1, :, :, 12:]) == (independent == "none")
    alike = frames[:, :1].expand(-1, 2, -1, -1, -1)
    whole = augment(alike, seeds, replace(FULL, independent=independent), 16)
    assert torch.equal(whole[:, 0], whole[:, 1]) == (independent == "none")
    shaped = AugmentConfig(crop_area=(0.2, 0.8), independent=independent)
    shaped_pairs = augment(alike, seeds, shaped, 16)
    assert torch.equal(shaped_pairs[:, 0], shaped_pairs[:, 1]) == (independent != "all")


def test_the_seed_decides_and_the_batch_does_not() -> None:
    frames, seeds = _frames(1, 24, 24).expand(8, -1, -1, -1, -1), torch.arange(8) // 2
    result = augment(frames, seeds, FULL, 16)
    assert torch.equal(result[::2], result[1::2])
    assert len({tuple(sample.flatten().tolist()) for sample in result}) == 4
    alone = torch.cat([augment(frames[i : i + 1], seeds[i : i + 1], FULL, 16) for i in range(8)])
    assert torch.allclose(result, alone, atol=1e-5)


def test_switching_one_change_on_leaves_the_draws_of_the_others() -> None:
    frames, seeds = _frames(32, 16, 16), torch.arange(32)
    plain, mirrored = augment(frames, seeds, OFF, 16), augment(frames, seeds, AugmentConfig(), 16)
    bright = augment(frames, seeds, replace(OFF, brightness=0.2), 16)
    also = augment(frames, seeds, AugmentConfig(brightness=0.2), 16)
    flipped = (mirrored != plain).flatten(1).any(1)
    assert 8 < flipped.sum() < 24
    assert torch.allclose(also, torch.where(flipped.view(-1, 1, 1, 1, 1), bright.flip(-1), bright), atol=1e-6)


def test_nothing_waits_for_the_device() -> None:
    model = resolve(ModelConfig(image_size=32, dim=32, heads=2))

    def whole(frames: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        return assemble(frames, seeds, model, SwapConfig(min_block=2), FULL).swapped

    assert not waits(whole, _frames(2, 40, 40), torch.arange(2))
    for function in (lambda x: x * x.sum().item(), lambda x: x[x > 0.5], lambda x: x + torch.tensor([1.0, 2.0])):
        assert waits(function, torch.rand(4, 2)), "what waits is noticed"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_agrees_with_the_cpu_and_is_not_waited_for() -> None:
    frames, seeds = _frames(8, 64, 64), torch.arange(8)
    there = frames.cuda(), seeds.cuda()
    augment(*there, FULL, 32)  # loads the libraries
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = augment(*there, FULL, 32)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.allclose(result.cpu(), augment(frames, seeds, FULL, 32), atol=1e-4)


@pytest.mark.parametrize(
    "values, text",
    [
        ({"crop_area": (0.0, 1.0)}, "data.augment.crop_area 0 1"),
        ({"crop_area": (0.8, 0.2)}, "data.augment.crop_area 0.8 0.2"),
        ({"crop_aspect": (1.2, 2.0)}, "data.augment.crop_aspect 1.2 2 must hold 1"),
        ({"brightness": 1.5}, "data.augment.brightness is 1.5"),
        ({"saturation": math.nan}, "data.augment.saturation is nan"),
        ({"gamma": -0.1}, "data.augment.gamma is -0.1"),
        ({"blur": math.inf}, "data.augment.blur is inf"),
    ],
)
def test_values_out_of_range_are_refused_in_one_line(values: dict, text: str) -> None:
    with pytest.raises(UsageError) as error:
        AugmentConfig(**values)
    assert text in str(error.value) and "\n" not in str(error.value)
