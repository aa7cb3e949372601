"""Samples for the folds: frames, and for a frozen encoder its features, computed once per clip and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from finetune import frames as pictures
from finetune.clips import Clip
from finetune.folds import Samples
from finetune.heads.micron import MicronHead
from shards.files import atomic_path
from shards.progress import Progress

BATCH = 16
FORMAT = 2  # raised when features or a fold's result change their meaning: old ones are then not used


def samples(
    clips: Sequence[Clip],
    labels: Sequence[int],
    classes: Sequence[str],
    copies: list[dict[str, np.ndarray]],
    head: MicronHead,
    *,
    frozen: bool,
    cache: Path,
    key: str,
    quiet: bool = False,
) -> Samples:
    """All clips as the head's inputs, every copy (copy 0: as it is, copy 1: mirrored) along axis 1.

    Frozen: inputs are {'features'}; otherwise the frames themselves. `cache` is a folder for the features, `key`
    the digest of all that they depend on (frames, weights, options).
    """
    if frozen:
        columns = [cached(copy, head, cache, f"{key}-{place}", quiet) for place, copy in enumerate(copies)]
        inputs = {"features": torch.stack(columns, dim=1)}
    else:
        inputs = {name: torch.from_numpy(np.stack([copy[name] for copy in copies], axis=1)) for name in copies[0]}
    return Samples(
        ids=tuple(clip.id for clip in clips),
        subjects=tuple(clip.subject for clip in clips),
        labels=torch.tensor(labels, dtype=torch.int64),
        inputs=inputs,
        classes=tuple(classes),
    )


def copies(frames: dict[str, np.ndarray], mirror: bool) -> list[dict[str, np.ndarray]]:
    """The frames, and if wanted their mirrored copies."""
    return [frames, pictures.mirrored(frames)] if mirror else [frames]


def feature_key(frames_digest: str, weights_digest: str, head: MicronHead) -> str:
    """Digest of all that features depend on."""
    parts = [FORMAT, frames_digest, weights_digest, vars(head.options)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def cached(frames: dict[str, np.ndarray], head: MicronHead, cache: Path, key: str, quiet: bool) -> Tensor:
    """`extract` of all clips, from the file of that key where it is there and whole."""
    path = cache / f"{key}.npy"
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError):  # absent or cut short: compute
        pass
    features = extract(frames, head, quiet)
    with atomic_path(path) as temporary:
        np.save(temporary, features.numpy())
    return features


@torch.no_grad()
def extract(frames: dict[str, np.ndarray], head: MicronHead, quiet: bool = False) -> Tensor:
    """The head's features of all clips in batches, float32 on the CPU: [n F] or [n N F]."""
    count = len(next(iter(frames.values())))
    device = next(head.parameters()).device
    head.eval()
    rows = []
    with Progress(count, "features", "clips", quiet=quiet) as progress:
        for start in range(0, count, BATCH):
            batch = {
                name: torch.from_numpy(value[start : start + BATCH]).to(device) for name, value in frames.items()
            }
            rows.append(head.extract(batch).float().cpu())
            progress.advance(len(rows[-1]))
    return torch.cat(rows)
