"""All checks and timings that need a GPU, in one call.

python tests/gpu/check.py --out DIR [--minutes 8] [--device cuda|cpu] [--quick] [--only SECTION ...]

Every section runs in a process of its own: one that fails is reported and the others go on. Writes DIR/results.json
(sections: checks with verdicts, figures) and DIR/results.txt (the printed tables). Exit code 1 if a check failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

from launch.benchmarks import machine, step, step_memory, stepping, table  # noqa: E402
from launch.benchmarks.stepping import Setting, Stepper  # noqa: E402
from pretrain import attention  # noqa: E402
from pretrain.architecture import ModelConfig, resolve  # noqa: E402
from pretrain.dma import DiagonalAttention  # noqa: E402
from pretrain.flops import pair_flops, peak_flops  # noqa: E402
from shards.files import atomic_path  # noqa: E402

TARGET = 1285.0  # pairs/s of `small` on an H200: half of what its matrix products reach
MARK = "SECTION "


@dataclass
class Section:
    """What a section found."""

    device: torch.device
    quick: bool
    out: Path
    checks: list[tuple[str, bool, str]] = field(default_factory=list)
    figures: dict[str, float | str] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        """Not a rehearsal."""
        return self.device.type == "cuda"

    def check(self, name: str, right: bool, detail: str = "") -> None:
        """A verdict."""
        self.checks.append((name, bool(right), detail))

    def near(self, name: str, error: float, limit: float) -> None:
        """An error that must not exceed a limit."""
        self.check(name, error <= limit, f"{error:.2e} (limit {limit:.0e})")

    def setting(self, **options: Any) -> Setting:
        """The paper's size in bfloat16, or the tiny model."""
        preset = "tiny" if self.quick else "small"
        model = options.pop("model", None) or resolve(ModelConfig(preset=preset))  # type: ignore[arg-type]
        batch = options.pop("batch", 4)
        return Setting(model, batch, self.device.type, **{"precision": "bf16", "compile": "off", **options})


def about(section: Section) -> None:
    """The machine: what matrix products reach, and what software there is."""
    section.figures |= {"torch": torch.__version__, "device": _device_name(section.device)}
    if section.on_gpu:
        section.figures["cuda"] = str(torch.version.cuda)
        section.figures["memory_gb"] = torch.cuda.get_device_properties(0).total_memory / 1e9
        section.figures["product_8192_tflops"] = _product(section.device, 8192)
    peak, source = peak_flops(section.device, torch.bfloat16)
    section.figures |= {"peak_tflops": peak / 1e12, "peak_from": source}


def micro_attention(section: Section) -> None:
    """Diagonal micro-attention against the whole float64 map, values and gradients."""
    shape = (2, 49, 32) if section.quick else (4, 784, 512)
    q, k = (torch.randn(shape, device=section.device, dtype=torch.float64) for _ in range(2))
    weight, scale = torch.randn(shape[:2], device=section.device, dtype=torch.float64), shape[-1] ** -0.5
    for dtype, limits in ((torch.float32, (1e-5, 1e-4)), (torch.bfloat16, (1e-3, 3e-2))):
        given = [x.to(dtype).requires_grad_() for x in (q, k)]
        wide = [x.detach().double().requires_grad_() for x in given]
        diag = DiagonalAttention.apply(*given, scale)
        expected = (wide[0] @ wide[1].mT * scale).softmax(-1).diagonal(dim1=1, dim2=2)
        (diag * weight.to(diag.dtype)).sum().backward()
        (expected * weight).sum().backward()
        name = str(dtype)[6:]
        section.near(f"values, {name}", _error(diag, expected), limits[0])
        section.near(
            f"gradients, {name}", max(map(_error, [x.grad for x in given], [x.grad for x in wide])), limits[1]
        )


def kernels(section: Section) -> None:
    """Attention kernels agree with float64, and their times at the step's shapes."""
    heads, tokens, width = (2, 37, 16) if section.quick else (4, 785, 128)
    qkv = torch.randn(2, tokens, 3, heads, width, device=section.device).bfloat16()
    grad = torch.randn(2, heads, tokens, width, device=section.device).bfloat16()
    wide = qkv.double().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        q, k, v = wide.permute(2, 0, 3, 1, 4).unbind(0)
        expected = F.scaled_dot_product_attention(q, k, v)
    (expected_grad,) = torch.autograd.grad(expected, wide, grad.double())
    for name in attention.KINDS[section.device.type]:
        if fault := attention._fault(section.device, [(2, heads, tokens, width)], torch.bfloat16, name):
            section.figures[f"{name} does not run"] = fault
            continue
        given = qkv.clone().requires_grad_()
        with attention.using(attention.Choice(name, section.device.type)):
            out = attention.attend(*given.permute(2, 0, 3, 1, 4).unbind(0))
        (found,) = torch.autograd.grad(out, given, grad)
        section.near(f"{name}: values", _error(out, expected), 2e-2)
        section.near(f"{name}: gradients", _error(found, expected_grad), 2e-2)
    for batch in (4,) if section.quick else (64, 256):
        model = section.setting().model
        choice = attention.choose(section.device, attention.step_shapes(model, batch), torch.bfloat16)
        section.figures |= {f"{name}, batch {batch}, ms": ms for name, ms in choice.milliseconds.items()}
        section.figures[f"chosen, batch {batch}"] = choice.name


def agreement(section: Section) -> None:
    """Losses and gradients: compiled against eager, bfloat16 against float32, ours against the direct reading."""
    plain = section.setting(precision="fp32")
    frames, seeds = step_memory.random_pairs(plain)
    loss, gradient = _gradient(Stepper(plain), frames, seeds)
    others = {
        "direct reading": (replace(plain, direct=True), 1e-5, 1e-3),
        "recomputed": (replace(plain, checkpointing=True), 1e-6, 1e-5),
        "blocks": (replace(plain, compile="blocks"), 1e-5, 1e-3),
        "whole": (replace(plain, compile="whole"), 1e-5, 1e-3),
        "bfloat16": (replace(plain, precision="bf16"), 1e-2, 8e-2),
        "bfloat16, blocks": (replace(plain, precision="bf16", compile="blocks"), 1e-2, 8e-2),
    }
    if section.quick:
        others = {name: others[name] for name in ("direct reading", "recomputed", "bfloat16")}
    for name, (setting, limit, gradient_limit) in others.items():
        found, found_gradient = _gradient(Stepper(setting), frames, seeds)
        section.near(f"{name}: loss", abs(found - loss) / abs(loss), limit)
        section.near(f"{name}: gradient", float((found_gradient - gradient).norm() / gradient.norm()), gradient_limit)


def waiting(section: Section) -> None:
    """Nothing in a step of any objective has the host wait for the device; no graph breaks."""
    for objective in ("micron_bert", "mae", "mocov3", "beit"):
        model = resolve(ModelConfig(preset="tiny", objective=objective))  # type: ignore[arg-type]
        for compiled in ("off",) if section.quick else ("off", "whole"):
            stepper = Stepper(section.setting(model=model, compile=compiled))
            frames, seeds = step_memory.random_pairs(stepper.setting)
            for _ in range(3):
                stepper.step(frames, seeds)
            stepping.wait(section.device)
            what = f"{objective}, compile {compiled}"
            try:
                if section.on_gpu:
                    torch.cuda.set_sync_debug_mode("error")
                stepper.step(frames, seeds)
                section.check(what, True)
            except RuntimeError as error:
                section.check(what, False, str(error).splitlines()[0])
            finally:
                if section.on_gpu:
                    torch.cuda.set_sync_debug_mode("default")


def suite(section: Section) -> None:
    """The test suite's tests that are skipped where there is no GPU."""
    files = ("test_augment.py", "test_device.py", "test_health.py", "test_stragglers.py")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "-q",
        "-rs",
        "-k",
        "gpu or device",
    ]
    command += [str(ROOT / "tests" / "pretrain" / name) for name in files]
    if section.quick:
        command.append("--collect-only")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    last = (done.stdout.strip().splitlines() or ["no output"])[-1]
    (section.out / "pytest.txt").write_text(done.stdout + done.stderr)
    section.check("pytest", done.returncode == 0, last)


def compared(section: Section) -> None:
    """launch/bench.py step: fed by the reader, against the direct reading."""
    words = ["--json", str(section.out / "step.json"), "--device", section.device.type]
    step.main([*words, "--quick=true"] if section.quick else [*words, "--batch", "64", "--repeats", "3"])
    section.figures |= json.loads((section.out / "step.json").read_text())["figures"]
    _judge(
        section, "batch 64, bench step", float(section.figures["pairs_per_s"]), float(section.figures["data_wait"])
    )


def sweep(section: Section) -> None:
    """Batch, compilation, recomputation: pairs/s, MFU and memory without a reader."""
    cases: list[dict[str, Any]] = [{"batch": 4}]
    if not section.quick:
        cases = [{"batch": batch, "compile": mode} for batch in (64, 128, 256) for mode in ("off", "blocks", "whole")]
        cases += [{"batch": 256, "compile": "blocks", "checkpointing": True}]
        cases += [{"batch": 128, "compile": "whole", "tuning": "max-autotune-no-cudagraphs"}]
    for case in cases:
        name = ", ".join(f"{key} {value}" for key, value in case.items())
        try:
            section.figures |= {f"{name}: {key}": value for key, value in _timed(section.setting(**case)).items()}
        except RuntimeError as error:  # one that does not fit or compile leaves the others
            section.check(name, False, str(error).splitlines()[0])
        print(MARK + json.dumps([section.checks, section.figures]), flush=True)  # should time run out


def fed(section: Section) -> None:
    """The reader feeding: pairs/s and the share of time spent waiting for pairs, by batch."""
    for batch in (4,) if section.quick else (64, 128, 256):
        config = step.settle(step.StepConfig(device=section.device.type, batch=batch, quick=section.quick))
        setting = section.setting(batch=batch, compile="off" if section.quick else "blocks")
        with tempfile.TemporaryDirectory() as folder:
            feed = step.open_feed(config, Path(folder))
            try:
                found = stepping.train(Stepper(setting), feed, config.fed)
            finally:
                feed.close()
                feed.reader.close()
        section.figures |= {f"batch {batch}: {name}": value for name, value in found.items()}
        if batch == 64:
            _judge(section, "batch 64, fed", found["pairs_per_s"], found["data_wait"])


def trained(section: Section) -> None:
    """The pretraining command itself: the engine, the reader, logging."""
    with tempfile.TemporaryDirectory() as folder:
        config = step.settle(step.StepConfig(device=section.device.type, batch=64, quick=section.quick))
        config = replace(config, batch=64)
        feed = step.open_feed(config, Path(folder))
        feed.close()
        feed.reader.close()
        steps, every = (4, 2) if section.quick else (150, 25)
        words = ["--run", f"{folder}/run", "--data.shards", f"{folder}/shards", "--steps", str(steps)]
        words += ["--model.preset", config.preset, "--data.global_batch", "8" if section.quick else "64"]
        words += ["--data.workers", str(config.workers), "--log.every", str(every), "--log.pictures", "0"]
        environment = {**os.environ, "WANDB_MODE": "disabled"}
        command = [sys.executable, "launch/pretrain.py", *words]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        log = Path(folder, "run", "log.jsonl")
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    (section.out / "train.txt").write_text(done.stdout + done.stderr)
    lines = [line for line in lines if "pairs_per_s" in line]
    said = (done.stderr.strip().splitlines() or [""])[-1]
    section.check("launch/pretrain.py ends well", done.returncode == 0 and len(lines) > 1, said)
    if lines:
        best = max(lines[1:] or lines, key=lambda line: line["pairs_per_s"])  # the first holds compilation
        section.figures |= {key: best[key] for key in ("pairs_per_s", "mfu", "data_wait", "memory_gb") if key in best}
        _judge(section, "batch 64, launch/pretrain.py", best["pairs_per_s"], best["data_wait"])


SECTIONS: dict[str, tuple[Callable[[Section], None], int]] = {
    "about": (about, 60),
    "micro_attention": (micro_attention, 60),
    "kernels": (kernels, 60),
    "waiting": (waiting, 120),
    "suite": (suite, 60),
    "compared": (compared, 150),
    "trained": (trained, 120),
    "fed": (fed, 120),
    "agreement": (agreement, 120),
    "sweep": (sweep, 240),
}
"""In the order of worth, each with the seconds it may take."""


def _timed(setting: Setting) -> dict[str, float]:
    """One case of the sweep."""
    started = time.perf_counter()
    stepper = Stepper(setting)
    frames, seeds = step_memory.random_pairs(setting)
    stepper.step(frames, seeds)
    stepping.wait(stepper.device)
    first = time.perf_counter() - started
    spent = stepping.compare({"": stepper}, frames, seeds, 3, max(640 // setting.batch, 3))[""]
    rate = setting.batch / min(item.wall for item in spent)
    peak, _ = peak_flops(stepper.device, stepper.dtype)
    found = {"pairs/s": rate, "mfu": rate * pair_flops(setting.model) / peak, "first step, s": first}
    if stepper.device.type == "cuda":
        found["memory, GB"] = step_memory.of_step(stepper, frames, seeds) / 1e3
    return found


def _gradient(stepper: Stepper, frames: torch.Tensor, seeds: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Loss and all gradients in one vector, float64."""
    loss = stepper.gradients(frames, seeds)
    grads = [p.grad.double().flatten() for p in stepper.model.parameters() if p.grad is not None]
    return float(loss), torch.cat(grads)


def _judge(section: Section, name: str, rate: float, data_wait: float) -> None:
    """The figures to reach, where the machine is the one that they are for."""
    if section.on_gpu and "H200" in _device_name(section.device):
        section.check(f"{name}: pairs/s", rate >= TARGET, f"{rate:.0f} (to reach: {TARGET:.0f})")
        section.check(f"{name}: data wait", data_wait < 0.03, f"{100 * data_wait:.2f} % (to reach: < 3 %)")


def _error(found: Any, expected: Any) -> float:
    """Largest difference over the largest value."""
    return float((found.detach().double() - expected.detach()).abs().max() / expected.detach().abs().max())


def _product(device: torch.device, side: int) -> float:
    """TFLOP/s of a bfloat16 matrix product."""
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    stepping.wait(device)
    started = time.perf_counter()
    for _ in range(20):
        a @ a
    stepping.wait(device)
    return 20 * 2.0 * side**3 / (time.perf_counter() - started) / 1e12


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "cpu"


def run_section(name: str, options: argparse.Namespace) -> None:
    """In a process of its own: what a section found, on the last line that begins with MARK."""
    section = Section(torch.device(options.device), options.quick, options.out)
    SECTIONS[name][0](section)
    print(MARK + json.dumps([section.checks, section.figures]), flush=True)


def run_apart(name: str, options: argparse.Namespace, limit: float) -> dict[str, Any]:
    """A section's checks and figures, and what went wrong."""
    command = [sys.executable, __file__, "--section", name, "--out", str(options.out), "--device", options.device]
    command += ["--quick"] if options.quick else []
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    started, fault = time.monotonic(), ""
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit, check=False)
        output, errors = done.stdout, done.stderr
        if done.returncode:
            fault = (errors.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    except subprocess.TimeoutExpired as late:
        output, errors = (x.decode() if isinstance(x, bytes) else x or "" for x in (late.stdout, late.stderr))
        fault = f"not done after {limit:.0f} s"
    (options.out / f"{name}.txt").write_text(output + errors)
    found = [line for line in output.splitlines() if line.startswith(MARK)]
    checks, figures = json.loads(found[-1][len(MARK) :]) if found else ([], {})
    return {"checks": checks, "figures": figures, "fault": fault, "seconds": round(time.monotonic() - started, 1)}


def report(results: dict[str, dict[str, Any]]) -> bool:
    """Print the tables; whether all went well."""
    well = True
    for name, result in results.items():
        lines = [("ok" if right else "WRONG", what, detail) for what, right, detail in result["checks"]]
        if result["fault"]:
            lines.append(("WRONG", "the section itself", result["fault"]))
        well &= all(line[0] == "ok" for line in lines)
        table.show(f"{name}, {result['seconds']:g} s", ("", "", ""), lines)
        if result["figures"]:
            table.show(f"{name}: figures", ("", ""), list(result["figures"].items()))
    return well


class _Twice:
    """Standard output, kept for a file as well."""

    def __init__(self) -> None:
        self.kept: list[str] = []

    def write(self, text: str) -> int:
        self.kept.append(text)
        return sys.__stdout__.write(text) if sys.__stdout__ else 0

    def flush(self) -> None:
        if sys.__stdout__:
            sys.__stdout__.flush()


def main(arguments: list[str]) -> int:
    """All sections, or the one that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--minutes", type=float, default=8.0, help="sections that would begin later are left out")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal")
    parser.add_argument("--quick", action="store_true", help="the tiny model: whether it works, not how fast")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), help="these sections")
    parser.add_argument("--section", choices=list(SECTIONS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.section:
        run_section(options.section, options)
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        print("PyTorch finds no GPU here; --device cpu --quick rehearses", file=sys.stderr)
        return 2
    results: dict[str, dict[str, Any]] = {}
    end = time.monotonic() + 60 * options.minutes
    for name in options.only:
        left = end - time.monotonic()
        if left < 20:
            results[name] = {"checks": [], "figures": {}, "fault": "no time was left", "seconds": 0.0}
            continue
        results[name] = run_apart(name, options, min(left, SECTIONS[name][1]))
        print(f"{name}: {results[name]['seconds']:g} s {results[name]['fault']}", file=sys.stderr, flush=True)
        with atomic_path(options.out / "results.json") as path:
            path.write_text(json.dumps({"machine": machine.describe(), "sections": results}, indent=1))
    screen, sys.stdout = sys.stdout, _Twice()  # type: ignore[assignment]
    try:
        well = report(results)
    finally:
        (options.out / "results.txt").write_text("".join(sys.stdout.kept))  # type: ignore[attr-defined]
        sys.stdout = screen
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
