"""launch/pretrain.py as a user runs it: variants, recipes, faults."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from safetensors.torch import load_file

from launch.cli import parse
from pretrain import load_encoder
from pretrain.config import PretrainConfig
from tests.launch.conftest import Run, deepspeed, read_log
from tests.launch.pretraining import SCRIPT, arguments, same, weights_of

VARIANTS = {
    "bf16": ["--engine.precision", "bf16"],
    "dino": ["--model.agreement.kind", "dino", "--model.agreement.local_crops", "2"],
    "zero 2": ["--engine.zero_stage", "2", "--engine.deepspeed_config", "launch/deepspeed/zero2.json"],
    "reader processes": ["--data.workers", "2"],
    "swapping alone": ["--model.dma", "none", "--model.poi", "none", "--model.agreement.kind", "none"],
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_train_draw_and_resume(command: Run, small_shards: Path, tmp_path: Path, variant: str) -> None:
    words = arguments(small_shards, tmp_path / "run", "--log.pictures", "2", *VARIANTS[variant])
    for steps in (2, 3):
        done = command(SCRIPT, *words, "--steps", str(steps))
        assert done.returncode == 0, done.stderr
    lines = [line for line in read_log(tmp_path / "run") if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3]
    wandb_ids = {folder.name.split("-")[-1] for folder in (tmp_path / "run" / "wandb").glob("offline-run-*")}
    assert len(wandb_ids) == 1, "a resumed run keeps its wandb id"
    assert (tmp_path / "run" / "pictures" / "step-3.png").stat().st_size > 1000
    probed = {line["step"] for line in read_log(tmp_path / "run") if "motion_auroc" in line}
    assert probed == (set() if variant == "swapping alone" else {0, 2, 3})
    assert load_encoder(tmp_path / "run").cls_token.abs().sum() > 0


RECIPES = sorted((Path(__file__).parents[2] / "launch/recipes/pretrain").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_parses(recipe: Path) -> None:
    config = parse(PretrainConfig, ["--config", str(recipe)], command="x", description="x")
    assert config.steps or config.epochs


def test_a_loss_that_is_not_finite_stops_before_the_update(command: Run, small_shards: Path, tmp_path: Path) -> None:
    words = arguments(small_shards, tmp_path / "run", "--optim.lr", "1e30", "--engine.clip", "0")
    done = command(SCRIPT, *words, launcher=deepspeed(2, 29631))
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors and ("not finite" in errors[0] or "gradient norm" in errors[0])
    failed = int(re.search(r"of step (\d+) is", errors[0])[1])
    assert [line["step"] for line in read_log(tmp_path / "run")] == list(range(1, failed)), "rank 0 stopped there too"
    assert "lower optim.lr" in errors[0] and "continues from the last checkpoint" in errors[0]
    for folder in (tmp_path / "run").glob("checkpoints/step-*"):
        assert all(value.isfinite().all() for value in load_file(folder / "model.safetensors").values())


FAULTS = {
    "unknown key": (["--optim.lrate", "1"], 2, "did you mean 'optim.lr'"),
    "unknown recipe key": (["--config", "RECIPE"], 2, "optim.learning_rate"),
    "batch that does not divide": (["--engine.accumulation", "3"], 2, "does not divide"),
    "another architecture": (["--model.dim", "64"], 1, "another architecture: model.dim is 32 there and 64 now"),
    "another seed": (["--seed", "9"], 1, "has seed 0, not 9"),
    "no shards": (["--data.shards", "nowhere"], 1, "nowhere"),
    "more pairs than there are": (["--data.global_batch", "100000"], 1, "100000"),
    "no init": (["--checkpoint.init", "nowhere", "--run", "elsewhere"], 1, "no weights at nowhere"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_told_in_one_line_and_lose_nothing(
    command: Run, small_shards: Path, whole: Path, tmp_path: Path, fault: str
) -> None:
    words, code, text = FAULTS[fault]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("optim:\n  learning_rate: 1\n")
    words = [{"RECIPE": str(recipe), "elsewhere": str(tmp_path / "new")}.get(word, word) for word in words]
    before = weights_of(whole)
    done = command(SCRIPT, *arguments(small_shards, whole, *words))
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and text in errors[0] and "Traceback" not in done.stderr
    assert same(weights_of(whole), before)


def test_help_lists_defaults_and_units(command: Run) -> None:
    done = command(SCRIPT, "--help")
    assert done.returncode == 0 and "--optim.lr" in done.stdout and "default: 0.001" in done.stdout
