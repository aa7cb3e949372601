"""Training the folds of a run that have no stored result yet, alone or in groups; each is durable at once."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from finetune import batched
from finetune import results as stored
from finetune.config import FinetuneConfig
from finetune.fold import run_fold
from finetune.folds import Fold
from finetune.heads.base import Head
from finetune.prepare import Prepared
from finetune.training import MakeModel
from shards.progress import Progress

log = logging.getLogger(__name__)
Job = tuple[Fold, int]
"""A fold and a seed."""


def run_folds(jobs: Sequence[Job], prepared: Prepared, config: FinetuneConfig, out: Path, quiet: bool) -> None:
    """Train the folds that have no stored result yet; each result is on disk before the next starts.

    With `train.together` above 1 so many folds make a group, whose results are on disk before the next group starts.
    Raises UsageError for a head that cannot be trained so.
    """
    done = [stored.read_fold(out, fold.subject, seed, prepared.digest) is not None for fold, seed in jobs]
    if any(done) and not quiet:
        log.info("%d of %d folds are already done", sum(done), len(jobs))
    waiting = [job for job, ready in zip(jobs, done, strict=True) if not ready]
    make_model, size = model_maker(prepared, config), config.train.together
    if size > 1:
        batched.check(make_model(), config)
    small = prepared.head.fixed if prepared.backbone is None else config.backbone.mode == "frozen"
    cores = torch.get_num_threads()
    threads = one_thread() if small or size > 1 else contextlib.nullcontext()
    with threads, Progress(len(jobs), config.protocol.kind, "folds", done=sum(done), quiet=quiet) as progress:
        for start in range(0, len(waiting), size):
            group = waiting[start : start + size]
            if size > 1:
                results = batched.run_group(group, prepared.samples, make_model, config.train, prepared.device, cores)
            else:
                results = [
                    run_fold(fold, prepared.samples, make_model, config.train, seed, prepared.device)
                    for fold, seed in group
                ]
            for result in results:
                stored.write_fold(out, result, prepared.digest)
            progress.advance(len(results), fold=results[-1].subject, seed=results[-1].seed)


def model_maker(prepared: Prepared, config: FinetuneConfig) -> MakeModel:
    """What makes an untrained model for one fold."""

    def make_model() -> Head:
        if prepared.backbone is None or config.backbone.mode == "frozen":
            return prepared.head.readout()
        return prepared.head.trainable(config.backbone.mode, config.backbone.blocks, config.backbone.lr_scale)

    return make_model


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """torch on one CPU thread: the steps of a small classifier cost less than waking other threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
