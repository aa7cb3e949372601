"""HTNet's areas, scaling and mirroring, against literal loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.faces import regions
from finetune.heads import htnet_areas as areas

CENTRES = st.lists(st.lists(st.floats(-3, 31, width=32), min_size=2, max_size=2), min_size=4, max_size=4)


def _maps(count: int = 3, grid: int = 28, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, grid, grid, 3, generator=torch.Generator().manual_seed(seed)) * 255


def _literal(image: np.ndarray, centres: np.ndarray, side: int) -> np.ndarray:
    """Left eye and left lip beside each other, over right eye and right lip; windows moved inside."""
    cut = []
    for x, y in centres:
        left, top = (int(np.clip(np.round(c - (side - 1) / 2), 0, len(image) - side)) for c in (x, y))
        cut.append(image[top : top + side, left : left + side])
    eye, other_eye, lip, other_lip = cut
    return np.concatenate([np.concatenate([eye, lip], 1), np.concatenate([other_eye, other_lip], 1)], 0)


def _released(image: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """What the authors' program does with the landmarks eye, eye, nose, mouth, mouth of a 28 px image."""
    eye, other_eye, lip, other_lip = centres
    five = np.array([eye, other_eye, (14, 14), lip, other_lip])
    five = np.minimum(np.maximum(five, 7), 21).astype(int)
    windows = [image[a - 7 : a + 7, b - 7 : b + 7] for a, b in five]
    first = np.hstack([windows[0], windows[1]])  # "left eye, left lips"
    return np.vstack([first, np.hstack([windows[3], windows[4]])])  # "right eye, right lips"


@settings(max_examples=50, deadline=None)
@given(centres=CENTRES, side=st.sampled_from([10, 12, 14, 16, 18, 20]))
def test_areas_equal_windows_cut_one_by_one(centres: list[list[float]], side: int) -> None:
    maps, where = _maps(2), torch.tensor([centres, [[6, 8], [21, 8], [8, 20], [19, 20]]])
    found = areas.arrange(maps, areas.corners(where, 28, side), side)
    assert found.shape == (2, 2 * side, 2 * side, 3)
    for row in range(2):
        assert np.array_equal(found[row].numpy(), _literal(maps[row].numpy(), where[row].numpy(), side))


@settings(max_examples=50, deadline=None)
@given(centres=CENTRES)
def test_released_areas_equal_the_authors_cutting(centres: list[list[float]]) -> None:
    maps, where = _maps(1), torch.tensor([centres])
    found = areas.arrange(maps, areas.corners(where, 28, 14, release=True), 14)
    assert np.array_equal(found[0].numpy(), _released(maps[0].numpy(), where[0].numpy()))


def test_released_areas_differ_but_lie_near_those_they_are_named_after() -> None:
    where = torch.tensor([[[6.9, 8.8], [20.9, 8.7], [8.2, 20.5], [19.8, 20.4]]])
    good, theirs = areas.corners(where, 28, 14), areas.corners(where, 28, 14, release=True)
    assert not torch.equal(good, theirs) and (good - theirs).abs().max() <= 2
    unequal = torch.tensor([[[6.0, 12.0], [21.0, 12.0], [8.0, 16.0], [19.0, 16.0]]])
    assert (areas.corners(unequal, 28, 14) - areas.corners(unequal, 28, 14, release=True)).abs().max() >= 4


def test_windows_agree_with_the_faces_module() -> None:
    centres = np.random.default_rng(0).uniform(-2, 30, (20, 4, 2))
    mine = areas.corners(torch.from_numpy(centres), 28, 14)
    for row, one in enumerate(centres):
        assert np.array_equal(mine[row].numpy(), regions.area_corners(one, 28)[list(areas.PLACES)])


def test_centres_on_another_grid_are_the_same_places() -> None:
    points = np.random.default_rng(0).uniform(0, 224, (68, 2))
    on28, on12 = (torch.from_numpy(regions.areas(points, 224, grid)) for grid in (28, 12))
    assert torch.allclose(areas.rescale(on28, 28, 12), on12)
    assert areas.rescale(on28, 28, 28) is on28


def test_mirrored_faces_have_mirrored_areas() -> None:
    maps = _maps(2)
    where = torch.tensor([[[6.5, 8.5], [20.5, 7.5], [8.5, 20.5], [18.5, 19.5]]]).repeat(2, 1, 1)
    mirrored = areas.mirror_areas(where, 28)
    assert torch.equal(areas.mirror_areas(mirrored, 28), where)
    plain = areas.arrange(maps, areas.corners(where, 28, 14), 14)
    turned = areas.arrange(areas.mirror_maps(maps), areas.corners(mirrored, 28, 14), 14)
    left_eye, right_eye = turned[:, :14, :14], plain[:, 14:, :14].flip(2)
    assert torch.equal(left_eye[..., 1:], right_eye[..., 1:]) and torch.equal(left_eye[..., 0], -right_eye[..., 0])


def test_mirroring_turns_u_about_its_still_value() -> None:
    maps = _maps(1)
    assert torch.allclose(areas.mirror_maps(maps, 127.5)[..., 0], (255 - maps[..., 0]).flip(2))
    assert torch.allclose(areas.mirror_maps(areas.mirror_maps(maps, 10.0), 10.0), maps, atol=1e-4)


def test_standard_scaling_uses_training_maps_alone() -> None:
    scaling, train, test = areas.MapScaling("standard", 3), _maps(5), _maps(2, seed=1)
    scaling.fit(train)
    flat = train.double().flatten(0, 2)
    assert torch.allclose(scaling(test), ((test - flat.mean(0)) / flat.std(0, correction=0)).float(), atol=1e-4)


def test_centred_scaling_ignores_a_shift_of_the_whole_head() -> None:
    scaling, maps = areas.MapScaling("centred", 3), _maps(4)
    scaling.fit(maps)
    shifted = maps + torch.tensor([30.0, -12.0, 0.0])
    assert torch.allclose(scaling(shifted), scaling(maps), atol=1e-4)
    assert not torch.allclose(scaling(maps + torch.tensor([0.0, 0.0, 9.0])), scaling(maps), atol=1e-2)


def test_released_scaling_draws_each_map_in_8_bits() -> None:
    scaling, maps = areas.MapScaling("minmax", 3), _maps(4)
    drawn = scaling(maps / 255 * 6 - 3)
    assert torch.allclose(drawn.amin((1, 2)), torch.zeros(4, 3)) and torch.allclose(
        drawn.amax((1, 2)), torch.full((4, 3), 255.0)
    )
    assert torch.allclose(scaling(drawn), drawn, atol=1e-3)
    assert torch.isfinite(scaling(torch.ones(1, 28, 28, 3))).all()


@pytest.mark.parametrize("how", ["none"])
def test_unscaled_maps_are_as_given(how: str) -> None:
    maps = _maps()
    assert areas.MapScaling(how, 3)(maps) is maps
