"""From a config to everything that the folds share: clips, labels, frames, encoder, features, and their digest."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune import backbone as backbones
from finetune import datasets, features, heads, schemes
from finetune import frames as pictures
from finetune.backbone import Backbone
from finetune.clips import Clip
from finetune.config import FinetuneConfig, validate
from finetune.folds import Samples
from finetune.heads.micron import MicronHead
from finetune.schemes import Scheme
from finetune.validation import Validation
from shards.errors import FlickerError, UsageError

log = logging.getLogger(__name__)


@dataclass
class Prepared:
    """Everything that the folds of a run share."""

    clips: list[Clip]
    """Clips of the scheme's classes."""
    scheme: Scheme
    validation: Validation
    frames: dict[str, np.ndarray]
    """Input name -> RGB uint8 [n S S 3]."""
    backbone: Backbone
    head: MicronHead
    samples: Samples
    identity: dict[str, Any]
    """All that a fold's result depends on: settings by dotted key, and digests of data and encoder."""
    device: torch.device

    @property
    def digest(self) -> str:
        """Digest of `identity`."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:32]


def choose_device(name: str) -> torch.device:
    """The torch device for 'auto', 'cpu' or 'cuda'. Raises UsageError where there is no GPU."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("device: cuda was asked for but no GPU is visible; use --device cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def prepare(config: FinetuneConfig, backbone: Backbone | None = None, quiet: bool = False) -> Prepared:
    """Load and check everything; features of a frozen encoder come from the run's cache where they are.

    Raises FlickerError: data that is missing or wrong, too few clips, an unreadable checkpoint.
    """
    validate(config)
    device = choose_device(config.device)
    found, validation = datasets.inspect(config.data)
    datasets.check_missing(validation, config.data.max_missing)
    scheme = schemes.get(config.data.scheme, found)
    clips, labels, left_out = scheme.select(found)
    _check_classes(scheme, labels, config.data.root)
    if left_out and not quiet:
        log.info("%s leaves out %s", scheme.name, ", ".join(f"{name} {n}" for name, n in left_out.items()))
    backbone = backbone or backbones.load(config.encoder, config.backbone, device)
    options = asdict(config.head.micron)
    head = heads.create(config.head.name, len(scheme.classes), backbone.model, **options).to(device)
    size = backbone.model.encoder.image_size
    frames = pictures.load_frames(clips, sorted(head.needs), size, config.data.fit, quiet=quiet)
    frames_digest, weights = pictures.digest(frames), backbone.digest()
    samples = features.samples(
        clips,
        labels,
        scheme.classes,
        features.copies(frames, config.train.mirror),
        head,
        frozen=config.backbone.mode == "frozen",
        cache=Path(config.out) / "features",
        key=features.feature_key(frames_digest, weights, head),
        quiet=quiet,
    )
    identity = _settings(config) | {
        "data": _digest([frames_digest, samples.ids, labels, scheme.classes]),
        "encoder": weights,
    }
    return Prepared(clips, scheme, validation, frames, backbone, head, samples, identity, device)


def _check_classes(scheme: Scheme, labels: list[int], root: str) -> None:
    """Raise FlickerError where the clips do not show at least two classes of the scheme."""
    shown = sorted({scheme.classes[label] for label in labels})
    if len(shown) < 2:
        raise FlickerError(
            f"{root}: {len(labels)} clips of scheme {scheme.name} show {len(shown)} classes ({', '.join(shown)}); "
            "at least two are needed: choose another --data.scheme, e.g. present"
        )


def _settings(config: FinetuneConfig) -> dict[str, Any]:
    """The settings that change a fold's result, by dotted key (data and encoder count by content instead)."""
    head = config.head.name
    groups = {
        "train": asdict(config.train),
        f"head.{head}": asdict(getattr(config.head, head)),
        "protocol": {key: value for key, value in asdict(config.protocol).items() if key != "seeds"},
        "backbone": {"mode": config.backbone.mode},
    }
    if config.backbone.mode != "frozen":
        groups["backbone"] |= {"blocks": config.backbone.blocks, "lr_scale": config.backbone.lr_scale}
    flat = {f"{group}.{key}": value for group, values in groups.items() for key, value in values.items()}
    return {"format": features.FORMAT, "head.name": head, **flat}


def _digest(value: Any) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
