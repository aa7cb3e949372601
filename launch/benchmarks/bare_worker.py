"""A reader process that fills batches by copying one picture, without reading or decoding: only transport is left."""

from __future__ import annotations

import numpy as np

from shards import worker
from shards.fetch import Fetcher

_PICTURES: dict[tuple[int, ...], np.ndarray] = {}


def copy(fetcher: Fetcher, shard: int, offset: int, length: int, crc: int, target: np.ndarray) -> None:
    """In place of `Fetcher.read`."""
    target[:] = _PICTURES.setdefault(target.shape, np.zeros(target.shape, np.uint8))


if __name__ == "__main__":
    Fetcher.read = copy  # type: ignore[method-assign, assignment]
    worker.main()
