"""Training the members of one stack: each with its own weights, statistics, order, augmentation and class weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune.batched_stack import Stack
from finetune.config import TrainConfig
from finetune.folds import LeakError, Portion
from finetune.heads.base import Head
from finetune.training import (
    EVALUATION_BATCH,
    MakeModel,
    Trajectory,
    class_weights,
    finite,
    fitted_model,
    labels_apart,
)


@dataclass
class Member:
    """One training of a stack."""

    model: Head
    front: Callable[[Mapping[str, Tensor]], Any]
    core: nn.Module
    rows: Tensor
    """int64 [n], of the training clips among all copies of all clips."""
    labels: Tensor
    """int64 [n]"""
    weights: Tensor
    """float32 [C], of the classes."""
    orders: list[Tensor]
    """Of each epoch, int64 [n]."""
    varied: torch.Generator
    watched: Tensor
    """int64 [m], as `rows`."""


def begin(
    training: Portion,
    watched: Portion,
    make_model: MakeModel,
    classes: int,
    settings: TrainConfig,
    seed: int,
    device: torch.device,
) -> Member:
    """A member before its first step; draws from the global generator what `train` draws, in its order."""
    labels = labels_apart(training, watched)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = fitted_model(training.to(device), make_model, device)
        orders = [torch.randperm(len(training)).to(device) for _ in range(settings.epochs)]
    front, core = model.split()
    return Member(
        model,
        front,
        core,
        rows=_rows(training, device),
        labels=labels.to(device),
        weights=(class_weights(labels, classes) if settings.class_weights else torch.ones(classes)).to(device),
        orders=orders,
        varied=torch.Generator().manual_seed(seed),
        watched=_rows(watched, device),
    )


def _rows(portion: Portion, device: torch.device) -> Tensor:
    """Where the portion's clips lie among all copies of all clips."""
    if portion.rows is None:
        raise LeakError(f"a portion of {portion.role} clips that no fold handed out")
    return portion.rows.to(device)


def train_stack(
    members: Sequence[Member], shared: Mapping[str, Tensor], settings: TrainConfig, steps: int
) -> list[Trajectory]:
    """Train the members of one stack; `steps` of an epoch, the same for all. `shared`: all copies of all clips."""
    groups = members[0].model.groups(settings.lr, settings.weight_decay)
    stack = Stack([member.core for member in members], groups, settings, settings.epochs * steps)
    weights = torch.stack([member.weights for member in members])
    counts = torch.tensor([len(member.rows) for member in members])
    batch = settings.batch or int(counts.max())
    losses, logits = [], []
    for epoch in range(settings.epochs):
        rows, labels = _order(members, epoch)
        total = torch.zeros(len(members), dtype=torch.float64, device=weights.device)
        for start in range(0, int(counts.max()), batch):
            part = slice(start, start + batch)
            own = (counts - start).clamp(max=batch)
            inputs = _inputs(members, shared, rows[:, part], own.tolist(), training=True)
            found = stack.step(inputs, labels[:, part], own.tolist(), weights, settings.label_smoothing)
            total += found.double() * own.to(total)
        losses.append((total.cpu() / counts).numpy())
        for loss in losses[-1].tolist():
            finite(loss, epoch, settings)
        logits.append(_watch(stack, members, shared))
    by_epoch = list(zip(*logits, strict=True))
    return [Trajectory(np.array(losses)[:, place], np.stack(rows)) for place, rows in enumerate(by_epoch)]


def _order(members: Sequence[Member], epoch: int) -> tuple[Tensor, Tensor]:
    """(rows [F n] of an epoch in their order, labels [F n]); shorter ones are filled up."""
    orders = [member.orders[epoch] for member in members]
    longest, both = max(map(len, orders)), list(zip(members, orders, strict=True))
    rows = _stacked([member.rows[order] for member, order in both], longest)
    return rows, _stacked([member.labels[order] for member, order in both], longest)


@torch.no_grad()
def _inputs(
    members: Sequence[Member], shared: Mapping[str, Tensor], rows: Tensor, counts: Sequence[int], training: bool
) -> Any:
    """What the networks read [F B ...] of the clips at rows [F B], of which each member has the first `counts`."""
    kind = type(members[0].model)
    if kind.split is Head.split and (kind.augment is Head.augment or not training):
        return {name: value[rows] for name, value in shared.items()}
    fronts = []
    for member, own, count in zip(members, rows, counts, strict=True):
        if training:
            inputs = member.model.training_batch(shared, own[:count], member.varied)
        else:
            inputs = {name: value[own[:count]] for name, value in shared.items()}
        fronts.append(member.front(inputs))
    return _stacked(fronts, rows.shape[1])


def _stacked(values: Sequence[Any], longest: int) -> Any:
    """Tensors [b ...], alone or by name, as [F longest ...]; shorter ones repeat their first row."""
    if isinstance(values[0], Tensor):
        return torch.stack([_filled(value, longest) for value in values])
    return {name: _stacked([value[name] for value in values], longest) for name in values[0]}


def _filled(value: Tensor, longest: int) -> Tensor:
    """[b ...] as [longest ...]: its first row repeated."""
    missing = longest - len(value)
    return torch.cat([value, value[:1].expand(missing, *value.shape[1:])]) if missing else value


@torch.no_grad()
def _watch(stack: Stack, members: Sequence[Member], shared: Mapping[str, Tensor]) -> list[np.ndarray]:
    """Logits float32 [m C] of each member's watched clips."""
    stack.core.eval()
    parts: list[list[Tensor]] = [[] for _ in members]
    for start in range(0, max(len(member.watched) for member in members), EVALUATION_BATCH):
        places = [place for place, member in enumerate(members) if len(member.watched) > start]
        some = [members[place] for place in places]
        rows = [member.watched[start : start + EVALUATION_BATCH] for member in some]
        counts = list(map(len, rows))
        inputs = _inputs(some, shared, _stacked(rows, max(counts)), counts, training=False)
        for place, count, found in zip(places, counts, stack.logits(inputs, places).float().cpu(), strict=True):
            parts[place].append(found[:count])
    return [torch.cat(part).numpy() for part in parts]
