"""Folds, leave-one-subject-out among them, and the only way by which a fold's training gets to see data.

A `Fold` names subjects (protocols.py makes those of other protocols); `Samples` holds the prepared clips.
`fold.training(samples)` hands out a `Portion` with labels, `fold.testing(samples)` one without: training code never
holds a test label. Statistics may be fitted on portions whose role is a training one only
(`Portion.require_training`).
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

    @property
    def datasets(self) -> tuple[str, ...]:
        """The dataset of each clip: the first part of its id."""
        return tuple(name.partition("/")[0] for name in self.ids)

    def rows(self, subjects: Sequence[str], datasets: Sequence[str] = ()) -> Tensor:
        """Indices int64 of the clips of these subjects, ascending; with `datasets`, of those in these datasets."""
        wanted = set(subjects)
        rows = [row for row, subject in enumerate(self.subjects) if subject in wanted]
        if datasets:
            where = self.datasets
            rows = [row for row in rows if where[row] in datasets]
        return torch.tensor(rows, dtype=torch.int64)


@dataclass(frozen=True)
class Portion:
    """The clips a fold hands out for one role; `labels` is None for test clips."""

    role: Role
    ids: tuple[str, ...]
    subjects: tuple[str, ...]
    inputs: dict[str, Tensor]  # each [m ...]
    labels: Tensor | None  # int64 [m]
    rows: Tensor | None = None
    """int64 [m], where each lies among all copies of all clips: clip · A + copy."""

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
            _portion(samples, samples.rows(self.training), "inner-training", copies=True),
            _portion(samples, samples.rows(self.held), "inner-held", copies=False),
        )


@dataclass(frozen=True)
class Fold:
    """One fold: who is tested, who is trained on, and the inner splits of the latter."""

    subject: str
    """The fold's name: of leave-one-subject-out the subject itself, else such as 'part 3 of 5' or 'casme2->samm'."""
    training_subjects: tuple[str, ...]
    inner: tuple[InnerSplit, ...]
    subjects: tuple[str, ...] = ()
    """All test subjects (default: the one that gives the fold its name)."""
    datasets: tuple[str, ...] = ()
    """Datasets whose clips of the test subjects are tested (none: all their clips)."""

    def __post_init__(self) -> None:
        if not self.subjects:
            object.__setattr__(self, "subjects", (self.subject,))
        used = {name for split in self.inner for name in (*split.training, *split.held)}
        if set(self.subjects) & set(self.training_subjects) or not used <= set(self.training_subjects):
            raise LeakError(f"fold {self.subject}: a test subject is among its training subjects")

    def training(self, samples: Samples) -> Portion:
        """The training subjects' clips, augmented copies included, with labels."""
        return _portion(samples, samples.rows(self.training_subjects), "training", copies=True)

    def testing(self, samples: Samples) -> Portion:
        """The test subjects' clips without their labels."""
        return _portion(samples, self._tested(samples), "test", copies=False)

    def test_ids(self, samples: Samples) -> list[str]:
        """Ids of the clips that the fold tests, in the order of `testing`."""
        return [samples.ids[row] for row in self._tested(samples).tolist()]

    def test_labels(self, samples: Samples) -> np.ndarray:
        """True classes int64 [m] of the test subjects' clips: for scoring after training, and `oracle`, only."""
        return samples.labels[self._tested(samples)].numpy()

    def _tested(self, samples: Samples) -> Tensor:
        return samples.rows(self.subjects, self.datasets)


def everything(samples: Samples) -> Portion:
    """All clips with their labels, for a recogniser that nobody is held out from; it has no score."""
    return _portion(samples, torch.arange(len(samples.ids)), "training", copies=True)


def _portion(samples: Samples, rows: Tensor, role: Role, copies: bool) -> Portion:
    """The clips at `rows`; with `copies`, every augmented copy as a clip of its own."""
    count = next(iter(samples.inputs.values())).shape[1] if copies else 1
    inputs = {name: value[rows, :count].flatten(0, 1) for name, value in samples.inputs.items()}
    order = rows.repeat_interleave(count)
    labels = None if role == "test" else samples.labels[order]
    places, copies_of = order.tolist(), next(iter(samples.inputs.values())).shape[1]
    lies = (rows[:, None] * copies_of + torch.arange(count)).flatten()
    ids, subjects = tuple(samples.ids[i] for i in places), tuple(samples.subjects[i] for i in places)
    return Portion(role, ids, subjects, inputs, labels, lies)


def loso(subjects: Sequence[str], *, inner_splits: int = 1, inner_share: float = 0.25, seed: int = 0) -> list[Fold]:
    """One fold per subject that has a clip, in ascending order of subject.

    Args:
        subjects: the subject of each clip (repeats expected).
        inner_splits, inner_share, seed: as `inner`.

    Raises:
        FlickerError: fewer than three subjects, or more inner groups than the training subjects allow.
    """
    names = sorted(set(subjects))
    if len(names) < 3:
        raise FlickerError(f"leave-one-subject-out needs clips of at least 3 subjects, found {len(names)}: {names}")
    return [
        Fold(name, others, inner(others, inner_splits, inner_share, seed, name))
        for name in names
        for others in [tuple(other for other in names if other != name)]
    ]


def inner(subjects: tuple[str, ...], splits: int, share: float, seed: int, name: str) -> tuple[InnerSplit, ...]:
    """Disjoint held groups drawn from a fold's training subjects, a pure function of its arguments.

    Args:
        subjects: the training subjects.
        splits: how many groups take turns at being held (1: one split); 0: each training subject takes its turn.
        share: share of the training subjects in a group (at least one subject).
        seed: decides, with the fold's `name`, who is held.

    Raises FlickerError: fewer than two training subjects, or more groups than they allow.
    """
    if len(subjects) < 2:
        raise FlickerError(
            f"fold {name}: {len(subjects)} training subjects; at least 2 are needed, one of them to choose the epoch"
        )
    if not splits:
        return tuple(_held(subjects, (one,)) for one in subjects)
    size = min(max(1, round(share * len(subjects))), len(subjects) - 1)
    if splits * size > len(subjects):
        raise FlickerError(
            f"protocol.inner_splits {splits} groups of {size} subjects do not fit into {len(subjects)} training "
            "subjects; lower protocol.inner_splits or protocol.inner_share"
        )
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    shuffled = [subjects[i] for i in generator.permutation(len(subjects))]
    return tuple(_held(subjects, shuffled[start : start + size]) for start in range(0, splits * size, size))


def _held(subjects: tuple[str, ...], held: Sequence[str]) -> InnerSplit:
    """`held` against the others."""
    return InnerSplit(tuple(name for name in subjects if name not in held), tuple(sorted(held)))
