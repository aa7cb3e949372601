"""Our reader's rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from launch.benchmarks.crops import Material
from shards import PairBatch, PairReader, read_manifest

Batches = Iterator[Sequence[str]]


def batches(material: Material, batch: int, size: int, seed: int, **options: Any) -> Batches:
    """Epoch after epoch of a PairReader."""
    reader = PairReader(read_manifest(material.folder / "shards"), seed=seed, global_batch=batch, **options)
    while True:
        for step in reader:
            yield Sources(step)


class Sources(Sequence[str]):
    """The sources of a batch's pairs, looked up when they are asked for."""

    def __init__(self, batch: PairBatch):
        self._batch = batch

    def __len__(self) -> int:
        return len(self._batch.delta)

    def __getitem__(self, row: Any) -> Any:
        return self._batch.keys[row].rsplit("_", 1)[0]

    def __iter__(self) -> Iterator[str]:
        return (key.rsplit("_", 1)[0] for key in self._batch.keys)


def inside(*arguments: Any) -> Batches:
    """Decoded in this process."""
    return batches(*arguments, workers=0)


def ring(*arguments: Any) -> Batches:
    """One worker."""
    return batches(*arguments, workers=1)


def ring_two(*arguments: Any) -> Batches:
    """Two workers."""
    return batches(*arguments, workers=2)


def pool(*arguments: Any) -> Batches:
    """One worker, every frame decoded once."""
    return batches(*arguments, workers=1, pool=True)
