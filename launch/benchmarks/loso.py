"""python launch/bench.py loso: folds of a small HTNet trained together, against one fold after the other.

All rows are measured in this process, in turn, on the same folds and seeds: one fold after the other with every
thread in each operation, the same on one thread, and together with every thread. `batched_vs_sequential` compares
with the faster of the first two. `max_logit_difference` is between folds trained together and alone on one thread,
after at least 20 steps. A busy machine takes most from operations of several threads, which wait for each other.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from finetune import heads
from finetune.batched import run_group, tasks, train_together
from finetune.config import FinetuneConfig, TrainConfig
from finetune.fold import FoldResult, run_fold
from finetune.folds import Fold, Samples, loso
from finetune.heads.base import Head
from finetune.options.htnet import HTNetOptions
from finetune.prepare import choose_device, prepare
from finetune.training import MakeModel, train
from launch.benchmarks import machine, table
from launch.cli import parse, run
from shards.errors import UsageError
from shards.progress import Progress

STEPS = 20
"""After so many the logits are compared."""
SUBJECTS, CLIPS = 68, 442
"""Of made-up maps: as many as MEGC2019 has."""


@dataclass
class LosoConfig:
    """Settings of python launch/bench.py loso."""

    root: str = ""
    """folder of flow maps (dataset flow-maps); random maps of MEGC2019's numbers if empty"""
    folds: int = 32
    """folds to train, spread over all (0: all)"""
    together: int = 32
    """trainings at the same time"""
    threads: int = 0
    """threads of every row (0: as torch has them)"""
    epochs: int = 4
    """epochs of a training"""
    dim: int = 32
    """width of HTNet's bottom level"""
    depths: tuple[int, ...] = (1, 1, 2)
    """HTNet's layers per level"""
    repeats: int = 3
    """times that every row is measured, in turn"""
    device: str = "auto"
    """auto, cpu or cuda"""
    quick: bool = False
    """a few small folds, to see that it runs"""
    json: str = ""
    """file for the figures"""


@dataclass(frozen=True)
class Work:
    """What every row trains."""

    samples: Samples
    folds: list[Fold]
    make_model: MakeModel
    settings: TrainConfig
    device: torch.device


def main(arguments: list[str]) -> None:
    """Measure, print the table, write the figures."""
    config = parse(LosoConfig, arguments, command="python launch/bench.py loso", description=__doc__ or "")
    if min(config.repeats, config.together, config.epochs) < 1 or min(config.folds, config.threads) < 0:
        raise UsageError("give at least 1 for --repeats, --together and --epochs, and no negative --folds, --threads")
    if config.quick:
        config = replace(config, folds=3, together=2, epochs=2, dim=16, repeats=1)
    before = torch.get_num_threads()
    threads, work, about = config.threads or before, _work(config), machine.describe()
    try:
        difference = _difference(work, threads)
        seconds, found = _measure(config, work, threads)
    finally:
        torch.set_num_threads(before)
    about["load_after"] = machine.describe()["load"]
    figures = _show(config, work, threads, seconds, found) | {"max_logit_difference": difference}
    print(f"\nlargest difference of logits after {STEPS} steps or more: {difference:.2g}")
    if config.json:
        table.save(config.json, figures, about, asdict(config))


def _work(config: LosoConfig) -> Work:
    """Samples, folds and model: those of the recipe megc2019_htnet_small.yaml."""
    whole = FinetuneConfig(device=config.device)  # type: ignore[arg-type]
    options = HTNetOptions(dim=config.dim, depths=list(config.depths), scaling="centred", mirror=0.5)
    whole.head.name, whole.head.htnet = "htnet", options
    whole.data.root, whole.data.dataset, whole.data.scheme = config.root, "flow-maps", "MEGC2019"
    whole.train = TrainConfig(epochs=config.epochs, batch=64, lr=3e-4, class_weights=False, together=config.together)
    device = choose_device(config.device)
    head = heads.create("htnet", 3, None, **vars(options))
    samples = prepare(whole, quiet=True).samples if config.root else _random(config.quick, head)
    folds = loso(samples.subjects)
    if config.folds:
        folds = [folds[place] for place in np.linspace(0, len(folds) - 1, min(config.folds, len(folds))).astype(int)]
    return Work(samples, folds, head.readout, whole.train, device)


def _random(quick: bool, head: Head) -> Samples:
    """Maps of noise; subjects have different numbers of clips."""
    subjects, clips = (6, 90) if quick else (SUBJECTS, CLIPS)
    generator = torch.Generator().manual_seed(0)
    more = torch.multinomial(torch.arange(1.0, subjects + 1), clips - subjects, True, generator=generator)
    people = sorted([*more.tolist(), *range(subjects)])
    centres = torch.tensor([[6.4, 8.3], [20.4, 8.2], [7.7, 20.0], [19.3, 19.9]])
    inputs = {
        "flow": torch.randn(clips, 28, 28, 3, generator=generator),
        "areas": centres + torch.rand(clips, 4, 2, generator=generator),
    }
    inputs = {name: value[:, None] for name, value in head.extract(inputs).items()}
    names = tuple(f"s{person:02d}" for person in people)
    labels = torch.randint(3, (clips,), generator=generator)
    return Samples(tuple(f"d/{name}/{i}" for i, name in enumerate(names)), names, labels, inputs, ("a", "b", "c"))


def _alone(work: Work, threads: int) -> list[FoldResult]:
    """One fold after the other."""
    torch.set_num_threads(threads)
    return [run_fold(fold, work.samples, work.make_model, work.settings, 0, work.device) for fold in work.folds]


def _together(work: Work, threads: int) -> list[FoldResult]:
    """As many at a time as the settings say."""
    torch.set_num_threads(1)
    results: list[FoldResult] = []
    size = work.settings.together
    for start in range(0, len(work.folds), size):
        group = [(fold, 0) for fold in work.folds[start : start + size]]
        results += run_group(group, work.samples, work.make_model, work.settings, work.device, threads)
    return results


def _difference(work: Work, threads: int) -> float:
    """Largest difference of any watched clip's logits between the two ways."""
    torch.set_num_threads(1)
    planned = [task for fold in work.folds[: work.settings.together] for task in tasks(fold, work.samples, 0)]
    epochs = math.ceil(STEPS / min(task.steps(work.settings) for task in planned))
    settings = replace(work.settings, epochs=epochs)
    found = train_together(planned, work.samples, work.make_model, settings, work.device, threads)
    worst = 0.0
    for task, one in zip(planned, found, strict=True):
        after = math.ceil(STEPS / task.steps(settings)) - 1
        portions, classes = task.portions(), work.samples.classes
        other = train(*portions, work.make_model, classes, settings, task.seed, work.device)
        worst = max(worst, float(np.abs(one.logits[after] - other.logits[after]).max()))
    return worst


def _measure(
    config: LosoConfig, work: Work, threads: int
) -> tuple[dict[str, list[float]], dict[str, list[FoldResult]]]:
    """Seconds of each row by repeat, and what it found."""
    rows = {"all threads": lambda: _alone(work, threads), "one thread": lambda: _alone(work, 1)}
    if threads == 1 or work.device.type == "cuda":
        del rows["one thread"]
    rows["together"] = lambda: _together(work, threads)
    seconds: dict[str, list[float]] = {row: [] for row in rows}
    found: dict[str, list[FoldResult]] = {}
    with Progress(config.repeats * len(rows), "measuring", "rows") as progress:
        for _ in range(config.repeats):
            for row, work_of in rows.items():
                started = time.perf_counter()
                found[row] = work_of()
                seconds[row].append(time.perf_counter() - started)
                progress.advance(row=row)
    return seconds, found


def _show(
    config: LosoConfig,
    work: Work,
    threads: int,
    seconds: dict[str, list[float]],
    found: dict[str, list[FoldResult]],
) -> dict[str, float]:
    """Print the table; the figures of the JSON file."""
    alone = [row for row in seconds if row != "together"]
    faster = [min(values) for values in zip(*(seconds[row] for row in alone), strict=True)]
    truth = [np.concatenate([one.predicted("last") for one in found[row]]) for row in (alone[-1], "together")]
    same = float(np.mean(truth[0] == truth[1]))
    titles = {
        "all threads": f"one after the other, {threads} threads in each operation",
        "one thread": "one after the other, 1 thread",
        "together": f"{config.together} together, {threads} threads",
    }
    lines: list[list[Any]] = [
        [titles[row], table.spread([value / len(work.folds) for value in values]), table.ratio(values, faster)]
        for row, values in seconds.items()
    ]
    table.show(f"{len(work.folds)} folds of {config.epochs} epochs", ["", "s per fold", "x the faster"], lines)
    print(f"\nthe same predictions after the last epoch: {100 * same:.2f} %")
    figures = {
        f"{row.replace(' ', '_')}_s_per_fold": float(np.median(v)) / len(work.folds) for row, v in seconds.items()
    }
    ratio = table.ratio(seconds["together"], faster)
    return figures | {"batched_vs_sequential": ratio, "same_predictions": same}


if __name__ == "__main__":
    run(main)
