"""The head `micron`: features, pooling, modes, errors."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F

from finetune import heads
from finetune.backbone import Backbone, trainable_copy
from finetune.folds import loso
from finetune.heads.micron import matching
from finetune.heads.pooling import AttentionPool, Standardise, pool_cells
from finetune.inputs import Pair
from finetune.options.micron import MicronOptions
from shards.errors import UsageError
from tests.finetune.test_folds import make

FRAMES = {
    "pair": torch.randint(0, 256, (3, 2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
}


@pytest.mark.parametrize(
    "features", [["dma"], ["difference"], ["change"], ["dma", "difference", "change", "matching"]]
)
@pytest.mark.parametrize("pooling", ["mean", "attention", "grid"])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_shapes_and_widths(tiny: Backbone, features: list[str], pooling: str, kind: str) -> None:
    options = {"features": features, "pooling": pooling, "cells": 2, "classifier": kind}
    head = heads.create("micron", 4, tiny.model, **options).eval()
    extracted = head.extract(FRAMES)["features"]
    assert extracted.shape[-1] == head.feature_dim and extracted.ndim == (3 if pooling == "attention" else 2)
    assert head(FRAMES).shape == (3, 4)
    assert torch.equal(head(FRAMES), head.classify({"features": extracted}))


def test_the_default_is_the_papers_dma_features_of_onset_and_apex(tiny: Backbone) -> None:
    head = heads.create("micron", 3, tiny.model)
    recipes = heads.needs("micron", MicronOptions(), tiny.model)
    assert recipes == {"pair": Pair("as-is-squash", 32)} and asdict(head.options)["features"] == ["dma"]
    onset, apex = (tiny.model.preprocess(frames) for frames in FRAMES["pair"].unbind(1))
    expected, _ = tiny.model.dma(onset, apex)
    assert torch.allclose(head.tokens(FRAMES), expected)
    assert torch.allclose(head.extract(FRAMES)["features"], expected.mean(1))


def test_difference_and_change_are_what_they_say(tiny: Backbone) -> None:
    head = heads.create("micron", 3, tiny.model, features=["difference", "change"])
    tokens = head.tokens(FRAMES)
    onset, apex = (tiny.model.preprocess(frames) for frames in FRAMES["pair"].unbind(1))
    assert torch.allclose(tokens[..., :-1], (tiny.model.encoder(apex) - tiny.model.encoder(onset))[:, 1:], atol=1e-5)
    change = tiny.model.change(onset, apex)
    root = change.sign() * change.abs().sqrt()
    assert torch.allclose(tokens[..., -1], root / root.abs().mean(1, keepdim=True), atol=1e-5)
    same = head.tokens({"pair": FRAMES["pair"][:, [0, 0]]})
    assert same[..., :-1].abs().max() < 1e-5


def test_matching_equals_explicit_cosines_and_is_zero_without_motion(tiny: Backbone) -> None:
    onset, apex = torch.randn(2, 2, 16, 6, generator=torch.Generator().manual_seed(0))
    found = matching(onset, apex, 1).unflatten(1, (4, 4))
    cosine = F.cosine_similarity
    a, b = onset.unflatten(1, (4, 4)), apex.unflatten(1, (4, 4))
    assert torch.allclose(found[:, 1, 2, 4], cosine(a[:, 1, 2], b[:, 1, 2], -1) - 1, atol=1e-5)
    assert torch.allclose(
        found[:, 1, 2, 5], cosine(a[:, 1, 2], b[:, 1, 3], -1) - cosine(a[:, 1, 2], a[:, 1, 3], -1), atol=1e-5
    )
    assert matching(onset, onset, 2).abs().max() == 0
    head = heads.create("micron", 3, tiny.model, features=["matching"], radius=1)
    assert head.tokens(FRAMES).shape == (3, 16, 9)


def test_change_pictures_are_on_the_token_grid(tiny: Backbone) -> None:
    changes = heads.create("micron", 3, tiny.model).changes(FRAMES)
    assert changes.shape == (3, 4, 4) and changes.min() >= 0 and changes.max() > 0


def test_grid_pooling_equals_explicit_means() -> None:
    tokens = torch.randn(2, 16, 5)
    pooled = pool_cells(tokens, 2).unflatten(1, (2, 2, 5))
    assert torch.allclose(pooled[:, 0, 1], tokens.unflatten(1, (4, 4))[:, :2, 2:].mean((1, 2)), atol=1e-6)


def test_attention_pooling_starts_as_the_mean() -> None:
    tokens = torch.randn(2, 16, 5)
    assert torch.allclose(AttentionPool(5)(tokens), tokens.mean(1), atol=1e-6)


def test_standardising_ignores_constant_channels() -> None:
    features = torch.randn(50, 3) * 7 + 3
    features[:, 1] = 4.2
    layer = Standardise(3)
    layer.fit(features)
    out = layer(features)
    assert torch.allclose(out[:, [0, 2]].mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(out[:, [0, 2]].std(0, correction=0), torch.ones(2), atol=1e-5)
    assert (layer(features + 100)[:, 1] == 0).all()


@pytest.mark.parametrize(
    ("mode", "trained"), [("frozen", set()), ("partial", {"blocks.1"}), ("full", {"blocks.0", "blocks.1"})]
)
def test_gradients_reach_the_encoder_as_the_mode_says(tiny: Backbone, mode: str, trained: set[str]) -> None:
    head = heads.create("micron", 3, tiny.model).trainable(mode, 1, 0.1)
    torch.nn.init.normal_(head.classify.classify[1].weight)
    F.cross_entropy(head(FRAMES), torch.tensor([0, 1, 2])).backward()
    touched = {
        name for name, p in head.encoder.encoder.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert {name[:8] for name in touched if name.startswith("blocks")} == trained
    assert all(p.grad is None for p in head.encoder.decoder.parameters())
    assert (head.encoder.attention.to_v.weight.grad is not None) is (mode != "frozen")
    assert all(p.grad is None for p in tiny.model.parameters())  # the run's encoder is never touched


def test_a_fold_trains_a_copy(tiny: Backbone) -> None:
    before = tiny.digest()
    copied = trainable_copy(tiny.model, "full", 1)
    with torch.no_grad():
        next(iter(copied.encoder.parameters())).add_(1)
    assert tiny.digest() == before


def test_statistics_of_the_whole_head_come_from_a_training_portion(tiny: Backbone) -> None:
    head = heads.create("micron", 2, tiny.model).trainable("full", 1, 0.1)
    samples = make(["a", "b", "c"])
    samples.inputs.clear()
    samples.inputs.update({name: value[:, None] for name, value in FRAMES.items()})
    head.fit(loso(samples.subjects)[0].training(samples))
    expected = head.extract({name: value[1:] for name, value in FRAMES.items()})["features"].mean(0)
    assert torch.allclose(head.classify.standardise.mean, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("htnet2", {}, "no head 'htnet2'"),
        ("micron", {"features": ["flow"]}, "head.micron.features.*flow"),
        ("micron", {"features": []}, r"head.micron.features: \[\]; choose"),
        ("micron", {"pooling": "grid", "cells": 9}, r"head.micron.cells 9 is outside 1..4"),
        ("micron", {"poling": "grid"}, "head.micron: .*poling"),
    ],
)
def test_wrong_options_are_named(tiny: Backbone, name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        heads.create(name, 3, tiny.model, **options)


def test_the_head_needs_an_encoder() -> None:
    with pytest.raises(UsageError, match="give it an encoder"):
        heads.create("micron", 3)


def test_options_have_the_documented_defaults() -> None:
    assert MicronOptions() == MicronOptions(features=["dma"], pooling="mean", classifier="linear")
