"""The other ways to read the same pairs. Each function yields batch after batch: the sources of its pairs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset

from launch.benchmarks.crops import Material
from launch.benchmarks.pairs import BUFFER, DELTA, JpegPair, decoded, of_clip, shuffled
from launch.benchmarks.streaming import import_streaming

Batches = Iterator[Sequence[str]]


class LooseFiles(Dataset[tuple[torch.Tensor, str]]):
    """One JPEG file per frame, PIL, one pair per item: the way of published research code."""

    def __init__(self, material: Material, seed: int):
        rng = random.Random(seed)
        self.items: list[tuple[str, Path, Path]] = []
        for source, frames in material.lengths.items():
            paths = material.paths(source)
            for at in range(frames - DELTA[0]):
                step = rng.randint(DELTA[0], min(DELTA[1], frames - 1 - at))
                self.items.append((source, paths[at], paths[at + step]))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, str]:
        source, *paths = self.items[number]
        frames = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
        return torch.from_numpy(frames), source


def loose(material: Material, batch: int, size: int, seed: int) -> Batches:
    """Loose files through a DataLoader with all defaults, one worker."""
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(
        LooseFiles(material, seed), batch_size=batch, shuffle=True, num_workers=1, drop_last=True, generator=generator
    )
    for _, sources in loader:
        yield sources


def webdataset(material: Material, batch: int, size: int, seed: int) -> Batches:
    """Plain webdataset: clips to pairs, its own shuffle buffer, decoded in one worker."""
    import webdataset as wds

    def expand(samples: Iterator[dict[str, Any]]) -> Iterator[JpegPair]:
        rng = random.Random(seed)
        for sample in samples:
            frames = [sample[name] for name in sorted(sample) if name.endswith(".jpg")]
            yield from of_clip(sample["__key__"].rsplit("_", 1)[0], frames, rng)

    tars = sorted(map(str, (material.folder / "webdataset").glob("*.tar")))
    dataset = wds.WebDataset(tars, shardshuffle=len(tars), seed=seed, empty_check=False)
    dataset = dataset.compose(expand).shuffle(BUFFER, initial=BUFFER, seed=seed)
    dataset = dataset.compose(lambda pairs: decoded(pairs, batch, size))
    for _, sources in DataLoader(dataset, batch_size=None, num_workers=1):
        yield sources


class StreamedClips(IterableDataset[tuple[np.ndarray, list[str]]]):
    """Blob clips of a StreamingDataset to pairs, through a shuffle buffer."""

    def __init__(self, folder: Path, batch: int, size: int, seed: int):
        self.clips = import_streaming().StreamingDataset(
            local=str(folder), shuffle=True, shuffle_seed=seed, batch_size=8, num_canonical_nodes=1
        )
        self.batch, self.size, self.seed = batch, size, seed

    def _pairs(self) -> Iterator[JpegPair]:
        rng = random.Random(self.seed)
        for clip in self.clips:
            ends = np.cumsum(np.frombuffer(clip["lengths"], np.int32)).tolist()
            blob = memoryview(clip["frames"])
            frames = [blob[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
            yield from of_clip(clip["source"], frames, rng)

    def __iter__(self) -> Iterator[tuple[np.ndarray, list[str]]]:
        return decoded(shuffled(self._pairs(), random.Random(self.seed)), self.batch, self.size)


def streaming(material: Material, batch: int, size: int, seed: int) -> Batches:
    """MosaicML Streaming, decoded in one worker."""
    dataset = StreamedClips(material.folder / "streaming", batch, size, seed)
    for _, sources in DataLoader(dataset, batch_size=None, num_workers=1):
        yield sources
