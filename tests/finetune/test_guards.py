"""Leak guards: each planted leak is reported, and clean runs report nothing."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from finetune import guards, prepare
from finetune.backbone import Backbone
from finetune.config import FinetuneConfig, ProtocolConfig, TrainConfig
from finetune.datasets import flow_maps
from finetune.fold import FoldResult, run_fold
from finetune.folds import Samples, loso
from finetune.guards import inputs
from finetune.heads.micron import Readout
from finetune.options.micron import MicronOptions
from finetune.prepare import Prepared

PEOPLE, EACH, CLASSES = 10, 9, 3
LABELS = np.random.default_rng(5).permutation(np.arange(PEOPLE * EACH) % CLASSES)
SUBJECTS = tuple(f"sub{person:02d}" for person in range(PEOPLE) for _ in range(EACH))
IDS = tuple(f"casme2/{subject}/EP{place:02d}" for place, subject in enumerate(SUBJECTS))


def maps(seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    """[n 12 12 3] with a person's own pattern, a class's faint one (people can be told by it) and noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(len(LABELS), 12, 12, 3))
    x += np.repeat(rng.normal(size=(PEOPLE, 12, 12, 3)), EACH, axis=0)
    x += 1.2 * rng.normal(size=(CLASSES, 12, 12, 3))[LABELS]
    return (x * 20 + 128).clip(0, 255).astype(dtype)


def found(x: np.ndarray, labels: np.ndarray = LABELS, subjects: tuple[str, ...] = SUBJECTS) -> list[str]:
    """Names of what the guards on one input find."""
    reported = inputs.check("flow", x, labels, subjects, [f"casme2/{s}/{i}" for i, s in enumerate(subjects)])
    assert all(one.severity == "leak" and "flow" in one.what for one in reported)
    return [one.name for one in reported]


def prepared_of(x: np.ndarray, **changed: Any) -> Any:
    """As much of a prepared run as the guards look at."""
    samples = Samples(IDS, SUBJECTS, torch.from_numpy(LABELS), {"flow": torch.from_numpy(x)[:, None]}, tuple("abc"))
    given = {"samples": samples, "material": SimpleNamespace(arrays={}), "head": nn.Identity(), "backbone": None}
    return SimpleNamespace(**given | {"identity": {"encoder": ""}} | changed)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.float16])
@pytest.mark.parametrize("seed", range(3))
def test_clean_inputs_report_nothing(seed: int, dtype: Any) -> None:
    assert found(maps(seed, dtype)) == []
    assert guards.check(prepared_of(maps(seed, dtype)), FinetuneConfig()) == []


def test_a_clean_run_reports_nothing(config: FinetuneConfig, tiny: Backbone) -> None:
    assert guards.check(prepare.prepare(config, tiny, quiet=True), config) == []


def test_the_real_flow_maps_report_nothing(shared: Path) -> None:
    loaded = flow_maps.load(shared / "data/megc2019_flow")
    labels = np.array([flow_maps.CLASSES.index(clip.emotion) for clip in loaded.clips])
    subjects, ids = [clip.person for clip in loaded.clips], [clip.id for clip in loaded.clips]
    assert len(ids) == 442 and inputs.check("flow", loaded.maps, labels, subjects, ids) == []
    assert loaded.areas is not None and inputs.check("areas", loaded.areas, labels, subjects, ids) == []
    loaded.maps[:, 0, 0, 0] = labels / 2
    (finding,) = inputs.check("flow", loaded.maps, labels, subjects, ids)
    assert finding.name == "labels" and "position 0" in finding.what and "1 values" in finding.what


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 431), st.permutations([0.0, 7.0, 90.0]), st.floats(0, 1), st.integers(0, 5))
def test_a_label_written_into_the_frames_is_reported(place: int, codes: list[float], noise: float, seed: int) -> None:
    x = maps(seed)
    shaky = noise * np.random.default_rng(seed).normal(size=len(x))
    x.reshape(len(x), -1)[:, place] = np.array(codes)[LABELS] + shaky
    (finding,) = inputs.check("flow", x, LABELS, SUBJECTS, IDS)
    assert finding.name == "labels" and f"position {place} " in finding.what


def test_a_label_hidden_in_other_forms_is_reported() -> None:
    for codes in ([3, 3, 4], [9, 5, 9]):  # one class against the rest, in 8 bits
        x = maps(1, np.uint8)
        x[:, 3, 4, 1] = np.array(codes)[LABELS]
        assert found(x) == ["labels"]
    lengths = np.array([[20], [21], [25]])[LABELS]  # not pixels: a number beside the clip
    assert found(lengths) == ["labels"]
    wide = np.zeros((len(LABELS), 2, 120, 160, 3), np.uint8)
    wide[:] = np.random.default_rng(0).integers(0, 255, wide.shape, np.uint8)
    wide[:, :, :12, :12] = (LABELS * 40)[:, None, None, None, None]  # a small patch of big frames
    (finding,) = inputs.check("pair", wide, LABELS, SUBJECTS, IDS)
    assert finding.name == "labels" and "values per clip looked at" in finding.what


def test_a_label_in_the_frames_of_one_test_subject_is_reported() -> None:
    """Nobody can learn it, as it is nowhere else; but the frames carry it."""
    x = maps(2)
    x[:, 0, :2] = 0
    assert found(x) == []
    own = np.array(SUBJECTS) == "sub04"
    x[own, 0, 0, 0] = 10.0 * LABELS[own]
    (finding,) = guards.check(prepared_of(x), FinetuneConfig())
    assert finding.name == "labels" and "sub04 (1 values)" in finding.what
    x[own, 0, 0, 0] = np.random.default_rng(0).permutation(x[own, 0, 0, 0])
    assert found(x) == []


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 5), st.integers(2, 4), st.integers(2, 6))
def test_few_clips_of_few_values_do_not_trip_the_guards(seed: int, people: int, each: int, levels: int) -> None:
    """Among thousands of positions with a few grey levels some agree with the labels of a handful of clips."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, people * each)
    subjects = tuple(f"s{person}" for person in range(people) for _ in range(each))
    assert found(rng.integers(0, levels, (len(labels), 30, 30, 3), np.uint8), labels, subjects) == []


def test_a_clip_under_two_subjects_is_reported() -> None:
    for dtype in (np.float32, np.uint8):
        x = maps(3, dtype)
        x[40] = x[3]
        (finding,) = inputs.check("flow", x, LABELS, SUBJECTS, IDS)
        assert finding.name == "duplicates" and f"{IDS[3]} = {IDS[40]}" in finding.what
        assert "equal (1) or nearly so (0)" in finding.what
    assert [one.name for one in guards.check(prepared_of(x), FinetuneConfig())] == ["duplicates"]


def test_a_nearly_equal_clip_is_reported_too() -> None:
    x = maps(3)
    x[40] = x[3] + np.random.default_rng(0).normal(size=x[3].shape)  # as after another compression
    (finding,) = inputs.check("flow", x, LABELS, SUBJECTS, IDS)
    assert "equal (0) or nearly so (1)" in finding.what


def test_equal_clips_of_one_subject_blank_clips_and_counters_are_no_leak() -> None:
    x = maps(4)
    x[1] = x[0]
    x[[5, 15, 25, 35]] = 0
    assert found(x) == []
    assert found(np.tile(np.arange(300), (len(LABELS), 1))) == []  # frame numbers
    assert found(np.zeros((len(LABELS), 4, 2), np.float32)) == []  # places


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("shape", [(-1, 432), (-1, 12, 12, 3)])
def test_normalisation_over_all_clips_is_reported(shape: tuple[int, ...], ddof: int) -> None:
    x = maps(6).reshape(shape)
    axes = tuple(range(x.ndim - 1))
    over_all = (x - x.mean(axes, dtype=np.float64)) / x.std(axes, ddof=ddof, dtype=np.float64)
    assert found(over_all.astype(np.float32)) == ["normalisation"]
    (finding,) = guards.check(prepared_of(over_all.astype(np.float32)), FinetuneConfig())
    assert "mean 0 and deviation 1 over all clips" in finding.what
    centred = x - x.mean(axes, dtype=np.float64)
    assert found(centred.astype(np.float32)) == ["normalisation"]


def test_normalisation_over_training_clips_or_clip_by_clip_is_no_leak() -> None:
    x = maps(7).reshape(-1, 144, 3)
    own = np.array(SUBJECTS) != "sub00"
    assert found(((x - x[own].mean((0, 1))) / x[own].std((0, 1))).astype(np.float32)) == []
    assert found(((x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)).astype(np.float32)) == []
    assert found(x / x.max()) == []


def test_names_that_may_be_one_person_and_clips_that_occur_twice() -> None:
    assert guards.people(IDS, SUBJECTS) == []
    (finding,) = guards.people(IDS, (*SUBJECTS[:-1], "Sub9"))
    assert "Sub9 and sub09" in finding.what and finding.name == "people"
    (finding,) = guards.people((*IDS[:-1], IDS[0]), SUBJECTS)
    assert IDS[0] in finding.what
    assert guards.people(("casme2/a/1", "samm/a/1"), ("casme2/sub1", "samm/sub01")) == []


def test_a_head_that_was_fitted_before_the_folds_is_reported(config: FinetuneConfig, tiny: Backbone) -> None:
    prepared: Prepared = prepare.prepare(config, tiny, quiet=True)
    prepared.head.classify.standardise.fit(prepared.samples.inputs["features"])
    (finding,) = guards.check(prepared, config)
    assert finding.name == "statistics" and "outside a fold" in finding.what


def finished() -> tuple[Any, list[FoldResult]]:
    """Results of a short run with its folds, to be changed."""
    folds = copy.deepcopy(trained())
    return SimpleNamespace(folds=folds, config={"train": {"epochs": 6}}), folds


@functools.cache
def trained() -> list[FoldResult]:
    """Folds of a short run."""
    features = torch.from_numpy(maps(1).reshape(len(LABELS), 1, -1)[..., :8])
    samples = Samples(IDS, SUBJECTS, torch.from_numpy(LABELS), {"features": features}, tuple("abc"))

    def make_model() -> Readout:
        return Readout(8, CLASSES, MicronOptions())

    train = TrainConfig(epochs=6, batch=30, lr=0.02)
    return [run_fold(fold, samples, make_model, train, 0, torch.device("cpu")) for fold in loso(SUBJECTS)]


def test_an_oracle_in_the_place_of_the_headline_is_reported() -> None:
    results, folds = finished()
    assert guards.check_results(results) == [] == guards.check_results(results, "inner")
    (finding,) = guards.check_results(results, "oracle")
    assert finding.name == "selection" and "chosen on the test subject" in finding.what
    for fold in folds:  # the oracle's figures under another name
        fold.probabilities["last"] = fold.probabilities["oracle"]
    (finding,) = guards.check_results(results)
    assert "predictions of 'last' are not those of its epoch" in finding.what
    for fold in folds:
        fold.epochs["last"] = fold.epochs["oracle"]
    assert "'last' is not the last epoch" in guards.check_results(results)[0].what


def test_other_choices_on_the_test_subject_are_reported() -> None:
    results, folds = finished()
    folds[2].held_subjects[0].append(folds[2].subject)
    (finding,) = guards.check_results(results)
    assert "helped to choose" in finding.what and f"{folds[2].subject} seed 0" in finding.what
    results, folds = finished()
    folds[3].epochs["inner"] = int(np.argmin(folds[3].inner_uf1)) + 1
    folds[3].probabilities["inner"] = np.eye(CLASSES)[folds[3].by_epoch[folds[3].epochs["inner"] - 1]].tolist()
    assert "'inner' is not the epoch" in guards.check_results(results)[0].what
    results.config["train"]["epochs"] = 9  # stopped early
    assert "fixed budget" in guards.check_results(results)[0].what


def test_only_what_is_tested_counts() -> None:
    """A protocol that tests some clips only: the guards ask it which."""
    config = FinetuneConfig(protocol=ProtocolConfig(kind="kfold", folds=3))
    assert guards.check(prepared_of(maps()), config) == []
