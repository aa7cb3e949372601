"""The head `htnet`: native, released, on an encoder's DMA map."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml

from finetune import heads
from finetune.backbone import Backbone
from finetune.config import TrainConfig
from finetune.fold import run_fold
from finetune.folds import LeakError, loso
from finetune.heads import htnet, htnet_areas
from finetune.heads.htnet import HTNetHead
from finetune.heads.htnet_map import MapNet
from finetune.heads.htnet_tiles import TileNet
from finetune.options.htnet import HTNetOptions
from pretrain import create
from shards.errors import UsageError
from tests.finetune.four_people import samples_of

SMALL: dict[str, Any] = {"dim": 16, "heads": 2, "depths": [1, 1, 1]}


def _clips(count: int = 8, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random flow maps in pixels, and areas that move a little."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[6.4, 8.3], [20.4, 8.2], [7.7, 20.0], [19.3, 19.9]])
    return {
        "flow": torch.randn(count, 28, 28, 3, generator=g),
        "areas": centres + torch.rand(count, 4, 2, generator=g),
    }


def _frames(count: int = 3) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    pair = torch.randint(0, 256, (count, 2, 32, 32, 3), generator=g).to(torch.uint8)
    return {"pair": pair, "areas": _clips(count)["areas"]}


def test_native_is_scaled_areas_through_the_hierarchy() -> None:
    head = heads.create("htnet", 3, **SMALL).eval()
    clips = _clips()
    assert not head.plugged and head(clips).shape == (8, 3)
    corners = htnet_areas.corners(clips["areas"], 28, 14)
    arranged = htnet_areas.arrange(head.net.scaling(clips["flow"]), corners, 14)
    assert torch.equal(head(clips), head.net.hierarchy(arranged))
    assert head.extract(clips).keys() == clips.keys() and isinstance(head.readout(), HTNetHead)
    assert not torch.equal(head.readout()(clips), head(clips))  # untrained anew


def test_the_defaults_are_the_papers() -> None:
    options = HTNetOptions()
    assert (options.dim, options.heads, options.depths, options.block) == (256, 3, [2, 2, 8], 7)
    with torch.device("meta"):
        shape = HTNetHead(3, options).net.hierarchy.shape
    assert (shape.size, shape.patch, shape.side, shape.widths) == (28, 7, 1, [256, 512, 1024])


@pytest.mark.parametrize("block", [5, 6, 7, 8, 9, 10])
def test_block_sizes_cut_areas_of_two_blocks_from_the_same_map(block: int) -> None:
    head = heads.create("htnet", 3, block=block, **SMALL)
    assert head.net.arranged(_clips()).shape == (8, 4 * block, 4 * block, 3) and head(_clips()).shape == (8, 3)


@pytest.mark.parametrize("depths", [[2, 2, 2], [2, 2, 12], [1, 1]])
@pytest.mark.parametrize("scaling", ["standard", "centred", "minmax", "none"])
def test_depths_and_scalings_run(depths: list[int], scaling: str) -> None:
    patch = 7 if len(depths) == 3 else 14
    head = heads.create("htnet", 4, **{**SMALL, "depths": depths, "scaling": scaling, "patch": patch})
    assert torch.isfinite(head(_clips(2))).all()


def test_smaller_tokens_attend_within_blocks() -> None:
    head = heads.create("htnet", 3, patch=1, **SMALL)
    head(_clips(2)).sum().backward()
    assert (
        head.net.hierarchy.levels[0].layers[0].attention.qk.weight.grad.abs().max() > 0
    )  # queries matter where a block has several tokens


def test_native_overfits_eight_clips() -> None:
    torch.manual_seed(0)
    head, clips, labels = heads.create("htnet", 3, **SMALL), _clips(), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    optimiser = torch.optim.Adam(head.groups(2e-3, 0.0))
    for _ in range(60):
        loss, _ = head.loss(clips, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert torch.equal(head.eval()(clips).argmax(-1), labels)


def test_the_loss_is_equation_7() -> None:
    head, clips, labels = heads.create("htnet", 3, **SMALL), _clips(), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    weights = torch.tensor([0.5, 1.0, 2.0])
    loss, parts = head.loss(clips, labels, weights)
    chosen = head(clips).double().softmax(-1)[torch.arange(8), labels]
    w = weights[labels].double()
    assert torch.allclose(loss.double(), -(w * chosen.log()).sum() / w.sum(), atol=1e-6)
    assert not parts["classification"].requires_grad


@pytest.mark.parametrize("option", ["areas", "activation", "position", "scaling"])
def test_release_swaps_each_difference(option: str) -> None:
    torch.manual_seed(0)
    head = HTNetHead(3, HTNetOptions(release=True, scaling="centred", **SMALL)).eval()
    clips = _clips()
    assert head.net.options.scaling == "minmax"
    other = HTNetHead(3, HTNetOptions(**SMALL)).eval()
    mine = {"activation": "gelu", "position": "scalar", "scaling": "minmax"}
    mine.pop(option, None)
    other.net = MapNet("flow", 3, 28, 3, HTNetOptions(**{**SMALL, **mine})).eval()
    if option == "position":
        assert other.net.hierarchy.levels[0].position.shape != head.net.hierarchy.levels[0].position.shape
        return
    other.net.load_state_dict(head.net.state_dict())
    assert not torch.allclose(other(clips), head(clips), atol=1e-5)
    if option == "areas":
        theirs = htnet_areas.corners(clips["areas"], 28, 14, release=True)
        arranged = htnet_areas.arrange(other.net.scaling(clips["flow"]), theirs, 14)
        assert torch.equal(other.net.hierarchy(arranged), head(clips))


def test_released_scaling_leaves_8_bit_maps_alone() -> None:
    drawn = htnet_areas.MapScaling("minmax", 3)(_clips()["flow"]).round()
    head = HTNetHead(3, HTNetOptions(release=True, **SMALL))
    assert torch.allclose(head.net.scaling(drawn), drawn, atol=1e-3)


def test_statistics_come_from_training_clips_alone() -> None:
    samples = samples_of(_clips(), [0, 1, 2, 0, 1, 2, 0, 1])
    fold, head = loso(samples.subjects)[0], heads.create("htnet", 3, **SMALL)
    head.fit(fold.training(samples))
    rows = [i for i, name in enumerate(samples.subjects) if name != fold.subject]
    assert torch.allclose(
        head.net.scaling.standardise.mean, samples.inputs["flow"][rows, 0].mean((0, 1, 2)), atol=1e-5
    )
    with pytest.raises(LeakError):
        head.fit(fold.testing(samples))
    with pytest.raises(LeakError):
        head.net.fit(fold.testing(samples))


def test_augmentation_mirrors_clips_whole_and_is_reproducible() -> None:
    head, clips = heads.create("htnet", 3, mirror=0.5, **SMALL), _clips(40)
    one, again = (head.augment(clips, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one["flow"], again["flow"]) and torch.equal(one["areas"], again["areas"])
    flipped = (one["areas"] != clips["areas"]).flatten(1).any(1)
    assert 5 < flipped.sum() < 35
    assert torch.equal((one["flow"] != clips["flow"]).flatten(1).any(1), flipped)
    assert torch.equal(one["flow"][flipped][..., 1:], clips["flow"][flipped].flip(2)[..., 1:])
    assert torch.equal(one["flow"][flipped][..., 0], -clips["flow"][flipped].flip(2)[..., 0])
    plain = heads.create("htnet", 3, **SMALL).augment(clips, torch.Generator())
    assert all(plain[name] is clips[name] for name in clips)


def test_jitter_moves_the_four_areas_of_a_clip_together() -> None:
    head, clips = heads.create("htnet", 3, jitter=2.0, **SMALL), _clips(40)
    moved = head.augment(clips, torch.Generator().manual_seed(0))["areas"] - clips["areas"]
    assert torch.allclose(moved, moved[:, :1].expand_as(moved), atol=1e-5)
    assert 1.5 < moved.abs().max() <= 2.0 and moved.std() > 0.5


def test_a_fold_trains_and_is_a_function_of_its_seed() -> None:
    samples = samples_of(_clips(), [0, 1, 2, 0, 1, 2, 0, 1])
    head = heads.create("htnet", 3, **SMALL)
    settings = TrainConfig(epochs=2, batch=4, lr=1e-3)
    fold = loso(samples.subjects)[1]
    runs = [run_fold(fold, samples, head.readout, settings, 0, torch.device("cpu")) for _ in range(2)]
    assert runs[0].probabilities == runs[1].probabilities and len(runs[0].by_epoch) == 2


def test_plugged_is_the_dma_map_through_a_projection_and_the_same_areas(tiny: Backbone) -> None:
    head, clips = heads.create("htnet", 3, tiny.model, **SMALL).eval(), _frames()
    assert head.plugged and head.net.hierarchy.shape.patch == 1 and head.net.hierarchy.embed.weight.shape == (16, 16)
    onset, apex = (tiny.model.preprocess(clips["pair"][:, frame]) for frame in (0, 1))
    expected = tiny.model.dma(onset, apex)[0].unflatten(1, (4, 4))
    extracted = head.extract(clips)
    assert torch.allclose(extracted["map"], expected, atol=1e-6) and extracted["map"].dtype == torch.float32
    assert torch.equal(head(clips), head.net(extracted))
    readout = head.readout().eval()
    readout.load_state_dict(head.net.state_dict())
    assert torch.equal(readout(extracted), head(clips))


@pytest.mark.parametrize(("grid", "block"), [(28, 7), (12, 3), (14, 4), (4, 1), (16, 4)])
def test_blocks_grow_with_the_encoders_grid(grid: int, block: int) -> None:
    net = MapNet("map", 8, grid, 3, HTNetOptions(**SMALL))
    areas = _clips(2)["areas"]
    assert net.hierarchy.shape.size == 4 * block
    assert net({"map": torch.randn(2, grid, grid, 8), "areas": areas}).shape == (2, 3)


@pytest.mark.parametrize(
    ("mode", "trained"), [("frozen", set()), ("partial", {"blocks.1"}), ("full", {"blocks.0", "blocks.1"})]
)
def test_gradients_reach_the_encoder_as_the_mode_says(tiny: Backbone, mode: str, trained: set[str]) -> None:
    head = heads.create("htnet", 3, tiny.model, **SMALL).trainable(mode, 1, 0.1)
    F.cross_entropy(head(_frames()), torch.tensor([0, 1, 2])).backward()
    assert head.encoder is not None and head.encoder.attention is not None
    touched = {
        name for name, p in head.encoder.encoder.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert {name[:8] for name in touched if name.startswith("blocks")} == trained
    assert (head.encoder.attention.to_v.weight.grad is not None) is (mode != "frozen")
    assert head.net.hierarchy.embed.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in tiny.model.parameters())  # the run's encoder is never touched


def test_learning_rates_fall_with_depth(tiny: Backbone) -> None:
    head = heads.create("htnet", 3, tiny.model, layer_decay=0.5, **SMALL).trainable("full", 1, 0.1)
    rates = {id(p): group["lr"] for group in head.groups(1.0, 0.05) for p in group["params"]}
    assert head.encoder is not None and head.encoder.attention is not None
    encoder = head.encoder.encoder
    assert rates[id(head.net.hierarchy.embed.weight)] == 1.0
    assert rates[id(head.encoder.attention.to_q.weight)] == pytest.approx(0.1)
    assert rates[id(encoder.norm.weight)] == pytest.approx(0.1)
    assert rates[id(encoder.blocks[1].mlp.fc1.weight)] == pytest.approx(0.05)
    assert rates[id(encoder.blocks[0].mlp.fc1.weight)] == pytest.approx(0.025)
    assert rates[id(encoder.patch_embed.proj.weight)] == pytest.approx(0.0125)
    trained = {id(p) for p in head.parameters() if p.requires_grad}
    assert set(rates) == trained and sum(len(group["params"]) for group in head.groups(1.0, 0.05)) == len(trained)


def test_plugged_clips_are_mirrored_before_the_encoder(tiny: Backbone) -> None:
    head, clips = heads.create("htnet", 3, tiny.model, mirror=1.0, **SMALL), _frames()
    turned = head.augment(clips, torch.Generator().manual_seed(0))
    assert torch.equal(turned["pair"], clips["pair"].flip(3))
    assert torch.equal(turned["areas"], htnet_areas.mirror_areas(clips["areas"], 28))


def test_plugged_statistics_are_of_the_training_maps(tiny: Backbone) -> None:
    clips = _frames(8)
    samples = samples_of(clips, [0, 1, 2, 0, 1, 2, 0, 1])
    head, fold = heads.create("htnet", 3, tiny.model, **SMALL), loso(samples.subjects)[0]
    head.fit(fold.training(samples))
    rows = [i for i, name in enumerate(samples.subjects) if name != fold.subject]
    maps = head.extract({name: value[rows] for name, value in clips.items()})["map"]
    assert torch.allclose(head.net.scaling.standardise.mean, maps.mean((0, 1, 2)), atol=1e-5)


def test_summary_states_the_papers_size_and_what_it_is(tiny: Backbone) -> None:
    with torch.device("meta"):
        found = HTNetHead(3, HTNetOptions(release=True)).summary()
    assert found["parameters"] == 114_429_446 and found["published"]["parameters"] == 438.51e6
    assert 3e8 < found["flops"] < 5e8 and set(found["inputs"]) == {"flow", "areas"}
    native = heads.create("htnet", 3, **SMALL).summary()
    plugged = heads.create("htnet", 3, tiny.model, **SMALL).summary()
    assert plugged["flops"] > native["flops"] and set(plugged["inputs"]) == {"pair", "areas"}


def test_needs_name_the_recipes(tiny: Backbone) -> None:
    from finetune.inputs import FlowMap, Pair, Regions

    options = replace(HTNetOptions(), face="aligned", size=128)
    native = htnet.needs(options)
    assert native == {"flow": FlowMap("aligned", 128, grid=28), "areas": Regions("aligned", 128, grid=28)}
    plugged = htnet.needs(options, tiny.model)
    assert isinstance(plugged["pair"], Pair) and plugged["pair"].size == plugged["areas"].size == 32


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"block": 15}, "head.htnet.block"),
        ({"patch": 2}, "does not divide"),
        ({"depths": []}, "depths"),
        ({"dropout": 1.0}, "head.htnet.dropout"),
        ({"heads": 32}, "head.htnet.dim"),
        ({"mirror": 2.0}, "head.htnet.mirror"),
        ({"jitter": -1.0}, "head.htnet.jitter"),
        ({"layer_decay": 0.0}, "head.htnet.layer_decay"),
        ({"widht": 3}, "widht"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        heads.create("htnet", 3, **{**SMALL, **options})


def test_scalings_of_flow_are_refused_on_an_encoder(tiny: Backbone) -> None:
    with pytest.raises(UsageError, match="scaling"):
        heads.create("htnet", 3, tiny.model, scaling="centred", **SMALL)


def test_an_encoder_without_dma_is_refused() -> None:
    model = create("tiny", dma="none", poi="none", image_size=32, dim=16, depth=1, heads=2)
    with pytest.raises(UsageError, match="without DMA"):
        heads.create("htnet", 3, model, **SMALL)


@pytest.mark.parametrize(
    ("name", "parameters"), [("megc2019_htnet", 114_431_235), ("megc2019_htnet_small", 2_197_187)]
)
def test_recipes_hold_options_that_the_head_has(repository: Path, name: str, parameters: int) -> None:
    recipe = yaml.safe_load((repository / f"launch/recipes/finetune/{name}.yaml").read_text(encoding="utf-8"))
    assert recipe["head"]["name"] == "htnet" and recipe["data"]["dataset"] == "flow-maps"
    with torch.device("meta"):
        head = HTNetHead(3, HTNetOptions(**recipe["head"]["htnet"]))
    assert sum(p.numel() for p in head.parameters()) == parameters


@pytest.mark.parametrize("mirror", [0.0, 1.0])
def test_centred_maps_made_ready_once_give_the_same_logits(mirror: float) -> None:
    head, clips = heads.create("htnet", 3, scaling="centred", mirror=mirror, **SMALL), _clips(6)
    ready = head.eval().extract(clips)
    net = head.readout().eval()
    assert head.fixed and isinstance(net, TileNet) and ready["tiles"].shape[1] == 1 + bool(mirror)
    net.hierarchy.load_state_dict(head.net.hierarchy.state_dict())
    mean, scale = torch.tensor([0.1, -0.2, 0.3]), torch.tensor([2.0, 3.0, 4.0])
    for standardise in (net.standardise, head.net.scaling.standardise):
        standardise.mean.copy_(mean)
        standardise.scale.copy_(scale)
    assert torch.equal(net(ready), head(clips))
    turned = net.training_batch(ready, torch.arange(6), torch.Generator().manual_seed(0))
    mirrored = {"flow": htnet_areas.mirror_maps(clips["flow"]), "areas": htnet_areas.mirror_areas(clips["areas"], 28)}
    assert torch.equal(net(turned), head(mirrored if mirror else clips))


def test_maps_are_made_ready_only_where_no_fold_and_no_chance_has_a_part() -> None:
    for options in ({"scaling": "standard"}, {"scaling": "centred", "jitter": 1.0}):
        head = heads.create("htnet", 3, **options, **SMALL)
        clips = _clips(2)
        assert not head.fixed and head.extract(clips).keys() == clips.keys()
