"""Everything a pretraining run is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pretrain.architecture import ModelConfig
from pretrain.augment import AugmentConfig
from pretrain.engine import EngineConfig
from pretrain.swap import SwapConfig


@dataclass(frozen=True)
class DataConfig:
    """Where pairs come from."""

    shards: str = ""
    """Folder that launch/shard.py wrote, or the URL of one. Empty, without a mixture: synthetic faces, made once."""
    mixture: dict[str, float] = field(default_factory=dict)
    """Instead of shards: several folders or URLs, each with its share of the pairs (shares are scaled to sum 1)."""
    global_batch: int = 32
    """Frame pairs per optimiser step, over all ranks and micro-batches."""
    delta: tuple[int, int] = (5, 11)
    """Smallest and largest distance δ between the two frames of a pair, in delta_unit."""
    delta_unit: Literal["frames", "ms"] = "frames"
    """frames (the paper, 30 fps video), or milliseconds, so that sources of different frame rates can be mixed."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Crop, mirroring and colour, on the device."""
    workers: int = 0
    """Reader processes per rank; 0 reads in the training process."""
    window_frames: int = 0
    """Frames shuffled together, over all ranks: more mixes sources better; 0: 131072, or 8192 with pool."""
    pool: bool = False
    """Decode each frame of a window once, for both of its uses: less CPU time; up to window_frames in memory."""
    max_bad: float = 0.001
    """Share of damaged frames above which the run stops (below it they are replaced and counted)."""
    allow_missing: bool = False
    """Go on without shards that are missing, in another order of pairs; false refuses to start."""
    cache_dir: str = ""
    """Folder for what is fetched from URLs, shared by the ranks of a machine. Empty: the user's cache folder."""
    cache_gb: float = 8.0
    """Largest size of that folder's contents, GB."""
    reader_timeout: float = 180.0
    """Seconds after which a reader process that does not answer is replaced."""


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with warm-up and cosine decay."""

    lr: float = 1e-3
    """Peak learning rate (the paper: 1e-4 at 2,048 pairs per step)."""
    warmup: int = 40
    """Steps of linear warm-up."""
    final_lr: float = 0.0
    """Learning rate at the last step."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of Adam's moments."""
    weight_decay: float = 0.05
    """Decoupled weight decay; biases, norms and tokens have none."""


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept of a run."""

    every: int = 200
    """Steps between checkpoints (one more at the end, and on SIGTERM)."""
    minutes: float = 0.0
    """Also a checkpoint when the last is so many minutes old; 0: by steps alone."""
    keep: int = 3
    """How many of the newest checkpoints are kept."""
    resume: bool = True
    """Continue from the run's newest complete checkpoint; false refuses to touch a run that has one."""
    init: str = ""
    """Start from the weights of another run or of the released .pth (optimiser and step start afresh)."""


@dataclass(frozen=True)
class LogConfig:
    """What is written down, to log.jsonl and wandb (offline unless WANDB_MODE says otherwise)."""

    every: int = 10
    """Steps between log lines."""
    pictures: int = 200
    """Steps between pictures and motion probes (also at the first and last step); 0 makes none."""
    project: str = "flicker"
    """wandb project; WANDB_PROJECT, WANDB_RUN_GROUP, WANDB_RUN_ID and WANDB_MODE are honoured."""


@dataclass(frozen=True)
class ProbeConfig:
    """How well the frozen encoder already recognises labelled clips, while it trains. Nothing is trained on them."""

    every: int = 0
    """Steps between k-NN and linear probes (also at the first and last step); 0 makes none."""
    data: str = ""
    """Root folder of the labelled clips."""
    dataset: str = "auto"
    """Their layout, as data.dataset of launch/finetune.py."""
    scheme: str = "auto"
    """Their classes, as data.scheme of launch/finetune.py."""


@dataclass(frozen=True)
class PretrainConfig:
    """A pretraining run. Without any argument: the tiny model on synthetic faces."""

    run: str = "runs/pretrain"
    """Folder of the run: config, log, checkpoints, encoder, pictures."""
    steps: int = 0
    """Optimiser steps; 0: as many as `epochs` takes."""
    epochs: float = 3.0
    """Passes over all frames that have a partner, where `steps` is 0."""
    seed: int = 0
    """Seeds the weights, the order of pairs, δ, swaps and crops."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Architecture and losses."""
    swap: SwapConfig = field(default_factory=SwapConfig)
    """Blockwise swapping (Algorithm 1)."""
    data: DataConfig = field(default_factory=DataConfig)
    """Data."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """DeepSpeed."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Checkpoints and resume."""
    log: LogConfig = field(default_factory=LogConfig)
    """Logging."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    """Labelled clips to look at."""
