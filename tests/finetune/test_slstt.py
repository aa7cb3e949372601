"""The head `slstt`: native, released, frozen, on an encoder's tokens and DMA."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from finetune import heads
from finetune.backbone import Backbone
from finetune.config import FinetuneConfig, HeadConfig, ProtocolConfig, TrainConfig
from finetune.fold import run_fold
from finetune.folds import LeakError, loso
from finetune.heads import slstt, slstt_weights
from finetune.heads.pooling import pool_cells
from finetune.heads.slstt import SlsttHead
from finetune.heads.slstt_network import FrameNet, spatial
from finetune.heads.slstt_plug import around
from finetune.loso import run
from finetune.motion import sampling
from finetune.options.slstt import SlsttOptions, effective
from pretrain import create
from shards.errors import FlickerError, UsageError
from tests.finetune.four_people import samples_of

SMALL: dict[str, Any] = {"crop": 12, "size": 16, "patch": 8, "dim": 16, "depth": 1, "heads": 2, "frames": 3}
SMALL |= {"hidden": 16, "layers": 1, "classifier": 8}
PLUG: dict[str, Any] = {"dim": 16, "cells": 2, "frames": 3, "hidden": 16, "layers": 1, "classifier": 8}
LABELS = [0, 1, 2, 0, 1, 2, 0, 1]


def _clips(count: int = 8, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random long-term flow in pixels."""
    return {"flow": 2 * torch.randn(count, 3, 12, 12, 2, generator=torch.Generator().manual_seed(seed))}


def _sequences(count: int = 3, frames: int = 6) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    sequence = torch.randint(0, 256, (count, frames, 32, 32, 3), generator=g).to(torch.uint8)
    return {"sequence": sequence, "sequence.apex": torch.arange(count, dtype=torch.int32) % frames}


def test_the_defaults_are_the_papers() -> None:
    o = SlsttOptions()
    assert (o.size, o.patch, o.dim, o.depth, o.heads, o.frames) == (384, 16, 768, 12, 12, 11)
    assert (o.aggregation, o.layers, o.hidden, o.classifier, o.drawing) == ("lstm", 3, 512, 256, "raw")
    with torch.device("meta"):
        head = SlsttHead(5, o)
    assert head.summary()["parameters"] == 86_090_496 + 6_828_032 + 512 * 256 + 256 + 256 * 5 + 5
    assert head.spatial.num_prefix_tokens == 1 and head.spatial.pos_embed.shape == (1, 577, 768)


def test_native_is_the_encoder_on_each_picture_then_the_aggregator() -> None:
    head, clips = heads.create("slstt", 3, **SMALL).eval(), _clips()
    assert not head.plugged and not head.fixed and head(clips).shape == (8, 3)
    for row, flow in enumerate(clips["flow"]):
        vectors = torch.stack([head.spatial(head.pictures(frame[None]))[0] for frame in flow])
        assert torch.allclose(head.net.temporal(vectors[None])[0], head(clips)[row], atol=1e-5)
    assert head.extract(clips).keys() == clips.keys() and isinstance(head.readout(), SlsttHead)
    assert not torch.equal(head.readout()(clips), head(clips))  # untrained anew


@pytest.mark.parametrize("aggregation", ["lstm", "mean"])
@pytest.mark.parametrize(("drawing", "scale"), [("raw", 0.0), ("raw", 4.0), ("hsv", 0.0), ("hsv", 4.0)])
@pytest.mark.parametrize("freeze", [False, True])
def test_option_combinations_run_and_train(aggregation: str, drawing: str, scale: float, freeze: bool) -> None:
    options = {**SMALL, "aggregation": aggregation, "drawing": drawing, "scale": scale, "freeze": freeze}
    head, clips = heads.create("slstt", 3, **options), _clips()
    loss, _ = head.loss(clips, torch.tensor(LABELS))
    loss.backward()
    reached = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in head.spatial.parameters()]
    assert not any(reached) if freeze else sum(reached) > 10
    assert head.net.temporal.fc2.weight.grad.abs().sum() > 0
    assert head.fixed is (freeze and (drawing == "hsv" or scale > 0))


@pytest.mark.parametrize("aggregation", ["lstm", "mean"])
def test_native_overfits_eight_clips(aggregation: str) -> None:
    torch.manual_seed(0)
    head, clips, labels = heads.create("slstt", 3, aggregation=aggregation, **SMALL), _clips(), torch.tensor(LABELS)
    head.pictures.fit(head.drawn(clips, row) for row in range(8))
    optimiser = torch.optim.Adam(head.groups(5e-3, 0.0))
    for _ in range(60):
        loss, _ = head.loss(clips, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert torch.equal(head.eval()(clips).argmax(-1), labels)


@pytest.mark.parametrize(("scale", "drawing"), [(0.0, "raw"), (2.0, "raw"), (0.0, "hsv")])
def test_pictures_smaller_than_the_flow_are_drawn_once(scale: float, drawing: str) -> None:
    options = {**SMALL, "crop": 12, "size": 8, "patch": 4, "scale": scale, "drawing": drawing, "steady": True}
    head, clips = heads.create("slstt", 3, **options).eval(), _clips()
    assert head.fixed and not heads.create("slstt", 3, **SMALL).fixed
    found = head.extract(clips)
    assert {name: value.shape for name, value in found.items()} == {"pictures": (8, 3, 3, 8, 8)}
    seen = []
    for inputs in (clips, found):
        samples = samples_of(inputs, LABELS)
        head.fit(loso(samples.subjects)[0].training(samples))
        seen.append(head(inputs))
    assert torch.allclose(*seen, atol=1e-5) and torch.allclose(head(clips), head(found), atol=1e-5)
    readout = head.readout()
    loss, _ = readout.loss(found, torch.tensor(LABELS))
    loss.backward()
    assert isinstance(readout, SlsttHead) and readout.spatial.patch_embed.proj.weight.grad.abs().sum() > 0


def test_the_loss_is_equation_15() -> None:
    head, clips, labels = heads.create("slstt", 3, **SMALL), _clips(), torch.tensor(LABELS)
    loss, parts = head.loss(clips, labels)
    p = head(clips).double().softmax(-1)
    y = torch.eye(3, dtype=torch.float64)[labels]
    assert torch.allclose(loss.double(), -(y * p.log()).sum() / 8, atol=1e-6)
    assert not parts["classification"].requires_grad


# --- release -------------------------------------------------------------------------------------------------------


def test_release_overrides_and_leaves_the_rest() -> None:
    found = effective(SlsttOptions(release=True, scale=3.0, hidden=64))
    assert (found.drawing, found.scale, found.freeze, found.activation) == ("hsv", 0.0, True, "gelu-tanh")
    assert not effective(SlsttOptions(release=True, steady=True)).steady
    assert found.hidden == 64 and found.size == 384


@pytest.mark.parametrize(
    "difference", [{"drawing": "raw", "scale": 1.0}, {"drawing": "hsv", "scale": 4.0}, {"activation": "gelu"}]
)
def test_release_differs_in_what_the_encoder_sees_and_does(difference: dict[str, Any]) -> None:
    released = SlsttHead(3, SlsttOptions(release=True, **SMALL)).eval()
    for p in released.spatial.parameters():
        p.data.mul_(3.0)
    mine = {"drawing": "hsv", "activation": "gelu-tanh", "freeze": True}
    same, other = (SlsttHead(3, SlsttOptions(**{**SMALL, **mine, **more})).eval() for more in ({}, difference))
    for head in (same, other):
        head.load_state_dict(released.state_dict())
    assert torch.equal(same(_clips()), released(_clips()))
    assert not torch.allclose(other(_clips()), released(_clips()), atol=1e-6)


def test_released_mean_has_one_linear_layer_and_the_lstm_two() -> None:
    one = SlsttHead(3, SlsttOptions(release=True, aggregation="mean", **SMALL)).net.temporal
    assert [name for name, _ in one.named_parameters()] == ["fc2.weight", "fc2.bias"]
    two = SlsttHead(3, SlsttOptions(aggregation="mean", **SMALL)).net.temporal
    assert two.fc1[0].weight.shape == (8, 16) and two.fc2.weight.shape == (3, 8)
    lstm = SlsttHead(3, SlsttOptions(release=True, **SMALL)).net.temporal
    assert lstm.fc1[0].weight.shape == (8, 16)


def test_released_encoder_does_not_train_and_its_vectors_are_computed_once() -> None:
    head, clips = heads.create("slstt", 3, release=True, **SMALL), _clips()
    assert head.fixed and head.initial() == heads.create("slstt", 3, release=True, **SMALL).initial() != ""
    features = head.extract(clips)
    assert features["frames"].shape == (8, 3, 16) and not features["frames"].requires_grad
    readout = head.readout()
    assert isinstance(readout, FrameNet)
    readout.load_state_dict(head.net.state_dict())
    assert torch.allclose(readout.eval()(features), head.eval()(clips), atol=1e-6)
    trained = {id(p) for group in head.groups(0.01, 1e-4) for p in group["params"]}
    assert trained == {id(p) for p in head.net.parameters()}


def test_a_random_frozen_encoder_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        heads.create("slstt", 3, release=True, **SMALL)
    assert "random weights" in caplog.text


# --- weights -------------------------------------------------------------------------------------------------------


def _file(tmp_path: Path, **changed: Any) -> Path:
    torch.manual_seed(5)
    vit = spatial(SlsttOptions(**{**SMALL, **changed}))
    state = {name: value.clone() for name, value in vit.state_dict().items()}
    save_file(
        state | {"head.weight": torch.zeros(10, 16), "head.bias": torch.zeros(10)}, tmp_path / "vit.safetensors"
    )
    return tmp_path / "vit.safetensors"


def test_every_fold_starts_from_the_file(tmp_path: Path) -> None:
    path = _file(tmp_path)
    head = heads.create("slstt", 3, weights=str(path), **SMALL)
    torch.manual_seed(5)
    expected = spatial(SlsttOptions(**SMALL)).state_dict()
    assert head.initial() and heads.create("slstt", 3, **SMALL).initial() == ""
    for p in head.spatial.parameters():
        p.data.zero_()
    for name, value in head.readout().spatial.state_dict().items():
        assert torch.equal(value, expected[name])


def test_positions_of_another_size_are_resampled_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        head = heads.create("slstt", 3, weights=str(_file(tmp_path, size=32)), **SMALL)
    assert head.spatial.pos_embed.shape == (1, 5, 16) and "17 tokens resampled to 5" in caplog.text
    assert head(_clips()).shape == (8, 3)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(FlickerError, match=r"another architecture in .*vit\.safetensors: .*missing"):
        heads.create("slstt", 3, weights=str(_file(tmp_path)), **{**SMALL, "depth": 2})
    with pytest.raises(FlickerError, match="no such file"):
        heads.create("slstt", 3, weights=str(tmp_path / "none.safetensors"), **SMALL)
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(FlickerError, match="no safetensors file"):
        heads.create("slstt", 3, weights=str(tmp_path / "text.safetensors"), **SMALL)


def test_timm_is_asked_and_its_failure_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def offline(name: str, pretrained: bool, **_: Any) -> None:
        asked.append((name, pretrained))
        raise OSError("no connection to the hub\nmany\nlines")

    slstt_weights._read.cache_clear()
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(FlickerError, match="timm cannot fetch vit_base_patch16_384") as caught:
        heads.create("slstt", 3, weights="timm", **SMALL)
    assert asked == [("vit_base_patch16_384.orig_in21k_ft_in1k", True)]
    assert "\n" not in str(caught.value) and "give" in str(caught.value) and "many" not in str(caught.value)


# --- folds ---------------------------------------------------------------------------------------------------------


def test_statistics_come_from_training_clips_alone() -> None:
    samples = samples_of(_clips(), LABELS)
    fold, head = loso(samples.subjects)[0], heads.create("slstt", 3, **SMALL)
    head.fit(fold.training(samples))
    rows = [i for i, name in enumerate(samples.subjects) if name != fold.subject]
    drawn = torch.cat([head.pictures.drawn(samples.inputs["flow"][row, 0]) for row in rows])
    assert torch.allclose(head.pictures.standardise.mean, drawn.mean((0, 2, 3)), atol=1e-5)
    with pytest.raises(LeakError):
        head.fit(fold.testing(samples))
    with pytest.raises(LeakError):
        head.net.fit(fold.testing(samples))


@pytest.mark.parametrize("release", [False, True])
def test_a_fold_trains_in_the_papers_way_and_is_a_function_of_its_seed(release: bool) -> None:
    head = heads.create("slstt", 3, release=release, **SMALL)
    samples = samples_of({name: value.detach() for name, value in head.extract(_clips()).items()}, LABELS)
    settings = TrainConfig(epochs=2, batch=4, lr=1e-3, optimiser="sgd", momentum=0.9, weight_decay=1e-4)
    fold = loso(samples.subjects)[1]
    runs = [run_fold(fold, samples, head.readout, settings, 0, torch.device("cpu")) for _ in range(2)]
    assert runs[0].probabilities == runs[1].probabilities and len(runs[0].by_epoch) == 2


# --- plugged -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.data(), count=st.sampled_from([1, 3, 11]))
def test_frames_around_the_apex_are_those_of_sampling(data: st.DataObject, count: int) -> None:
    lengths = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=4))
    apex = [data.draw(st.integers(0, length - 1)) for length in lengths]
    places = np.stack([np.minimum(np.arange(max(lengths)), length - 1) for length in lengths])  # padded clips
    sequence = torch.from_numpy(places)[..., None, None, None].expand(-1, -1, 1, 1, 3)
    found = around(sequence, torch.tensor(apex, dtype=torch.int32), count)[..., 0, 0, 0]
    for row, (length, at) in enumerate(zip(lengths, apex, strict=True)):
        assert found[row].tolist() == sampling.around(length, at, count).tolist()


def test_plugged_is_tokens_and_dma_by_area_into_the_same_aggregator(tiny: Backbone) -> None:
    head, clips, model = heads.create("slstt", 3, tiny.model, **PLUG).eval(), _sequences(), tiny.model
    assert head.plugged and head.pictures is None and head.spatial is None
    found = head.extract(clips)["frames"]
    assert found.shape == (3, 3, 4, 32)
    for row in range(3):
        frames = clips["sequence"][row]
        for place, at in enumerate(sampling.around(6, int(clips["sequence.apex"][row]), 3)):
            onset, frame = (model.preprocess(frames[i][None]) for i in (0, int(at)))
            parts = [model.encoder(frame)[:, 1:], model.dma(onset, frame)[0]]
            expected = torch.cat([pool_cells(part, 2).unflatten(1, (4, -1)) for part in parts], dim=-1)[0]
            assert torch.allclose(found[row, place], expected, atol=1e-5)
    readout = head.readout().eval()
    readout.load_state_dict(head.net.state_dict())
    assert torch.equal(readout({"frames": found}), head(clips))
    vectors = head.net.project(head.net.standardise(found)).flatten(2)
    assert vectors.shape == (3, 3, 16) and torch.equal(head.net.temporal(vectors), head(clips))


def test_features_of_the_onset_and_contextual_tokens(tiny: Backbone) -> None:
    clips = _sequences(1)
    clips["sequence.apex"] = torch.zeros(1, dtype=torch.int32)
    options = {**PLUG, "features": ["difference", "contextual"]}
    found = heads.create("slstt", 3, tiny.model, **options).extract(clips)["frames"]
    assert torch.allclose(found[0, :2, :, :16], torch.zeros(2, 4, 16), atol=1e-5)  # the apex is the onset
    assert found[0, 2, :, :16].abs().max() > 1e-3
    contextual = tiny.model.encoder(tiny.model.preprocess(clips["sequence"][0, 1][None]))[0, 0]
    assert torch.allclose(found[0, 2, :, 16:], contextual.expand(4, -1), atol=1e-5)


def test_dma_features_are_weighted_by_interest_where_the_encoder_is(tiny: Backbone) -> None:
    torch.manual_seed(0)
    model = create("tiny", poi="sum1", image_size=32, patch_size=8, dim=16, depth=1, heads=2).eval()
    assert model.uses_interest
    clips = _sequences(1)
    found = heads.create("slstt", 3, model, **{**PLUG, "features": ["dma"]}).extract(clips)["frames"]
    onset, frame = (model.preprocess(clips["sequence"][0, i][None]) for i in (0, 1))
    expected = pool_cells(model.dma(onset, frame)[0], 2).unflatten(1, (4, -1))
    assert torch.allclose(found[0, 2], expected[0], atol=1e-6)


@pytest.mark.parametrize(
    ("mode", "trained"), [("frozen", set()), ("partial", {"blocks.1"}), ("full", {"blocks.0", "blocks.1"})]
)
def test_gradients_reach_the_encoder_as_the_mode_says(tiny: Backbone, mode: str, trained: set[str]) -> None:
    head = heads.create("slstt", 3, tiny.model, **PLUG).trainable(mode, 1, 0.1)
    F.cross_entropy(head(_sequences()), torch.tensor([0, 1, 2])).backward()
    assert head.encoder is not None and head.encoder.attention is not None
    touched = {
        name for name, p in head.encoder.encoder.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert {name[:8] for name in touched if name.startswith("blocks")} == trained
    assert (head.encoder.attention.to_v.weight.grad is not None) is (mode != "frozen")
    assert head.net.project.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in tiny.model.parameters())  # the run's encoder is never touched


def test_learning_rates_fall_with_depth(tiny: Backbone) -> None:
    head = heads.create("slstt", 3, tiny.model, layer_decay=0.5, **PLUG).trainable("full", 1, 0.1)
    rates = {id(p): group["lr"] for group in head.groups(1.0, 0.05) for p in group["params"]}
    assert head.encoder is not None
    encoder = head.encoder.encoder
    assert rates[id(head.net.project.weight)] == 1.0
    assert rates[id(encoder.norm.weight)] == pytest.approx(0.1)
    assert rates[id(encoder.blocks[1].mlp.fc1.weight)] == pytest.approx(0.05)
    assert rates[id(encoder.blocks[0].mlp.fc1.weight)] == pytest.approx(0.025)
    assert set(rates) == {id(p) for p in head.parameters() if p.requires_grad}


def test_plugged_statistics_are_of_the_training_clips(tiny: Backbone) -> None:
    clips = _sequences(8)
    samples = samples_of(clips, LABELS)
    head, fold = heads.create("slstt", 3, tiny.model, **PLUG), loso(samples.subjects)[0]
    head.fit(fold.training(samples))
    rows = [i for i, name in enumerate(samples.subjects) if name != fold.subject]
    found = head.extract({name: value[rows] for name, value in clips.items()})["frames"]
    assert torch.allclose(head.net.standardise.mean, found.mean((0, 1, 2)), atol=1e-5)
    with pytest.raises(LeakError):
        head.fit(fold.testing(samples))


def test_plugged_overfits_eight_clips(tiny: Backbone) -> None:
    torch.manual_seed(0)
    head, clips = heads.create("slstt", 3, tiny.model, **PLUG), _sequences(8)
    features = head.extract(clips)
    readout, labels = head.readout(), torch.tensor(LABELS)
    readout.standardise.fit(features["frames"])
    optimiser = torch.optim.Adam(readout.groups(5e-3, 0.0))
    for _ in range(80):
        loss, _ = readout.loss({name: value.detach() for name, value in features.items()}, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert torch.equal(readout.eval()(features).argmax(-1), labels)


def test_summary_counts_both_forms(tiny: Backbone) -> None:
    with torch.device("meta"):
        found = SlsttHead(5, SlsttOptions()).summary()
    assert 1.1e12 < found["flops"] < 1.4e12 and set(found["inputs"]) == {"flow"}
    assert found["published"]["accuracy"] == 0.7581 and "86.1 M" in found["published"]["note"]
    plugged = heads.create("slstt", 3, tiny.model, **PLUG).summary()
    assert set(plugged["inputs"]) == {"sequence", "sequence.apex"}
    without = heads.create("slstt", 3, tiny.model, **{**PLUG, "features": ["tokens"]}).summary()
    assert plugged["flops"] > without["flops"] and plugged["parameters"] > 0


def test_needs_name_the_recipes(tiny: Backbone) -> None:
    from finetune.inputs import LongFlow, Sequence

    assert slstt.needs(SlsttOptions()) == {"flow": LongFlow("slstt", 256, frames=11)}
    options = SlsttOptions(face="box", crop=64, frames=5, interpolation="linear")
    assert slstt.needs(options) == {"flow": LongFlow("box", 64, frames=5, interpolation="linear")}
    assert slstt.needs(SlsttOptions(kept=30, **PLUG), tiny.model) == {"sequence": Sequence("slstt", 32, frames=30)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 20}, "head.slstt.size"),
        ({"heads": 3}, "head.slstt.dim"),
        ({"frames": 4}, "head.slstt.frames"),
        ({"scale": -1.0}, "head.slstt.scale"),
        ({"dropout": 1.0}, "head.slstt.dropout"),
        ({"layers": 0}, "head.slstt.layers"),
        ({"aggregation": "max"}, "head.slstt.aggregation"),
        ({"drawing": "grey"}, "head.slstt.drawing"),
        ({"widht": 3}, "widht"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        heads.create("slstt", 3, **{**SMALL, **options})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cells": 5}, "head.slstt.cells"),
        ({"cells": 3}, "head.slstt.dim"),
        ({"features": []}, "head.slstt.features"),
        ({"features": ["flow"]}, "one or more of"),
        ({"kept": 2}, "head.slstt.kept"),
        ({"layer_decay": 0.0}, "head.slstt.layer_decay"),
    ],
)
def test_wrong_options_on_an_encoder_are_named(tiny: Backbone, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        heads.create("slstt", 3, tiny.model, **{**PLUG, **options})


def test_missing_inputs_and_encoders_without_dma_are_named(tiny: Backbone) -> None:
    with pytest.raises(FlickerError, match=r"'sequence\.apex' is absent"):
        heads.create("slstt", 3, tiny.model, **PLUG)({"sequence": _sequences()["sequence"]})
    model = create("tiny", dma="none", poi="none", image_size=32, dim=16, depth=1, heads=2)
    with pytest.raises(UsageError, match="without DMA"):
        heads.create("slstt", 3, model, **PLUG)
    head = heads.create("slstt", 3, model, **{**PLUG, "features": ["tokens", "difference"]})
    assert head(_sequences()).shape == (3, 3)


def test_a_run_computes_a_frozen_encoders_vectors_once_and_says_whose_they_are(config: FinetuneConfig) -> None:
    ours = {**SMALL, "release": True, "face": "as-is-squash", "crop": 16}
    config.head = HeadConfig(name="slstt", slstt=SlsttOptions(**ours))
    config.train = TrainConfig(epochs=1, batch=2, lr=0.01, optimiser="sgd")
    config.protocol = ProtocolConfig(seeds=[0])
    results = run(config)
    assert results is not None and results.clips == 16
    kept = list((Path(config.out) / "features").glob("*.safetensors"))
    assert len(kept) == 1 and load_file(kept[0])["frames"].shape == (16, 3, 16)
    assert results.encoder["sha256"] == heads.create("slstt", 3, **vars(config.head.slstt)).initial()
    assert "its options" in results.encoder["weights"]
