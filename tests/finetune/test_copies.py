"""Copies of training clips: magnified ones of FRL-DGT, from the images to the folds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from finetune import prepare as preparing
from finetune.clips import Clip
from finetune.config import FinetuneConfig, HeadConfig
from finetune.copies import FACTOR, copies
from finetune.folds import loso
from finetune.heads import frl_dgt
from finetune.heads.frl_dgt_clips import moved_apex
from finetune.inputs import FlowMap, MagnifiedApex, Pair, prepare
from finetune.motion.flow import PRESETS, compute
from finetune.motion.magnify import MagnifyConfig, magnify
from finetune.options.frl_dgt import FrlDgtOptions, effective
from shards.errors import FlickerError, UsageError
from tests.finetune.inputs_helpers import make_clip

FACE, SIZE = "as-is-squash", 40
RECIPES = {"pair": Pair(FACE, SIZE), "flow": FlowMap(FACE, SIZE, grid=SIZE)}
RECIPES |= {f"magnified{i}": MagnifiedApex(FACE, SIZE, factor) for i, factor in enumerate((2.0, 0.5))}


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    """Two clips that move to the right."""
    return [make_clip(tmp_path / "images", name, seed) for seed, name in enumerate("ab")]


def test_the_magnified_apex_has_moved_by_its_factor(clips: list[Clip], tmp_path: Path) -> None:
    arrays = prepare(clips, RECIPES, tmp_path / "cache", quiet=True).arrays
    for row in range(2):
        onset, apex = arrays["pair"][row]
        by_hand = magnify(onset, apex, 2.0, MagnifyConfig(flow=PRESETS["fine"]))
        assert np.array_equal(arrays["magnified0"][row], by_hand)
        inside = (slice(10, 30), slice(10, 30), 0)
        moved = [compute(onset, frame, PRESETS["fine"])[inside].mean() for frame in (apex, arrays["magnified0"][row])]
        assert moved[0] > 0.7 and moved[1] == pytest.approx(2 * moved[0], rel=0.15)


def test_copies_stand_beside_the_clips_and_differ_in_the_apex_alone(clips: list[Clip], tmp_path: Path) -> None:
    arrays = dict(prepare(clips, RECIPES, tmp_path / "cache", quiet=True).arrays)
    plain, twice, half, *mirrored = copies(arrays, RECIPES, mirror=True)
    assert (
        all(set(some) == {"pair", "flow", FACTOR} for some in (plain, twice, half, *mirrored)) and len(mirrored) == 3
    )
    assert np.array_equal(plain["pair"], arrays["pair"]) and np.array_equal(plain["flow"], arrays["flow"])
    for some, factor, name in ((twice, 2.0, "magnified0"), (half, 0.5, "magnified1")):
        assert np.array_equal(some["pair"][:, 0], arrays["pair"][:, 0])
        assert np.array_equal(some["pair"][:, 1], arrays[name])
        assert np.allclose(some["flow"], factor * arrays["flow"]) and (some[FACTOR] == factor).all()
    for some, other in zip((plain, twice, half), mirrored, strict=True):
        assert np.array_equal(other["pair"], some["pair"][:, :, :, ::-1]) and (other[FACTOR] == some[FACTOR]).all()
    assert copies({"pair": arrays["pair"]}, {"pair": RECIPES["pair"]}, False)[0].keys() == {"pair"}


def test_only_training_clips_have_copies(config: FinetuneConfig) -> None:
    small = {"size": 24, "side": 8, "patch": 4, "dim": 16, "heads": 2, "layers": 1, "hidden": 16, "frames": 3}
    ours = FrlDgtOptions(face=FACE, regions="grid", dgm_widths=[4, 8], magnified=[3.0], **small)
    config.head = HeadConfig(name="frl_dgt", frl_dgt=ours)
    config.train.epochs = 1
    prepared = preparing.prepare(config, quiet=True)
    samples = prepared.samples
    assert samples.inputs["pair"].shape[1] == 2 and samples.inputs[FACTOR].shape == (len(samples.ids), 2)
    assert "magnified0" not in samples.inputs
    fold = loso(samples.subjects)[0]
    training, testing = fold.training(samples), fold.testing(samples)
    assert sorted(set(training.inputs[FACTOR].tolist())) == [1.0, 3.0]
    assert (testing.inputs[FACTOR] == 1).all() and len(testing) == len(samples.rows((fold.subject,)))
    assert torch.equal(testing.inputs["pair"], samples.inputs["pair"][samples.rows((fold.subject,)), 0])
    head = prepared.head.readout()
    head.fit(training)
    batch = head.augment({name: value[:4] for name, value in training.inputs.items()}, torch.Generator())
    assert torch.isfinite(head.loss(batch, torch.tensor([0, 1, 2, 0]))[0])


def test_a_magnified_apex_is_not_moved() -> None:
    sequence = torch.arange(6, dtype=torch.uint8)[None, :, None, None, None].expand(40, 6, 2, 2, 3)
    pair = torch.full((40, 2, 2, 2, 3), 99, dtype=torch.uint8)
    inputs = {"pair": pair, "sequence": sequence, "sequence.apex": torch.full((40,), 3)}
    inputs[FACTOR] = torch.tensor([1.0, 2.0]).repeat(20)
    found = moved_apex(inputs, 1, torch.Generator().manual_seed(0))["pair"][:, 1, 0, 0, 0]
    assert set(found[::2].tolist()) == {2, 3, 4} and set(found[1::2].tolist()) == {99}


def test_options_name_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="magnified"):
        effective(FrlDgtOptions(magnified=[-1.0]))
    with pytest.raises(UsageError, match="magnifier"):
        effective(FrlDgtOptions(magnifier="magnet.pt"))
    for changes in ({"sequence": True}, {"ablation": "M2"}):
        with pytest.raises(UsageError, match="magnified: it is about the pair"):
            effective(FrlDgtOptions(magnified=[2.0], **changes))  # type: ignore[arg-type]
    absent = FrlDgtOptions(magnified=[2.0], magnifier=f"torchscript:{tmp_path / 'absent.pt'}")
    with pytest.raises(FlickerError, match="absent"):
        frl_dgt.needs(absent)["magnified0"].key()


def test_a_network_of_the_users_magnifies(clips: list[Clip], tmp_path: Path) -> None:
    class Fade(torch.nn.Module):
        def forward(self, reference: torch.Tensor, other: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
            return reference + factor * (other - reference)

    path = tmp_path / "fade.pt"
    torch.jit.script(Fade()).save(str(path))
    recipes = {"pair": RECIPES["pair"], "magnified0": MagnifiedApex(FACE, SIZE, 0.0, f"torchscript:{path}")}
    arrays = prepare(clips, recipes, tmp_path / "cache", quiet=True).arrays
    assert np.array_equal(arrays["magnified0"], arrays["pair"][:, 0])
    assert recipes["magnified0"].key() != MagnifiedApex(FACE, SIZE, 0.0).key()
