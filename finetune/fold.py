"""Train one fold with a fixed budget, and choose its epoch in three ways.

`last` is the state after the last epoch: nothing is chosen. `inner` trains again on part of the training subjects
and takes the epoch that scores best on the held part; the prediction is the main training's at that epoch.
`oracle` takes the epoch that scores best on the test subject itself, which leaks: it is what SLSTT's, HTNet's and
FDP's released trainers report.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune import metrics
from finetune.config import TrainConfig
from finetune.folds import Fold, LeakError, Portion, Samples
from shards.errors import FlickerError

SELECTIONS = ("last", "inner", "oracle")
EVALUATION_BATCH = 64
MakeModel = Callable[[], nn.Module]


@dataclass
class Trajectory:
    """What one training leaves: the mean loss of each epoch [E] and the watched clips' logits [E m C] (float32)."""

    loss: np.ndarray
    logits: np.ndarray


@dataclass
class FoldResult:
    """One fold of one seed: everything that scores and report need, keyed by clip id."""

    subject: str
    seed: int
    ids: list[str]
    truth: list[int]
    epochs: dict[str, int]
    """Selection -> chosen epoch, counted from 1."""
    probabilities: dict[str, list[list[float]]]
    """Selection -> [m C] softmax of the chosen epoch."""
    by_epoch: list[list[int]]
    """Predicted class of each test clip after each epoch, [E m]."""
    loss: list[float]
    """Training loss by epoch."""
    inner_uf1: list[float]
    """UF1 on the held training subjects by epoch."""
    test_accuracy: list[float]
    """Accuracy on the test subject by epoch (diagnosis; only `oracle` uses it)."""
    held_subjects: list[list[str]]
    absent_classes: list[str]
    """Classes without a training clip in this fold."""
    seconds: float

    def predicted(self, selection: str) -> list[int]:
        """Predicted class of each test clip."""
        return [int(np.argmax(row)) for row in self.probabilities[selection]]


def run_fold(
    fold: Fold, samples: Samples, make_model: MakeModel, settings: TrainConfig, seed: int, device: torch.device
) -> FoldResult:
    """Train and evaluate one fold. The result depends on the fold, the samples, the settings and the seed only."""
    started = time.perf_counter()
    seed_of_fold = zlib.crc32(f"{seed}/{fold.subject}".encode())
    test = fold.testing(samples)
    main = train(fold.training(samples), test, make_model, samples.classes, settings, seed_of_fold, device)
    held_truth, held_logits = [], []
    for split in fold.inner:
        training, held = split.portions(samples)
        inner = train(training, held, make_model, samples.classes, settings, seed_of_fold, device)
        assert held.labels is not None
        held_truth.append(held.labels.numpy())
        held_logits.append(inner.logits)
    truth, labels = fold.test_labels(samples), samples.labels[samples.rows(fold.training_subjects)]
    inner_epoch, inner_uf1 = choose_inner(np.concatenate(held_truth), np.concatenate(held_logits, axis=1))
    accuracy = (main.logits.argmax(-1) == truth).mean(axis=1)  # [E]
    chosen = {"last": len(accuracy) - 1, "inner": inner_epoch, "oracle": choose_oracle(accuracy)}
    present = set(labels.tolist())
    return FoldResult(
        subject=fold.subject,
        seed=seed,
        ids=list(test.ids),
        truth=truth.tolist(),
        epochs={name: epoch + 1 for name, epoch in chosen.items()},
        probabilities={name: softmax(main.logits[epoch]).round(6).tolist() for name, epoch in chosen.items()},
        by_epoch=main.logits.argmax(-1).tolist(),
        loss=main.loss.round(6).tolist(),
        inner_uf1=inner_uf1.round(6).tolist(),
        test_accuracy=accuracy.round(6).tolist(),
        held_subjects=[list(split.held) for split in fold.inner],
        absent_classes=[name for index, name in enumerate(samples.classes) if index not in present],
        seconds=round(time.perf_counter() - started, 3),
    )


def choose_inner(truth: np.ndarray, logits: np.ndarray) -> tuple[int, np.ndarray]:
    """(epoch, UF1 by epoch [E]) on held training subjects: best UF1, ties by lower cross-entropy, then earlier.

    truth int64 [m], logits float32 [E m C].
    """
    classes = range(logits.shape[-1])
    uf1 = np.array([metrics.scores(truth=truth, predicted=row.argmax(-1), classes=classes)["uf1"] for row in logits])
    log_probability = np.log(softmax(logits) + 1e-12)
    entropy = -np.take_along_axis(log_probability, np.broadcast_to(truth[None, :, None], (*logits.shape[:2], 1)), 2)
    order = np.lexsort((np.arange(len(uf1)), entropy.mean(axis=(1, 2)), -uf1))
    return int(order[0]), uf1


def choose_oracle(accuracy: np.ndarray) -> int:
    """The epoch of best accuracy on the test subject, the latest of equals (HTNet's `<=`). Leaks by design."""
    return int(len(accuracy) - 1 - np.argmax(accuracy[::-1]))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def train(
    training: Portion,
    watched: Portion,
    make_model: MakeModel,
    classes: tuple[str, ...],
    settings: TrainConfig,
    seed: int,
    device: torch.device,
) -> Trajectory:
    """Train a new model on `training` for the fixed budget; record the logits of `watched` after each epoch.

    Nothing of `watched` influences the training. Raises LeakError if the two share a subject, FlickerError if the
    loss stops being finite.
    """
    training, watched = training.to(device), watched.to(device)
    labels = training.require_training("a model")
    if shared := set(training.subjects) & set(watched.subjects):
        raise LeakError(f"subjects {sorted(shared)} are both trained on and evaluated")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make_model().to(device)
        model.fit(training)  # type: ignore[operator]
        weights = class_weights(labels, len(classes)) if settings.class_weights else None
        batch = settings.batch or len(training)
        steps = settings.epochs * math.ceil(len(training) / batch)
        optimiser = _optimiser(model, settings)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        losses, logits = [], []
        for epoch in range(settings.epochs):
            order = torch.randperm(len(training)).to(device)
            losses.append(
                _epoch(model, training.inputs, labels, order, batch, weights, optimiser, schedule, settings)
            )
            if not math.isfinite(losses[-1]):
                raise FlickerError(f"the loss is {losses[-1]} in epoch {epoch + 1}; lower train.lr ({settings.lr})")
            logits.append(predict(model, watched.inputs))
    return Trajectory(np.array(losses), np.stack(logits))


def _epoch(
    model: nn.Module,
    inputs: dict[str, Tensor],
    labels: Tensor,
    order: Tensor,
    batch: int,
    weights: Tensor | None,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    settings: TrainConfig,
) -> float:
    """One pass in the given order; returns the mean loss over clips."""
    model.train()
    total = 0.0
    for rows in order.split(batch):
        logits = model({name: value[rows] for name, value in inputs.items()})
        loss = F.cross_entropy(logits, labels[rows], weight=weights, label_smoothing=settings.label_smoothing)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        total += float(loss.detach()) * len(rows)
    return total / len(order)


def _optimiser(model: nn.Module, settings: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; biases, norms and other vectors without decay, encoder parameters at their own rate."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = getattr(model, "encoder_lr_scale", 1.0) if name.startswith("encoder.") else 1.0
            decay = settings.weight_decay if parameter.ndim >= 2 else 0.0
            groups.setdefault((settings.lr * scale, decay), []).append(parameter)
    return torch.optim.AdamW([{"params": p, "lr": lr, "weight_decay": wd} for (lr, wd), p in groups.items()])


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """n / (present classes · n_c) of training labels, so that the mean weight is 1; 0 for absent classes."""
    counts = torch.bincount(labels, minlength=classes).float()
    present = (counts > 0).sum()
    return torch.where(counts > 0, len(labels) / (present * counts.clamp(min=1)), torch.zeros_like(counts))


@torch.no_grad()
def predict(model: nn.Module, inputs: dict[str, Tensor]) -> np.ndarray:
    """Logits float32 [m C] in evaluation mode; the model's mode is left as it was."""
    was_training = model.training
    model.eval()
    count = len(next(iter(inputs.values())))
    rows = [
        model({name: value[start : start + EVALUATION_BATCH] for name, value in inputs.items()}).float().cpu()
        for start in range(0, count, EVALUATION_BATCH)
    ]
    model.train(was_training)
    return torch.cat(rows).numpy()
