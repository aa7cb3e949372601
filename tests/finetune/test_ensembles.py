"""Ensembles of seeds and scores of parts, against sums done by hand and scikit-learn."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, recall_score

from finetune import ensembles, parts
from finetune import results as stored
from finetune.fold import SELECTIONS, FoldResult
from shards.errors import FlickerError

CLASSES = ("a", "b", "c")
few = settings(max_examples=30, deadline=None)
PEOPLE = {f"{dataset}/{who}/{clip}": f"{dataset}/{who}" for dataset in ("x", "y") for who in "pq" for clip in "123"}


def fold(person: str, seed: int, rng: np.random.Generator, truth: dict[str, int]) -> FoldResult:
    """A fold of one person with random probabilities, others for each selection."""
    ids = [name for name, who in PEOPLE.items() if who == person]
    probabilities = {name: rng.dirichlet(np.ones(3), len(ids)).tolist() for name in SELECTIONS}
    own = [truth[name] for name in ids]
    epochs = dict.fromkeys(SELECTIONS, 1)
    return FoldResult(person, seed, ids, own, epochs, probabilities, [own], [0.0], [0.0], [1.0], [[]], [], 0.0)


def random_folds(number: int, seeds: int = 3) -> tuple[list[FoldResult], dict[str, int]]:
    """All folds of all seeds, and the true classes."""
    rng = np.random.default_rng(number)
    truth = {name: int(rng.integers(3)) for name in PEOPLE}
    everyone = dict.fromkeys(PEOPLE.values())
    return [fold(person, seed, rng, truth) for seed in range(seeds) for person in everyone], truth


@few
@given(st.integers(0, 10_000), st.sampled_from(SELECTIONS))
def test_the_ensemble_scores_the_mean_probabilities(number: int, selection: str) -> None:
    folds, truth = random_folds(number)
    total = {name: np.zeros(3) for name in truth}
    for one in folds:
        for name, row in zip(one.ids, one.probabilities[selection], strict=True):
            total[name] += row
    predicted = [int(total[name].argmax()) for name in truth]
    found = ensembles.scores(folds, truth, CLASSES)[selection]
    assert found["uf1"] == pytest.approx(f1_score(list(truth.values()), predicted, average="macro"))
    assert found["accuracy"] == pytest.approx(np.equal(predicted, list(truth.values())).mean())
    assert found["seeds"] == 3 and np.sum(found["confusion"]) == len(truth)


@few
@given(st.integers(0, 10_000))
def test_parts_are_the_pooled_predictions_filtered_by_dataset(number: int) -> None:
    folds, truth = random_folds(number, seeds=2)
    found = parts.scores(folds, truth, PEOPLE, CLASSES, ensemble=True)
    whole = stored.pool(folds, truth, CLASSES)
    assert list(found) == ["x", "y"]
    for dataset, part in found.items():
        own = [name for name in truth if name.startswith(dataset)]
        assert (part["clips"], part["subjects"]) == (6, 2)
        expected = []
        for seed in (0, 1):
            ours = {
                n: p
                for one in folds
                if one.seed == seed
                for n, p in zip(one.ids, one.predicted("inner"), strict=True)
            }
            true = [truth[name] for name in own]
            shown = sorted(set(true))
            expected.append(recall_score(true, [ours[name] for name in own], labels=shown, average="macro"))
        assert part["selections"]["inner"]["uar"] == pytest.approx(np.mean(expected))
        assert np.sum(part["ensemble"]["last"]["confusion"]) == 6
    for selection in SELECTIONS:
        total = np.sum([part["selections"][selection]["confusion"] for part in found.values()], axis=0)
        assert np.array_equal(total, whole[selection]["confusion"])


def test_one_dataset_has_no_parts() -> None:
    folds, truth = random_folds(0)
    own = {name: label for name, label in truth.items() if name.startswith("x")}
    assert parts.scores(folds[:2], own, PEOPLE, CLASSES) == {}


def test_a_fold_of_several_datasets_is_split_by_clip() -> None:
    (one, two), truth = random_folds(1, seeds=1)[0][:2], random_folds(1)[1]
    mixed = copy.deepcopy(one)
    mixed.ids = [*one.ids[:2], "y/p/1"]
    assert parts.only(mixed, "y").ids == ["y/p/1"]
    assert parts.only(mixed, "y").probabilities["last"] == [one.probabilities["last"][2]]
    assert parts.only(two, "y").ids == [] and truth


def test_incomplete_or_double_predictions_are_refused() -> None:
    folds, truth = random_folds(2)
    with pytest.raises(FlickerError, match=r"clip x/p/1 has no prediction of seed 0"):
        ensembles.scores(folds[1:], truth, CLASSES)
    with pytest.raises(FlickerError, match=r"clip x/p/1 is predicted twice by seed 0"):
        ensembles.scores([*folds, folds[0]], truth, CLASSES)
    with pytest.raises(FlickerError, match="3 clips have no prediction, first x/p/1"):
        ensembles.scores([one for one in folds if one.subject != "x/p"], truth, CLASSES)
    for wrong in (folds[1:], [*folds, folds[0]]):
        with pytest.raises(FlickerError):
            parts.scores(wrong, truth, PEOPLE, CLASSES)
