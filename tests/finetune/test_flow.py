"""Optical flow: the calls behind the methods, and what the interface promises."""

from __future__ import annotations

import dataclasses
import types
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.motion import flow as flows
from finetune.motion.flow import FlowConfig, compute, long_term, preset, resize
from finetune.motion.flow_methods import Dis, Farneback, TvL1
from shards.errors import FlickerError, UsageError
from tests.finetune import warps


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    """Two RGB frames of a moving face."""
    pair = warps.pair(warps.face(128, 0), 128, warps.local(128, 1.0, 10))
    return np.dstack([pair.first] * 3), np.dstack([pair.second // 2, pair.second, pair.second])


def test_default_is_the_call_of_slstt(images: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images)
    plain = cv2.calcOpticalFlowFarneback(first, second, None, 0.5, 3, 15, 3, 5, 1.2, 0)  # type: ignore[call-overload]
    np.testing.assert_array_equal(compute(*images), plain)


def test_dis_of_the_presets_scale_is_opencvs_preset(images: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images)
    plain = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(first, second, None)  # type: ignore
    np.testing.assert_array_equal(compute(*images, FlowConfig("dis", dis=Dis(finest_scale=1))), plain)


@pytest.mark.parametrize("name", ["slstt", "fine", "dis"])
def test_flow_does_not_depend_on_threads(images: tuple[np.ndarray, np.ndarray], name: str) -> None:
    """So that caches made on different machines agree."""
    before, found = cv2.getNumThreads(), []
    try:
        for threads in (0, 1, 3):
            cv2.setNumThreads(threads)
            found.append(compute(*images, preset(name)))
    finally:
        cv2.setNumThreads(before)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_gain_changes_nothing_where_contrast_is_high() -> None:
    """The gain only undoes OpenCV's constant: strong texture has the same flow with any."""
    pair = warps.pair(warps.noise(96, 0), 96, warps.local(96, 1.0, 10))
    flow = [compute(pair.first, pair.second, FlowConfig(farneback=Farneback(gain=gain))) for gain in (1.0, 8.0)]
    assert np.abs(flow[0] - flow[1]).max() < 0.01


def test_tvl1_says_where_it_is(monkeypatch: pytest.MonkeyPatch, images: tuple[np.ndarray, np.ndarray]) -> None:
    monkeypatch.delattr(cv2, "optflow", raising=False)
    with pytest.raises(UsageError, match="opencv-contrib-python-headless") as caught:
        compute(*images, preset("tvl1"))
    assert "\n" not in str(caught.value)


def test_tvl1_hands_every_parameter_on(
    monkeypatch: pytest.MonkeyPatch, images: tuple[np.ndarray, np.ndarray]
) -> None:
    """With a stand-in for the contrib module that records what is set."""
    seen: dict[str, object] = {}

    class Recorder:
        def __getattr__(self, name: str) -> Any:
            return lambda value: seen.__setitem__(name.removeprefix("set"), value)

        def calc(self, first: np.ndarray, second: np.ndarray, _: None) -> np.ndarray:
            return np.zeros((*first.shape, 2), np.float32)

    module = types.SimpleNamespace(DualTVL1OpticalFlow_create=Recorder)
    monkeypatch.setattr(cv2, "optflow", module, raising=False)
    compute(*images, FlowConfig("tvl1", tvl1=TvL1(tau=0.2, lam=0.3, median=3)))
    assert seen["Tau"] == 0.2
    assert seen["Lambda"] == 0.3
    assert seen["MedianFiltering"] == 3
    assert len(seen) == len(dataclasses.fields(TvL1))


# -- clips, sizes, keys, errors


def test_long_term_starts_at_the_onset(images: tuple[np.ndarray, np.ndarray]) -> None:
    onset, apex = images
    clip = np.stack([onset, apex, onset])
    found = long_term(clip, preset("dis"))
    assert found.shape == (3, 128, 128, 2)
    assert found.dtype == np.float32
    assert not found[0].any()
    np.testing.assert_array_equal(found[1], compute(onset, apex, preset("dis")))
    np.testing.assert_array_equal(found[2], compute(onset, onset, preset("dis")))


def test_long_term_of_one_frame_is_zero(images: tuple[np.ndarray, np.ndarray]) -> None:
    assert not long_term(images[0][None]).any()


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 40), st.integers(4, 40), st.integers(1, 60), st.floats(-8, 8), st.floats(-8, 8))
def test_resize_states_its_units(height: int, width: int, size: int, u: float, v: float) -> None:
    flow = np.full((2, height, width, 2), (u, v), np.float32)
    scaled, source = resize(flow, size), resize(flow, size, units="source")
    assert scaled.shape == source.shape == (2, size, size, 2)
    assert scaled.dtype == source.dtype == np.float32
    np.testing.assert_allclose(source[1, 0, 0], (u, v), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scaled, source * [size / width, size / height], rtol=1e-5, atol=1e-6)


def test_resize_averages_cells() -> None:
    flow = np.random.default_rng(0).standard_normal((28, 56, 2)).astype(np.float32)
    found = resize(flow, 14, units="source")
    np.testing.assert_allclose(found, flow.reshape(14, 2, 14, 4, 2).mean((1, 3)), atol=1e-6)


def _variants() -> list[FlowConfig]:
    """The default and every config that differs from a method's default in one parameter."""
    found = [FlowConfig()]
    for name, part in (("farneback", Farneback()), ("dis", Dis()), ("tvl1", TvL1())):
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            step = {"median": -2, "scale": 0.1, "scale_step": 0.1}.get(field.name, 1)
            other = not value if isinstance(value, bool) else value + step
            changed = dataclasses.replace(part, **{field.name: other})
            found.append(dataclasses.replace(FlowConfig(name), **{name: changed}))  # type: ignore[arg-type]
    return [*found, FlowConfig("dis"), FlowConfig("tvl1")]


def test_keys_differ_with_every_parameter_and_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [config.key() for config in _variants()]
    assert len(set(keys)) == len(keys)
    assert FlowConfig().key() == FlowConfig(dis=Dis(patch=12)).key()  # without effect on this method
    monkeypatch.setattr(flows, "VERSION", flows.VERSION + 1)
    assert FlowConfig().key() not in keys


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: FlowConfig("raft"), "method"),  # type: ignore[arg-type]
        (lambda: Farneback(window=0), "window"),
        (lambda: Farneback(scale=1.0), "scale"),
        (lambda: Farneback(gain=0.0), "gain"),
        (lambda: Dis(patch=0), "patch"),
        (lambda: Dis(stride=9), "stride"),
        (lambda: TvL1(median=4), "median"),
        (lambda: preset("best"), "best"),
        (lambda: resize(np.zeros((4, 4, 2), np.float32), 2, units="pixels"), "units"),  # type: ignore[arg-type]
        (lambda: resize(np.zeros((4, 4, 2), np.float32), 0), "size"),
    ],
)
def test_wrong_parameters_are_refused(make: Any, part: str) -> None:
    with pytest.raises(UsageError, match=part) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (np.zeros((20, 30, 3), np.uint8), np.zeros((20, 31, 3), np.uint8)),
        (np.zeros((20, 30, 3), np.float32), np.zeros((20, 30, 3), np.float32)),
        (np.zeros((20, 30, 4), np.uint8), np.zeros((20, 30, 4), np.uint8)),
        (np.zeros((0, 30), np.uint8), np.zeros((0, 30), np.uint8)),
    ],
)
def test_wrong_frames_are_refused(first: np.ndarray, second: np.ndarray) -> None:
    with pytest.raises(FlickerError, match="flow: ") as caught:
        compute(first, second)
    assert "\n" not in str(caught.value)
    with pytest.raises(FlickerError):
        long_term(np.zeros((20, 30, 3), np.uint8))


def test_dis_refuses_thin_images() -> None:
    """OpenCV itself crashes on some of them."""
    thin = np.zeros((12, 300), np.uint8)
    with pytest.raises(FlickerError, match="300×12"):
        compute(thin, thin, preset("dis"))
    with pytest.raises(FlickerError, match="16×16 px with these parameters") as caught:
        compute(thin[:, :16].repeat(2, 0)[:16], thin[:, :16].repeat(2, 0)[:16], FlowConfig("dis", dis=Dis(patch=16)))
    assert "\n" not in str(caught.value)
    assert compute(np.zeros((16, 300), np.uint8), np.zeros((16, 300), np.uint8), preset("dis")).shape == (16, 300, 2)
