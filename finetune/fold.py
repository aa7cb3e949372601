"""Train one fold with a fixed budget, and choose its epoch in three ways.

`last` is the state after the last epoch: nothing is chosen. `inner` trains again on part of the training subjects
and takes the epoch that scores best on the held part; the prediction is the main training's at that epoch.
`oracle` takes the epoch that scores best on the test subjects themselves, which leaks: it is what SLSTT's, HTNet's
and FDP's released trainers report.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from finetune import metrics
from finetune.config import TrainConfig
from finetune.folds import Fold, Samples
from finetune.training import MakeModel, Trajectory, train

SELECTIONS = ("last", "inner", "oracle")


@dataclass
class FoldResult:
    """One fold of one seed: everything that scores and report need, keyed by clip id."""

    subject: str
    """The fold's name: the left-out subject, or as `finetune.folds.Fold` says."""
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
    """Accuracy on the test clips by epoch (diagnosis; only `oracle` uses it)."""
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
    chance = seed_of(fold, seed)
    main = train(fold.training(samples), fold.testing(samples), make_model, samples.classes, settings, chance, device)
    inner = []
    for split in fold.inner:
        training, held = split.portions(samples)
        inner.append(train(training, held, make_model, samples.classes, settings, chance, device).logits)
    return conclude(fold, samples, seed, main, inner, time.perf_counter() - started)


def seed_of(fold: Fold, seed: int) -> int:
    """What seeds all randomness of a fold."""
    return zlib.crc32(f"{seed}/{fold.subject}".encode())


def conclude(
    fold: Fold, samples: Samples, seed: int, main: Trajectory, inner: Sequence[np.ndarray], seconds: float
) -> FoldResult:
    """Choose the epoch in three ways: `inner` holds the logits [E m C] of each inner split's held clips."""
    held_truth = [samples.labels[samples.rows(split.held)].numpy() for split in fold.inner]
    truth, labels = fold.test_labels(samples), samples.labels[samples.rows(fold.training_subjects)]
    inner_epoch, inner_uf1 = choose_inner(np.concatenate(held_truth), np.concatenate(inner, axis=1))
    accuracy = (main.logits.argmax(-1) == truth).mean(axis=1)  # [E]
    chosen = {"last": len(accuracy) - 1, "inner": inner_epoch, "oracle": choose_oracle(accuracy)}
    present = set(labels.tolist())
    return FoldResult(
        subject=fold.subject,
        seed=seed,
        ids=fold.test_ids(samples),
        truth=truth.tolist(),
        epochs={name: epoch + 1 for name, epoch in chosen.items()},
        probabilities={name: softmax(main.logits[epoch]).round(6).tolist() for name, epoch in chosen.items()},
        by_epoch=main.logits.argmax(-1).tolist(),
        loss=main.loss.round(6).tolist(),
        inner_uf1=inner_uf1.round(6).tolist(),
        test_accuracy=accuracy.round(6).tolist(),
        held_subjects=[list(split.held) for split in fold.inner],
        absent_classes=[name for index, name in enumerate(samples.classes) if index not in present],
        seconds=round(seconds, 3),
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
    """The epoch of best accuracy on the test clips, the latest of equals (HTNet's `<=`). Leaks by design."""
    return int(len(accuracy) - 1 - np.argmax(accuracy[::-1]))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)
