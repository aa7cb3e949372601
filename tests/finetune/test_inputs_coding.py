"""How prepared inputs are packed, and which frames are chosen: properties."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from finetune.inputs import coding, entries
from finetune.inputs.entries import Note
from finetune.inputs.images import spaced

SHAPES = arrays.array_shapes(min_dims=4, max_dims=4, min_side=1, max_side=6)
WHOLE = st.sampled_from([np.uint8, np.int16]).flatmap(lambda dtype: arrays.arrays(dtype, SHAPES))


@settings(deadline=None)
@given(WHOLE, st.lists(st.integers(0, 2), unique=True, max_size=3))
def test_packing_is_exact(values: np.ndarray, axes: list[int]) -> None:
    data = coding.encode(values, tuple(axes))
    back = coding.decode(data, values.shape, values.dtype.name, tuple(axes))
    assert back.dtype == values.dtype and np.array_equal(back, values)


@pytest.mark.parametrize(("dtype", "axes"), [(np.uint8, (0,)), (np.uint8, (1, 2)), (np.int16, (1, 2))])
def test_packing_is_exact_for_long_rows_and_extremes(dtype: type, axes: tuple[int, ...]) -> None:
    limits = np.iinfo(dtype)
    values = np.random.default_rng(0).integers(limits.min, limits.max + 1, (5, 40, 300, 3)).astype(dtype)
    values[1], values[2] = limits.min, limits.max
    data = coding.encode(np.asfortranarray(values), axes)
    assert np.array_equal(coding.decode(data, values.shape, np.dtype(dtype).name, axes), values)


def test_frames_of_a_still_face_pack_well() -> None:
    face = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    frames = np.tile(face, (20, 1, 1, 1))
    assert len(coding.encode(frames, (0,))) < 0.2 * frames.nbytes


def test_damaged_data_is_a_value_error() -> None:
    data = coding.encode(np.zeros((2, 3, 3, 3), np.uint8), (0,))
    for wrong in (data[:-3], data[::-1], data[:0]):
        with pytest.raises(ValueError, match=r"damaged|reshape"):
            coding.decode(wrong, (2, 3, 3, 3), "uint8", (0,))
    with pytest.raises(ValueError, match="reshape"):
        coding.decode(data, (2, 3, 4, 3), "uint8", (0,))


@given(arrays.arrays(np.float32, (3, 4, 4, 2), elements=st.floats(-3e4, 3e4, width=32)))
def test_fixed_point_is_off_by_half_a_step_and_never_saturates(values: np.ndarray) -> None:
    stored = coding.to_fixed(values, 1 / 512)
    back = coding.from_fixed(stored)
    assert back.dtype == np.float32 and stored["value"].dtype == np.int16
    rounding = 1e-6 * np.abs(values).max(initial=1)
    assert np.abs(back - values).max() <= float(stored["step"]) / 2 + rounding
    assert float(stored["step"]) == 1 / 512 or np.abs(values).max() > 60


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_fixed_point_refuses_what_is_not_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        coding.to_fixed(np.array([1.0, bad]), 1 / 512)


def test_an_entry_keeps_arrays_and_note(tmp_path: Path) -> None:
    kept = {"value": np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3), "index": np.array([3, 9], np.int32)}
    note = Note("casme2/sub01/a", "pair", "enlarged", ["image 4: gone"])
    entries.write(tmp_path / "a.npz", kept, {"value": (0,)}, note)
    found = entries.read_note(tmp_path / "a.npz")
    assert found is not None and replace(found, coded={}, digest="") == note
    back = entries.read(tmp_path / "a.npz")
    assert set(back) == set(kept) and all(np.array_equal(back[name], kept[name]) for name in kept)
    assert entries.read_note(tmp_path / "b.npz") is None


@given(st.integers(1, 300), st.data(), st.integers(3, 40))
def test_spaced_frames_keep_ends_and_apex_and_are_uniform_but_for_the_apex(
    length: int, data: st.DataObject, count: int
) -> None:
    numbers = list(range(100, 100 + length))
    apex = data.draw(st.sampled_from(numbers))
    chosen = spaced(numbers, apex, count)
    assert chosen == sorted(set(chosen)) and len(chosen) == min(length, count)
    assert {numbers[0], apex, numbers[-1]} <= set(chosen)
    uniform = [numbers[round(place)] for place in np.linspace(0, length - 1, len(chosen))]
    assert len(set(chosen) - set(uniform)) <= 1 and spaced(numbers, apex, 0) == numbers
