"""launch/bench.py step and its kin: they end, agree with closed forms, and write the figures others look for."""

from __future__ import annotations

import json
import math
import mmap
from pathlib import Path

import numpy as np
import pytest
import torch

from launch.benchmarks import scaling, step, step_memory, stepping
from launch.benchmarks.stepping import Masters, Setting, Stepper
from pretrain.architecture import ModelConfig, resolve
from pretrain.flops import pair_flops
from pretrain.objective import create_objective
from shards.errors import UsageError
from tests.launch.conftest import Run
from tests.sizes import SIZES

TINY = Setting(resolve(ModelConfig(preset="tiny", **SIZES)), 4, "cpu", "fp32", compile="off")  # type: ignore[arg-type]
NAMES = {"mfu", "pairs_per_s", "vs_direct_reading", "memory_vs_direct_reading", "data_wait"}


@pytest.mark.slow
def test_step(command: Run, tmp_path: Path) -> None:
    done = command("launch/bench.py", "step", "--quick", "--json", tmp_path / "figures.json")
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "figures.json").read_text())
    figures = written["figures"]
    assert figures.keys() >= NAMES
    assert all(math.isfinite(value) and value >= 0 for value in figures.values())
    assert 0 <= figures["data_wait"] < 1 and figures["memory_mb"] > 0
    phases = sum(figures[f"{name}_ms"] for name in step.PHASES)
    assert phases == pytest.approx(4 / figures["pairs_per_s"] * 1e3, rel=0.2)  # nothing of a step is left out
    assert figures["mfu"] == pytest.approx(
        figures["pairs_per_s"] * figures["gflop_per_pair"] / 1e3 / figures["peak_tflops"], rel=1e-3
    )
    assert written["settings"]["quick"] is True and written["machine"]["cores"] > 0
    assert "direct reading, fp32" in done.stdout


@pytest.mark.slow
def test_the_gpu_checks_can_be_rehearsed(repository: Path, tmp_path: Path, command: Run) -> None:
    done = command("tests/gpu/check.py", "--device", "cpu", "--quick", "--out", tmp_path, "--minutes", "20")
    results = json.loads((tmp_path / "results.json").read_text())["sections"]
    wrong = {name: [c for c in r["checks"] if not c[1]] or r["fault"] for name, r in results.items()}
    assert not any(wrong.values()), wrong
    assert done.returncode == 0 and len(results) == 10
    assert "micro_attention" in (tmp_path / "results.txt").read_text()


def test_a_failing_gpu_section_is_told_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.gpu import check

    def failing(name: str, options: object, limit: float) -> dict:
        fault = "RuntimeError: CUDA error" if name == "kernels" else ""
        return {"checks": [["fine", True, ""]], "figures": {}, "fault": fault, "seconds": 1.0}

    monkeypatch.setattr(check, "run_apart", failing)
    words = ["--device", "cpu", "--quick", "--out", str(tmp_path), "--only", "kernels", "about"]
    assert check.main(words) == 1
    text = (tmp_path / "results.txt").read_text()
    assert "CUDA error" in text and "fine" in text
    assert check.main([*words[:-2], "about"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("step", "--preset", "huge"), "huge"),
        (("step", "--repeats", "0"), "--repeats of at least 1"),
        (("step", "--batch", "-1"), "give no negative --batch"),
    ],
)
def test_wrong_use_is_explained_in_one_line(forked: Run, words: tuple[str, ...], message: str) -> None:
    done = forked("launch/bench.py", *words)
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_gpu_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UsageError, match="finds no GPU"):
        step.settle(step.StepConfig(device="cuda"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_masters_follow_plain_adamw(precision: str) -> None:
    """In float32 exactly; in bfloat16 the float32 copies move by the same rule and the weights are their rounding."""
    torch.manual_seed(0)
    model = create_objective(TINY.model)
    expected = [p.detach().clone().requires_grad_() for p in model.parameters() if p.requires_grad]
    masters = Masters(model, stepping.DTYPES[precision])
    adamw = torch.optim.AdamW(expected, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    for _ in range(3):
        for weight, other in zip(masters.weights, expected, strict=True):
            weight.grad = torch.randn_like(weight)
            other.grad = weight.grad.float()
        torch.nn.utils.clip_grad_norm_(expected, 1.0, foreach=True)
        masters.step()
        adamw.step()
    for master, weight, other in zip(masters.masters, masters.weights, expected, strict=True):
        assert torch.allclose(master, other, atol=1e-7)
        assert torch.equal(weight, master.to(weight.dtype)) and weight.grad is None


def test_ours_and_the_direct_reading_start_from_the_same_weights_and_go_the_same_way() -> None:
    ours, theirs = Stepper(TINY), Stepper(Setting(**{**TINY.__dict__, "direct": True}))
    frames, seeds = step_memory.random_pairs(TINY)
    for _ in range(3):
        a, b = ours.step(frames, seeds), theirs.step(frames, seeds)
        assert float(a) == pytest.approx(float(b), rel=1e-4)


def test_memory_of_a_step_is_that_of_what_it_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that holds 200 MB is seen to."""
    stepper = Stepper(TINY)

    def hold(frames: torch.Tensor, seeds: torch.Tensor) -> None:
        pages = mmap.mmap(-1, 200_000_000)  # new ones: an allocator may hand out what is resident already
        np.frombuffer(pages, np.uint8)[:] = 1

    monkeypatch.setattr(stepper, "gradients", hold)
    assert 190 < step_memory.of_step(stepper, *step_memory.random_pairs(TINY)) < 260


def test_the_model_of_communication_has_its_closed_forms() -> None:
    config = scaling.ScalingConfig(hop_us=0, unrest=0)
    parameters, flops = scaling.parameters_of("small"), pair_flops(ModelConfig(preset="small"))
    assert parameters == pytest.approx(26.73e6, rel=2e-3)
    assert scaling.traffic_bytes(config, parameters, 32) == pytest.approx(104e6, rel=0.01)
    found = scaling.step(config, parameters, flops, 32, 64, 25.0)
    gather = 31 / 32 * parameters * 2 / 25e9
    assert found.compute == pytest.approx(64 * 307.4e9 / 395e12, rel=1e-3)
    assert found.exposed == pytest.approx(gather) and found.traffic == pytest.approx(2 * gather)
    assert found.efficiency == pytest.approx(found.compute / (found.compute + gather))
    without = scaling.step(scaling.ScalingConfig(hop_us=0, unrest=0, overlap=False), parameters, flops, 32, 64, 25.0)
    assert without.efficiency == pytest.approx(0.923, abs=0.002)
    assert scaling.step(config, parameters, flops, 1, 64, 25.0).efficiency == 1


def test_scaling_prints_its_tables(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    scaling.main(["--json", str(tmp_path / "scaling.json"), "--zero_stage", "3"])
    text = capsys.readouterr().out
    assert "64 pairs per GPU" in text and "1,024" in text and "ZeRO-3" in text
    figures = json.loads((tmp_path / "scaling.json").read_text())["figures"]
    assert 0.5 < figures["efficiency_b64_n1024_25"] < figures["efficiency_b256_n1024_25"] < 1
    with pytest.raises(UsageError, match="give --mfu"):
        scaling.main(["--mfu", "1.5"])
