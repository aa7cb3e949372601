"""FRL-DGT's crops, patches and tokens against plain indexing, for any box."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.heads.frl_dgt_clips import box_patches, box_tokens, even_boxes, face_patches, lengths, pictures


@given(st.integers(0, 10_000), st.sampled_from([(6, 2), (6, 3), (4, 1), (8, 8)]))
@settings(max_examples=25, deadline=None)
def test_boxes_are_cut_pixel_by_pixel_and_divided_row_by_row(seed: int, shape: tuple[int, int]) -> None:
    side, patch = shape
    generator = np.random.default_rng(seed)
    features = torch.from_numpy(generator.standard_normal((2, 3, 11, 13)))
    corners = np.stack(
        [generator.integers(0, 13 - side + 1, (2, 9)), generator.integers(0, 11 - side + 1, (2, 9))], -1
    )
    boxes = torch.from_numpy(np.concatenate([corners, np.full((2, 9, 2), side)], axis=-1).astype(np.int32))
    found = box_patches(features, boxes, side, patch)
    count = side // patch
    assert found.shape == (9, 2, count**2, 3 * patch**2)
    for b in range(2):
        for k in range(9):
            x, y = corners[b, k]
            cut = features[b, :, y : y + side, x : x + side]
            for n in range(count**2):
                i, j = divmod(n, count)
                expected = cut[:, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch].flatten()
                assert torch.equal(found[k, b, n], expected)


def test_a_box_of_twice_the_side_is_sampled_and_pixels_outside_repeat_the_border() -> None:
    features = torch.arange(100.0).view(1, 1, 10, 10)
    twice = box_patches(features, torch.tensor([[[2, 1, 8, 8]]]), 4, 4).view(4, 4)
    assert torch.equal(twice, features[0, 0, 2:10:2, 3:11:2])
    outside = box_patches(features, torch.tensor([[[8, -1, 4, 4]]]), 4, 4).view(4, 4)
    assert torch.equal(outside, features[0, 0][torch.tensor([0, 0, 1, 2])][:, torch.tensor([8, 9, 9, 9])])


def test_gradients_of_overlapping_boxes_add_up() -> None:
    features = torch.zeros(1, 1, 6, 6, requires_grad=True)
    box_patches(features, torch.tensor([[[0, 0, 4, 4], [2, 2, 4, 4]]]), 4, 2).sum().backward()
    expected = torch.zeros(6, 6)
    expected[:4, :4] += 1
    expected[2:, 2:] += 1
    assert features.grad is not None and torch.equal(features.grad[0, 0], expected)


def test_the_face_and_a_box_of_its_size_have_the_same_patches() -> None:
    features = torch.randn(2, 3, 12, 12)
    boxes = torch.tensor([0, 0, 12, 12]).expand(2, 1, 4)
    assert torch.equal(face_patches(features, 4), box_patches(features, boxes, 12, 4))


def test_even_boxes_tile_the_papers_face() -> None:
    boxes = even_boxes(2, 270, 90, torch.device("cpu"))
    covered = torch.zeros(270, 270)
    for x, y, w, h in boxes[1].tolist():
        covered[y : y + h, x : x + w] += 1
    assert torch.equal(covered, torch.ones(270, 270))
    assert boxes[0, :4].tolist() == [[0, 0, 90, 90], [90, 0, 90, 90], [180, 0, 90, 90], [0, 90, 90, 90]]


def test_tokens_of_aligned_cells_are_means_of_bilinear_samples() -> None:
    """A linear ramp over the grid: a cell's token is the ramp at the cell's centre, whatever the box."""
    ramp = torch.stack(torch.meshgrid(torch.arange(8.0) + 0.5, torch.arange(8.0) + 0.5, indexing="ij"))[None]
    boxes = torch.tensor([[[20, 10, 40, 60], [15, 25, 45, 45]]])  # px of an 80 px crop, ten per token
    found = box_tokens(ramp, boxes, 80, 3)
    for k, (x, y, w, h) in enumerate(boxes[0].tolist()):
        for n in range(9):
            i, j = divmod(n, 3)
            expected = torch.tensor([y + h * (i + 0.5) / 3, x + w * (j + 0.5) / 3]) / 10
            assert torch.allclose(found[0, k, n], expected, atol=1e-4)


def test_the_whole_grid_as_a_box_is_the_grid() -> None:
    constant = torch.arange(6.0).view(1, 6, 1, 1).expand(1, 6, 4, 4)
    found = box_tokens(constant, torch.tensor([[[0, 0, 80, 80]]]), 80, 4)
    assert torch.allclose(found[0, 0], torch.arange(6.0).expand(16, 6))


def test_a_clips_own_frames_end_where_the_number_no_longer_rises() -> None:
    index = torch.tensor([[1, 2, 3, 4], [5, 9, 9, 9], [7, 7, 7, 7]])
    inputs = {"sequence": torch.zeros(3, 4, 2, 2, 3, dtype=torch.uint8), "sequence.index": index}
    assert lengths(inputs).tolist() == [4, 2, 1]
    assert lengths({"sequence": inputs["sequence"]}).tolist() == [4, 4, 4]


@pytest.mark.parametrize("colour", ["grey", "rgb"])
def test_pictures_are_in_the_unit_range(colour: str) -> None:
    frames = torch.tensor([[255, 0, 0], [255, 255, 255]], dtype=torch.uint8).view(1, 1, 2, 3)
    found = pictures(frames, colour)
    assert found.shape == (1, 1 if colour == "grey" else 3, 1, 2)
    assert found[0, 0, 0].tolist() == pytest.approx([0.299, 1.0] if colour == "grey" else [1.0, 1.0])
