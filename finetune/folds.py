"""Leave-one-subject-out folds, and the only way by which a fold's training gets to see data.

A `Fold` names subjects; `Samples` holds the prepared clips. `fold.training(samples)` hands out a `Portion` with
labels, `fold.testing(samples)` one without: training code never holds a test label. Statistics may be fitted on
portions whose role is a training one only (`Portion.require_training`).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from shards.errors import FlickerError

Role = Literal["training", "inner-training", "inner-held", "test"]


class LeakError(AssertionError):
    """Something was about to be fitted on, or chosen by, data outside the fold's training subjects."""


@dataclass(frozen=True)
class Samples:
    """All prepared clips of a run, in one order.

    `inputs[name]` is [n A ...]: A copies of each clip, copy 0 as it is and further ones augmented (training only).
    """

    ids: tuple[str, ...]
    subjects: tuple[str, ...]
    labels: Tensor  # int64 [n]
    inputs: dict[str, Tensor]
    classes: tuple[str, ...]

    def rows(self, subjects: Sequence[str]) -> Tensor:
        """Indices int64 of the clips of these subjects, ascending."""
        wanted = set(subjects)
        return torch.tensor([i for i, subject in enumerate(self.subjects) if subject in wanted], dtype=torch.int64)


@dataclass(frozen=True)
class Portion:
    """The clips a fold hands out for one role; `labels` is None for the test subject."""

    role: Role
    ids: tuple[str, ...]
    subjects: tuple[str, ...]
    inputs: dict[str, Tensor]  # each [m ...]
    labels: Tensor | None  # int64 [m]

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> Portion:
        """The same portion with its tensors on `device`."""
        inputs = {name: value.to(device) for name, value in self.inputs.items()}
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, inputs=inputs, labels=labels)

    def require_training(self, what: str) -> Tensor:
        """The labels, if this portion may be fitted on. Raises LeakError, naming `what`, if it may not."""
        if self.role not in ("training", "inner-training") or self.labels is None:
            raise LeakError(f"{what} must be fitted on a fold's training clips, not on its {self.role} clips")
        return self.labels


@dataclass(frozen=True)
class InnerSplit:
    """Training subjects of a fold, split again: the held ones choose the epoch."""

    training: tuple[str, ...]
    held: tuple[str, ...]

    def portions(self, samples: Samples) -> tuple[Portion, Portion]:
        """(inner training clips with copies, held clips); both with labels, as both are training subjects."""
        if set(self.training) & set(self.held):
            raise LeakError("inner training and held subjects overlap")
        return (
            _portion(samples, self.training, "inner-training", copies=True),
            _portion(samples, self.held, "inner-held", copies=False),
        )


@dataclass(frozen=True)
class Fold:
    """One fold: the left-out subject, the training subjects, and their inner splits."""

    subject: str
    training_subjects: tuple[str, ...]
    inner: tuple[InnerSplit, ...]

    def __post_init__(self) -> None:
        used = {name for split in self.inner for name in (*split.training, *split.held)}
        if self.subject in self.training_subjects or not used <= set(self.training_subjects):
            raise LeakError(f"fold {self.subject}: its test subject is among its training subjects")

    def training(self, samples: Samples) -> Portion:
        """The training subjects' clips, augmented copies included, with labels."""
        return _portion(samples, self.training_subjects, "training", copies=True)

    def testing(self, samples: Samples) -> Portion:
        """The left-out subject's clips without their labels."""
        return _portion(samples, (self.subject,), "test", copies=False)

    def test_labels(self, samples: Samples) -> np.ndarray:
        """True classes int64 [m] of the left-out subject: for scoring after training, and `oracle`, only."""
        return samples.labels[samples.rows((self.subject,))].numpy()


def _portion(samples: Samples, subjects: Sequence[str], role: Role, copies: bool) -> Portion:
    """The clips of `subjects`; with `copies`, every augmented copy as a clip of its own."""
    rows = samples.rows(subjects)
    count = next(iter(samples.inputs.values())).shape[1] if copies else 1
    inputs = {name: value[rows, :count].flatten(0, 1) for name, value in samples.inputs.items()}
    order = rows.repeat_interleave(count)
    labels = None if role == "test" else samples.labels[order]
    places = order.tolist()
    return Portion(
        role, tuple(samples.ids[i] for i in places), tuple(samples.subjects[i] for i in places), inputs, labels
    )


def loso(subjects: Sequence[str], *, inner_splits: int = 1, inner_share: float = 0.25, seed: int = 0) -> list[Fold]:
    """One fold per subject that has a clip, in ascending order of subject.

    Args:
        subjects: the subject of each clip (repeats expected).
        inner_splits: how many disjoint groups of training subjects take turns at being held (1: one split).
        inner_share: share of the training subjects in a held group (at least one subject).
        seed: decides, with the fold's subject, which subjects are held.

    Raises:
        FlickerError: fewer than three subjects, or more inner groups than the training subjects allow.
    """
    names = sorted(set(subjects))
    if len(names) < 3:
        raise FlickerError(f"leave-one-subject-out needs clips of at least 3 subjects, found {len(names)}: {names}")
    return [
        Fold(name, others, _inner(others, inner_splits, inner_share, seed, name))
        for name in names
        for others in [tuple(other for other in names if other != name)]
    ]


def _inner(
    subjects: tuple[str, ...], splits: int, share: float, seed: int, test_subject: str
) -> tuple[InnerSplit, ...]:
    """Disjoint held groups drawn from the training subjects, a pure function of its arguments."""
    size = min(max(1, round(share * len(subjects))), len(subjects) - 1)
    if splits * size > len(subjects):
        raise FlickerError(
            f"protocol.inner_splits {splits} groups of {size} subjects do not fit into {len(subjects)} training "
            "subjects; lower protocol.inner_splits or protocol.inner_share"
        )
    generator = np.random.default_rng([seed, zlib.crc32(test_subject.encode())])
    shuffled = [subjects[i] for i in generator.permutation(len(subjects))]
    result = []
    for start in range(0, splits * size, size):
        held = tuple(sorted(shuffled[start : start + size]))
        result.append(InnerSplit(tuple(name for name in subjects if name not in held), held))
    return tuple(result)
