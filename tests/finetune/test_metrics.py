"""Metrics against scikit-learn, and the join by clip id."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score

from finetune import metrics
from shards.errors import FlickerError

cases = st.integers(2, 6).flatmap(
    lambda k: st.tuples(
        st.just(k), st.lists(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1)), min_size=1, max_size=80)
    )
)


@given(cases)
def test_scores_equal_scikit_learn(case: tuple[int, list[tuple[int, int]]]) -> None:
    classes, pairs = case
    truth, predicted = (list(column) for column in zip(*pairs, strict=True))
    ours = metrics.scores(truth=truth, predicted=predicted, classes=range(classes))
    occurring = sorted(set(truth) | set(predicted))
    assert ours["uf1"] == pytest.approx(
        f1_score(truth, predicted, labels=occurring, average="macro", zero_division=0)
    )
    recall = np.mean([np.mean(np.array(predicted)[np.array(truth) == c] == c) for c in sorted(set(truth))])
    assert ours["uar"] == pytest.approx(recall)
    if set(predicted) <= set(truth):
        assert ours["uar"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert ours["accuracy"] == ours["war"] == pytest.approx(accuracy_score(truth, predicted))
    assert ours["weighted_f1"] == pytest.approx(f1_score(truth, predicted, average="weighted", zero_division=0))
    assert (ours["confusion"] == confusion_matrix(truth, predicted, labels=range(classes))).all()


def test_many_confusion_matrices_at_once_are_scored_as_each_alone() -> None:
    chance = np.random.default_rng(0)
    cases = [(chance.integers(0, k, n), chance.integers(0, k, n)) for k, n in [(3, 1), (2, 4), (3, 9), (3, 60)]]
    each = [metrics.scores(truth=truth, predicted=predicted, classes=range(3)) for truth, predicted in cases]
    counts = np.stack([one["confusion"] for one in each])
    assert set(metrics.from_counts(counts)) == set(metrics.NAMES)
    for (truth, predicted), uf1 in zip(cases, metrics.from_counts(counts)["uf1"], strict=True):
        assert uf1 == pytest.approx(f1_score(truth, predicted, average="macro", zero_division=0))
    assert metrics.fold_means(counts)["uf1"] == pytest.approx(np.mean([one["uf1"] for one in each]))


def test_the_mean_over_folds_is_another_number_than_the_pooled_score() -> None:
    folds = np.array([[[1, 0], [0, 0]], [[1, 3], [0, 0]]])  # a small fold all right, a larger one mostly wrong
    assert metrics.fold_means(folds)["accuracy"] == pytest.approx((1 + 1 / 4) / 2)
    assert metrics.from_counts(folds.sum(0))["accuracy"] == pytest.approx(2 / 5)


def test_labels_may_be_names_and_arrays() -> None:
    truth, predicted = np.array(["a", "b", "b"]), np.array(["a", "b", "a"])
    ours = metrics.scores(truth=truth, predicted=predicted, classes=["a", "b"])
    assert ours["uf1"] == pytest.approx((2 / 3 + 2 / 3) / 2) and ours["uar"] == pytest.approx(0.75)


def test_classes_absent_from_the_truth() -> None:
    absent = metrics.scores(truth=[0, 1], predicted=[0, 1], classes=[0, 1, 2])
    assert absent["uf1"] == absent["uar"] == 1.0  # class 2 nowhere: left out
    guessed = metrics.scores(truth=[0, 1], predicted=[0, 2], classes=[0, 1, 2])
    assert guessed["uf1"] == pytest.approx(1 / 3)  # class 2 predicted, never true: counts as 0
    assert guessed["uar"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("truth", "predicted", "words"),
    [([0], [0, 1], "1 true labels but 2"), ([], [], "no predictions"), ([0], [7], "outside the classes .* 7")],
)
def test_wrong_input_is_a_one_line_error(truth: list[int], predicted: list[int], words: str) -> None:
    with pytest.raises(FlickerError, match=words):
        metrics.scores(truth=truth, predicted=predicted, classes=[0, 1])


def test_join_is_by_id_and_not_by_order() -> None:
    assert metrics.join({"a": 0, "b": 1}, [("b", 5), ("a", 4)]) == ([0, 1], [4, 5])


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([("a", 0)], "1 clips have no prediction, first b"),
        ([("a", 0), ("b", 0), ("a", 1)], "a is predicted twice"),
        ([("a", 0), ("b", 0), ("c", 1)], "unknown clips, first c"),
    ],
)
def test_join_refuses_missing_duplicate_and_unknown_ids(pairs: list[tuple[str, int]], words: str) -> None:
    with pytest.raises(FlickerError, match=words):
        metrics.join({"a": 0, "b": 1}, pairs)
