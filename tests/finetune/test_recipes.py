"""Every recipe of launch/recipes/finetune starts and trains as it is: inputs prepared, two steps of its real size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune import datasets, training
from finetune.clips import Clip
from finetune.config import FinetuneConfig, validate
from finetune.folds import Portion, everything
from finetune.heads.base import Head
from finetune.prepare import prepare
from launch.cli import parse
from launch.finetune import DESCRIPTION

RECIPES = Path(__file__).resolve().parents[2] / "launch/recipes/finetune"
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))
CLIPS = 6
FEWER = {"casme2_slstt": 1, "casme2_frl_dgt_s": 2, "casme2_frl_dgt": 4}
"""Clips of the step where memory allows no more: a clip of SLSTT at its paper's size keeps about 5 GB."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared inputs, shared by the recipes."""
    return tmp_path_factory.mktemp("prepared")


def parsed(name: str, *arguments: str) -> FinetuneConfig:
    """The recipe as launch/finetune.py reads it."""
    words = ["--config", str(RECIPES / f"{name}.yaml"), *arguments]
    return parse(FinetuneConfig, words, command="finetune.py", description=DESCRIPTION)


def few(clips: list[Clip]) -> list[Clip]:
    """Three clips of either of two subjects, of different labels first."""
    chosen: list[Clip] = []
    for subject in sorted({clip.person for clip in clips})[:2]:
        own = [clip for clip in clips if clip.person == subject]
        first = {clip.emotion: clip for clip in reversed(own)}.values()
        chosen += [*first, *(clip for clip in own if clip not in first)][: CLIPS // 2]
    return chosen


def limit(portion: Portion, count: int) -> Portion:
    """The first clips of a portion."""
    assert portion.labels is not None
    inputs = {name: value[:count] for name, value in portion.inputs.items()}
    cut = {"ids": portion.ids[:count], "subjects": portion.subjects[:count], "labels": portion.labels[:count]}
    return replace(portion, inputs=inputs, **cut)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_understood_and_says_what_it_is(name: str) -> None:
    validate(parsed(name, "--data.root", "x"))
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    assert all(f"# {word}:" in text for word in ("Source", "Cost", "Command")) and "TBD" not in text


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_without_edits(
    name: str, shared: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = name.startswith("megc2019")
    root = shared / "data" / ("megc2019_flow" if maps else "sim/casme2")
    arguments = ["--data.root", str(root), "--data.cache", str(cache), "--out", str(tmp_path), "--data.workers", "1"]
    if name == "casme2_slstt":
        arguments += ["--head.slstt.weights", ""]  # timm would fetch 344 MB
    if name.startswith("casme3"):
        arguments += ["--data.dataset", "casme2", "--data.scheme", "C2-5"]  # there is no simulated CAS(ME)3
    inspect = datasets.inspect

    def inspect_few(data: Any) -> Any:
        clips, validation = inspect(data)
        return few(clips), validation

    monkeypatch.setattr(datasets, "inspect", inspect_few)
    config = parsed(name, *arguments, "--device", "cpu")
    prepared = prepare(config, quiet=True)
    portion = limit(
        everything(prepared.samples), min(FEWER.get(name, config.train.batch or CLIPS), len(few(prepared.clips)))
    )
    torch.manual_seed(0)
    model: Head = prepared.head.readout()
    model.fit(portion)
    optimiser = training.make_optimiser(model, config.train)
    schedule = training.make_schedule(optimiser, config.train, 4)
    labels = portion.require_training("a step")
    before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    for step in range(2):  # a classifier that starts at zero passes no gradient on in the first one
        batch = model.augment(portion.inputs, torch.Generator().manual_seed(step))
        loss = training.step(model, batch, labels, None, optimiser, schedule, config.train)
        assert 0 < loss < float("inf")
    after = [p.detach() for p in model.parameters() if p.requires_grad]
    changed = sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert changed > 0.8 * len(before) and all(torch.isfinite(p).all() for p in after)
