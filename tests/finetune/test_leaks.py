"""Nothing of a test subject reaches training, normalisation or the choices `last` and `inner`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from finetune import fitted, guards
from finetune.config import TrainConfig
from finetune.fold import run_fold
from finetune.folds import LeakError, Portion, Samples, loso
from finetune.heads.base import Head
from finetune.heads.micron import Readout
from finetune.options.micron import MicronOptions
from finetune.training import train

CPU = torch.device("cpu")
QUICK = TrainConfig(epochs=5, batch=7, lr=0.01)
SUBJECTS = tuple(name for name in ("sub01", "sub02", "sub03", "sub04") for _ in range(6))


def make(seed: int) -> Samples:
    """Random features that carry the label."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (len(SUBJECTS),), generator=generator)
    features = torch.randn(len(SUBJECTS), 1, 8, generator=generator)
    features[..., :3] += 2 * nn.functional.one_hot(labels, 3).unsqueeze(1)
    ids = tuple(f"casme2/{name}/EP{i:02d}" for i, name in enumerate(SUBJECTS))
    return Samples(ids, SUBJECTS, labels, {"features": features}, ("a", "b", "c"))


class Recorder:
    """Makes readouts and keeps them."""

    def __init__(self) -> None:
        self.made: list[Readout] = []

    def __call__(self) -> Readout:
        self.made.append(Readout(8, 3, MicronOptions(classifier="mlp", hidden=5)))
        return self.made[-1]

    def weights(self) -> list[torch.Tensor]:
        """All parameters and statistics of all models made."""
        return [value.clone() for model in self.made for value in model.state_dict().values()]


def perturbed(samples: Samples, subject: str, seed: int) -> Samples:
    """The same samples with other features and other labels for one subject."""
    rows = samples.rows((subject,))
    features, labels = samples.inputs["features"].clone(), samples.labels.clone()
    features[rows] = 100 * torch.randn(features[rows].shape, generator=torch.Generator().manual_seed(seed))
    labels[rows] = (labels[rows] + 1) % 3
    return replace(samples, inputs={"features": features}, labels=labels)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 3))
def test_other_frames_and_labels_of_the_test_subject_change_no_weight_and_no_choice(seed: int, place: int) -> None:
    samples = make(seed)
    fold = loso(SUBJECTS)[place]
    before, after = Recorder(), Recorder()
    first = run_fold(fold, samples, before, QUICK, seed, CPU)
    second = run_fold(fold, perturbed(samples, fold.subject, seed + 1), after, QUICK, seed, CPU)
    assert len(before.made) == 2  # the main training and the inner one
    assert all(torch.equal(a, b) for a, b in zip(before.weights(), after.weights(), strict=True))
    assert first.loss == second.loss and first.inner_uf1 == second.inner_uf1
    for selection in ("last", "inner"):
        assert first.epochs[selection] == second.epochs[selection]


def test_only_the_oracle_sees_test_labels() -> None:
    samples = make(3)
    fold = loso(SUBJECTS)[0]
    rows = samples.rows((fold.subject,))
    labels = samples.labels.clone()
    labels[rows] = (labels[rows] + 1) % 3
    first = run_fold(fold, samples, Recorder(), QUICK, 0, CPU)
    second = run_fold(fold, replace(samples, labels=labels), Recorder(), QUICK, 0, CPU)
    for selection in ("last", "inner"):
        assert first.probabilities[selection] == second.probabilities[selection]
    assert first.by_epoch == second.by_epoch
    assert first.test_accuracy != second.test_accuracy


def test_a_planted_label_in_the_test_frames_helps_nobody() -> None:
    """A feature that equals the label for the test subject only (0 elsewhere) cannot be learnt."""
    samples = make(5)
    features = torch.randn(len(SUBJECTS), 1, 8, generator=torch.Generator().manual_seed(9))
    features[..., 7] = 0
    fold = loso(SUBJECTS)[1]
    rows = samples.rows((fold.subject,))
    planted = features.clone()
    planted[rows, 0, 7] = 10.0 * samples.labels[rows]
    settings_ = replace(QUICK, epochs=3)
    results = [
        run_fold(fold, replace(samples, inputs={"features": x}), Recorder(), settings_, 0, CPU)
        for x in (features, planted)
    ]
    assert results[0].predicted("last") == results[1].predicted("last")


def test_training_and_watched_subjects_must_differ() -> None:
    samples = make(0)
    training = loso(SUBJECTS)[0].training(samples)
    with pytest.raises(LeakError, match="both trained on and evaluated"):
        train(training, training, Recorder(), samples.classes, QUICK, 0, CPU)


def test_statistics_come_from_training_clips_alone() -> None:
    samples = make(1)
    fold = loso(SUBJECTS)[2]
    recorder = Recorder()
    run_fold(fold, samples, recorder, QUICK, 0, CPU)
    own = np.isin(SUBJECTS, fold.training_subjects)
    expected = samples.inputs["features"][torch.from_numpy(own), 0].double().mean(0).float()
    assert torch.allclose(recorder.made[0].standardise.mean, expected)
    with pytest.raises(LeakError):
        recorder.made[0].fit(fold.testing(samples))


def test_statistics_know_the_clips_that_they_are_of() -> None:
    samples, recorder = make(1), Recorder()
    fold = loso(SUBJECTS)[2]
    run_fold(fold, samples, recorder, QUICK, 0, CPU)
    own = set(fold.training(samples).ids)
    for model, ids in zip(recorder.made, (own, set(fold.inner[0].portions(samples)[0].ids)), strict=True):
        assert {name for name, _ in fitted.records(model)} == {"Readout", "standardise"}
        assert all(set(found) == ids for _, found in fitted.records(model))
    assert guards.statistics(recorder.made[0], fold.testing(samples).ids) == []
    (first, second) = guards.statistics(recorder.made[0], samples.ids)  # as if all were tested with it
    assert first.severity == second.severity == "leak" and f"{len(own)} clips that are tested" in second.what


class FittedOverAll(Readout):
    """Planted leak: normalisation over all clips, the test subject's included."""

    everything: torch.Tensor

    def fit(self, portion: Portion) -> None:
        portion.require_training("a model")


@pytest.mark.parametrize("how", ["before", "directly", "by another portion"])
def test_normalisation_over_all_clips_stops_the_training(how: str) -> None:
    samples = make(2)
    fold = loso(SUBJECTS)[0]
    everything = replace(fold.training(samples), ids=samples.ids, subjects=samples.subjects)
    everything = replace(everything, inputs={"features": samples.inputs["features"][:, 0]}, labels=samples.labels)

    def leaky() -> Readout:
        model = FittedOverAll(8, 3, MicronOptions(classifier="mlp", hidden=5))
        if how == "before":
            model.standardise.fit(samples.inputs["features"])
        elif how == "directly":
            model.standardise.mean.copy_(samples.inputs["features"].mean((0, 1)))
        else:
            Readout.fit(model, everything)
        return model

    message = "6 clips that are not among" if how == "by another portion" else "fitted outside a fold"
    with pytest.raises(LeakError, match=message):
        run_fold(fold, samples, leaky, QUICK, 0, CPU)
    assert guards.statistics(leaky(), fold.testing(samples).ids)


def test_a_head_that_forgets_to_ask_for_the_role_is_refused() -> None:
    class Forgetful(Head):
        def fit(self, portion: Portion) -> None:
            self.mean = portion.inputs["features"].mean()

    samples = make(3)
    fold = loso(SUBJECTS)[0]
    Forgetful().fit(fold.training(samples))
    for portion in (fold.testing(samples), fold.inner[0].portions(samples)[1]):
        with pytest.raises(LeakError, match="statistics of Forgetful must be fitted on a fold's training clips"):
            Forgetful().fit(portion)
