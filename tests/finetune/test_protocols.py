"""Folds of every protocol keep people apart, and test every clip once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from finetune import protocols
from finetune.clips import Clip
from finetune.config import FinetuneConfig, ProtocolConfig, validate
from finetune.folds import Fold, LeakError, Samples, loso
from shards.errors import FlickerError, UsageError

DATASETS = ("casme2", "samm", "smic")
Seen = tuple[str, str]  # dataset, person
few = settings(max_examples=50, deadline=None)


def make(seen: list[Seen]) -> Samples:
    """Samples whose single feature is the clip's number; a person may appear in several datasets."""
    ids = tuple(f"{dataset}/{person}/EP{row:02d}" for row, (dataset, person) in enumerate(seen))
    features = torch.arange(len(seen), dtype=torch.float32)[:, None, None].expand(-1, 2, 1)
    people = tuple(person for _, person in seen)
    return Samples(ids, people, torch.arange(len(seen)) % 2, {"features": features}, ("a", "b"))


SEEN = st.lists(
    st.tuples(st.sampled_from(DATASETS), st.sampled_from([f"p{i}" for i in range(9)])), min_size=12, max_size=50
)
PROTOCOL = st.one_of(
    st.builds(ProtocolConfig, kind=st.just("loso")),
    st.builds(ProtocolConfig, kind=st.just("kfold"), folds=st.integers(2, 5), inner_seed=st.integers(0, 9)),
    st.builds(ProtocolConfig, kind=st.just("lodo")),
    st.builds(
        ProtocolConfig,
        kind=st.just("cross"),
        train_on=st.sampled_from([["casme2"], ["samm"]]),
        test_on=st.just(["smic"]),
        reverse=st.booleans(),
    ),
    st.just(ProtocolConfig(kind="cross", train_on=["smic", "samm"], test_on=["casme2"], reverse=False)),
).flatmap(
    lambda one: st.builds(replace, st.just(one), inner_splits=st.integers(0, 3), inner_share=st.floats(0.05, 0.6))
)


def planned(protocol: ProtocolConfig, seen: list[Seen]) -> tuple[Samples, list[Fold]]:
    """The samples that the protocol involves and its folds; cases with too few people are not tried."""
    clips = [Clip(dataset, person, f"EP{row}", 1, 1, 1, "others") for row, (dataset, person) in enumerate(seen)]
    try:
        kept = protocols.involved(protocol, clips)
        samples = make([(clip.dataset, clip.subject) for clip in kept])
        return samples, protocols.folds(protocol, samples)
    except FlickerError:
        reject()


@few
@given(SEEN, PROTOCOL)
def test_nobody_is_on_both_sides_and_every_clip_is_tested_once(seen: list[Seen], protocol: ProtocolConfig) -> None:
    samples, folds = planned(protocol, seen)
    for fold in folds:
        training, test = fold.training(samples), fold.testing(samples)
        assert len(training) and len(test) and not set(training.subjects) & set(test.subjects)
        assert fold.test_ids(samples) == list(test.ids) and len(fold.test_labels(samples)) == len(test)
        assert fold.inner
        for split in fold.inner:
            inner, held = split.portions(samples)
            assert len(inner) and len(held)
            assert not set(inner.subjects) & set(held.subjects)
            assert set(inner.subjects) | set(held.subjects) == set(training.subjects)
            assert not set(test.subjects) & {*inner.subjects, *held.subjects}
    tested = Counter(name for fold in folds for name in fold.testing(samples).ids)
    on = {*protocol.test_on, *(protocol.train_on if protocol.reverse else [])} or set(DATASETS)
    assert set(tested) == {name for name in samples.ids if name.split("/")[0] in on}
    assert set(tested.values()) == {1} and protocols.tested(folds, samples) == [n for n in samples.ids if n in tested]


@few
@given(SEEN, st.booleans())
def test_across_datasets_only_other_people_of_the_training_datasets_are_trained_on(
    seen: list[Seen], reverse: bool
) -> None:
    protocol = ProtocolConfig(kind="cross", train_on=["casme2"], test_on=["samm"], reverse=reverse)
    samples, folds = planned(protocol, seen)
    pairs = [("casme2", "samm"), ("samm", "casme2")][: 1 + reverse]
    assert [fold.subject for fold in folds] == [f"{one}->{other}" for one, other in pairs]
    for fold, (trained, tested) in zip(folds, pairs, strict=True):
        there = {person for dataset, person in seen if dataset == tested}
        expected = [name for name, (dataset, person) in _named(samples) if dataset == trained and person not in there]
        assert sorted(set(fold.training(samples).ids)) == sorted(expected)
        assert {name.split("/")[0] for name in fold.testing(samples).ids} == {tested}


def _named(samples: Samples) -> list[tuple[str, Seen]]:
    """(id, (dataset, person)) of each clip."""
    return [(name, (name.split("/")[0], person)) for name, person in zip(samples.ids, samples.subjects, strict=True)]


@few
@given(st.lists(st.integers(1, 30), min_size=5, max_size=20), st.integers(3, 5), st.integers(0, 5))
def test_groups_of_kfold_have_nearly_equal_numbers_of_clips(counts: list[int], groups: int, seed: int) -> None:
    samples = make([("casme2", f"p{i:02d}") for i, count in enumerate(counts) for _ in range(count)])
    folds = protocols.folds(ProtocolConfig(kind="kfold", folds=groups, inner_seed=seed), samples)
    sizes = [len(fold.testing(samples)) for fold in folds]
    assert [fold.subject for fold in folds] == [f"part {i} of {groups}" for i in range(1, groups + 1)]
    assert max(sizes) - min(sizes) <= max(counts)


def test_as_many_groups_as_subjects_are_leave_one_subject_out() -> None:
    samples = make([("casme2", f"p{i}") for i in range(7) for _ in range(i + 1)])
    groups = protocols.folds(ProtocolConfig(kind="kfold", folds=7), samples)
    alone = protocols.folds(ProtocolConfig(), samples)
    assert {(fold.subjects, fold.training_subjects) for fold in groups} == {
        (fold.subjects, fold.training_subjects) for fold in alone
    }


def test_the_usual_protocol_is_leave_one_subject_out_as_ever() -> None:
    samples = make([("casme2", f"p{i}") for i in range(9)])
    protocol = ProtocolConfig(inner_splits=2, inner_share=0.3, inner_seed=4)
    expected = loso(samples.subjects, inner_splits=2, inner_share=0.3, seed=4)
    assert protocols.folds(protocol, samples) == expected
    assert expected[0].subjects == (expected[0].subject,) == ("p0",)


def test_inner_leave_one_subject_out_holds_each_training_subject_once() -> None:
    for fold in loso([f"p{i}" for i in range(6)], inner_splits=0):
        assert [split.held for split in fold.inner] == [(name,) for name in fold.training_subjects]


def test_leaving_one_dataset_out() -> None:
    samples = make([(dataset, f"{dataset}/{i}") for dataset in DATASETS for i in range(3)])
    folds = protocols.folds(ProtocolConfig(kind="lodo"), samples)
    assert [fold.subject for fold in folds] == ["dataset casme2", "dataset samm", "dataset smic"]
    assert [len(fold.testing(samples)) for fold in folds] == [3, 3, 3]
    assert [len(fold.training_subjects) for fold in folds] == [6, 6, 6]


def test_the_same_people_in_both_datasets_leave_nobody_to_train_on() -> None:
    samples = make([(dataset, f"p{i}") for dataset in ("smic", "smic_e") for i in range(4)])
    with pytest.raises(FlickerError, match=r"fold smic->smic_e: 0 training subjects; at least 2 are needed"):
        protocols.folds(ProtocolConfig(kind="cross"), samples)


def test_smic_e_shows_the_people_of_smic() -> None:
    one, two = (Clip(dataset, "s3", "s3_ne_01", 1, 1, 1, "negative") for dataset in ("smic", "smic_e"))
    assert one.person == two.person and one.id != two.id
    for kind, words in (("loso", "tested together"), ("lodo", "tested, and left out of the training")):
        protocol = ProtocolConfig(kind=kind)  # type: ignore[arg-type]
        expected = f"1 people with clips in several datasets are {words}: smic/s3"
        assert protocols.notes(protocol, [one, two], [one, two]) == [expected]


def test_only_the_datasets_of_the_protocol_are_used() -> None:
    clips = [Clip(dataset, "1", "a", 1, 1, 1, "others") for dataset in DATASETS]
    cross = ProtocolConfig(kind="cross", train_on=["samm"], test_on=["casme2"])
    kept = protocols.involved(cross, clips)
    assert [clip.dataset for clip in kept] == ["casme2", "samm"]
    assert protocols.notes(cross, clips, kept) == ["protocol cross: the 1 clips of smic are not used"]
    assert (
        protocols.involved(ProtocolConfig(), clips) == protocols.involved(ProtocolConfig(kind="lodo"), clips) == clips
    )


@pytest.mark.parametrize(
    ("protocol", "datasets", "words"),
    [
        (
            ProtocolConfig(kind="lodo"),
            ("samm",),
            r"lodo needs clips of at least two datasets, .* are of samm alone",
        ),
        (ProtocolConfig(kind="cross"), DATASETS, r"say which, the clips are of casme2, samm, smic"),
        (
            ProtocolConfig(kind="cross", train_on=["mmew"], test_on=["samm"]),
            DATASETS,
            r"no clips of mmew; there are casme2, samm, smic",
        ),
        (ProtocolConfig(kind="kfold", folds=9), DATASETS, r"9 groups need clips of at least 9 subjects, found 3"),
    ],
)
def test_data_that_a_protocol_cannot_use_are_named(
    protocol: ProtocolConfig, datasets: tuple[str, ...], words: str
) -> None:
    samples = make([(dataset, dataset) for dataset in datasets])
    with pytest.raises(FlickerError, match=words):
        protocols.folds(protocol, samples)


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        (ProtocolConfig(kind="cross", train_on=["a"], test_on=["a"]), "a is also in protocol.train_on"),
        (ProtocolConfig(train_on=["a"], test_on=["b"]), "for protocol.kind cross only, not for loso"),
        (ProtocolConfig(kind="cross", train_on=["a"]), "give both, or neither"),
        (ProtocolConfig(seeds=[0], ensemble=True), r"protocol.ensemble: needs at least two protocol.seeds"),
        (ProtocolConfig(kind="kfold", folds=1), r"protocol.folds: 1 is out of range"),
        (ProtocolConfig(inner_splits=-1), r"protocol.inner_splits: -1 is out of range"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(protocol: ProtocolConfig, words: str) -> None:
    config = FinetuneConfig(protocol=protocol)
    config.data.root = "somewhere"
    with pytest.raises(UsageError, match=words):
        validate(config)


def test_a_clip_in_two_folds_and_a_person_on_both_sides_are_refused() -> None:
    samples = make([("casme2", f"p{i}") for i in range(4)])
    fold = protocols.folds(ProtocolConfig(), samples)[0]
    with pytest.raises(FlickerError, match="1 clips are tested in more than one fold, first casme2/p0/EP00"):
        protocols.tested([fold, fold], samples)
    with pytest.raises(LeakError, match="fold part: a test subject is among its training subjects"):
        Fold("part", ("p1", "p2"), (), subjects=("p0", "p2"))
