"""The typed config of a recognition run: `launch/finetune.py`'s keys, and what `finetune.loso.run` takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from finetune.backbone import BackboneConfig
from finetune.heads.micron import MicronOptions


@dataclass
class DataConfig:
    """The labelled dataset."""

    root: str = ""
    """Folder of the dataset: labels and frames, as published."""
    dataset: Literal["casme2"] = "casme2"
    """Which loader reads it."""
    version: Literal["auto", "2014", "2019"] = "auto"
    """Label workbook: 2014, 2019 (three labels corrected), or auto (2019 where both are present)."""
    variant: Literal["auto", "cropped-updated", "cropped", "raw-selected", "raw"] = "auto"
    """Which published frames; auto takes the first present, in this order."""
    scheme: str = "C2-5"
    """Classes: C2-3, C2-3-with-sadness-fear, C2-4-repression-negative, C2-4-repression-others, C2-5, C2-7, or
    present (each label that occurs)."""
    max_missing: float = 0.0
    """Share (0..1) of rows whose frames may be missing; the report lists them."""
    fit: Literal["squash", "crop", "pad"] = "squash"
    """How a frame becomes square: squash (whole face), crop (middle), pad (whole face, sides kept)."""
    simulated: bool = False
    """Label the report as simulated data (set by itself where SIMULATED.txt lies at the root)."""
    check: bool = False
    """Only print what the loader found, missed and repaired, then stop."""


@dataclass
class HeadConfig:
    """The recogniser."""

    name: Literal["micron"] = "micron"
    """Which head."""
    micron: MicronOptions = field(default_factory=MicronOptions)
    """Options of the head micron."""


@dataclass
class TrainConfig:
    """Training of one fold; every fold uses the same fixed budget."""

    epochs: int = 60
    """Passes over the training clips. The headline (`last`) is the state after the last one."""
    batch: int = 16
    """Clips per step (0: all training clips at once)."""
    lr: float = 1e-3
    """AdamW learning rate at the start; cosine to zero over all steps."""
    weight_decay: float = 0.05
    """AdamW weight decay (weights only, not biases)."""
    class_weights: bool = True
    """Weigh the loss by inverse class frequency among the fold's training clips."""
    label_smoothing: float = 0.0
    """Share (0..1) of the target spread over all classes."""
    mirror: bool = False
    """Add left-right mirrored copies of the training clips."""


@dataclass
class ProtocolConfig:
    """Leave-one-subject-out and how the epoch is chosen."""

    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Training seeds; the whole protocol runs once per seed, and the scores are averaged."""
    inner_splits: int = 1
    """Groups of training subjects that take turns at choosing the epoch for `inner`."""
    inner_share: float = 0.25
    """Share (0..1) of a fold's training subjects in such a group."""
    inner_seed: int = 0
    """Decides which training subjects are held; the same for all training seeds."""


@dataclass
class FinetuneConfig:
    """A whole leave-one-subject-out run."""

    encoder: str = ""
    """Pretrained weights: run directory, checkpoint step-N, or released .pth ('': random, see backbone.preset)."""
    out: str = "runs/finetune"
    """Run directory: folds/, results.json, predictions.csv, report.html. A second start continues it."""
    data: DataConfig = field(default_factory=DataConfig)
    """The dataset."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The encoder."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """The recogniser."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Training of a fold."""
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    """Folds, seeds, selections."""
    fresh: bool = False
    """Delete the folds already in `out` first."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs; auto takes a GPU where there is one."""
    compare: list[str] = field(default_factory=list)
    """Other run directories to show beside this one in the report."""
    wait_minutes: float = 60.0
    """How long rank 0 waits for folds of other ranks without any new one arriving, minutes."""
