"""Several trainings at once as one batched model, each equal to what `finetune.training.train` makes of it alone.

The parameters of all members lie in one stack [F ...], over which the network is vectorised (torch.func): every step
is one forward, one backward and one update for all of them. Each member keeps its own initial weights, statistics,
order, augmentation and class weights, drawn from the same generators as alone. Members of a stack have the same
number of steps, so that they share one schedule; last batches of different lengths are computed apart. The inputs lie
in memory once, and folds index them.

On a CPU the stacks are shared out to threads, each computing on its own, so that no operation waits for two threads.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from finetune.batched_training import begin, train_stack
from finetune.config import FinetuneConfig, TrainConfig
from finetune.fold import FoldResult, conclude, seed_of
from finetune.folds import Fold, Portion, Samples
from finetune.heads.base import Head
from finetune.training import MakeModel, Trajectory
from shards.errors import UsageError

_drawing = threading.Lock()
"""Held by the thread that draws from torch's global generator."""


@dataclass(frozen=True)
class Task:
    """One training: what `train` takes, made when its turn comes."""

    portions: Callable[[], tuple[Portion, Portion]]
    """Training clips and watched clips."""
    seed: int
    count: int
    """Training clips, copies included."""
    watched: int
    """Watched clips."""

    def steps(self, settings: TrainConfig) -> int:
        """Of an epoch."""
        return math.ceil(self.count / (settings.batch or self.count))


def tasks(fold: Fold, samples: Samples, seed: int) -> list[Task]:
    """The main training of a fold and those of its inner splits."""
    copies, chance = next(iter(samples.inputs.values())).shape[1], seed_of(fold, seed)
    count, watched = len(samples.rows(fold.training_subjects)), len(fold.test_ids(samples))
    found = [Task(lambda: (fold.training(samples), fold.testing(samples)), chance, count * copies, watched)]
    for split in fold.inner:
        count, watched = len(samples.rows(split.training)), len(samples.rows(split.held))
        found.append(Task(partial(split.portions, samples), chance, count * copies, watched))
    return found


def run_group(
    group: Sequence[tuple[Fold, int]],
    samples: Samples,
    make_model: MakeModel,
    settings: TrainConfig,
    device: torch.device,
    threads: int = 1,
) -> list[FoldResult]:
    """As `run_fold` of each (fold, seed), their trainings at the same time; seconds are shared out equally."""
    started = time.perf_counter()
    each = [tasks(fold, samples, seed) for fold, seed in group]
    found = iter(
        train_together([task for own in each for task in own], samples, make_model, settings, device, threads)
    )
    results = []
    for (fold, seed), own in zip(group, each, strict=True):
        main, *inner = [next(found) for _ in own]
        seconds = (time.perf_counter() - started) / len(group)
        results.append(conclude(fold, samples, seed, main, [one.logits for one in inner], seconds))
    return results


def train_together(
    planned: Sequence[Task],
    samples: Samples,
    make_model: MakeModel,
    settings: TrainConfig,
    device: torch.device,
    threads: int = 1,
) -> list[Trajectory]:
    """As `train` of each task, in their order; `threads` share the work on a CPU.

    Raises UsageError for a head that cannot be batched, else as `train`.
    """
    shared = {name: value.flatten(0, 1).to(device) for name, value in samples.inputs.items()}
    threads = threads if device.type == "cpu" else 1
    found: dict[int, Trajectory] = {}

    def work(places: Sequence[int]) -> None:
        own = [planned[place] for place in places]
        with _drawing:
            members = [
                begin(*task.portions(), make_model, len(samples.classes), settings, task.seed, device) for task in own
            ]
        steps = own[0].steps(settings)
        found.update(zip(places, train_stack(members, shared, settings, steps), strict=True))

    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) if threads > 1 else None
    stacks = arrange(planned, settings, threads)
    try:
        for _ in pool.map(work, stacks) if pool else map(work, stacks):
            pass
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
    return [found[place] for place in range(len(planned))]


def arrange(planned: Sequence[Task], settings: TrainConfig, threads: int) -> list[list[int]]:
    """Places of the tasks by stack: equal steps, similar numbers of watched clips, at most `together` at a time."""
    largest = max(1, settings.together // threads)
    order = sorted(range(len(planned)), key=lambda place: (-planned[place].count, -planned[place].watched))
    stacks: list[list[int]] = []
    for steps in sorted({task.steps(settings) for task in planned}, reverse=True):
        equal = [place for place in order if planned[place].steps(settings) == steps]
        parts = math.ceil(len(equal) / largest)
        parts = min(len(equal), math.ceil(parts / threads) * threads)  # so that the threads end together
        stacks += [part.tolist() for part in np.array_split(np.array(equal), parts)]
    return stacks


def check(model: Head, config: FinetuneConfig) -> None:
    """Raise UsageError where training in a stack cannot be equal to training alone, or makes no sense."""
    why = ""
    if any(parameter.requires_grad for parameter in _encoder(model)):
        why = f"trains an encoder in every fold (backbone.mode {config.backbone.mode})"
    if type(model).loss is not Head.loss:
        why = "has a loss of its own"
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            why = "normalises over its batch (BatchNorm), which clips of other folds would fill up"
        elif isinstance(module, nn.RNNBase):
            why = "is recurrent"
        elif any(getattr(module, name, 0.0) for name in ("p", "rate", "drop_prob")):
            why = "drops out at random (its dropout is not 0), in each fold by other numbers"
    if why:
        raise UsageError(f"train.together: the head {config.head.name} {why}; use train.together 1")


def _encoder(model: Head) -> Iterator[nn.Parameter]:
    """Parameters of an encoder within the model."""
    encoder = getattr(model, "encoder", None)
    return encoder.parameters() if isinstance(encoder, nn.Module) else iter(())
