"""What the peers share: pairs of one clip, a shuffle buffer, two decodes into a batch."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import simplejpeg

DELTA = (5, 11)
CLIP = 32
"""Frames per clip of the peers' own formats: the length that serves them best (longer clips mix worse)."""
BUFFER = 4096
"""Pairs in a peer's shuffle buffer."""


class JpegPair(NamedTuple):
    """Two encoded frames and the source that they come from."""

    source: str
    first: bytes | memoryview
    second: bytes | memoryview


def of_clip(source: str, frames: Sequence[bytes | memoryview], rng: random.Random) -> Iterator[JpegPair]:
    """One pair per frame that has a partner within its clip."""
    for at in range(len(frames) - DELTA[0]):
        step = rng.randint(DELTA[0], min(DELTA[1], len(frames) - 1 - at))
        yield JpegPair(source, frames[at], frames[at + step])


def shuffled(pairs: Iterable[JpegPair], rng: random.Random, capacity: int = BUFFER) -> Iterator[JpegPair]:
    """Pairs in the order of a full shuffle buffer."""
    buffer: list[JpegPair] = []
    for pair in pairs:
        if len(buffer) < capacity:
            buffer.append(pair)
            continue
        place = rng.randrange(capacity)
        buffer[place], pair = pair, buffer[place]
        yield pair
    rng.shuffle(buffer)
    yield from buffer


def decoded(pairs: Iterable[JpegPair], batch: int, size: int) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Batches: a new uint8 array [B 2 S S 3] that the pairs are decoded into, and their sources.

    An array and not a tensor: DataLoader sends it at the least cost of all.
    """
    chosen: list[JpegPair] = []
    for pair in pairs:
        chosen.append(pair)
        if len(chosen) == batch:
            frames = np.empty((batch, 2, size, size, 3), np.uint8)
            decode(chosen, frames)
            yield frames, [pair.source for pair in chosen]
            chosen = []


def decode(pairs: list[JpegPair], target: np.ndarray) -> None:
    """Two decodes per pair into uint8 [B 2 S S 3]."""
    for row, pair in enumerate(pairs):
        simplejpeg.decode_jpeg(pair.first, colorspace="RGB", buffer=target[row, 0])
        simplejpeg.decode_jpeg(pair.second, colorspace="RGB", buffer=target[row, 1])
