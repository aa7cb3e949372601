"""From a config to a session: model, reader and engine, fresh or continued from the run's newest checkpoint."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from pretrain import checkpoint
from pretrain import engine as engines
from pretrain.architecture import config_to_dict
from pretrain.attention import BACKENDS, Choice, choose, step_shapes
from pretrain.blocks import checkpoint_blocks
from pretrain.checkpoint import RunState
from pretrain.compilation import compile_objective
from pretrain.config import PretrainConfig
from pretrain.engine import Engine
from pretrain.objective import Objective, Teacher, create_objective
from pretrain.optim import adamw
from pretrain.ranks import RankGroup, World
from pretrain.weights import load_initial
from shards import Manifest, PairReader
from shards.errors import FlickerError, UsageError

log = logging.getLogger(__name__)
Data = Manifest | Sequence[tuple[Manifest, float]]
"""One shard set, or several with their shares of the pairs."""


@dataclass
class Session:
    """What the loop works on."""

    engine: Engine
    reader: PairReader
    state: RunState
    objective: Objective
    """the module that the engine trains"""
    teacher: Teacher | None
    attention: Choice
    """the kernel of self-attention"""
    compiled: str
    """what torch.compile compiles: blocks, whole or off"""
    steps: int
    """Optimiser steps of the whole run."""


def open_session(config: PretrainConfig, data: Data, world: World) -> Session:
    """Build everything, and load the newest checkpoint where the run has one. Collective.

    Raises:
        UsageError: sizes that do not divide.
        FlickerError: a checkpoint of another architecture, of other data or of another seed; too few pairs; ranks
            that find different shards.
    """
    model = build_model(config)
    reader = _open_reader(config, data, world, model.config.image_size)
    found = _find_checkpoint(config, reader.digest)
    if world.size > 1:
        model.group = RankGroup(world)
    teacher = model.make_teacher(world.device)
    checkpoint_blocks(model, config.engine.activation_checkpointing)
    engine = Engine(model, adamw(model, config.optim), config.engine, world, micro_batch(config, world))
    compiled = compile_objective(model, config.engine.compile, world.device, config.engine.zero_stage)
    state = found[1] if found else RunState(seed=config.seed, data_digest=reader.digest)
    _check_ranks(engine, reader)
    if found:
        _continue(config, found[0], state, engine, reader, teacher)
    attention = _choose_attention(config, model, engine, state)
    state.config, state.model = asdict(config), config_to_dict(model.config)
    state.world, state.commit, state.versions = world.size, checkpoint.git_commit(), engines.describe()
    state.attention = attention.name
    steps = config.steps or math.ceil(config.epochs * reader.steps_per_epoch)
    return Session(engine, reader, state, model, teacher, attention, compiled, steps)


def _continue(
    config: PretrainConfig, tag: str, state: RunState, engine: Engine, reader: PairReader, teacher: Teacher | None
) -> None:
    """Load a checkpoint, whatever number of ranks and ZeRO stage wrote it."""
    root = Path(config.run) / "checkpoints"
    if state.world != engine.world.size:
        log.info("continuing %s from %d to %d rank(s)", tag, state.world, engine.world.size)
    engine.load(root, tag)
    reader.load_state_dict(state.reader)
    if teacher is not None:
        checkpoint.load_teacher(root / tag, teacher)
    log.info("continuing %s at step %d", config.run, state.step)


def _choose_attention(config: PretrainConfig, model: Objective, engine: Engine, state: RunState) -> Choice:
    """The attention kernel: the config's, that of the run so far, or the one that is fastest on rank 0. Collective.

    A continued run keeps its kernel, so that it ends with the same weights.
    """
    device, wanted = engine.world.device, config.engine.attention
    shapes = step_shapes(model.config, micro_batch(config, engine.world))
    if wanted == "auto" and state.attention:
        with suppress(UsageError):  # the run began on another kind of device
            return choose(device, shapes, engine.dtype, state.attention)
    names = sorted(BACKENDS)
    first = choose(device, shapes, engine.dtype, wanted) if engine.world.rank == 0 else None
    told = float(names.index(first.name)) if first else -1.0
    name = names[int(engine.host.max([told]).result()[0])]
    return first or choose(device, shapes, engine.dtype, name)


def build_model(config: PretrainConfig) -> Objective:
    """The model with weights drawn from the seed, or as far as they fit taken from `checkpoint.init`."""
    torch.manual_seed(config.seed)
    model = create_objective(config.model)
    if config.checkpoint.init:
        log.info("starting from %s", load_initial(model, config.checkpoint.init))
    return model


def micro_batch(config: PretrainConfig, world: World) -> int:
    """Pairs per rank and micro-batch. Raises UsageError if the global batch does not divide."""
    parts, batch = world.size * config.engine.accumulation, config.data.global_batch
    if batch % parts or batch < 1:
        raise UsageError(
            f"data.global_batch {batch} does not divide by {world.size} rank(s) x engine.accumulation "
            f"{config.engine.accumulation}; try {max(math.ceil(batch / parts), 1) * parts}"
        )
    return batch // parts


def _open_reader(config: PretrainConfig, manifests: Data, world: World, image_size: int) -> PairReader:
    data = config.data
    return PairReader(
        manifests,
        seed=config.seed,
        global_batch=data.global_batch,
        rank=world.rank,
        world=world.size,
        delta=data.delta,
        delta_unit=data.delta_unit,
        workers=data.workers,
        image_size=_size_read(config, manifests, image_size),
        window_frames=data.window_frames or None,
        pool=data.pool,
        max_bad=data.max_bad,
        allow_missing=data.allow_missing,
        pin=world.device.type == "cuda",
        cache_dir=data.cache_dir or None,
        cache_gb=data.cache_gb,
        timeout=data.reader_timeout,
    )


def _size_read(config: PretrainConfig, manifests: Data, image_size: int) -> int:
    """Side of the frames that the reader hands over, px.

    The model's where the whole frame is used; where it is cropped, the stored one, but no more than the smallest
    crop needs to have the model's size.
    """
    if not config.data.augment.crops:
        return image_size
    sets = [manifests] if isinstance(manifests, Manifest) else [manifest for manifest, _ in manifests]
    stored = max(int(manifest.options["size"]) for manifest in sets)
    return min(stored, math.ceil(image_size / math.sqrt(config.data.augment.crop_area[0])))


def _check_ranks(engine: Engine, reader: PairReader) -> None:
    """Every rank must see the same shards. Collective. Raises FlickerError."""
    own = float(int(reader.digest[:6], 16))  # 24 bits, exact in float32
    seen = engine.reduce(torch.tensor([own, -own], device=engine.world.device), "max").tolist()
    if seen != [own, -own]:
        raise FlickerError(
            "the ranks see different shards: give every node the same folder, without data.allow_missing where "
            "shards come and go"
        )


def _find_checkpoint(config: PretrainConfig, digest: str) -> tuple[str, RunState] | None:
    """The newest checkpoint's tag and state, checked to be of this run."""
    found = checkpoint.find_latest(Path(config.run))
    if found is None:
        return None
    if not config.checkpoint.resume:
        raise FlickerError(f"{config.run} has a checkpoint ({found[0]}); use another --run, or let it resume")
    folder = Path(config.run) / "checkpoints" / found[0]
    checkpoint.check_matches(found[1], config.model, digest, config.seed, folder)
    return found
