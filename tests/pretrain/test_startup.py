"""What a run opens: the size frames are read at, and data that all ranks agree on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pretrain.augment import AugmentConfig
from pretrain.config import DataConfig, PretrainConfig
from pretrain.startup import _check_ranks, _size_read
from shards.errors import FlickerError


@pytest.mark.parametrize(
    "stored, area, size",
    [
        ([256], 1.0, 224),  # no crop: the reader resizes
        ([256], 0.5, 256),  # a crop sees all pixels that are stored
        ([128, 256], 0.5, 256),
        ([1024], 0.25, 448),  # the smallest crop has the model's size
        ([96], 0.5, 96),
    ],
)
def test_frames_are_read_at_the_size_that_crops_need(stored: list[int], area: float, size: int) -> None:
    config = PretrainConfig(data=DataConfig(augment=AugmentConfig(crop_area=(area, 1.0))))
    sets: Any = [(SimpleNamespace(options={"size": side}), 1.0) for side in stored]
    assert _size_read(config, sets, 224) == size


class Engine:
    """Two ranks; the other one sees `other`."""

    def __init__(self, other: str):
        self.world = SimpleNamespace(device=torch.device("cpu"))
        self.other = float(int(other[:6], 16))

    def reduce(self, values: torch.Tensor, operation: str) -> torch.Tensor:
        return torch.maximum(values, torch.tensor([self.other, -self.other]))


def test_ranks_that_see_different_shards_are_stopped() -> None:
    reader: Any = SimpleNamespace(digest="ab12cd" + 58 * "0")
    same: Any = Engine(reader.digest)
    _check_ranks(same, reader)
    for digest in ("ab12ce", "ab12cc", "000000", "ffffff"):
        other: Any = Engine(digest)
        with pytest.raises(FlickerError, match="different shards"):
            _check_ranks(other, reader)
