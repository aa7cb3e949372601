"""launch/pretrain.py as a user runs it: variants, recipes, faults."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from launch.cli import parse
from pretrain import load_encoder
from pretrain.config import PretrainConfig
from shards import PairReader, read_manifest
from shards.errors import FlickerError
from tests.launch.conftest import Run, deepspeed, read_log
from tests.launch.pretraining import SCRIPT, STEPS, arguments, same, weights_of

VARIANTS = {
    "dino": ["--model.agreement.kind", "dino", "--model.agreement.local_crops", "2"],
    "zero 2": ["--engine.zero_stage", "2", "--engine.deepspeed_config", "launch/deepspeed/zero2.json"],
    "bf16, augmented, decoded once": [
        *("--engine.precision", "bf16"),
        *("--data.augment.crop_area", "[0.5, 1]", "--data.augment.brightness", "0.3", "--data.augment.blur", "1"),
        *("--data.pool", "true", "--data.workers", "1"),
    ],
    "two shard sets": ["--data.shards", "", "--data.mixture", "MIXTURE", "--data.workers", "2"],
    "swapping alone": ["--model.dma", "none", "--model.poi", "none", "--model.agreement.kind", "none"],
    "mae": ["--model.objective", "mae"],
    "mocov3": [
        *("--model.objective", "mocov3", "beit", "--model.mocov3.hidden_dim", "64"),
        *("--data.augment.crop_area", "[0.5, 1]", "--data.augment.brightness", "0.3"),
    ],
    "beit": ["--model.objective", "beit", "--model.beit.vocabulary", "64", "--model.beit.min_block", "2"],
}
WITHOUT_DMA = ("swapping alone", "mae", "mocov3", "beit")


SELDOM = (
    "zero 2",
    "swapping alone",
    "two shard sets",
    "mae",
    "mocov3",
    "bf16, augmented, decoded once",
)  # other tests have most of them
PARAMETERS = [pytest.param(name, marks=[pytest.mark.slow] * (name in SELDOM)) for name in VARIANTS]


@pytest.mark.parametrize("variant", PARAMETERS)
def test_variants_train_draw_and_resume(forked: Run, small_shards: Path, tmp_path: Path, variant: str) -> None:
    mixture = json.dumps({str(small_shards): 3, str(small_shards / ".." / small_shards.name): 1})
    words = [mixture if word == "MIXTURE" else word for word in VARIANTS[variant]]
    words = arguments(small_shards, tmp_path / "run", "--log.pictures", "2", *words)
    for steps in (2, 3):
        done = forked(SCRIPT, *words, "--steps", str(steps))
        assert done.returncode == 0, done.stderr
    lines = [line for line in read_log(tmp_path / "run") if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3]
    wandb_ids = {folder.name.split("-")[-1] for folder in (tmp_path / "run" / "wandb").glob("offline-run-*")}
    assert len(wandb_ids) == 1, "a resumed run keeps its wandb id"
    assert (tmp_path / "run" / "pictures" / "step-3.png").stat().st_size > 1000
    probed = {line["step"] for line in read_log(tmp_path / "run") if "motion_auroc" in line}
    assert probed == (set() if variant in WITHOUT_DMA else {0, 2, 3})
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
    "shards twice": (["--data.mixture", '{"nowhere": 1}'], 2, "data.shards and data.mixture are both given"),
    "augmentation out of range": (["--data.augment.crop_area", "[0, 1]"], 2, "data.augment.crop_area 0 1"),
    "no shards": (["--data.shards", "nowhere"], 1, "nowhere"),
    "more pairs than there are": (["--data.global_batch", "100000"], 1, "100000"),
    "no init": (["--checkpoint.init", "nowhere", "--run", "elsewhere"], 1, "no weights at nowhere"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_told_in_one_line_and_lose_nothing(
    command: Run, forked: Run, small_shards: Path, whole: Path, tmp_path: Path, fault: str
) -> None:
    words, code, text = FAULTS[fault]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("optim:\n  learning_rate: 1\n")
    words = [{"RECIPE": str(recipe), "elsewhere": str(tmp_path / "new")}.get(word, word) for word in words]
    before = weights_of(whole)
    run = command if fault == "unknown key" else forked
    done = run(SCRIPT, *arguments(small_shards, whole, *words))
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and text in errors[0] and "Traceback" not in done.stderr
    assert same(weights_of(whole), before)


def test_help_lists_defaults_and_units(forked: Run) -> None:
    done = forked(SCRIPT, "--help")
    assert done.returncode == 0 and "--optim.lr" in done.stdout and "default: 0.001" in done.stdout


@pytest.mark.slow
def test_data_that_one_rank_cannot_read_stop_all_after_a_checkpoint(
    command: Run, small_shards: Path, tmp_path: Path
) -> None:
    readable = 0
    for part in range(2, 12):  # damage a frame that is not needed at once
        shutil.copytree(small_shards, tmp_path / "shards", dirs_exist_ok=True)
        tar = tmp_path / "shards" / "shard-000000.tar"
        data = bytearray(tar.read_bytes())
        data[len(data) * part // 12] ^= 1
        tar.write_bytes(data)
        readable = _readable_steps(tmp_path / "shards")
        if 2 <= readable < STEPS - 1:
            break
    words = ["--checkpoint.every", "1000", "--data.max_bad", "0"]
    words = arguments(tmp_path / "shards", tmp_path / "run", *words)
    done = command(SCRIPT, *words, launcher=deepspeed(2, 29633), timeout=120)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert any("above max_bad" in line for line in errors) and "Traceback" not in done.stderr
    assert [line["step"] for line in read_log(tmp_path / "run")] == list(range(1, readable + 1))
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text() == f"step-{readable}"


def _readable_steps(shards: Path) -> int:
    """Steps before the first unreadable frame."""
    steps = 0
    with contextlib.suppress(FlickerError):
        for _ in PairReader(read_manifest(shards), seed=0, global_batch=8, max_bad=0, image_size=32):
            steps += 1
    return steps
