"""The probe of a frozen encoder on labelled clips: no leaks, known answers, any precision."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from finetune import metrics
from launch.labelled import read_labelled
from pretrain.encoder import Encoder
from pretrain.labelled import LabelledSet, _linear, _scores, _standardised, labelled_probe, motion_features, predict
from shards.errors import FlickerError
from shards.synthetic import write_casme2

SUBJECTS = tuple(name for name in ("sub01", "sub02", "sub03", "sub04") for _ in range(6))


def encoder(seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(image_size=32, patch_size=8, dim=16, depth=2, heads=2)


def made(seed: int, size: int = 32) -> LabelledSet:
    """Noise, with a bright square in the apex whose place tells the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, len(SUBJECTS))
    labels[:3] = 0, 1, 2
    frames = rng.integers(100, 110, (len(SUBJECTS), 1, size, size, 3), np.uint8).repeat(2, axis=1)
    for clip, label in zip(frames, labels, strict=True):
        at = 8 * int(label)
        clip[1, at : at + 8, at : at + 8] += 100
    return LabelledSet(frames, labels, SUBJECTS, ("a", "b", "c"), "squares")


def test_movement_in_known_places_is_told_apart_and_noise_is_not() -> None:
    squares = made(0)
    figures = labelled_probe(encoder(), squares)
    assert figures["knn_uf1"] == figures["linear_uf1"] == figures["knn_uar"] == figures["linear_uar"] == 1
    assert figures["clips"] == 24 and figures["clips_left_out"] == 0
    still = LabelledSet(squares.frames[:, :1].repeat(2, 1), squares.labels, SUBJECTS, squares.classes, "still")
    assert labelled_probe(encoder(), still)["linear_uf1"] < 0.6, "without movement there is nothing to see"


def test_twice_the_same_figures_and_the_encoder_stays_as_it_was() -> None:
    model = encoder().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert labelled_probe(model, made(1)) == labelled_probe(model, made(1))
    assert model.training and not any(p.grad is not None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("batch", [1, 7, 24, 100])
def test_features_do_not_depend_on_the_batch(batch: int) -> None:
    frames = made(2).frames
    expected = motion_features(encoder(), frames, 16)
    assert expected.shape == (24, 4 * 4 * 16), "4 patches per side: areas of one patch"
    assert np.allclose(motion_features(encoder(), frames, batch), expected, atol=1e-5)


def test_features_are_the_mean_absolute_difference_of_tokens_per_area() -> None:
    model = encoder().eval()
    frames = made(3).frames[:2]
    with torch.no_grad():
        onset, apex = (model(model.preprocess(torch.from_numpy(frames[:, i])))[:, 1:] for i in (0, 1))
    expected = (apex - onset).abs().transpose(1, 2).flatten(1)  # [2 D·N], each patch an area
    assert np.allclose(motion_features(model, frames), expected.numpy(), atol=1e-6)


def test_a_bf16_model_is_probed_in_float32_with_its_own_weights() -> None:
    """The features are those of the rounded weights, computed in float32, not those of bf16 arithmetic."""
    frames = made(4).frames
    short = encoder().bfloat16()
    rounded = encoder()
    rounded.load_state_dict({name: value.float() for name, value in short.state_dict().items()})
    assert np.array_equal(motion_features(short, frames), motion_features(rounded, frames))
    assert next(short.parameters()).dtype == torch.bfloat16
    assert not np.array_equal(motion_features(encoder(), frames), motion_features(rounded, frames))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 3))
def test_nothing_of_a_subject_reaches_its_own_predictions(seed: int, place: int) -> None:
    """Other labels of the test subject change none of its predictions; another clip changes that one's alone."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, 24)
    features = rng.standard_normal((24, 10)).astype(np.float32)
    features[:, :3] += 2 * np.eye(3, dtype=np.float32)[labels]
    own = np.arange(24) // 6 == place
    first = predict(features, labels, SUBJECTS)
    relabelled = np.where(own, (labels + 1) % 3, labels)
    changed = features.copy()
    changed[6 * place] = 1000 * rng.standard_normal(10)
    for method, (a, b, c) in enumerate(
        zip(first, predict(features, relabelled, SUBJECTS), predict(changed, labels, SUBJECTS), strict=True)
    ):
        assert np.array_equal(a[own], b[own]), method
        assert np.array_equal(a[own][1:], c[own][1:]), method


def test_a_planted_label_in_the_test_subject_helps_nobody() -> None:
    """A feature that is the label for one subject and 0 for all others cannot be learned from the others."""
    rng = np.random.default_rng(0)
    labels, features = rng.integers(0, 3, 24), rng.standard_normal((24, 8)).astype(np.float32)
    features[:, 7] = 0
    planted = features.copy()
    planted[:6, 7] = 10 * labels[:6]
    for plain, other in zip(predict(features, labels, SUBJECTS), predict(planted, labels, SUBJECTS), strict=True):
        assert np.array_equal(plain[:6], other[:6])


def test_statistics_are_those_of_the_training_clips() -> None:
    rng = np.random.default_rng(1)
    train, test = rng.normal(3, 5, (40, 4)), rng.normal(9, 1, (5, 4))
    a, b = _standardised(train, test)
    assert np.allclose(a.mean(0), 0, atol=1e-6) and np.allclose(a.std(0), 0.5, atol=1e-6), "divided by √F"
    assert np.allclose(b, (test - train.mean(0)) / train.std(0) / 2, atol=1e-6)
    still = _standardised(np.ones((4, 2)), np.full((1, 2), 3.0))
    assert np.isfinite(still[0]).all() and np.isfinite(still[1]).all()


@pytest.mark.parametrize("width", [5, 400])
def test_the_linear_probe_in_the_span_is_the_ordinary_one(width: int) -> None:
    rng = np.random.default_rng(width)
    train, test = rng.standard_normal((60, width)) / width**0.5, rng.standard_normal((30, width)) / width**0.5
    labels = rng.integers(0, 4, 60)
    plain = LogisticRegression(class_weight="balanced", max_iter=5000, tol=1e-8).fit(train, labels)
    sure = np.diff(np.sort(plain.predict_proba(test))[:, -2:]).ravel() > 0.01
    assert np.array_equal(_linear(train, labels, test)[sure], plain.predict(test)[sure]) and sure.sum() > 10


@given(st.integers(0, 10**6))
def test_scores_are_those_of_recognition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = rng.integers(0, rng.integers(2, 6), 30), rng.integers(0, 6, 30)
    expected = metrics.scores(truth=truth, predicted=predicted, classes=range(6))
    assert _scores(truth, predicted) == pytest.approx((expected["uf1"], expected["uar"]))


def test_too_few_subjects_or_classes_are_refused() -> None:
    whole = made(0)
    with pytest.raises(FlickerError, match=r"1 subject.*probe\.every 0"):
        LabelledSet(whole.frames[:6], whole.labels[:6], SUBJECTS[:6], whole.classes, "one person")
    with pytest.raises(FlickerError, match="1 class"):
        LabelledSet(whole.frames, np.zeros(24, np.int64), SUBJECTS, whole.classes, "one class")


def test_one_class_left_for_training_is_predicted() -> None:
    labels = np.array([0] * 6 + [1] * 6)
    nearest, linear = predict(np.random.default_rng(0).random((12, 3)), labels, SUBJECTS[:12])
    assert nearest.tolist() == linear.tolist() == [1] * 6 + [0] * 6


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labelled") / "CASME2"
    classes = ("happiness", "disgust", "surprise")
    write_casme2(root, subjects=3, clips_per_subject=3, classes=classes, size=(64, 72), keyframes_only=True)
    return root


def test_a_dataset_is_read_by_its_annotations(written: Path) -> None:
    found = read_labelled(str(written), 32)
    assert found.frames.shape == (9, 2, 32, 32, 3) and found.frames.dtype == np.uint8 and not found.left_out
    assert sorted(set(found.subjects)) == ["sub01", "sub02", "sub03"]
    assert {found.classes[label] for label in found.labels} == {"happiness", "disgust", "surprise"}
    assert (found.frames[:, 0] != found.frames[:, 1]).any((1, 2, 3)).all(), "onset and apex"
    assert labelled_probe(encoder(), found)["clips"] == 9


def test_clips_that_cannot_be_read_are_counted_and_said(
    written: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root: Any = shutil.copytree(written, tmp_path / "CASME2")
    clips = sorted(path for path in root.glob("Cropped/*/*") if path.is_dir())
    for frame in clips[0].iterdir():
        frame.write_bytes(b"\xff\xd8\xff no picture")
    shutil.rmtree(clips[4])
    found = read_labelled(str(root), 32)
    assert len(found.frames) == len(found.labels) == len(found.subjects) == 7 and len(found.left_out) == 2
    assert any(clips[0].name in line for line in found.left_out), found.left_out
    assert "2 clips" in caplog.text
    assert labelled_probe(encoder(), found)["clips_left_out"] == 2
