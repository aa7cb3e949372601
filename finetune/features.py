"""Samples for the folds: prepared inputs, and what a frozen encoder makes of them, once per clip and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune.heads.base import Head
from shards.files import atomic_path
from shards.progress import Progress

BATCH = 16
FORMAT = 4  # raised when features or a fold's result change their meaning: old ones are then not used
Arrays = Mapping[str, np.ndarray]


def plain(copies: list[dict[str, np.ndarray]]) -> dict[str, Tensor]:
    """Every input with its copies (copy 0: as it is, copy 1: mirrored) along axis 1: [n A ...]."""
    return {name: torch.from_numpy(np.stack([copy[name] for copy in copies], axis=1)) for name in copies[0]}


def extracted(
    copies: list[dict[str, np.ndarray]], head: Head, cache: Path, key: str, quiet: bool = False
) -> dict[str, Tensor]:
    """As `plain`, of what the head's frozen encoder extracts; `key` is the digest of all that it depends on."""
    columns = [cached(copy, head, cache, f"{key}-{place}", quiet) for place, copy in enumerate(copies)]
    return {name: torch.stack([column[name] for column in columns], dim=1) for name in columns[0]}


def feature_key(data: str, weights: str, options: Any) -> str:
    """Digest of all that features depend on: digests of data and weights, and the head's options."""
    parts = [FORMAT, data, weights, vars(options)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def cached(arrays: Arrays, head: Head, cache: Path, key: str, quiet: bool) -> dict[str, Tensor]:
    """`extract` of all clips, from the file of that key where it is there and whole."""
    path = cache / f"{key}.safetensors"
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError):  # absent or cut short: compute
        pass
    features = extract(arrays, head, quiet)
    with atomic_path(path) as temporary:
        save_file(features, temporary)
    return features


@torch.no_grad()
def extract(arrays: Arrays, head: Head, quiet: bool = False) -> dict[str, Tensor]:
    """The head's features of all clips in batches, on the CPU: name -> [n ...], floats as float32."""
    count = len(next(iter(arrays.values())))
    device = next(head.parameters()).device
    head.eval()
    rows: list[dict[str, Tensor]] = []
    with Progress(count, "features", "clips", quiet=quiet) as progress:
        for start in range(0, count, BATCH):
            batch = {
                name: torch.from_numpy(value[start : start + BATCH]).to(device) for name, value in arrays.items()
            }
            found = head.extract(batch)
            rows.append({name: _kept(value) for name, value in found.items()})
            progress.advance(min(BATCH, count - start))
    return {name: torch.cat([row[name] for row in rows]).contiguous() for name in rows[0]}


def _kept(value: Tensor) -> Tensor:
    """On the CPU, floats as float32."""
    return value.float().cpu() if value.is_floating_point() else value.cpu()


def shared(inputs: Mapping[str, Tensor], folder: Path, key: str) -> dict[str, Tensor]:
    """The same tensors, mapped from files in `folder`, so that processes of one machine hold them in memory once.

    Who comes first writes them. What a process writes into its tensors stays its own.
    """
    found = {}
    for name, value in inputs.items():
        path = folder / f"{key}-{name}.npy"
        if not path.exists():
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, value.numpy(), allow_pickle=False)
        try:
            found[name] = torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
        except FileNotFoundError:  # the others have finished, and taken it away
            found[name] = value
    return found
