"""Frames as arrays, and features computed once."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from finetune import features, heads
from finetune import frames as pictures
from finetune.backbone import Backbone
from finetune.options.micron import MicronOptions
from shards.errors import FlickerError


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_images_are_rgb_whatever_the_format(tmp_path: Path, suffix: str) -> None:
    red = np.zeros((16, 24, 3), np.uint8)
    red[..., 2] = 250  # OpenCV writes BGR
    cv2.imwrite(str(tmp_path / f"a{suffix}"), red)
    image = pictures.read_image(tmp_path / f"a{suffix}")
    assert image.shape == (16, 24, 3) and image[..., 0].min() > 230 and image[..., 2].max() < 20


def test_grey_images_become_three_equal_channels(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        cv2.imwrite(str(tmp_path / name), np.full((8, 8), 77, np.uint8))
        assert pictures.read_image(tmp_path / name).tolist() == np.full((8, 8, 3), 77).tolist()


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff truncated", b"text"])
def test_an_unreadable_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "reg_img46.jpg"
    path.write_bytes(content)
    with pytest.raises(FlickerError, match=r"reg_img46.jpg"):
        pictures.read_image(path)


@pytest.mark.parametrize("how", ["squash", "crop", "pad"])
@pytest.mark.parametrize("shape", [(34, 28), (28, 34), (16, 16), (5, 90), (32, 32)])
def test_every_fit_gives_a_square(how: pictures.Fit, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert pictures.fit(image, 32, how).shape == (32, 32, 3)


def test_crop_cuts_the_middle_and_pad_keeps_all() -> None:
    image = np.zeros((40, 20, 3), np.uint8)
    image[:10] = 255  # the top quarter
    assert pictures.fit(image, 20, "crop").max() == 0
    assert (pictures.fit(image, 40, "pad")[:10] == 255).all()


def test_features_are_computed_once_and_again_where_the_file_is_damaged(tiny: Backbone, tmp_path: Path) -> None:
    arrays = {"pair": np.random.default_rng(0).integers(0, 256, (5, 2, 32, 32, 3), dtype=np.uint8)}
    head = heads.create("micron", 3, tiny.model)
    first = features.cached(arrays, head, tmp_path, "key", True)["features"]
    assert torch.allclose(first, features.extract(arrays, head, True)["features"])
    path = tmp_path / "key.safetensors"
    save_file({"features": torch.full((5, 16), 7.0)}, path)
    assert (features.cached(arrays, head, tmp_path, "key", True)["features"] == 7).all()
    path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(features.cached(arrays, head, tmp_path, "key", True)["features"], first)


def test_the_cache_key_depends_on_data_weights_and_options() -> None:
    one, two = MicronOptions(pooling="mean"), MicronOptions(pooling="attention")
    keys = {
        features.feature_key(*key) for key in [("f", "w", one), ("g", "w", one), ("f", "v", one), ("f", "w", two)]
    }
    assert len(keys) == 4
