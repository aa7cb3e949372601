"""Clips of four people as a run's samples, for the tests of heads."""

from __future__ import annotations

import torch

from finetune.folds import Samples


def samples_of(inputs: dict[str, torch.Tensor], labels: list[int]) -> Samples:
    """Inputs [n ...] of clips that four subjects show in turn, three classes."""
    names = [f"d/s{i % 4}" for i in range(len(labels))]
    return Samples(
        ids=tuple(f"{name}/{i}" for i, name in enumerate(names)),
        subjects=tuple(names),
        labels=torch.tensor(labels),
        inputs={name: value[:, None] for name, value in inputs.items()},
        classes=("negative", "positive", "surprise"),
    )
