"""The head `frl_dgt`: ablations, self-supervision within the fold, overfitting, sequences, the plugged encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

from finetune.backbone import Backbone
from finetune.folds import LeakError, Portion, Samples, loso
from finetune.heads.frl_dgt import FrlDgtHead, build, needs
from finetune.motion import dynamic
from finetune.options.frl_dgt import ABLATIONS, FrlDgtOptions, effective
from shards.errors import FlickerError, UsageError
from tests.finetune.test_frl_dgt_dgm import textures

SMALL = {"size": 24, "side": 8, "patch": 4, "dim": 16, "heads": 2, "layers": 1, "mlp_ratio": 1.0, "hidden": 16}
SMALL |= {"dgm_widths": [4, 8], "frames": 5, "tim": 4}


def options(**changes: object) -> FrlDgtOptions:
    """A head of a few thousand parameters."""
    return FrlDgtOptions(**{**SMALL, **changes})  # type: ignore[arg-type]


def shifted(count: int, size: int = 24, frames: int = 5) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Clips of a texture that moves to the right (class 0) or down (class 1) up to the apex, frame 3, and back."""
    labels = torch.arange(count) % 2
    pictures = textures(count, size + 8, 3, smooth=4)
    rows = []
    for i in range(count):
        path = [0, 1, 2, 3, 1][:frames]
        moved = [(step, 0) if labels[i] == 0 else (0, step) for step in path]
        rows.append(torch.stack([pictures[i][:, 4 - y : 4 - y + size, 4 - x : 4 - x + size] for x, y in moved]))
    sequence = (255 * torch.stack(rows)).round().to(torch.uint8).movedim(2, -1)  # [B T S S 3]
    corners = torch.tensor([[8 * (i % 3), 8 * (i // 3), 8, 8] for i in range(9)], dtype=torch.int32)
    inputs = {
        "pair": sequence[:, [0, 3]],
        "sequence": sequence,
        "sequence.index": torch.arange(10, 10 + frames, dtype=torch.int32).expand(count, frames),
        "sequence.apex": torch.full((count,), 3, dtype=torch.int32),
        "boxes": corners.expand(count, 9, 4),
        "flow": torch.stack([F.one_hot(labels, 2).float().view(count, 1, 1, 2).expand(count, size, size, 2)])[0] * 3,
    }
    return inputs, labels


def portion(inputs: dict[str, torch.Tensor], labels: torch.Tensor, role: str = "training") -> Portion:
    """All clips as one portion."""
    names = tuple(f"clip{i}" for i in range(len(labels)))
    return Portion(role, names, names, inputs, None if role == "test" else labels)  # type: ignore[arg-type]


def trained(head: FrlDgtHead, inputs: dict[str, torch.Tensor], labels: torch.Tensor, steps: int) -> list[float]:
    """The head after so many full-batch steps with its own groups, augmentation and loss."""
    head.fit(portion(inputs, labels))
    adam = torch.optim.Adam(head.groups(3e-3, 0.0))
    generator, losses = torch.Generator().manual_seed(0), []
    head.train()
    for _ in range(steps):
        loss, parts = head.loss(head.augment(inputs, generator), labels)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(parts["classification"]))
    return losses


def accuracy(head: FrlDgtHead, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> float:
    """Share of right predictions in evaluation."""
    with torch.no_grad():
        return float((head.eval()(inputs).argmax(-1) == labels).float().mean())


@pytest.mark.parametrize("ablation", list(ABLATIONS))
def test_every_ablation_trains_and_has_the_parts_its_row_names(ablation: str) -> None:
    torch.manual_seed(0)
    inputs, labels = shifted(6)
    head = FrlDgtHead(2, options(ablation=ablation))
    fusion = head.network.transfu
    assert (head.dgm is not None) is (ablation not in ("M0", "M1", "M2"))
    assert (fusion.face is not None) is (ablation != "M6")
    assert (fusion.local.fusion is not None) is (ablation != "M7")
    assert (fusion.overall is not None) is (ablation != "M8")
    order = {module.order for module in fusion.modules() if hasattr(module, "order")}
    assert order == {"after" if ablation == "M4" else "before"}
    assert head.options.random_pairs == (0 if ablation == "M3" else 2)
    assert head.options.regions == ("grid" if ablation == "M5" else "au")
    losses = trained(head, inputs, labels, 10)
    assert losses[-1] < 0.95 * losses[0]
    if head.dgm is None:  # nothing but the classification
        assert head.loss(inputs, labels)[1].keys() == {"classification"}


def test_the_difference_of_frames_is_a_linear_map_of_the_pair() -> None:
    torch.manual_seed(0)
    inputs, _ = shifted(3)
    pair, difference = (FrlDgtHead(2, options(frames_seen=seen)).eval() for seen in ("pair", "difference"))
    torch.nn.init.normal_(pair.network.classify[-1].weight)  # it starts at zero
    state = pair.state_dict()
    for name in [name for name in state if name.endswith("embed.weight")]:
        onset, apex, *moved = pair.get_parameter(name).detach().split(16, dim=1)
        state[name] = torch.cat([onset + apex, apex / 20, *moved], dim=1)
    difference.load_state_dict(state)
    assert torch.allclose(difference(inputs), pair(inputs), atol=1e-4)
    difference.load_state_dict(pair.state_dict())
    assert not torch.allclose(difference(inputs), pair(inputs), atol=1e-2)
    with pytest.raises(UsageError, match="frames_seen"):
        effective(FrlDgtOptions(frames_seen="both"))  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{}, {"ablation": "M2"}, {"sequence": True}])
def test_eight_clips_are_learnt_without_an_error(changes: dict[str, object]) -> None:
    torch.manual_seed(0)
    inputs, labels = shifted(8)
    head = FrlDgtHead(2, options(jitter=0, random_pairs=1, **changes))
    trained(head, inputs, labels, 40)
    assert accuracy(head, inputs, labels) == 1


def test_ablations_are_the_rows_of_the_papers_table_2() -> None:
    whole = effective(FrlDgtOptions())
    changed = {
        row: {key: value for key, value in vars(effective(FrlDgtOptions(ablation=row))).items() if key != "ablation"}
        for row in ABLATIONS
    }
    rest = {key: value for key, value in vars(whole).items() if key != "ablation"}
    different = {row: {k: v for k, v in values.items() if v != rest[k]} for row, values in changed.items()}
    assert different == {
        "M0": {"motion": "flow"},
        "M1": {"motion": "flow-normalised"},
        "M2": {"motion": "dynamic"},
        "M3": {"random_pairs": 0},
        "M4": {"fusion": "after"},
        "M5": {"regions": "grid"},
        "M6": {"full_face": False},
        "M7": {"local_fusion": False},
        "M8": {"global_fusion": False},
        "M9": {},
    }


def test_dynamic_features_of_m0_m1_m2_are_what_they_say() -> None:
    inputs, _ = shifted(2)
    onset, apex = FrlDgtHead(2, options(ablation="M0")).frames(inputs)
    flow = FrlDgtHead(2, options(ablation="M0")).motion(onset, apex, inputs)
    assert torch.equal(flow, inputs["flow"].permute(0, 3, 1, 2))
    normed = FrlDgtHead(2, options(ablation="M1")).motion(onset, apex, inputs)
    assert torch.allclose(normed, flow / 3)
    image = FrlDgtHead(2, options(ablation="M2", colour="rgb")).motion(onset, apex, inputs)
    for row in range(2):
        expected = dynamic.dynamic_image(inputs["sequence"][row].numpy().astype(np.float32))
        assert np.allclose(image[row].permute(1, 2, 0).numpy(), 2 * expected - 1, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_norm": "head"},
        {"normalise": "instance"},
        {"normalise": "none", "direction": "samples"},
        {"reconstruct": "raw", "dgm_skips": True},
        {"colour": "rgb", "dropout": 0.3, "layers": 2},
        {"local_fusion": False, "global_fusion": False, "full_face": False},
        {"ablation": "M2", "colour": "rgb"},
    ],
)
def test_option_combinations_train(changes: dict[str, object]) -> None:
    torch.manual_seed(0)
    inputs, labels = shifted(6)
    head = FrlDgtHead(2, options(**changes))
    losses = trained(head, inputs, labels, 8)
    assert losses[-1] < losses[0]


def test_the_classification_loss_reaches_the_dgm_by_a_millionth() -> None:
    torch.manual_seed(0)
    inputs, labels = shifted(4)

    def gradient(scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(1)
        head = FrlDgtHead(2, options(gradient_scale=scale))
        torch.nn.init.normal_(head.network.classify[-1].weight)  # type: ignore[index,arg-type]
        F.cross_entropy(head(inputs), labels).backward()
        assert head.dgm is not None and head.network.transfu.local.embed.weight.grad is not None  # type: ignore
        return head.dgm.out.weight.grad, head.network.transfu.local.embed.weight.grad  # type: ignore

    full, fusion = gradient(1.0)
    scaled, same = gradient(1e-6)
    assert full.abs().max() > 0 and (1e6 * scaled - full).abs().max() < 1e-3 * full.abs().max()
    assert torch.allclose(same, fusion, rtol=1e-5)


def test_the_loss_is_the_sum_of_both_and_its_displacement_part_covers_the_random_pairs() -> None:
    inputs, labels = shifted(4)
    head = FrlDgtHead(2, options(jitter=0)).train()
    head.fit(portion(inputs, labels))
    batch = head.augment(inputs, torch.Generator().manual_seed(0))
    total, parts = head.loss(batch, labels)
    assert total.item() == pytest.approx(parts["classification"].item() + parts["displacement"].item())
    weights = (parts["reconstruction"], parts["size"], parts["smoothness"])
    assert parts["displacement"].item() == pytest.approx(
        sum(w * p.item() for w, p in zip((10, 1, 0.2), weights, strict=True))
    )
    still = dict(batch, pairs=batch["pairs"][:, :, :1].expand_as(batch["pairs"]))
    assert head.loss(still, labels)[1]["reconstruction"] != parts["reconstruction"]


def test_self_supervision_draws_from_the_training_clips_alone() -> None:
    """Each subject's frames have a grey level of their own; the test subject's never turns up."""
    names = ("a", "b", "c", "d")
    levels = torch.tensor([10, 20, 30, 40], dtype=torch.uint8)
    ramp = torch.arange(5, dtype=torch.uint8).view(1, 1, 5, 1, 1, 1)
    sequence = (levels.view(4, 1, 1, 1, 1, 1) + ramp).expand(4, 1, 5, 24, 24, 3)
    index = torch.arange(5).expand(4, 1, 5)
    inputs = {"sequence": sequence, "sequence.index": index, "sequence.apex": torch.full((4, 1), 3)}
    inputs["pair"] = sequence[:, :, [0, 3]]
    samples = Samples(names, names, torch.tensor([0, 1, 0, 1]), inputs, ("x", "y"))
    for fold in loso(names):
        head = FrlDgtHead(2, options())
        part = fold.training(samples)
        head.fit(part)
        pairs = head.augment(part.inputs, torch.Generator().manual_seed(0))["pairs"]
        assert pairs.shape == (3, 2, 2, 24, 24, 3)
        seen = {int(value) // 10 for value in pairs[..., 0, 0, 0].flatten()}
        assert 1 + names.index(fold.subject) not in seen
        inner, held = fold.inner[0].portions(samples)
        head.fit(inner)
        drawn = head.augment(inner.inputs, torch.Generator().manual_seed(1))["pairs"]
        allowed = {1 + names.index(name) for name in inner.subjects}
        assert {int(value) // 10 for value in drawn[..., 0, 0, 0].flatten()} <= allowed
        for forbidden in (fold.testing(samples), held):
            with pytest.raises(LeakError, match="the DGM must be fitted on a fold's training clips"):
                FrlDgtHead(2, options()).fit(forbidden)


def test_random_pairs_are_two_different_frames_of_one_clip_and_depend_on_the_generator() -> None:
    inputs, labels = shifted(4)
    levels = (40 * torch.arange(4)).view(4, 1, 1, 1, 1) + torch.arange(5).view(1, 5, 1, 1, 1)
    inputs["sequence"] = levels.to(torch.uint8).expand(4, 5, 24, 24, 3)
    inputs["sequence.index"] = inputs["sequence.index"].clone()
    inputs["sequence.index"][1] = torch.tensor([3, 4, 5, 5, 5])  # three frames of its own
    head = FrlDgtHead(2, options(random_pairs=50))
    head.fit(portion(inputs, labels))
    values = head.augment(inputs, torch.Generator().manual_seed(0))["pairs"][..., 0, 0, 0].long().flatten(0, 1)
    assert (values[:, 0] // 40 == values[:, 1] // 40).all() and (values[:, 0] != values[:, 1]).all()
    assert set((values % 40)[values[:, 0] // 40 == 1].flatten().tolist()) == {0, 1, 2}
    assert set((values % 40)[values[:, 0] // 40 == 0].flatten().tolist()) == {0, 1, 2, 3, 4}
    again = head.augment(inputs, torch.Generator().manual_seed(0))["pairs"][..., 0, 0, 0].long().flatten(0, 1)
    other = head.augment(inputs, torch.Generator().manual_seed(1))["pairs"][..., 0, 0, 0].long().flatten(0, 1)
    assert torch.equal(again, values) and not torch.equal(other, values)


def test_the_apex_moves_by_one_frame_at_most_and_stays_behind_the_onset() -> None:
    inputs, labels = shifted(40)
    inputs["sequence"] = torch.arange(5, dtype=torch.uint8).view(1, 5, 1, 1, 1).expand(40, 5, 24, 24, 3)
    inputs["pair"] = inputs["sequence"][:, [0, 3]]
    head = FrlDgtHead(2, options())
    head.fit(portion(inputs, labels))
    moved = head.augment(inputs, torch.Generator().manual_seed(0))["pair"][..., 0, 0, 0]
    assert set(moved[:, 0].tolist()) == {0} and set(moved[:, 1].tolist()) == {2, 3, 4}
    inputs["sequence.apex"] = torch.full((40,), 1)
    moved = head.augment(inputs, torch.Generator().manual_seed(0))["pair"][..., 0, 0, 0]
    assert set(moved[:, 1].tolist()) == {1, 2}
    inputs["sequence.apex"] = torch.full((40,), 4)
    moved = head.augment(inputs, torch.Generator().manual_seed(0))["pair"][..., 0, 0, 0]
    assert set(moved[:, 1].tolist()) == {3, 4}
    still = FrlDgtHead(2, options(jitter=0))
    still.fit(portion(inputs, labels))
    assert torch.equal(still.augment(inputs, torch.Generator().manual_seed(0))["pair"], inputs["pair"])


def test_sequences_are_recognised_and_tim_is_used() -> None:
    torch.manual_seed(0)
    inputs, _ = shifted(8)
    del inputs["pair"]
    head = FrlDgtHead(2, options(sequence=True))
    assert head.network.steps == 3 and head.network.transfu.temporal is not None
    onset, others = head.frames(inputs)
    assert onset.shape == others.shape == (24, 1, 24, 24)
    assert torch.allclose(onset[0], onset[2]) and not torch.allclose(onset[0], onset[3])
    assert head(inputs).shape == (8, 2)


def test_tim_is_that_of_each_clips_own_frames() -> None:
    from finetune.motion import tim

    inputs, _ = shifted(2)
    inputs["sequence.index"] = torch.tensor([[1, 2, 3, 4, 5], [4, 5, 6, 6, 6]])
    _, others = FrlDgtHead(2, options(sequence=True, colour="rgb")).frames(inputs)
    for row, own in enumerate((5, 3)):
        frames = inputs["sequence"][row, :own].numpy().astype(np.float64) / 255
        expected = tim.interpolate(frames, np.linspace(0, own - 1, 4))[1:]
        found = others.unflatten(0, (2, 3))[row].permute(0, 2, 3, 1).numpy()
        assert np.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["frozen", "partial", "full"])
def test_plugged_gradients_reach_the_encoder_as_the_mode_says(tiny: Backbone, mode: str) -> None:
    inputs, labels = shifted(4)
    head = FrlDgtHead(2, options(), tiny.model).trainable(mode, 1, 0.1)  # type: ignore[arg-type]
    torch.nn.init.normal_(head.network.classify[-1].weight)  # type: ignore[index,arg-type]
    head.fit(portion(inputs, labels))
    head.loss(head.augment(inputs, torch.Generator().manual_seed(0)), labels)[0].backward()
    assert head.encoder is not None
    named = head.encoder.encoder.named_parameters()
    touched = {name[:8] for name, p in named if p.grad is not None and p.grad.abs().sum() > 0 and "blocks" in name}
    assert touched == {"frozen": set(), "partial": {"blocks.1"}, "full": {"blocks.0", "blocks.1"}}[mode]
    assert all(p.grad is None for p in tiny.model.parameters())
    rates = {group["lr"] for group in head.groups(1.0, 0.0) if "schedule" not in group}
    decay = head.options.layer_decay
    full = {1.0, 0.1, 0.1 * decay, 0.1 * decay**2, 0.1 * decay**3}
    expected = {"frozen": {1.0}, "partial": {1.0, 0.1, 0.1 * decay}, "full": full}[mode]
    assert sorted(rates) == pytest.approx(sorted(expected))


@pytest.mark.parametrize("sequence", [False, True])
def test_plugged_heads_learn_from_extracted_tokens_and_equal_the_whole_head(tiny: Backbone, sequence: bool) -> None:
    torch.manual_seed(0)
    inputs, labels = shifted(8)
    head = FrlDgtHead(2, options(sequence=sequence, random_pairs=1), tiny.model)
    with torch.no_grad():
        extracted = head.extract(inputs)
    cells, side = 9 * 4, 4  # boxes of 2 x 2 cells; the encoder's grid is 4 x 4
    assert extracted["tokens"].shape == (8, 4 if sequence else 2, cells + side**2, 16)
    readout = head.readout()
    assert readout.encoder is None and readout.plugged
    losses = trained(readout, extracted, labels, 12)
    assert losses[-1] < 0.9 * losses[0]
    readout.eval()
    head.load_state_dict(readout.state_dict(), strict=False)
    with torch.no_grad():
        assert torch.allclose(head.eval()(inputs), readout(extracted), atol=1e-5)


def test_groups_hold_every_trained_parameter_once_and_the_dgm_at_its_own_rate() -> None:
    head = FrlDgtHead(2, options())
    groups = head.groups(1e-4, 0.1)
    listed = [id(p) for group in groups for p in group["params"]]
    assert len(listed) == len(set(listed)) and set(listed) == {id(p) for p in head.parameters()}
    assert head.dgm is not None
    dgm = {id(p) for p in head.dgm.parameters()}
    for group in groups:
        inside = {id(p) in dgm for p in group["params"]}
        assert inside == {group["lr"] == 2e-3} and (group.get("schedule") == "constant") is (True in inside)
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    for name, parameter in head.named_parameters():
        assert (id(parameter) in decayed) is (name.endswith(".weight") and parameter.ndim >= 2), name


def test_native_extract_is_the_identity_and_readout_is_fresh() -> None:
    inputs, _ = shifted(2)
    head = FrlDgtHead(2, options())
    assert head.extract(inputs) == inputs and not head.plugged
    assert head.readout() is not head and head.trainable("full", 1, 0.1).encoder is None


def test_the_papers_sizes_are_the_defaults() -> None:
    o = FrlDgtOptions()
    assert (o.side, o.patch, o.dim, o.heads, o.tim, o.alpha) == (90, 18, 256, 8, 10, 0.2)
    assert (o.rec_weight, o.norm_weight, o.smooth_weight, o.gradient_scale, o.dgm_lr) == (10, 1, 0.2, 1e-6, 2e-3)
    with torch.device("meta"):
        network = FrlDgtHead(3, o).network
    assert network.tokens == (25, 225) and network.transfu.local.embed.weight.shape == (9, 4 * 18 * 18, 256)


def test_needs_name_what_the_options_use() -> None:
    def names(**changes: object) -> set[str]:
        return set(needs(FrlDgtOptions(**changes)))  # type: ignore[arg-type]

    assert names() == {"pair", "boxes", "sequence"}
    assert names(ablation="M5") == {"pair", "sequence"}
    assert names(ablation="M0") == names(ablation="M1") == {"pair", "boxes", "flow"}
    assert names(random_pairs=0, jitter=0) == {"pair", "boxes"}
    assert names(sequence=True) == {"boxes", "sequence"}
    found = needs(FrlDgtOptions(size=108, side=36, patch=12, frames=7))
    assert (found["pair"].size, found["boxes"].side, found["sequence"].frames) == (108, 36, 7)


@pytest.mark.parametrize("name", ["pair", "boxes", "sequence", "sequence.apex"])
def test_an_absent_input_is_named(name: str) -> None:
    inputs, labels = shifted(2)
    del inputs[name]
    head = FrlDgtHead(2, options())
    with pytest.raises(FlickerError, match=f"the input '{name}' is absent.*prepare"):
        head.fit(portion(inputs, labels))
        head.loss(head.augment(inputs, torch.Generator()), labels)


def test_frames_of_another_size_and_missing_pairs_are_refused() -> None:
    inputs, labels = shifted(2)
    head = FrlDgtHead(2, options(size=32))
    with pytest.raises(FlickerError, match=r"24 × 24 px, not head\.frl_dgt\.size 32"):
        head(inputs)
    with pytest.raises(FlickerError, match="'pairs' is absent, which augment"):
        FrlDgtHead(2, options()).loss(inputs, labels)
    with pytest.raises(FlickerError, match="that fit\\(\\) was given"):
        FrlDgtHead(2, options()).augment(inputs, torch.Generator())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ablation": "M10"}, "head.frl_dgt.ablation: no 'M10'"),
        ({"size": 25}, "head.frl_dgt.size: 25 .*multiple of head.frl_dgt.patch"),
        ({"side": 10}, "head.frl_dgt.side: 10"),
        ({"dim": 15}, "head.frl_dgt.dim: 15 .*head.frl_dgt.heads"),
        ({"dgm_widths": []}, "head.frl_dgt.dgm_widths"),
        ({"sequence": True, "ablation": "M0"}, "head.frl_dgt.sequence"),
    ],
)
def test_wrong_options_are_named(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(2, None, **{**SMALL, **changes})


def test_summary_counts_parameters_and_names_the_papers_figures() -> None:
    facts = FrlDgtHead(3, FrlDgtOptions()).summary()
    assert facts["parameters"] == 25_087_949 and facts["flops"] == pytest.approx(9.09e9, rel=0.01)
    assert facts["inputs"] == {"pair": "pair", "boxes": "regions", "sequence": "sequence"}
    assert facts["published"]["uf1"] == 0.812


@pytest.mark.parametrize("name", ["casme2_frl_dgt", "casme2_frl_dgt_s", "casme2_small_frl_dgt"])
def test_recipes_hold_options_that_the_head_has(repository: Path, name: str) -> None:
    recipe = yaml.safe_load((repository / f"launch/recipes/finetune/{name}.yaml").read_text(encoding="utf-8"))
    head = recipe["head"]
    assert head["name"] == "frl_dgt" and recipe["train"]["optimiser"] == "adam"
    with torch.device("meta"):
        build(3, None, **head.get("frl_dgt", {}))
