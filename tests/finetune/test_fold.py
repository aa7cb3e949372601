"""Training a fold: the budget, the three selections, class weights, errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finetune import training
from finetune.config import TrainConfig
from finetune.fold import choose_inner, choose_oracle, run_fold
from finetune.folds import loso
from finetune.heads.micron import Readout
from finetune.options.micron import MicronOptions
from finetune.training import class_weights
from shards.errors import FlickerError
from tests.finetune.test_leaks import CPU, QUICK, SUBJECTS, Recorder, make


def test_a_separable_problem_is_learnt() -> None:
    samples = make(0)
    result = run_fold(loso(SUBJECTS)[0], samples, Recorder(), TrainConfig(epochs=40, lr=0.02), 0, CPU)
    assert np.mean(np.equal(result.predicted("last"), result.truth)) > 0.8
    assert result.loss[-1] < result.loss[0]
    assert result.epochs["last"] == 40 == len(result.loss) == len(result.by_epoch) == len(result.inner_uf1)


def test_the_same_seed_gives_the_same_result_and_another_another() -> None:
    samples, fold = make(0), loso(SUBJECTS)[1]
    results = [run_fold(fold, samples, Recorder(), QUICK, seed, CPU) for seed in (0, 0, 1)]
    plain = [replace(result, seconds=0, seed=0) for result in results]
    assert plain[0] == plain[1] != plain[2]


def test_the_global_random_state_neither_matters_nor_changes() -> None:
    samples, fold = make(0), loso(SUBJECTS)[1]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = run_fold(fold, samples, Recorder(), QUICK, 0, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert run_fold(fold, samples, Recorder(), QUICK, 0, CPU).loss == first.loss


def test_every_selection_is_a_point_of_the_one_main_training() -> None:
    result = run_fold(loso(SUBJECTS)[2], make(4), Recorder(), QUICK, 0, CPU)
    for selection, epoch in result.epochs.items():
        assert result.predicted(selection) == result.by_epoch[epoch - 1]
    assert result.test_accuracy[result.epochs["oracle"] - 1] == max(result.test_accuracy)


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=20))
def test_oracle_takes_the_latest_of_the_best(accuracy: list[float]) -> None:
    epoch = choose_oracle(np.array(accuracy))
    assert accuracy[epoch] == max(accuracy) and max(accuracy) not in accuracy[epoch + 1 :]


def test_inner_takes_best_uf1_then_lower_loss() -> None:
    truth = np.array([0, 1])
    logits = np.array([[[1, 0], [1, 0]], [[1, 0], [0, 1]], [[3, 0], [0, 3]], [[3, 0], [0, 3]]], np.float32)
    epoch, uf1 = choose_inner(truth, logits)
    assert epoch == 2 and uf1.tolist() == [pytest.approx(1 / 3), 1, 1, 1]


def test_class_weights_balance_and_leave_absent_classes_out() -> None:
    weights = class_weights(torch.tensor([0, 0, 0, 1]), 3)
    assert weights.tolist() == pytest.approx([4 / 6, 2.0, 0.0])
    assert (weights * torch.tensor([3, 1, 0])).sum() == pytest.approx(4)


def test_a_loss_that_is_not_finite_says_what_to_lower() -> None:
    samples = make(0)
    features = samples.inputs["features"].clone()
    features[0] = float("nan")
    with pytest.raises(FlickerError, match=r"loss is nan in epoch 1; lower train.lr"):
        run_fold(loso(SUBJECTS)[1], replace(samples, inputs={"features": features}), Recorder(), QUICK, 0, CPU)


def test_a_class_without_training_clips_is_reported() -> None:
    samples = make(0)
    labels = samples.labels % 2
    labels[samples.rows(("sub01",))] = 2
    result = run_fold(loso(SUBJECTS)[0], replace(samples, labels=labels), Recorder(), QUICK, 0, CPU)
    assert result.absent_classes == ["c"]


def test_prediction_batches_do_not_matter() -> None:
    model = Readout(8, 3, MicronOptions())
    torch.nn.init.normal_(model.classify.get_parameter("1.weight"))
    inputs = {"features": torch.randn(10, 8)}
    whole = training.predict(model, inputs)
    assert np.allclose(training.predict(model, inputs, 3), whole, atol=1e-6)


def test_a_groups_own_schedule_goes_before_the_settings() -> None:
    one, two = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    groups = [{"params": [one], "lr": 1.0}, {"params": [two], "lr": 1.0, "schedule": "constant"}]
    optimiser = torch.optim.SGD(groups)
    schedule = training.make_schedule(optimiser, TrainConfig(), steps=4)
    rates = []
    for _ in range(5):
        rates.append([group["lr"] for group in optimiser.param_groups])
        optimiser.step()
        schedule.step()
    assert np.allclose(rates, [[(1 + np.cos(np.pi * k / 4)) / 2, 1.0] for k in range(5)])
