"""From a config to everything that the folds share: clips, labels, frames, encoder, features, and their digest."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from finetune import apexes, datasets, features, heads, material, protocols, schemes
from finetune import backbone as backbones
from finetune.backbone import Backbone
from finetune.clips import Clip
from finetune.config import DataConfig, FinetuneConfig, ProtocolConfig, validate
from finetune.copies import copies
from finetune.datasets import flow_maps
from finetune.folds import Samples
from finetune.heads.base import Head
from finetune.material import Material
from finetune.schemes import Scheme
from finetune.validation import Validation
from shards.errors import FlickerError, UsageError

log = logging.getLogger(__name__)


@dataclass
class Prepared:
    """Everything that the folds of a run share."""

    material: Material
    """Clips of the scheme's classes that could be prepared, and their inputs."""
    scheme: Scheme
    validation: Validation
    backbone: Backbone | None
    """None: the head is as its paper has it."""
    head: Head
    samples: Samples
    identity: dict[str, Any]
    """All that a fold's result depends on: settings by dotted key, and digests of data and encoder."""
    device: torch.device

    @property
    def clips(self) -> list[Clip]:
        """Clip i belongs to row i of the samples."""
        return self.material.clips

    @property
    def title(self) -> str:
        """A few words for tables: the head, and its encoder."""
        return self.backbone.title if self.backbone is not None else "native"

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
    """Load and check everything; what was prepared or extracted before comes from its cache.

    Raises FlickerError: data that is missing or wrong, too few clips, an unreadable checkpoint.
    """
    validate(config)
    device = choose_device(config.device)
    backbone = _backbone(config, backbone, device)
    encoder = None if backbone is None else backbone.model
    options = getattr(config.head, config.head.name)
    recipes = heads.needs(config.head.name, options, encoder)
    found, scheme, validation = _material(config, recipes, quiet)
    _, labels, _ = scheme.select(found.clips)
    _check_classes(scheme, labels, config.data.root)
    head: Head = heads.create(config.head.name, len(scheme.classes), encoder, **vars(options)).to(device)
    copied = copies(found.arrays, recipes, config.train.mirror)
    data, weights = found.digest(), head.initial() if backbone is None else backbone.digest()
    if head.fixed if backbone is None else config.backbone.mode == "frozen":
        key = features.feature_key(data, weights, options)
        inputs = features.extracted(copied, head, Path(config.out) / "features", key, quiet)
    else:
        inputs = features.plain(copied)
    samples = Samples(
        ids=tuple(clip.id for clip in found.clips),
        subjects=_subjects(found.clips),
        labels=torch.tensor(labels, dtype=torch.int64),
        inputs=inputs,
        classes=tuple(scheme.classes),
    )
    identity = _settings(config, plugged=backbone is not None) | {
        "data": _digest([data, samples.ids, labels, scheme.classes]),
        "encoder": weights,
    }
    return Prepared(found, scheme, validation, backbone, head, samples, identity, device)


def _backbone(config: FinetuneConfig, given: Backbone | None, device: torch.device) -> Backbone | None:
    """The encoder that the head is plugged into, or None for a head as its paper has it."""
    plugged, name = config.head.plugged, config.head.name
    if name == "micron" and plugged == "native":
        raise UsageError("head.plugged: the head micron is an encoder with a classifier; native does not exist")
    wanted = given is not None or bool(config.encoder) or name == "micron" or plugged == "encoder"
    if plugged == "native" or not wanted:
        return None
    return given or backbones.load(config.encoder, config.backbone, device)


def _material(config: FinetuneConfig, recipes: dict[str, Any], quiet: bool) -> tuple[Material, Scheme, Validation]:
    """The clips of the scheme's classes that the protocol involves, with their inputs."""
    found, validation = datasets.inspect(config.data)
    datasets.check_missing(validation, config.data.max_missing)
    scheme = schemes.get(config.data.scheme, found, validation.dataset)
    chosen, _, left_out = scheme.select(_parts(config.data, found))
    clips = protocols.involved(config.protocol, chosen)
    validation.notes += protocols.notes(config.protocol, chosen, clips)
    _check_classes(scheme, scheme.select(clips)[1], config.data.root)
    if left_out and not quiet:
        log.info("%s leaves out %s", scheme.name, ", ".join(f"{name} {n}" for name, n in left_out.items()))
    if validation.dataset == flow_maps.NAME:
        maps = flow_maps.load(config.data.root)
        return material.from_flow_maps(clips, maps, recipes, config.data.root), scheme, validation
    if config.data.apex != "coded":
        cache, workers = Path(config.data.cache), config.data.workers
        clips = apexes.spot(clips, config.data.apex, validation, cache, workers=workers, quiet=quiet)
    return material.from_images(clips, recipes, config.data, quiet), scheme, validation


def _parts(config: DataConfig, clips: list[Clip]) -> list[Clip]:
    """The clips of `data.parts` alone, where it names any. Raises UsageError for a dataset that is not there."""
    present = sorted({clip.dataset for clip in clips})
    if unknown := [name for name in config.parts if name not in present]:
        raise UsageError(f"data.parts: no clips of {', '.join(unknown)}; there are {', '.join(present)}")
    return [clip for clip in clips if clip.dataset in config.parts] if config.parts else clips


def _subjects(clips: list[Clip]) -> tuple[str, ...]:
    """Who is left out together: the subject, with the dataset where there are several."""
    several = len({clip.dataset for clip in clips}) > 1
    return tuple(clip.person if several else clip.subject for clip in clips)


def _check_classes(scheme: Scheme, labels: list[int], root: str) -> None:
    """Raise FlickerError where the clips do not show at least two classes of the scheme."""
    shown = sorted({scheme.classes[label] for label in labels})
    if len(shown) < 2:
        raise FlickerError(
            f"{root}: {len(labels)} clips of scheme {scheme.name} show {len(shown)} classes ({', '.join(shown)}); "
            "at least two are needed: choose another --data.scheme, e.g. present"
        )


def _settings(config: FinetuneConfig, plugged: bool) -> dict[str, Any]:
    """The settings that change a fold's result, by dotted key (data and encoder count by content instead)."""
    head = config.head.name
    groups = {
        "train": {key: value for key, value in asdict(config.train).items() if key != "together"},
        f"head.{head}": asdict(getattr(config.head, head)),
        "protocol": _protocol_settings(config.protocol),
        "backbone": {"mode": config.backbone.mode if plugged else "none"},
    }
    if plugged and config.backbone.mode != "frozen":
        groups["backbone"] |= {"blocks": config.backbone.blocks, "lr_scale": config.backbone.lr_scale}
    flat = {f"{group}.{key}": value for group, values in groups.items() for key, value in values.items()}
    return {"format": features.FORMAT, "head.name": head, **flat}


def _protocol_settings(protocol: ProtocolConfig) -> dict[str, Any]:
    """The protocol's settings that change a fold's result; its kind and own keys where it is not the usual one."""
    kept = ["inner_splits", "inner_share", "inner_seed"]
    if protocol.kind != "loso":
        kept.append("kind")
    kept += {"kfold": ["folds"], "cross": ["train_on", "test_on", "reverse"]}.get(protocol.kind, [])
    return {key: getattr(protocol, key) for key in kept}


def _digest(value: Any) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
