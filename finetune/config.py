"""The typed config of a recognition run: `launch/finetune.py`'s keys, and what `finetune.loso.run` takes.

Imports nothing heavy, so that `--help` is quick.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from finetune.options.fdp import FdpOptions
from finetune.options.frl_dgt import FrlDgtOptions
from finetune.options.htnet import HTNetOptions
from finetune.options.micron import MicronOptions
from finetune.options.slstt import SlsttOptions
from shards.errors import UsageError

Mode = Literal["frozen", "partial", "full"]


@dataclass
class DataConfig:
    """The labelled dataset."""

    root: str = ""
    """Folder of the dataset: labels and frames, as published."""
    dataset: str = "auto"
    """Which loader reads it (docs/datasets.md lists them); auto: the one that finds its labels and frames there."""
    version: str = "auto"
    """Which edition of the labels, e.g. 2014 or 2019 of CASME II; auto takes the best that is present."""
    variant: str = "auto"
    """Which published frames, e.g. cropped, raw-selected or raw; auto takes the best that are present."""
    scheme: str = "auto"
    """Classes, e.g. C2-5, SAMM-3 or MEGC2019 (docs/datasets.md lists them); auto: the usual one of the dataset;
    present: each label that occurs."""
    parts: list[str] = field(default_factory=list)
    """Of several datasets together (the composite, flow maps): keep the clips of these alone, e.g. [casme2]."""
    apex: Literal["coded", "flow", "dc"] = "coded"
    """Where a dataset codes no apex: coded takes the middle of onset and offset; flow spots it by the largest motion
    since the onset, dc by D&C-RoIs (HTNet, eq. 1)."""
    max_missing: float = 0.0
    """Share (0..1) of rows whose frames may be missing; the report lists them."""
    cache: str = "runs/prepared"
    """Folder of prepared inputs (landmarks, crops, flow), shared by runs: computed once, read without the images."""
    workers: int = 2
    """Processes that prepare inputs."""
    simulated: bool = False
    """Label the report as simulated data (set by itself where SIMULATED.txt lies at the root)."""


@dataclass
class BackboneConfig:
    """The encoder that the head is plugged into."""

    preset: Literal["tiny", "small", "base", "large"] = "tiny"
    """Architecture of the randomly initialised encoder that is used when no --encoder is given."""
    random: bool = False
    """Take the architecture of --encoder but random weights: the control experiment."""
    compare_random: bool = False
    """Run the whole protocol a second time with random weights (as `random`) and show both in the report."""
    seed: int = 0
    """Seed of random weights."""
    mode: Mode = "frozen"
    """frozen: features are computed once per clip; partial: the last `blocks` blocks train; full: all of it."""
    blocks: int = 1
    """Encoder blocks that train in mode `partial`, counted from the last."""
    lr_scale: float = 0.1
    """Learning rate of encoder parameters as a share of train.lr (modes partial and full)."""
    test_subjects_seen: bool = False
    """The encoder may have been pretrained on unlabelled frames of the people tested here: the report states it
    instead of calling it a leak."""


@dataclass
class HeadConfig:
    """The recogniser."""

    name: Literal["micron", "slstt", "frl_dgt", "htnet", "fdp"] = "micron"
    """Which recogniser."""
    plugged: Literal["auto", "native", "encoder"] = "auto"
    """native: as its paper has it; encoder: on the pretrained encoder (random weights without --encoder); auto:
    encoder where --encoder is given, and always for micron."""
    micron: MicronOptions = field(default_factory=MicronOptions)
    """Options of the head micron."""
    htnet: HTNetOptions = field(default_factory=HTNetOptions)
    """Options of the head htnet."""
    frl_dgt: FrlDgtOptions = field(default_factory=FrlDgtOptions)
    """Options of the head frl_dgt."""
    fdp: FdpOptions = field(default_factory=FdpOptions)
    """Options of the head fdp."""
    slstt: SlsttOptions = field(default_factory=SlsttOptions)
    """Options of the head slstt."""


@dataclass
class TrainConfig:
    """Training of one fold; every fold uses the same fixed budget."""

    epochs: int = 60
    """Passes over the training clips. The headline (`last`) is the state after the last one."""
    batch: int = 16
    """Clips per step (0: all training clips at once)."""
    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    """Which optimiser; weight decay is decoupled in adamw, part of the gradient in adam and sgd."""
    lr: float = 1e-3
    """Learning rate at the start."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """How the rate goes on: to zero over all steps, or unchanged."""
    momentum: float = 0.9
    """Momentum of sgd."""
    weight_decay: float = 0.05
    """Weight decay (weights only, not biases)."""
    class_weights: bool = True
    """Weigh the loss by inverse class frequency among the fold's training clips."""
    label_smoothing: float = 0.0
    """Share (0..1) of the target spread over all classes."""
    mirror: bool = False
    """Add left-right mirrored copies of the training clips."""
    together: int = 1
    """Trainings that run at the same time as one batched model, with equal results; 1: one after the other. For small
    models, e.g. 16; memory grows with it."""


@dataclass
class ProtocolConfig:
    """Who is tested in which fold, and how the epoch is chosen."""

    kind: Literal["loso", "kfold", "cross", "lodo"] = "loso"
    """loso: leave one subject out; of several datasets together this is the composite protocol, with scores of each.
    kfold: as loso with `folds` groups of subjects; cross: train on some datasets, test on others; lodo: leave one
    dataset out."""
    folds: int = 5
    """kfold: groups of subjects."""
    train_on: list[str] = field(default_factory=list)
    """cross: datasets to train on, e.g. [casme2] (empty: the first of two)."""
    test_on: list[str] = field(default_factory=list)
    """cross: datasets to test on, e.g. [samm] (empty: the other of two)."""
    reverse: bool = True
    """cross: a second fold the other way round, trained on `test_on` and tested on `train_on`."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Training seeds; the whole protocol runs once per seed, and the scores are averaged."""
    ensemble: bool = False
    """Also score the mean of the seeds' probabilities of each clip."""
    inner_splits: int = 1
    """Groups of training subjects that take turns at choosing the epoch for `inner`; 0: each training subject takes
    its turn (inner leave-one-subject-out: as many trainings per fold as it has training subjects, and one)."""
    inner_share: float = 0.25
    """Share (0..1) of a fold's training subjects in such a group."""
    inner_seed: int = 0
    """Decides which training subjects are held, and kfold's groups; the same for all training seeds."""


@dataclass
class FinetuneConfig:
    """A whole run: every fold of a protocol, for every seed."""

    encoder: str = ""
    """Pretrained weights: run directory, checkpoint step-N, or released .pth ('': random, see backbone.preset)."""
    check: str = ""
    """Only look at the dataset in this folder: print what was found, missed and repaired, write it with a picture
    sheet to OUT/check, and stop."""
    summary: bool = False
    """Only print every head's parameters, FLOPs per clip and inputs, native and on an encoder of `backbone.preset`,
    beside what its paper states, and stop."""
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
    save_recogniser: bool = False
    """After the folds, train once on all clips and store the result in OUT/recogniser, for launch/recognise.py."""
    fresh: bool = False
    """Delete the folds already in `out` first."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs; auto takes a GPU where there is one."""
    compare: list[str] = field(default_factory=list)
    """Other run directories to show beside this one in the report."""
    wait_minutes: float = 60.0
    """How long rank 0 waits for folds of other ranks without any new one arriving, minutes."""


def validate(config: FinetuneConfig) -> None:
    """Raise UsageError for values out of range, naming the key."""
    train, protocol = config.train, config.protocol
    rules = {
        "data.root": bool(config.data.root),
        "train.epochs": train.epochs >= 1,
        "train.batch": train.batch >= 0,
        "train.lr": train.lr > 0,
        "train.momentum": 0 <= train.momentum < 1,
        "train.together": train.together >= 1,
        "train.label_smoothing": 0 <= train.label_smoothing < 1,
        "protocol.seeds": bool(protocol.seeds) and len(set(protocol.seeds)) == len(protocol.seeds),
        "protocol.folds": protocol.folds >= 2,
        "protocol.inner_splits": protocol.inner_splits >= 0,
        "protocol.inner_share": 0 < protocol.inner_share < 1,
        "data.workers": config.data.workers >= 1,
        "data.max_missing": 0 <= config.data.max_missing <= 1,
        "head.micron.radius": config.head.micron.radius >= 0,
        "head.micron.dropout": 0 <= config.head.micron.dropout < 1,
        "backbone.blocks": config.backbone.blocks >= 1,
    }
    for key, fine in rules.items():
        if not fine:
            value: Any = config
            for part in key.split("."):
                value = getattr(value, part)
            raise UsageError(
                f"{key}: {value!r} is {'missing' if value == '' else 'out of range'}; --help says what it means"
            )
    _check_protocol(protocol)


def _check_protocol(protocol: ProtocolConfig) -> None:
    """Raise UsageError where the protocol's keys contradict each other."""
    both = sorted(set(protocol.train_on) & set(protocol.test_on))
    if both:
        raise UsageError(f"protocol.test_on: {', '.join(both)} is also in protocol.train_on; test on other datasets")
    if protocol.kind != "cross" and (protocol.train_on or protocol.test_on):
        raise UsageError(f"protocol.train_on, test_on: for protocol.kind cross only, not for {protocol.kind}")
    if bool(protocol.train_on) != bool(protocol.test_on):
        raise UsageError("protocol.train_on, test_on: give both, or neither where the data are of two datasets")
    if protocol.ensemble and len(protocol.seeds) < 2:
        raise UsageError("protocol.ensemble: needs at least two protocol.seeds, e.g. --protocol.seeds '[0,1,2]'")
