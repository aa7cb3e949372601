"""Folds are subject-disjoint and deterministic; data reaches training through them alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finetune.folds import Fold, InnerSplit, LeakError, Samples, loso
from shards.errors import FlickerError

people = st.lists(st.sampled_from([f"sub{i:02d}" for i in range(12)]), min_size=3, max_size=60).filter(
    lambda names: len(set(names)) >= 3
)


def make(subjects: list[str], copies: int = 1) -> Samples:
    """Samples whose single feature is the clip's number."""
    n = len(subjects)
    feature = torch.arange(n, dtype=torch.float32)[:, None, None].expand(n, copies, 1)
    ids = tuple(f"casme2/{name}/EP{i:02d}" for i, name in enumerate(subjects))
    return Samples(ids, tuple(subjects), torch.arange(n) % 2, {"features": feature}, ("a", "b"))


@given(people, st.floats(0.05, 0.95), st.integers(0, 5))
def test_folds_partition_the_clips_and_never_share_a_subject(subjects: list[str], share: float, seed: int) -> None:
    samples = make(subjects)
    folds = loso(subjects, inner_share=share, seed=seed)
    tested = [name for fold in folds for name in fold.testing(samples).ids]
    assert sorted(tested) == sorted(samples.ids)
    for fold in folds:
        training, test = fold.training(samples), fold.testing(samples)
        assert not set(training.subjects) & set(test.subjects) and len(training) + len(test) == len(subjects)
        for split in fold.inner:
            inner, held = split.portions(samples)
            assert len(inner) and len(held)
            assert not set(inner.subjects) & set(held.subjects)
            assert set(inner.subjects) | set(held.subjects) == set(training.subjects)
            assert fold.subject not in {*inner.subjects, *held.subjects}


def test_inner_splits_depend_on_seed_only() -> None:
    names = [f"sub{i:02d}" for i in range(10)]
    assert loso(names, seed=1) == loso(list(reversed(names)), seed=1) != loso(names, seed=2)


def test_inner_groups_are_disjoint() -> None:
    for fold in loso([f"s{i}" for i in range(9)], inner_splits=4, inner_share=0.25):
        held = [name for split in fold.inner for name in split.held]
        assert len(held) == len(set(held)) == 8


def test_too_few_subjects_or_too_many_groups() -> None:
    with pytest.raises(FlickerError, match="at least 3 subjects, found 2"):
        loso(["a", "b"])
    with pytest.raises(FlickerError, match=r"protocol.inner_splits 5"):
        loso(["a", "b", "c", "d"], inner_splits=5)


def test_the_test_portion_carries_no_labels_and_cannot_be_fitted() -> None:
    samples = make(["a", "a", "b", "c"])
    fold = loso(samples.subjects)[0]
    assert fold.testing(samples).labels is None
    with pytest.raises(LeakError, match="feature statistics"):
        fold.testing(samples).require_training("feature statistics")
    with pytest.raises(LeakError):
        fold.inner[0].portions(samples)[1].require_training("a model")


def test_a_fold_refuses_its_own_subject() -> None:
    with pytest.raises(LeakError):
        Fold("a", ("a", "b"), ())
    with pytest.raises(LeakError):
        Fold("a", ("b", "c"), (InnerSplit(("b",), ("a",)),))


def test_augmented_copies_are_for_training_only() -> None:
    samples = make(["a", "a", "b", "c"], copies=2)
    fold = loso(samples.subjects)[0]
    training = fold.training(samples)
    assert len(training) == 4 and training.labels is not None and training.labels.tolist() == [0, 0, 1, 1]
    assert len(fold.testing(samples)) == 2
