"""Folds trained together equal folds trained alone: weights, statistics, order, augmentation, masks, schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from finetune import batched, heads, loso, running
from finetune.backbone import Backbone
from finetune.batched import Task, arrange, run_group, tasks, train_together
from finetune.batched_stack import Stack, runs, shown, stored, targets
from finetune.config import BackboneConfig, FinetuneConfig, HeadConfig, TrainConfig
from finetune.fold import run_fold
from finetune.folds import LeakError, Portion, Samples
from finetune.folds import loso as folds_of
from finetune.heads.base import Head
from finetune.heads.micron import Readout
from finetune.options.micron import MicronOptions
from finetune.training import train
from shards.errors import FlickerError, UsageError
from tests.finetune.test_leaks import CPU, Recorder, perturbed

SIZES = (3, 9, 5, 7, 12)
PEOPLE = tuple(f"d/s{person}" for person, count in enumerate(SIZES) for _ in range(count))
Makers = dict[str, tuple[Samples, Callable[[], Head]]]


def samples_of(copies: int = 1, **inputs: Tensor) -> Samples:
    """Clips of subjects of unequal sizes; inputs [n·A ...]."""
    generator = torch.Generator().manual_seed(4)
    labels = torch.randint(3, (len(PEOPLE),), generator=generator)
    ids = tuple(f"{name}/{place}" for place, name in enumerate(PEOPLE))
    held = {name: value.unflatten(0, (-1, copies)) for name, value in inputs.items()}
    return Samples(ids, PEOPLE, labels, held, ("a", "b", "c"))


def features(*shape: int, copies: int = 1) -> Samples:
    """Random features."""
    return samples_of(copies, features=torch.randn(len(PEOPLE) * copies, *shape))


def maps() -> Samples:
    """Random flow maps and areas."""
    centres = torch.tensor([[6.4, 8.3], [20.4, 8.2], [7.7, 20.0], [19.3, 19.9]])
    flow = torch.randn(len(PEOPLE), 28, 28, 3) + 0.3
    return samples_of(flow=flow, areas=centres + torch.rand(len(PEOPLE), 4, 2))


def htnet(**options: Any) -> Callable[[], Head]:
    """A small HTNet with everything random that it has."""
    options = {
        "dim": 16,
        "heads": 2,
        "depths": [1, 1, 1],
        "scaling": "centred",
        "mirror": 0.5,
        "jitter": 1.0,
    } | options
    head = heads.create("htnet", 3, None, **options)
    return lambda: head.readout()  # type: ignore[no-any-return]


def readout(dim: int, **options: Any) -> Callable[[], Head]:
    return lambda: Readout(dim, 3, MicronOptions(**options))


def compared(
    samples: Samples, make: Callable[[], Head], settings: TrainConfig, threads: int = 1, folds: int = 5
) -> tuple[float, int]:
    """(largest difference of logits and losses of all trainings and epochs, fewest steps of a training)."""
    planned = [task for fold in folds_of(samples.subjects)[:folds] for task in tasks(fold, samples, 3)]
    found = train_together(planned, samples, make, settings, CPU, threads)
    worst = 0.0
    for task, one in zip(planned, found, strict=True):
        alone = train(*task.portions(), make, samples.classes, settings, task.seed, CPU)
        assert one.logits.shape == alone.logits.shape and one.logits.dtype == alone.logits.dtype
        worst = max(worst, np.abs(one.logits - alone.logits).max(), np.abs(one.loss - alone.loss).max())
    return worst, settings.epochs * min(task.steps(settings) for task in planned)


def test_a_small_htnet_trains_the_same_together() -> None:
    settings = TrainConfig(epochs=7, batch=8, lr=1e-3, together=4)
    worst, steps = compared(maps(), htnet(), settings, folds=2)
    assert steps >= 20 and worst <= 1e-5


@pytest.mark.parametrize(
    ("copies", "shape", "options", "changes"),
    [
        (1, (40,), {}, {"together": 3}),
        (2, (8,), {"classifier": "mlp", "hidden": 40}, {"optimiser": "adam", "label_smoothing": 0.1}),
        (1, (9, 6), {"pooling": "attention"}, {"optimiser": "sgd", "schedule": "constant", "class_weights": False}),
        (1, (8,), {}, {"batch": 0, "epochs": 20, "optimiser": "sgd"}),
    ],
)
def test_readouts_train_the_same_together(
    copies: int, shape: tuple[int, ...], options: dict[str, Any], changes: dict[str, Any]
) -> None:
    settings = replace(TrainConfig(epochs=10, batch=8, lr=1e-2, together=8), **changes)
    worst, steps = compared(features(*shape, copies=copies), readout(shape[-1], **options), settings)
    assert steps >= 20 and worst <= 1e-5


def test_threads_change_nothing() -> None:
    settings = TrainConfig(epochs=2, batch=8, lr=1e-2, together=4)
    assert compared(features(8), readout(8), settings, threads=2)[0] <= 1e-6


@given(st.integers(1, 6), st.floats(0, 0.5), st.booleans())
def test_targets_are_those_of_cross_entropy(count: int, smoothing: float, weighted: bool) -> None:
    generator = torch.Generator().manual_seed(count)
    logits = torch.randn(2, count, 3, generator=generator)
    labels = torch.randint(3, (2, count), generator=generator)
    weights = 0.5 + torch.rand(2, 3, generator=generator) if weighted else torch.ones(2, 3)
    found = -(targets(labels, weights, smoothing) * F.log_softmax(logits, dim=-1)).sum((1, 2))
    for place in range(2):
        expected = F.cross_entropy(logits[place], labels[place], weight=weights[place], label_smoothing=smoothing)
        assert found[place] == pytest.approx(float(expected), rel=1e-5)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=9))
def test_runs_are_neighbours_that_are_equal(counts: list[int]) -> None:
    found = runs(counts)
    assert [place for start, stop in found for place in range(start, stop)] == list(range(len(counts)))
    assert all(len(set(counts[start:stop])) == 1 for start, stop in found)
    assert all(counts[start] != counts[start - 1] for start, _ in found[1:])


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(2, 12), st.integers(1, 4))
def test_stacks_hold_every_training_once_with_equal_steps(counts: list[int], together: int, threads: int) -> None:
    settings = TrainConfig(batch=7, together=together)
    planned = [Task(lambda: None, 0, count, 1) for count in counts]  # type: ignore[arg-type, return-value]
    stacks = arrange(planned, settings, threads)
    assert sorted(place for stack in stacks for place in stack) == list(range(len(counts)))
    for stack in stacks:
        assert len({math.ceil(counts[place] / 7) for place in stack}) == 1
        assert 1 <= len(stack) <= max(1, together // threads)


def test_a_stack_holds_parameters_once_and_the_single_networks_show_them() -> None:
    cores = [Readout(40, 3, MicronOptions(classifier="mlp", hidden=50)) for _ in range(3)]
    nn.init.normal_(cores[1].classify.get_parameter("4.weight"))
    before = [[value.detach().clone() for value in core.parameters()] for core in cores]
    stack = Stack(cores, cores[0].groups(0.1, 0.0), TrainConfig(), 10)
    for core, own in zip(cores, before, strict=True):
        assert all(map(torch.equal, core.parameters(), own))
    x = {"features": torch.randn(3, 4, 40)}
    stack.step(x, torch.zeros(3, 4, dtype=torch.int64), [4, 4, 4], torch.ones(3, 3), 0.0)
    assert not torch.equal(next(cores[1].parameters()), before[1][0])  # trained where they lie
    after = stack.logits(x)
    for place, core in enumerate(cores):
        assert torch.allclose(core({"features": x["features"][place]}), after[place], atol=1e-6)
    assert torch.equal(stack.logits({"features": x["features"][[2]]}, [2])[0], after[2])
    kernels = torch.randn(2, 40, 33, 3, 3)
    assert torch.equal(shown(stored(kernels)), kernels)


def test_nothing_of_a_test_subject_reaches_its_own_fold_within_a_stack() -> None:
    """Other features and labels of a subject change every fold of the stack but the subject's own."""
    samples = features(8)
    subject = "d/s1"
    settings = TrainConfig(epochs=3, batch=8, lr=0.01, together=16)
    group = [(fold, 0) for fold in folds_of(PEOPLE)]
    changed = perturbed(samples, subject, 5)
    models: list[list[Tensor]] = []
    losses: dict[str, list[list[float]]] = {}
    for given_samples in (samples, changed):
        recorder = Recorder()
        for result in run_group(group, given_samples, recorder, settings, CPU):
            losses.setdefault(result.subject, []).append([*result.loss, *result.inner_uf1])
        models.append(recorder.weights())
    for name, (first, second) in losses.items():
        assert (first == second) == (name == subject), name
    equal = [torch.equal(a, b) for a, b in zip(*models, strict=True)]
    assert any(equal) and not all(equal)


def test_training_and_watched_subjects_must_differ() -> None:
    samples = features(8)
    portion = folds_of(PEOPLE)[0].training(samples)
    task = Task(lambda: (portion, portion), 0, len(portion), len(portion))
    with pytest.raises(LeakError, match="both trained on and evaluated"):
        train_together([task], samples, readout(8), TrainConfig(together=2), CPU)
    loose = Portion("test", (), (), {}, None)
    with pytest.raises(LeakError, match="no fold handed out"):
        train_together(
            [Task(lambda: (portion, loose), 0, len(portion), 1)], samples, readout(8), TrainConfig(epochs=1), CPU
        )


def test_a_loss_that_is_not_finite_says_what_to_lower() -> None:
    samples = features(8)
    samples.inputs["features"][3] = float("nan")
    group = [(fold, 0) for fold in folds_of(PEOPLE)]
    for threads in (1, 2):
        with pytest.raises(FlickerError, match=r"loss is nan in epoch 1; lower train.lr"):
            run_group(group, samples, readout(8), TrainConfig(epochs=2, together=4), CPU, threads)


class Odd(Head):
    """A head with one module of a kind."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module


class OwnLoss(Odd):
    def loss(self, *_: Any, **__: Any) -> Any:
        """Another."""


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Odd(nn.BatchNorm1d(3)), "normalises over its batch"),
        (Odd(nn.Dropout(0.1)), "drops out"),
        (Odd(nn.LSTM(3, 3)), "is recurrent"),
        (OwnLoss(nn.Identity()), "has a loss of its own"),
    ],
)
def test_heads_that_cannot_be_batched_are_refused_by_name(model: Head, why: str) -> None:
    config = FinetuneConfig(head=HeadConfig(name="slstt"))
    with pytest.raises(UsageError, match=rf"^train.together: the head slstt {why}.*; use train.together 1$"):
        batched.check(model, config)
    batched.check(Odd(nn.Dropout(0.0)), config)
    batched.check(htnet()(), config)
    with pytest.raises(UsageError, match="drops out"):
        batched.check(htnet(dropout=0.1)(), config)


def test_a_run_together_continues_one_that_ran_alone(
    config: FinetuneConfig, tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = loso.run(replace(config, out=str(tmp_path / "alone")), tiny)
    config = replace(config, train=replace(config.train, together=3))
    written: list[str] = []
    original = running.stored.write_fold

    def stopped(out: Path, result: Any, digest: str) -> None:
        if len(written) == 4:  # in the middle of the second group
            raise KeyboardInterrupt
        written.append(result.subject)
        original(out, result, digest)

    monkeypatch.setattr(running.stored, "write_fold", stopped)
    with pytest.raises(KeyboardInterrupt):
        loso.run(config, tiny)
    monkeypatch.setattr(running.stored, "write_fold", original)
    assert len(list((Path(config.out) / "folds").glob("*.json"))) == 4
    threads = torch.get_num_threads()
    together = loso.run(config, tiny)
    assert torch.get_num_threads() == threads
    assert alone is not None and together is not None and together.digest == alone.digest
    for one, two in zip(together.folds, alone.folds, strict=True):
        assert (one.subject, one.seed, one.by_epoch, one.epochs) == (two.subject, two.seed, two.by_epoch, two.epochs)
        assert np.allclose(one.probabilities["last"], two.probabilities["last"], atol=1e-5)


def test_an_encoder_that_trains_is_refused(config: FinetuneConfig, tiny: Backbone) -> None:
    config = replace(config, backbone=BackboneConfig(mode="full"), train=replace(config.train, together=2))
    with pytest.raises(UsageError, match=r"head micron trains an encoder in every fold \(backbone.mode full\)"):
        loso.run(config, tiny)
    config.train.together = 0
    with pytest.raises(UsageError, match=r"train.together: 0 is out of range"):
        loso.run(config, tiny)


def test_a_group_equals_its_folds() -> None:
    samples, settings = features(8), TrainConfig(epochs=4, batch=8, lr=0.01, together=4)
    group = [(fold, seed) for seed in (0, 1) for fold in folds_of(PEOPLE, inner_splits=2)[:3]]
    for (fold, seed), one in zip(group, run_group(group, samples, readout(8), settings, CPU), strict=True):
        two = run_fold(fold, samples, readout(8), settings, seed, CPU)
        assert replace(one, seconds=0, loss=[], probabilities={}) == replace(
            two, seconds=0, loss=[], probabilities={}
        )
        assert one.loss == pytest.approx(two.loss, abs=2e-6)
