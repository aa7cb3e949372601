"""The head `fdp`: native, released, on an encoder's tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from finetune import heads
from finetune.backbone import Backbone
from finetune.config import TrainConfig
from finetune.fold import run_fold
from finetune.folds import LeakError, Samples, loso
from finetune.heads import fdp, fdp_clips
from finetune.heads.fdp import FdpHead
from finetune.motion import dynamic, sampling
from finetune.options.fdp import FdpOptions
from pretrain import create
from shards.errors import FlickerError, UsageError
from tests.finetune.four_people import samples_of

SMALL: dict[str, Any] = {
    "frames": 4,
    "size": 20,
    "crop": 16,
    "widths": [8, 16],
    "head_dim": 4,
    "decoder_widths": [4, 8],
    "hidden": 16,
}
PLUGGED: dict[str, Any] = {"frames": 4, "crop": 16, "decoder_widths": [4, 8], "hidden": 16}
RELEASE: dict[str, Any] = {"frames": 4, "size": 32, "crop": 32, "hidden": 16, "release": True}


def _clips(count: int = 8, stored: int = 10, side: int = 20, seed: int = 0) -> dict[str, Tensor]:
    """Random frames; clip i has stored - i % 3 of its own, and repeats the last."""
    g = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (count, stored, side, side, 3), generator=g).to(torch.uint8)
    index = torch.arange(stored).repeat(count, 1)
    for row in range(count):
        own = stored - row % 3
        frames[row, own:], index[row, own:] = frames[row, own - 1].clone(), own - 1
    return {"sequence": frames, "sequence.index": 3 * index.int() + 40, "sequence.apex": torch.full((count,), 2)}


def _labels(count: int = 8) -> Tensor:
    return torch.arange(count) % 3


def _samples(inputs: dict[str, Tensor]) -> Samples:
    return samples_of(inputs, _labels(len(next(iter(inputs.values())))).tolist())


def _luma(clip: Tensor) -> np.ndarray:
    """PIL's grey of RGB frames uint8 [B t H W 3]: float64 [B t H W] in 0..255."""
    frames = [np.asarray(Image.fromarray(frame).convert("L"), np.float64) for frame in clip.flatten(0, 1).numpy()]
    return np.stack(frames).reshape(clip.shape[:-1])


class _Fixed:
    """A generator whose numbers are known."""

    def __init__(self, value: float):
        self.value = value

    def random(self) -> float:
        return self.value


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=5), st.integers(1, 12), st.floats(0, 0.999))
def test_positions_are_the_rule_of_sampling_for_each_clip(lengths: list[int], count: int, offset: float) -> None:
    offsets = torch.full((len(lengths),), offset, dtype=torch.float64)
    found = fdp_clips.positions(torch.tensor(lengths), count, offsets)
    for length, row in zip(lengths, found.tolist(), strict=True):
        assert row == sampling.uniform(length, count, _Fixed(offset)).tolist()  # type: ignore[arg-type]


def test_without_a_generator_the_parts_centres_and_the_middle_of_the_frame() -> None:
    head, clips = heads.create("fdp", 3, **SMALL), _clips()
    clip = head.sampled(clips)["clip"]
    for row in range(8):
        places = sampling.uniform(10 - row % 3, 4)
        assert torch.equal(clip[row], clips["sequence"][row, places, 2:18, 2:18])


def test_training_clips_have_one_offset_crop_and_flip_each() -> None:
    head, clips = heads.create("fdp", 3, **SMALL), _clips(40)
    one, again = (head.augment(clips, torch.Generator().manual_seed(3))["clip"] for _ in range(2))
    assert torch.equal(one, again) and one.shape == (40, 4, 16, 16, 3)
    seen = []
    for row in range(40):
        own = 10 - row % 3
        found = [
            (places, top, left, flip)
            for places in {tuple(sampling.uniform(own, 4, _Fixed(u)).tolist()) for u in np.linspace(0, 0.999, 50)}  # type: ignore[arg-type]
            for top in range(5)
            for left in range(5)
            for flip in (False, True)
            if torch.equal(_crop(clips["sequence"][row], places, top, left, flip), one[row])
        ]
        assert len(found) == 1
        seen.append(found[0])
    flips = sum(flip for *_, flip in seen)
    assert 8 < flips < 32 and {top for _, top, _, _ in seen} == {left for _, _, left, _ in seen} == set(range(5))
    assert len({places for places, *_ in seen}) > 4


def _crop(frames: Tensor, places: tuple[int, ...], top: int, left: int, flip: bool) -> Tensor:
    part = frames[list(places), top : top + 16, left : left + 16]
    return part.flip(2) if flip else part


def test_target_equals_the_dynamic_image_of_the_same_frames() -> None:
    head, clips = heads.create("fdp", 3, **SMALL), _clips()
    sampled = head.augment(clips, torch.Generator().manual_seed(0))
    found = head.target(sampled)
    for row in range(8):
        grey = sampled["clip"][row].double().numpy() @ np.array([0.299, 0.587, 0.114])
        assert np.allclose(found[row].numpy(), dynamic.dynamic_image(grey.astype(np.float32)), atol=1e-5)
    still = {"clip": sampled["clip"][:, :1].expand(-1, 4, -1, -1, -1)}
    assert torch.equal(head.target(still), torch.zeros(8, 16, 16))


def test_native_forward_is_the_network_on_scaled_frames() -> None:
    torch.manual_seed(0)
    head, clips = heads.create("fdp", 3, **SMALL).eval(), _clips()
    frames = head.sampled(clips)["clip"].permute(0, 1, 4, 2, 3).float() / 127.5 - 1
    assert not head.plugged and torch.allclose(head(clips), head.network(frames)[0], atol=1e-5)
    assert head.extract(clips).keys() == clips.keys() and not torch.equal(head.readout().eval()(clips), head(clips))
    assert torch.allclose(head({name: value[:1] for name, value in clips.items()}), head(clips)[:1], atol=1e-5)


def test_relative_frames_are_changes_over_the_training_clips_deviation() -> None:
    head, samples = heads.create("fdp", 3, relative="always", **SMALL), _samples(_clips())
    fold = loso(samples.subjects)[0]
    training = fold.training(samples)
    head.fit(training)
    frames = head.sampled(training.inputs)["clip"].permute(0, 1, 4, 2, 3).double() / 127.5
    changed = frames - frames[:, :1]
    assert torch.allclose(head.scale.double(), changed.std(), rtol=1e-5)
    assert torch.allclose(head.seen(head.sampled(training.inputs)).double(), changed / changed.std(), atol=1e-5)
    with pytest.raises(LeakError):
        head.fit(fold.testing(samples))
    plain = heads.create("fdp", 3, **SMALL)
    plain.fit(training)
    assert float(plain.scale) == 1 and float(plain.shift) == 0


@pytest.mark.parametrize("relative", ["plugged", "always", "never"])
def test_tokens_are_relative_unless_never(tiny: Backbone, relative: str) -> None:
    head = heads.create("fdp", 3, tiny.model, relative=relative, **PLUGGED)
    tokens = torch.randn(2, 4, 16, 16)
    shown = head.network.codes.shown(tokens)
    assert torch.equal(shown, tokens if relative == "never" else tokens - tokens[:, :1])


def test_loss_is_equation_8() -> None:
    torch.manual_seed(0)
    head, clips, labels = heads.create("fdp", 3, **SMALL, slope=2.0).eval(), _clips(), _labels()
    weights = torch.tensor([0.5, 1.0, 2.0])
    total, parts = head.loss(clips, labels, weights)
    clip = head.sampled(clips)
    logits, image, scores = head.network(head.seen(clip))
    chosen = logits.softmax(-1)[torch.arange(8), labels].log()
    mer = -(weights[labels] * chosen).sum() / weights[labels].sum()  # eq. 7
    dic = (image - head.target(clip)).pow(2).mean()  # eq. 6
    rank = (2.0 * torch.arange(4) - scores).abs().sum() / 8  # eq. 5
    assert torch.allclose(total, mer + 100 * dic + 0.1 * rank, rtol=1e-5)
    assert set(parts) == {"classification", "dynamic", "rank"} and not any(p.requires_grad for p in parts.values())


def test_each_weight_and_none() -> None:
    clips, labels = _clips(), _labels()
    for name, part in (("dynamic_weight", "dynamic"), ("rank_weight", "rank")):
        head = heads.create("fdp", 3, **{**SMALL, name: 0.0})
        assert part not in head.loss(clips, labels)[1]
        head.loss(clips, labels)[0].backward()
        assert all(p.grad is not None for p in head.parameters())


def test_rank_and_dynamic_losses_reach_the_frames() -> None:
    clips = _clips()
    for part in ("dynamic_weight", "rank_weight"):
        head = heads.create("fdp", 3, **{**SMALL, "dynamic_weight": 0.0, "rank_weight": 0.0, part: 1.0})
        loss, parts = head.loss(clips, _labels())
        only = loss - F.cross_entropy(head(clips), _labels()).detach()
        assert len(parts) == 2
        only.backward()
        assert head.network.codes.stem.weight.grad.abs().sum() > 0


def test_native_overfits_eight_clips() -> None:
    torch.manual_seed(0)
    head, clips, labels = heads.create("fdp", 3, **SMALL), _clips(), _labels()
    optimiser = torch.optim.Adam(head.groups(5e-3, 0.0))
    ranks = []
    for _ in range(40):
        loss, parts = head.loss(clips, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        ranks.append(float(parts["rank"]))
    assert torch.equal(head.eval()(clips).argmax(-1), labels) and ranks[-1] < ranks[0]


def test_a_fold_trains_and_is_a_function_of_its_seed() -> None:
    samples, head = _samples(_clips()), heads.create("fdp", 3, **SMALL)
    fold, plan = loso(samples.subjects)[1], TrainConfig(epochs=2, batch=4, lr=1e-3)
    runs = [run_fold(fold, samples, head.readout, plan, 0, torch.device("cpu")) for _ in range(2)]
    assert runs[0].probabilities == runs[1].probabilities and len(runs[0].by_epoch) == 2


def test_a_last_batch_of_one_clip_trains() -> None:
    head = heads.create("fdp", 3, **SMALL).train()
    loss, _ = head.loss({name: value[:1] for name, value in _clips().items()}, _labels(1))
    loss.backward()
    assert torch.isfinite(loss)


def test_the_defaults_are_the_papers_and_near_its_size() -> None:
    options = FdpOptions()
    assert (options.frames, options.size, options.crop) == (8, 72, 64)
    assert (len(options.widths), options.local_layers, options.global_layers) == (4, 2, 1)
    assert (options.dynamic_weight, options.rank_weight, len(options.decoder_widths)) == (100, 0.1, 4)
    with torch.device("meta"):
        found = FdpHead(5, options).summary()
    assert found["frame_parameters"] == 14_806_784 and found["published"]["parameters"] == 14.82e6
    assert found["parameters"] == 20_252_814 and 4e9 < found["flops"] < 5e9


def test_resnet18_of_table_10_is_a_grey_one_with_a_layer_to_4096() -> None:
    from torchvision.models import resnet18

    with torch.device("meta"):
        net = resnet18(num_classes=4096)
        net.conv1 = torch.nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    assert sum(p.numel() for p in net.parameters()) == 13_271_488


def test_needs_name_the_recipes(tiny: Backbone) -> None:
    from finetune.inputs import Sequence

    options = replace(FdpOptions(), face="box")
    assert fdp.needs(options) == {"sequence": Sequence("box", 72, 64)}
    assert fdp.needs(replace(options, release=True)) == {"sequence": Sequence("box", 64, 0)}
    assert fdp.needs(options, tiny.model) == {"sequence": Sequence("box", 32, 16)}


def test_only_training_clips_may_be_fitted_on(tiny: Backbone) -> None:
    head = heads.create("fdp", 3, tiny.model, **PLUGGED)
    samples = _samples(head.extract(_clips(side=32)))
    fold = loso(samples.subjects)[0]
    for model in (heads.create("fdp", 3, **SMALL), head.readout()):
        with pytest.raises(LeakError):
            model.fit(fold.testing(samples))
    readout = head.readout()
    readout.fit(fold.training(samples))
    rows = [i for i, name in enumerate(samples.subjects) if name != fold.subject]
    seen = readout.sampled({k: v[rows, 0] for k, v in samples.inputs.items()})["clip.features"]
    changed = seen - seen[:, :1]
    assert torch.allclose(readout.network.codes.standardise.mean, changed.mean((0, 1, 2)), atol=1e-5)


def test_plugged_codes_are_the_tokens_of_the_sampled_frames(tiny: Backbone) -> None:
    torch.manual_seed(0)
    head, clips = heads.create("fdp", 3, tiny.model, **PLUGGED).eval(), _clips(3, side=32)
    clip = head.sampled(clips)["clip"]
    tokens = tiny.model.encoder(tiny.model.preprocess(clip.flatten(0, 1)))[:, 1:].unflatten(0, (3, 4))
    assert head.plugged and head.cells == 4 and torch.allclose(head.seen({"clip": clip}), tokens, atol=1e-5)
    assert torch.allclose(head(clips), head.network(tokens)[0], atol=1e-5)
    extracted = head.extract(clips)
    assert extracted["features"].shape == (3, 10, 16, 16) and extracted["pictures"].shape == (3, 10, 16, 16)
    readout = head.readout().eval()
    readout.network.load_state_dict(head.network.state_dict())
    assert torch.allclose(readout(extracted), head(clips), atol=1e-5)
    assert torch.allclose(readout.target(readout.sampled(extracted)), head.target({"clip": clip}), atol=1e-5)


def test_frozen_features_are_sampled_anew_in_training(tiny: Backbone) -> None:
    head = heads.create("fdp", 3, tiny.model, **PLUGGED)
    extracted, g = head.extract(_clips(side=32)), torch.Generator().manual_seed(0)
    first, second = (head.readout().augment(extracted, g) for _ in range(2))
    assert not torch.equal(first["clip.features"], second["clip.features"])
    whole = extracted["features"].flatten(2)
    for row in range(8):
        places = [int((whole[row] - frame).abs().sum(1).argmin()) for frame in first["clip.features"][row].flatten(1)]
        assert places == sorted(places) and torch.equal(
            extracted["pictures"][row, places], first["clip.pictures"][row]
        )


def test_frozen_readout_trains_in_a_fold_and_overfits(tiny: Backbone) -> None:
    torch.manual_seed(0)
    head = heads.create("fdp", 3, tiny.model, **PLUGGED)
    with torch.no_grad():
        extracted = head.extract(_clips(side=32))
    samples, plan = _samples(extracted), TrainConfig(epochs=2, batch=4, lr=1e-3)
    result = run_fold(loso(samples.subjects)[0], samples, head.readout, plan, 0, torch.device("cpu"))
    assert all(np.isfinite(result.loss))
    readout = head.readout()
    optimiser = torch.optim.Adam(readout.groups(5e-3, 0.0))
    for _ in range(30):
        loss, _ = readout.loss(extracted, _labels())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert torch.equal(readout.eval()(extracted).argmax(-1), _labels())


@pytest.mark.parametrize(
    ("mode", "trained"), [("frozen", set()), ("partial", {"blocks.1"}), ("full", {"blocks.0", "blocks.1"})]
)
def test_gradients_reach_the_encoder_as_the_mode_says(tiny: Backbone, mode: str, trained: set[str]) -> None:
    head = heads.create("fdp", 3, tiny.model, **PLUGGED).trainable(mode, 1, 0.1)
    head.loss(head.augment(_clips(3, side=32), torch.Generator()), _labels(3))[0].backward()
    assert head.encoder is not None and head.encoder.attention is not None
    touched = {n for n, p in head.encoder.encoder.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {name[:8] for name in touched if name.startswith("blocks")} == trained
    assert not any(p.requires_grad for p in head.encoder.attention.parameters())  # DMA takes no part
    assert head.network.codes.project.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in tiny.model.parameters())


def test_learning_rates_fall_with_depth(tiny: Backbone) -> None:
    head = heads.create("fdp", 3, tiny.model, layer_decay=0.5, **PLUGGED).trainable("full", 1, 0.1)
    rates = {id(p): group["lr"] for group in head.groups(1.0, 0.05) for p in group["params"]}
    assert head.encoder is not None
    encoder = head.encoder.encoder
    assert rates[id(head.network.codes.project.weight)] == 1.0
    assert rates[id(encoder.blocks[1].mlp.fc1.weight)] == pytest.approx(0.05)
    assert rates[id(encoder.blocks[0].mlp.fc1.weight)] == pytest.approx(0.025)
    assert set(rates) == {id(p) for p in head.parameters() if p.requires_grad}


def test_an_encoder_that_trains_sees_flipped_clips(tiny: Backbone) -> None:
    head, clips = heads.create("fdp", 3, tiny.model, mirror=1.0, **PLUGGED), _clips(side=32)
    clip = head.augment(clips, torch.Generator().manual_seed(0))["clip"]
    assert clip.shape == (8, 4, 32, 32, 3)
    last = {tuple(row.flatten().tolist()) for row in clips["sequence"].flip(3).flatten(0, 1)}
    assert all(tuple(frame.flatten().tolist()) in last for frame in clip.flatten(0, 1))


def test_an_encoder_without_dma_will_do() -> None:
    model = create("tiny", dma="none", poi="none", image_size=32, dim=16, depth=1, heads=2)
    head = heads.create("fdp", 3, model, **PLUGGED).trainable("full", 1, 0.1)
    assert head(_clips(2, side=32)).shape == (2, 3)
    assert head.summary()["flops"] > head.readout().summary()["flops"]


@pytest.fixture
def released(small_release: None) -> FdpHead:
    """The released behaviour, with narrow networks."""
    torch.manual_seed(0)
    head: FdpHead = heads.create("fdp", 3, **RELEASE)
    return head


def test_release_has_no_rank_loss(released: FdpHead) -> None:
    clips, labels = _clips(side=32), _labels()
    loss, parts = released.eval().loss(clips, labels)
    assert set(parts) == {"classification", "dynamic"}
    assert torch.allclose(loss, parts["classification"] + 100 * parts["dynamic"])


def test_release_samples_every_nth_frame_without_crop_and_flip(released: FdpHead) -> None:
    clips = _clips(side=32)
    clip = released.augment(clips, torch.Generator().manual_seed(0))["clip"]
    for row in range(8):
        each = (10 - row % 3) // 4
        assert torch.equal(clip[row], clips["sequence"][row, [0, each, 2 * each, 3 * each]])
    short = fdp_clips.released_positions(torch.tensor([3, 8, 9]), 4).tolist()
    assert short == [[0, 0, 1, 2], [0, 2, 4, 6], [0, 2, 4, 6]]


def test_release_sees_8_bit_grey_frames_scaled_by_their_split(released: FdpHead) -> None:
    samples = _samples(_clips(side=32))
    fold = loso(samples.subjects)[0]
    training = fold.training(samples)
    released.fit(training)

    def scaled(clip: Tensor) -> np.ndarray:
        x = (_luma(clip) / 255 - 0.5) / 0.5
        x = x - x.mean()
        return x / x.max()

    clip = released.sampled(training.inputs)
    expected = scaled(clip["clip"])
    assert np.allclose(released.seen(clip)[:, :, 0].numpy(), expected, atol=1e-4)
    test = released.sampled(fold.testing(samples).inputs)
    assert np.allclose(released.seen(test, own_scale=True)[:, :, 0].numpy(), scaled(test["clip"]), atol=1e-4)
    assert not np.allclose(released.seen(test)[:, :, 0].numpy(), scaled(test["clip"]), atol=1e-4)
    logits = released.eval()(fold.testing(samples).inputs)
    assert torch.equal(logits, released.network(released.seen(test, own_scale=True))[0])


def test_release_stays_in_evaluation_mode_after_the_first(released: FdpHead) -> None:
    assert released.training and released.train().training
    released.eval()
    assert not released.train().training and not any(part.training for part in released.modules())
    plain = heads.create("fdp", 3, **SMALL)
    assert plain.eval().train().training


def test_release_cuts_the_target_to_8_bits(released: FdpHead) -> None:
    clip = released.sampled(_clips(side=32))
    found = released.target(clip)
    unit = dynamic.dynamic_image(_luma(clip["clip"])[0].astype(np.float32))
    assert torch.allclose(255 * found, (255 * found).round(), atol=1e-4)
    below = unit - found[0].numpy()
    assert below.min() > -1e-4 and below.max() > 0.5 / 255 and below.max() < 1.01 / 255


def test_release_trains_in_a_fold(released: FdpHead) -> None:
    samples = _samples(_clips(side=32))
    plan = TrainConfig(epochs=2, batch=4, lr=1e-3)
    result = run_fold(loso(samples.subjects)[0], samples, released.readout, plan, 0, torch.device("cpu"))
    assert all(np.isfinite(result.loss))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"crop": 24}, "crop"),
        ({"crop": 12}, "widths"),
        ({"widths": []}, "widths"),
        ({"head_dim": 3}, "head_dim"),
        ({"decoder_widths": [2] * 5}, "decoder_widths"),
        ({"frames": 1}, "frames"),
        ({"slope": 0.0}, "slope"),
        ({"relative": "sometimes"}, "relative"),
        ({"dropout": 1.0}, "dropout"),
        ({"mirror": 1.5}, "mirror"),
        ({"rank_weight": -1.0}, "rank_weight"),
        ({"stored": 2}, "stored"),
        ({"layer_decay": 0.0}, "layer_decay"),
        ({"widht": 3}, "widht"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        heads.create("fdp", 3, **{**SMALL, **options})


def test_wrong_plugs_are_named(tiny: Backbone) -> None:
    with pytest.raises(UsageError, match=r"head\.fdp\.release"):
        heads.create("fdp", 3, tiny.model, release=True)
    with pytest.raises(UsageError, match=r"head\.fdp\.cells"):
        heads.create("fdp", 3, tiny.model, **{**PLUGGED, "cells": 3})


def test_absent_and_small_frames_are_named() -> None:
    head = heads.create("fdp", 3, **SMALL)
    with pytest.raises(FlickerError, match="'sequence'"):
        head({"pair": torch.zeros(1)})
    with pytest.raises(FlickerError, match="12 px"):
        head(_clips(side=12))


@pytest.mark.parametrize(("name", "parameters"), [("casme2_fdp", 20_252_814), ("casme2_fdp_small", 400_640)])
def test_recipes_hold_options_that_the_head_has(repository: Path, name: str, parameters: int) -> None:
    recipe = yaml.safe_load((repository / f"launch/recipes/finetune/{name}.yaml").read_text(encoding="utf-8"))
    classes = {"C2-3": 3, "C2-5": 5}[recipe["data"]["scheme"]]
    with torch.device("meta"):
        head = FdpHead(classes, FdpOptions(**recipe["head"]["fdp"]))
    assert recipe["head"]["name"] == "fdp" and head.summary()["parameters"] == parameters
