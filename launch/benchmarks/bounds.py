"""The most and the least that one process can do: decoding alone, and random access to videos. Without torch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np

from launch.benchmarks.crops import Material
from launch.benchmarks.pairs import DELTA, JpegPair, decode

Batches = Iterator[Sequence[str]]


def decord(material: Material, batch: int, size: int, seed: int) -> Batches:
    """Random access to H.264 videos with decord, in this process; every video stays open."""
    import decord as library

    rng = random.Random(seed)
    paths = sorted((material.folder / "videos").glob("*.mp4"))
    readers = [library.VideoReader(str(path), num_threads=1) for path in paths]
    frames = np.empty((batch, 2, size, size, 3), np.uint8)
    while True:
        sources = []
        for row in range(batch):
            which = rng.randrange(len(readers))
            step = rng.randint(*DELTA)
            at = rng.randrange(len(readers[which]) - step)
            frames[row] = readers[which].get_batch([at, at + step]).asnumpy()
            sources.append(paths[which].stem)
        yield sources


def limit(material: Material, batch: int, size: int, seed: int) -> Batches:
    """Two decodes per pair of bytes in memory into one batch, and nothing else."""
    pairs: list[JpegPair] = []
    for source in random.Random(seed).choices(list(material.lengths), k=32 * batch):
        paths = material.paths(source)
        at = random.Random(len(pairs)).randrange(len(paths) - DELTA[1])
        pairs.append(JpegPair(source, paths[at].read_bytes(), paths[at + DELTA[0]].read_bytes()))
    frames = np.empty((batch, 2, size, size, 3), np.uint8)
    while True:
        for start in range(0, len(pairs), batch):
            decode(pairs[start : start + batch], frames)
            yield [pair.source for pair in pairs[start : start + batch]]
