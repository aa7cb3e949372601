"""What a pretraining run will take, before it is started: `launch/pretrain.py --dry-run`.

Formulas and measured rates alone: no GPU, no process group, no file is written.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.cli import parse
from shards.errors import UsageError
from shards.files import read_json

if TYPE_CHECKING:
    from pretrain.config import PretrainConfig
    from pretrain.estimate import Memory, Parameters
    from shards import Manifest

FLAGS = ("--dry-run", "--dry_run")
READ_PAIRS = {False: 2340.0, True: 3527.0}
"""Pairs per second that a core reads at 224 px, without and with data.pool: measured on an AMD EPYC, docs/data.md."""
FRAME_BYTES = 16.1e3 * 1.05
"""Bytes that a frame of 224 px takes in shards: docs/data.md."""
READ_SIDE = 224
PAPER_MFU = 0.095
"""Of Micron-BERT's own training: 8 M pairs x 100 epochs in 3 days on 32 A100."""
BANDWIDTH = 25e9
"""Bytes per second between GPUs that the exchange is compared with: a 200 Gb/s network."""
SYNTHETIC = (80, 48)
"""Videos, and frames of each, that launch/pretrain.py makes where no shards are given."""
WIDTH = 100


@dataclass(frozen=True)
class Dry:
    """What a dry run assumes."""

    gpu: str = "H200"
    """Kind of GPU: H200, H100, A100, L40S, A10, V100 or 4090."""
    gpus: int = 8
    """How many."""
    price: float = 0.0
    """Price of one GPU for one hour, in any currency; 0: no costs are shown."""
    mfu: tuple[float, ...] = (0.5, 0.3, PAPER_MFU)
    """Shares of the GPU's peak rate that the time is stated for (0.095 is the paper's own)."""
    pairs: int = 0
    """Pairs per epoch, where no shards are at hand to count them in."""


def take(arguments: list[str]) -> tuple[Dry | None, list[str]]:
    """(what `--dry-run` and `--dry.KEY VALUE` say, or None without them, the other arguments)."""
    own: list[str] = []
    rest: list[str] = []
    asked, waiting = False, False
    for word in arguments:
        if word in FLAGS:
            asked = True
        elif waiting or word.startswith("--dry."):
            own.append(word)
            waiting = not waiting and "=" not in word
        else:
            rest.append(word)
    if own and not asked:
        raise UsageError("--dry.* is for a dry run: add --dry-run")
    if not asked:
        return None, rest
    if {"-h", "--help"} & set(rest):
        own.append("--help")
    return parse(_Options, own, command="launch/pretrain.py --dry-run", description=__doc__ or "").dry, rest


@dataclass(frozen=True)
class _Options:
    """The arguments of a dry run beside those of training."""

    dry: Dry = field(default_factory=Dry)
    """What it assumes."""


@dataclass(frozen=True)
class Course:
    """How long a run is."""

    steps: int
    per_epoch: int
    """steps; 0 where nobody knows"""
    batch: int
    """pairs per step"""
    micro_batch: int
    """pairs per GPU and forward pass"""
    source: str
    side: int
    """of the stored frames, pixels"""
    bytes: float
    """of the shards"""

    @property
    def pairs(self) -> int:
        """All that the run trains on."""
        return self.steps * self.batch


Data = Sequence[tuple["Manifest", float]]


def plan(config: PretrainConfig, dry: Dry, data: Data = ()) -> str:
    """The plan as text of at most 100 columns.

    Args:
        data: the manifests to train on, with their shares; none: `dry.pairs`, or the synthetic faces.

    Raises UsageError: an unknown GPU, a batch that does not divide by the GPUs, a run without an end.
    """
    from pretrain.estimate import count_parameters, estimate_memory
    from pretrain.flops import PEAK, pair_flops

    if dry.gpu not in PEAK:
        raise UsageError(f"dry.gpu '{dry.gpu}' is not known: give one of {', '.join(PEAK)}")
    if dry.gpus < 1 or dry.price < 0 or not all(0 < share <= 1 for share in dry.mfu):
        raise UsageError("dry.gpus must be 1 or more, dry.price 0 or more, dry.mfu shares of 1")
    course = _course(config, dry, data)
    parameters = count_parameters(config.model)
    flops = pair_flops(config.model)
    memory = estimate_memory(config, parameters, dry.gpus, course.side, _bucket(config))
    lines = [f"Plan of {config.run}; nothing is trained or written.", ""]
    lines += _model(config, parameters)
    lines += _work(config, course, flops, dry)
    lines += _memory(config, course, memory, dry)
    lines += _speed(course, PEAK[dry.gpu] / flops, dry, config.data.pool)
    lines += _exchange(config, parameters, course, PEAK[dry.gpu] / flops, dry)
    lines += _disk(config, parameters, course)
    return "\n".join(lines)


def _course(config: PretrainConfig, dry: Dry, data: Data) -> Course:
    """Steps, batches and data of the run."""
    from pretrain.architecture import resolve

    image, batch = resolve(config.model).image_size, config.data.global_batch
    parts = dry.gpus * config.engine.accumulation
    if batch % parts or batch < 1:
        raise UsageError(
            f"data.global_batch {batch} does not divide by {dry.gpus} GPU(s) x engine.accumulation "
            f"{config.engine.accumulation}; try {max(math.ceil(batch / parts), 1) * parts}"
        )
    side, stored = image, 0.0
    if data:
        per_epoch = _count_steps(config, data, image)
        frames = sum(manifest.frames for manifest, _ in data)
        side = max(int(manifest.options["size"]) for manifest, _ in data)
        stored = float(sum(manifest.bytes for manifest, _ in data))
        source = f"{frames:,} frames of {side} px in {', '.join(manifest.name for manifest, _ in data)}"
    else:
        pairs = dry.pairs or SYNTHETIC[0] * max(SYNTHETIC[1] - int(config.data.delta[0]), 0)
        per_epoch, stored = pairs // batch, pairs * FRAME_BYTES * (image / READ_SIDE) ** 2
        source = f"{pairs:,} pairs per epoch as given" if dry.pairs else f"{pairs:,} pairs of synthetic faces"
    steps = config.steps or math.ceil(config.epochs * per_epoch)
    if steps < 1:
        raise UsageError(f"an epoch has fewer pairs than data.global_batch {batch}: lower it, or give more data")
    return Course(steps, per_epoch, batch, batch // parts, source, side, stored)


def _count_steps(config: PretrainConfig, data: Data, image: int) -> int:
    """Steps per epoch, as training counts them."""
    from shards import PairReader

    reader = PairReader(
        data,
        seed=config.seed,
        global_batch=config.data.global_batch,
        delta=config.data.delta,
        delta_unit=config.data.delta_unit,
        image_size=image,
        window_frames=config.data.window_frames or (8192 if config.data.pool else None),
        allow_missing=config.data.allow_missing,
        cache_dir=config.data.cache_dir or None,
    )
    try:
        return reader.steps_per_epoch
    finally:
        reader.close()


def _bucket(config: PretrainConfig) -> int:
    """Elements of DeepSpeed's gradient buffer: as the user's JSON says, or the engine."""
    from pretrain.engine import BUCKET

    path = config.engine.deepspeed_config
    settings = read_json(Path(path), "DeepSpeed config") if path else {}
    return int(settings.get("zero_optimization", {}).get("reduce_bucket_size", BUCKET))


def _model(config: PretrainConfig, parameters: Parameters) -> list[str]:
    from pretrain.architecture import resolve

    c = resolve(config.model)
    names = {"attention": "DMA", "dino": "DINO head"}
    parts = ", ".join(f"{names.get(part, part)} {_millions(count)}" for part, count in parameters.trained.items())
    extra = f"; not trained: {_millions(parameters.fixed)}"
    if parameters.teacher:
        extra += f", teacher {_millions(parameters.teacher)}"
    sizes = (
        f"{c.objective}, {c.image_size} px, patch {c.patch_size}, {(c.image_size // c.patch_size) ** 2} patches, "
        f"width {c.dim}, {c.depth} blocks"
    )
    return [*_entry("model", sizes), *_entry("parameters", f"{_millions(parameters.total)}: {parts}{extra}")]


def _work(config: PretrainConfig, course: Course, flops: float, dry: Dry) -> list[str]:
    accumulation = config.engine.accumulation
    parts = f"{dry.gpus} GPU(s) x {course.micro_batch}"
    parts += f" x {accumulation} micro-batches" if accumulation > 1 else ""
    epochs = f", {course.per_epoch:,} per epoch" if course.per_epoch else ""
    passes = f" = {course.steps / course.per_epoch:.4g} epochs" if course.per_epoch else ""
    return [
        *_entry("data", course.source),
        *_entry("steps", f"{course.steps:,}{epochs}{passes}; {course.batch:,} pairs each: {parts}"),
        *_entry(
            "work",
            f"{flops / 1e9:.1f} GFLOP per pair, forward and backward; x {course.pairs:,} pairs = "
            f"{_scaled(flops * course.pairs, 'FLOP')}",
        ),
    ]


def _memory(config: PretrainConfig, course: Course, memory: Memory, dry: Dry) -> list[str]:
    from pretrain.estimate import MEMORY, weight_bytes

    room, pairs = MEMORY[dry.gpu], course.micro_batch
    precision = "bf16" if weight_bytes(config) == 2 else "fp32"
    engine = config.engine
    options = f"{precision}, ZeRO-{engine.zero_stage}" + (
        ", checkpointing" if engine.activation_checkpointing else ""
    )
    lines = [
        "",
        *_entry("memory", f"per GPU, {dry.gpu} with {room / 1e9:.0f} GB; {options}; an estimate, uncompiled"),
    ]
    rows = [(name, size, "") for name, size in memory.per_run.items()]
    rows += [(name, size * pairs, f"{pairs} x {_mb(size)} MB") for name, size in memory.per_pair.items()]
    lines += [f"  {name:<34}{_mb(size):>10} MB   {note}".rstrip() for name, size, note in rows]
    total, most = memory.total(pairs), memory.most_pairs(room)
    verdict = f"{total / room:.0%} of the GPU" if total <= room else "does not fit: lower the micro-batch"
    verdict += f"; at most about {most:,} pairs at a time fit" if most else "; not even one pair fits"
    return [*lines, f"  {'in all':<34}{_mb(total):>10} MB   {verdict}"]


def _speed(course: Course, full_rate: float, dry: Dry, pool: bool) -> list[str]:
    """Time, cost and readers at each assumed MFU; `full_rate` is pairs/s of a GPU at its peak."""
    per_core = READ_PAIRS[pool] * (READ_SIDE / course.side) ** 2
    title = f"{'MFU':>7}{'pairs/s/GPU':>13}{'pairs/s':>11}{'time':>12}{'GPU-hours':>12}"
    title += f"{'cost':>12}" if dry.price else ""
    lines = ["", *_entry("time", f"on {dry.gpus} x {dry.gpu}, for assumed shares of its peak rate (MFU)")]
    lines += [f"  {title}{'JPEG/s/GPU':>12}{'readers/GPU':>13}"]
    for share in dry.mfu:
        rate = share * full_rate
        seconds = course.pairs / (rate * dry.gpus)
        hours = seconds / 3600 * dry.gpus
        row = f"{share:>7.1%}{rate:>13,.0f}{rate * dry.gpus:>11,.0f}{_time(seconds):>12}{hours:>12,.1f}"
        row += f"{hours * dry.price:>12,.0f}" if dry.price else ""
        lines.append(f"  {row}{2 * rate:>12,.0f}{math.ceil(rate / per_core):>13}")
    what = "frames decoded once (data.pool)" if pool else "two frames a pair"
    scaled = "measured: " if course.side == READ_SIDE else f"by area from {READ_SIDE} px, measured: "
    lines += _note(
        f"{PAPER_MFU:.1%} is the paper's own MFU. Steps alone: checkpoints, pictures and waiting are not in it. "
        f"Readers are data.workers at {per_core:,.0f} pairs/s per core ({what}; {scaled}docs/data.md)."
    )
    return lines


def _exchange(
    config: PretrainConfig, parameters: Parameters, course: Course, full_rate: float, dry: Dry
) -> list[str]:
    from pretrain.estimate import exchanged_bytes

    if dry.gpus == 1:
        return []
    sent = exchanged_bytes(config, parameters, dry.gpus)
    step = course.batch / dry.gpus / (dry.mfu[0] * full_rate)
    share = sent / BANDWIDTH / step
    text = (
        f"{_mb(sent)} MB per GPU and step: {share:.1%} of a step of {step * 1e3:,.3g} ms ({dry.mfu[0]:.0%} MFU) at "
        f"{BANDWIDTH / 1e9:.0f} GB/s, if nothing overlaps"
    )
    return ["", *_entry("exchange", text)]


def _disk(config: PretrainConfig, parameters: Parameters, course: Course) -> list[str]:
    from pretrain.estimate import checkpoint_bytes

    one, keep = checkpoint_bytes(config, parameters), config.checkpoint.keep
    text = (
        f"shards {_scaled(course.bytes, 'B')}; {keep} checkpoints of {_scaled(one, 'B')} and one being written: "
        f"{_scaled((keep + 1) * one, 'B')}"
    )
    return _entry("disk", text)


def _entry(name: str, text: str) -> list[str]:
    """A name and its text, wrapped."""
    return _wrapped(text, f"{name:<14}", " " * 14)


def _note(text: str) -> list[str]:
    return _wrapped(text, "  ", "  ")


def _wrapped(text: str, first: str, later: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=later, break_long_words=True, break_on_hyphens=False
    )


def _millions(count: int) -> str:
    """At most four digits."""
    return f"{count / 1e6:.2f} M" if count >= 1e4 else f"{count}"


def _mb(size: float) -> str:
    return f"{size / 1e6:,.0f}" if size >= 1e7 else f"{size / 1e6:,.2f}"


def _scaled(number: float, unit: str) -> str:
    """With the prefix that leaves one to three digits: 136 GB, 245.9 EFLOP."""
    for prefix in ("", "k", "M", "G", "T", "P", "E", "Z"):
        if number < 999.5 or prefix == "Z":
            return f"{number:.3g} {prefix}{unit}"
        number /= 1e3
    raise AssertionError


def _time(seconds: float) -> str:
    """Seconds, minutes, hours or days."""
    if seconds < 1:
        return "< 1 s"
    limits: tuple[tuple[float, float, str], ...] = ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h"))
    for limit, unit, name in limits:
        if seconds < limit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds / 86400:.1f} days"


def print_plan(config: PretrainConfig, dry: Dry, data: Any = ()) -> None:
    """`plan` on stdout; `data` is one manifest, several with their shares, or none."""
    print(plan(config, dry, data if isinstance(data, list | tuple) else [(data, 1.0)]))
