"""The plan of a run: its numbers, its width, and that it leaves nothing behind."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from launch.cli import parse
from launch.plan import SYNTHETIC, Dry, plan, print_plan, take
from pretrain.architecture import ModelConfig
from pretrain.config import DataConfig, PretrainConfig
from pretrain.engine import EngineConfig
from shards import Manifest, PairReader, write
from shards.errors import UsageError
from shards.synthetic import write_unlabelled

PAPER = PretrainConfig(model=ModelConfig(preset="small"), epochs=100, data=DataConfig(global_batch=2048))
PAPERS = Dry(gpu="A100", gpus=32, pairs=8_000_000, mfu=(0.095, 0.5))


def rows(text: str, after: str) -> list[list[str]]:
    """The cells of the lines below the one that starts with `after`, up to the next blank one."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(after):
            break
    found = []
    for line in lines:
        if not line:
            break
        found.append(re.split(r" {2,}", line.strip()))
    return found


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    root = tmp_path_factory.mktemp("plan")
    write_unlabelled(root / "videos", videos=4, seconds=1.6, size=96, folders=4)
    return write([root / "videos"], root / "shards", size=96)


def test_the_papers_run_takes_the_papers_time() -> None:
    """8 M pairs x 100 epochs at 9.5 % of 32 A100 are the three days that the paper states."""
    text = plan(PAPER, PAPERS)
    assert "307.4 GFLOP per pair" in text and "246 EFLOP" in text
    assert "390,600, 3,906 per epoch = 100 epochs; 2,048 pairs each: 32 GPU(s) x 64" in text
    share, rate, everyone, time, hours = rows(text, "time")[1][:5]
    assert share == "9.5%" and abs(int(rate) - 96.5) < 1 and time == "3.0 days"
    assert abs(float(everyone.replace(",", "")) - 3086) < 20 and abs(float(hours.replace(",", "")) - 72 * 32) < 20


def test_parts_of_the_model_add_up() -> None:
    line = next(line for line in plan(PAPER, PAPERS).splitlines() if line.startswith("parameters"))
    total, encoder, dma, decoder = (float(number) for number in re.findall(r"([\d.]+) M", line)[:4])
    assert total == 26.73 and abs(encoder + dma + decoder - total) < 0.02


def test_memory_adds_up_and_says_what_fits() -> None:
    found = rows(plan(PAPER, PAPERS), "memory")
    sizes = [float(re.sub(r"[^\d.]", "", row[1])) for row in found]
    assert found[-1][0] == "in all" and sum(sizes[:-1]) == pytest.approx(sizes[-1], rel=1e-3)
    most = int(re.sub(r"[^\d]", "", found[-1][2].split("about")[1]))
    assert 64 < most < 1000
    small = plan(replace(PAPER, data=DataConfig(global_batch=most * 32 * 2)), PAPERS)
    assert "does not fit" in small


def test_costs_are_shown_only_for_a_price() -> None:
    assert "cost" not in plan(PAPER, PAPERS)
    found = rows(plan(PAPER, replace(PAPERS, price=2.5)), "time")
    place = found[0].index("cost")
    hours, cost = (float(found[1][i].replace(",", "")) for i in (place - 1, place))
    assert cost == pytest.approx(2.5 * hours, abs=1)


def test_readers_are_what_the_rate_needs() -> None:
    """At 1,285 pairs/s one core at 2,340 pairs/s is enough; at four times the pixels it is not."""
    text = plan(PAPER, Dry(gpus=32, pairs=8_000_000, mfu=(0.5,)))
    assert rows(text, "time")[1][-2:] == ["2,570", "1"]
    large = replace(PAPER, model=ModelConfig(preset="small", image_size=448, patch_size=16))
    assert int(rows(plan(large, Dry(gpus=32, pairs=8_000_000, mfu=(0.5,))), "time")[1][-1]) > 1


def test_real_shards_are_counted_as_training_counts_them(shards: Manifest) -> None:
    config = PretrainConfig(data=DataConfig(global_batch=16), epochs=2.5)
    reader = PairReader(shards, seed=0, global_batch=16, image_size=96)
    reader.close()
    text = plan(config, Dry(gpus=2), [(shards, 1.0)])
    per_epoch = reader.steps_per_epoch
    assert f"{-(-5 * per_epoch // 2)}, {per_epoch} per epoch" in text
    assert f"{shards.frames:,} frames of 96 px" in text
    assert "20 steps" not in text and "steps         20," in plan(replace(config, steps=20), Dry(), [(shards, 1.0)])


def test_synthetic_pairs_are_those_that_the_command_makes(shards: Manifest) -> None:
    """Every video of 48 frames has 43 with a partner 5 frames on."""
    assert round(shards.coverage(5) * shards.frames) == 4 * (SYNTHETIC[1] - 5)
    assert f"{80 * 43:,} pairs of synthetic faces" in plan(PretrainConfig(), Dry())


@pytest.mark.parametrize("objective", ["micron_bert", "mae", "mocov3", "beit"])
@pytest.mark.parametrize("stage", [1, 3])
def test_every_plan_is_narrow(objective: Any, stage: Any) -> None:
    for preset in ("tiny", "large"):
        model = ModelConfig(preset=preset, objective=objective)  # type: ignore[arg-type]
        engine = EngineConfig(zero_stage=stage, accumulation=4, activation_checkpointing=True, gradient_dtype="fp32")
        data = DataConfig(global_batch=8192, pool=True)
        text = plan(PretrainConfig(model=model, engine=engine, data=data), Dry(pairs=10**9, price=1234.5, gpus=1024))
        assert max(map(len, text.splitlines())) <= 110, text


def test_no_file_no_group_no_gpu(shards: Manifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted((path, path.stat().st_mtime_ns) for path in shards.directory.rglob("*"))
    plan(PretrainConfig(run="run"), Dry(gpus=1), [(shards, 1.0)])
    assert not list(tmp_path.iterdir())
    assert sorted((path, path.stat().st_mtime_ns) for path in shards.directory.rglob("*")) == before
    assert not torch.distributed.is_initialized()


def test_the_users_deepspeed_json_sets_the_gradient_buffer(tmp_path: Path) -> None:
    path = tmp_path / "zero.json"
    path.write_text('{"zero_optimization": {"reduce_bucket_size": 10000000}}')
    found = dict(row[:2] for row in rows(plan(PAPER, PAPERS), "memory"))
    own = replace(PAPER, engine=EngineConfig(deepspeed_config=str(path)))
    smaller = dict(row[:2] for row in rows(plan(own, PAPERS), "memory"))
    assert smaller["gradient buffer"] == "20 MB" and found["gradient buffer"] != "20 MB"


def test_arguments_of_the_dry_run_are_taken_out_and_the_others_stay() -> None:
    dry, rest = take(["--dry-run", "--config", "a.yaml", "--dry.gpu", "A100", "--dry.mfu=[0.4]", "--steps", "5"])
    assert dry == Dry(gpu="A100", mfu=(0.4,)) and rest == ["--config", "a.yaml", "--steps", "5"]
    assert take(["--steps", "5"]) == (None, ["--steps", "5"])
    assert take(["--dry_run"]) == (Dry(), [])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--dry.gpu", "A100"], "add --dry-run"),
        (["--dry-run", "--dry.gpuz", "8"], "dry.gpu"),
        (["--dry-run", "--dry.gpus", "many"], "gpus"),
    ],
)
def test_wrong_arguments_are_usage_errors(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        take(arguments)


@pytest.mark.parametrize(
    "dry, config, message",
    [
        (Dry(gpu="B300"), PAPER, "give one of H200"),
        (Dry(gpus=0), PAPER, r"dry\.gpus"),
        (Dry(mfu=(2.0,)), PAPER, r"dry\.mfu"),
        (Dry(gpus=3), PAPER, "try 2049"),
        (Dry(pairs=100), PAPER, "fewer pairs"),
    ],
)
def test_what_cannot_be_planned_is_said(dry: Dry, config: PretrainConfig, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(config, dry)


def test_recipes_can_be_planned(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for recipe in sorted((repository / "launch" / "recipes" / "pretrain").glob("*.yaml")):
        arguments = ["--config", str(recipe), "--data.global_batch", "64", "--engine.accumulation", "1"]
        config = parse(PretrainConfig, arguments, command="pretrain.py", description="")
        print_plan(replace(config, data=replace(config.data, shards="")), Dry(pairs=100_000))
    assert capsys.readouterr().out.count("in all") > 6
