"""ZeRO stages, ranks, accumulation, compilation and resuming lead to the same losses.

Losses are means over all ranks and micro-batches of the smallest model, over 50 steps. Tolerances, relative:
float32 1e-6 (measured: 2.2e-7); bf16 against bf16 with other ranks or stages 2e-4 (measured: 6.6e-5), against float32
2e-3 (measured: 5.6e-4). Weights in float32: 5e-4, half of one Adam step of 50, because Adam blows up the rounding of
gradients that are zero in exact arithmetic (a key's bias does not change a softmax).
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

FLOAT32, BF16, BF16_AGAINST_FLOAT32, WEIGHTS = 1e-6, 2e-4, 2e-3, 5e-4
REFERENCE = {"name": "reference", "zero_stage": 0}


class Runs:
    """Results by name."""

    def __init__(self, repository: Path, out: Path, environment: dict[str, str]):
        self.repository, self.out, self.environment = repository, out, environment

    def train(self, ranks: int, *cases: dict[str, Any], timeout: float = 240) -> None:
        """Train the cases, one after the other, on so many ranks."""
        job = self.out / f"job-{ranks}-{cases[0]['name']}.json"
        job.write_text(json.dumps({"ranks": ranks, "out": str(self.out), "cases": cases}))
        done = subprocess.run(
            [sys.executable, "-m", "tests.launch.zero", str(job)],
            cwd=self.repository,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]

    def agree(self, name: str, other: str = "reference", tolerance: float = FLOAT32) -> None:
        """Assert that two trainings had the same losses (at the steps that `name` made), and whole weights."""
        one, two = (json.loads((self.out / f"{each}.json").read_text()) for each in (name, other))
        assert one["whole"], f"{name}: whole_weights differs from weights"
        expected = two["losses"][one["first"] - two["first"] :][: len(one["losses"])]
        apart = [abs(a - b) / abs(b) for a, b in zip(one["losses"], expected, strict=True)]
        assert all(map(math.isfinite, one["losses"])) and max(apart) < tolerance, f"{name}: {max(apart):.2g}"
        if tolerance == FLOAT32:
            weights, others = (load_file(self.out / f"{each}.safetensors") for each in (name, other))
            assert weights.keys() == others.keys()
            assert all((weights[key] - others[key]).abs().max() < WEIGHTS for key in weights)


@pytest.fixture
def runs(repository: Path, tmp_path: Path, environment: dict[str, str]) -> Runs:
    """A folder of results, with the reference: one process, float32, no ZeRO."""
    return Runs(repository, tmp_path, environment)


def saved(runs: Runs, stage: int, precision: str = "fp32") -> Path:
    """Where the checkpoint of step 20 of a two-rank run is."""
    return runs.out / f"run-{stage}-{precision}" / "step-20"


def trained(runs: Runs, stage: int, precision: str = "fp32", **more: Any) -> dict[str, Any]:
    """A case that saves itself at step 20 and goes on meanwhile."""
    name = f"{stage}-{precision}"
    return {"name": name, "zero_stage": stage, "precision": precision, "save": str(saved(runs, stage, precision)),
            "save_at": 20, **more}  # fmt: skip


def resumed(runs: Runs, old: int, new: int, ranks: int, precision: str = "fp32") -> dict[str, Any]:
    """A case that continues a two-rank run."""
    return {"name": f"{old}-to-{new}-{precision}-on-{ranks}", "zero_stage": new, "precision": precision, "first": 20,
            "load": str(saved(runs, old, precision))}  # fmt: skip


@pytest.mark.slow
def test_stages_ranks_accumulation_and_compilation_agree(runs: Runs) -> None:
    two = [trained(runs, 1), trained(runs, 3, scattered=True), {"name": "bf16", "precision": "bf16"}]
    two.append({"name": "2-accumulated", "zero_stage": 2, "accumulation": 2})
    two.append({**resumed(runs, 3, 3, 2), "steps": 30})
    runs.train(2, *two)
    compiled = {"name": "compiled", "zero_stage": 1, "compile": "aot_eager"}
    runs.train(1, REFERENCE, compiled, resumed(runs, 1, 3, 1), resumed(runs, 3, 0, 1))
    for name in ("1-fp32", "3-fp32", "2-accumulated", "compiled", "1-to-3-fp32-on-1", "3-to-0-fp32-on-1"):
        runs.agree(name)
    runs.agree("3-to-3-fp32-on-2", "3-fp32", 1e-12)  # bit for bit
    runs.agree("bf16", tolerance=BF16_AGAINST_FLOAT32)
    reference = json.loads((runs.out / "reference.json").read_text())["losses"]
    assert reference[-1] < 0.9 * reference[0], "it trains at all"
    groups = json.loads((runs.out / "groups-2.json").read_text())
    assert groups["gradient"] < 1e-14 and groups["gathered"]
    assert groups["max"] == [1, 0] and groups["every"] == [[0.5], [1.5]]


@pytest.mark.slow
def test_the_whole_matrix_agrees(runs: Runs) -> None:
    """Stages 0-3 on 1, 2 and 4 ranks, bf16, compiled, accumulated; every stage resumed as every other."""
    stages, bf16 = (0, 1, 2, 3), (1, 2, 3)
    runs.train(2, *[trained(runs, stage) for stage in stages], *[trained(runs, stage, "bf16") for stage in bf16])
    names = []
    for ranks in (1, 2, 4):
        cases = [{"name": f"{stage}-on-{ranks}", "zero_stage": stage} for stage in stages]
        cases += [resumed(runs, old, new, ranks) for old in stages for new in stages]
        if ranks < 4:
            cases += [
                {"name": f"{stage}-by-2-on-{ranks}", "zero_stage": stage, "accumulation": 2} for stage in stages
            ]
        if ranks == 1:
            cases += [{"name": f"{s}-{c}", "zero_stage": s, "compile": c} for c in ("aot_eager",) for s in stages]
            cases += [{"name": "1-inductor", "zero_stage": 1, "compile": "inductor"}, REFERENCE]
        names += [case["name"] for case in cases if case is not REFERENCE]
        runs.train(ranks, *cases, timeout=1800)
    for name in names:
        runs.agree(name)
    for ranks in (1, 4):
        cases = [resumed(runs, old, new, ranks, "bf16") for old in bf16 for new in bf16]
        cases += [{"name": f"{s}-bf16-on-{ranks}", "zero_stage": s, "precision": "bf16"} for s in bf16]
        exact = {"precision": "bf16", "gradient_dtype": "fp32"}
        cases += [{"name": f"{s}-summed-in-fp32-on-{ranks}", "zero_stage": s, **exact} for s in bf16]
        runs.train(ranks, *cases, timeout=1800)
        for case in cases:
            runs.agree(case["name"], "1-bf16", BF16)
        for stage in (2, 3):
            runs.agree(f"{stage}-summed-in-fp32-on-{ranks}", f"1-summed-in-fp32-on-{ranks}", 1e-12)
    for name in ("1-bf16", "1-bf16-on-4", "3-bf16-on-1"):
        runs.agree(name, tolerance=BF16_AGAINST_FLOAT32)
