"""Batch assembly on the device."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.architecture import AgreementConfig, ModelConfig, resolve
from pretrain.augment import AugmentConfig
from pretrain.batch import assemble, random_crop
from pretrain.pictures import to_rgb
from pretrain.swap import SwapConfig

MODEL = resolve(ModelConfig(image_size=32, dim=32, heads=2))
SWAP = SwapConfig(min_block=2)


def _frames(count: int) -> torch.Tensor:
    return torch.randint(0, 255, (count, 2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@given(seed=st.integers(0, 2**60), cut=st.integers(1, 5))
@settings(max_examples=15, deadline=None)
def test_a_sample_does_not_depend_on_its_batch(seed: int, cut: int) -> None:
    frames, seeds = _frames(6), torch.arange(6) * 977 + seed
    whole = assemble(frames, seeds, MODEL, SWAP, AugmentConfig())
    parts = [assemble(frames[s], seeds[s], MODEL, SWAP, AugmentConfig()) for s in (slice(0, cut), slice(cut, 6))]
    for name in ("current", "reference", "swapped", "mask", "crop"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))


def test_without_flip_frames_come_through_unchanged() -> None:
    frames = _frames(3)
    batch = assemble(frames, torch.arange(3), MODEL, SWAP, AugmentConfig(flip=False))
    assert (to_rgb(batch.current) == frames[:, 0].numpy()).all()
    assert (to_rgb(batch.reference) == frames[:, 1].numpy()).all()


def test_both_frames_of_a_pair_are_mirrored_alike() -> None:
    frames = _frames(64)
    batch = assemble(frames, torch.arange(64), MODEL, SWAP, AugmentConfig())
    mirrored = [(to_rgb(batch.current)[i] == frames[i, 0].flip(1).numpy()).all() for i in range(64)]
    also = [(to_rgb(batch.reference)[i] == frames[i, 1].flip(1).numpy()).all() for i in range(64)]
    assert mirrored == also and 15 < sum(mirrored) < 49


def test_unswapped_patches_are_of_the_current_frame() -> None:
    batch = assemble(_frames(4), torch.arange(4), MODEL, SWAP, AugmentConfig(flip=False))
    mask = batch.mask.view(4, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3).expand(-1, 3, -1, -1)
    assert torch.equal(batch.swapped[mask], batch.reference[mask])
    assert torch.equal(batch.swapped[~mask], batch.current[~mask])


def test_crop_of_the_whole_frame_is_the_frame_and_crops_stay_inside() -> None:
    x = torch.rand(5, 3, 32, 32)
    assert torch.allclose(random_crop(x, torch.arange(5), 2, (1.0, 1.0), 32), x, atol=1e-5)
    ramp = torch.linspace(0, 1, 32).view(1, 1, 1, 32).expand(200, 3, 32, 32)
    crops = random_crop(ramp, torch.arange(200), 2, (0.25, 0.25), 32)
    spans = crops[:, 0, 0, -1] - crops[:, 0, 0, 0]
    assert torch.allclose(spans, torch.full((200,), 0.5), atol=0.02), "a quarter of the area is half of the side"
    assert crops.min() >= 0 and crops.max() <= 1 and crops[:, 0, 0, 0].std() > 0.1


def test_dino_makes_two_global_and_the_local_crops() -> None:
    model = resolve(ModelConfig(preset="small", agreement=AgreementConfig(kind="dino", local_crops=3)))
    frames = torch.zeros(2, 2, 224, 224, 3, dtype=torch.uint8)
    batch = assemble(frames, torch.arange(2), model, SwapConfig(), AugmentConfig(flip=False))
    assert [tuple(c.shape) for c in batch.student_crops] == [(4, 3, 224, 224), (6, 3, 96, 96)]
