"""Training one model on a fold's portion for a fixed budget, watching other clips without learning from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune import fitted
from finetune.config import TrainConfig
from finetune.folds import LeakError, Portion
from finetune.heads.base import Head
from shards.errors import FlickerError

EVALUATION_BATCH = 64
MakeModel = Callable[[], Head]
Schedule = torch.optim.lr_scheduler.LRScheduler


@dataclass
class Trajectory:
    """What one training leaves: the mean loss of each epoch [E] and the watched clips' logits [E m C] (float32)."""

    loss: np.ndarray
    logits: np.ndarray


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
    labels = labels_apart(training, watched)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = fitted_model(training, make_model, device)
        weights = class_weights(labels, len(classes)) if settings.class_weights else None
        batch = settings.batch or len(training)
        optimiser = make_optimiser(model, settings)
        schedule = make_schedule(optimiser, settings, steps=settings.epochs * math.ceil(len(training) / batch))
        varied = torch.Generator().manual_seed(seed)
        losses, logits = [], []
        for epoch in range(settings.epochs):
            order = torch.randperm(len(training)).to(device)
            total = 0.0
            for rows in order.split(batch):
                inputs = model.training_batch(training.inputs, rows, varied)
                total += step(model, inputs, labels[rows], weights, optimiser, schedule, settings) * len(rows)
            losses.append(total / len(order))
            finite(losses[-1], epoch, settings)
            logits.append(predict(model, watched.inputs, min(batch, EVALUATION_BATCH)))
    return Trajectory(np.array(losses), np.stack(logits))


def labels_apart(training: Portion, watched: Portion) -> Tensor:
    """The training clips' labels. Raises LeakError where they may not be trained on, or share a subject with the
    watched ones."""
    labels = training.require_training("a model")
    if shared := set(training.subjects) & set(watched.subjects):
        raise LeakError(f"subjects {sorted(shared)} are both trained on and evaluated")
    return labels


def fitted_model(training: Portion, make_model: MakeModel, device: torch.device) -> Head:
    """A new model on `device` whose statistics are of the training clips there, checked (finetune.fitted)."""
    model = make_model().to(device)
    model.fit(training)
    fitted.require(model, training)
    return model


def step(
    model: Head,
    inputs: Mapping[str, Tensor],
    labels: Tensor,
    weights: Tensor | None,
    optimiser: torch.optim.Optimizer,
    schedule: Schedule,
    settings: TrainConfig,
) -> float:
    """One update; returns the loss."""
    model.train()
    loss, _ = model.loss(inputs, labels, weights, settings.label_smoothing)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    schedule.step()
    return float(loss.detach())


def finite(loss: float, epoch: int, settings: TrainConfig) -> None:
    """Raise FlickerError for an epoch's loss that is not finite."""
    if not math.isfinite(loss):
        raise FlickerError(f"the loss is {loss} in epoch {epoch + 1}; lower train.lr ({settings.lr})")


def make_optimiser(model: Head, settings: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser that the settings name, over the model's own groups."""
    return optimise(model.groups(settings.lr, settings.weight_decay), settings)


def optimise(groups: list[dict[str, Any]], settings: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser that the settings name, over these groups; one pass over the parameters per step."""
    if settings.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, fused=True)
    kind = torch.optim.AdamW if settings.optimiser == "adamw" else torch.optim.Adam
    return kind(groups, lr=settings.lr, fused=True)


def make_schedule(optimiser: torch.optim.Optimizer, settings: TrainConfig, steps: int) -> Schedule:
    """Cosine to zero over all steps, or a constant rate; a group's own 'schedule' goes before the settings'."""

    def cosine(step: int) -> float:
        return (1 + math.cos(math.pi * step / steps)) / 2

    def constant(step: int) -> float:
        return 1.0

    names = [group.get("schedule", settings.schedule) for group in optimiser.param_groups]
    return torch.optim.lr_scheduler.LambdaLR(optimiser, [cosine if name == "cosine" else constant for name in names])


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """n / (present classes · n_c) of training labels, so that the mean weight is 1; 0 for absent classes."""
    counts = torch.bincount(labels, minlength=classes).float()
    present = (counts > 0).sum()
    return torch.where(counts > 0, len(labels) / (present * counts.clamp(min=1)), torch.zeros_like(counts))


@torch.no_grad()
def predict(model: Head, inputs: Mapping[str, Tensor], batch: int = EVALUATION_BATCH) -> np.ndarray:
    """Logits float32 [m C] in evaluation mode; the model's mode is left as it was."""
    was_training = model.training
    model.eval()
    count = len(next(iter(inputs.values())))
    rows = [
        model({name: value[start : start + batch] for name, value in inputs.items()}).float().cpu()
        for start in range(0, count, batch)
    ]
    model.train(was_training)
    return torch.cat(rows).numpy() if rows else np.zeros((0, 0), np.float32)
