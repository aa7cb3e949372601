"""PairReader: batches of frame pairs from shards, in an order that nothing but its settings decides."""

from __future__ import annotations

import logging
import math
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shards.errors import FlickerError, UsageError
from shards.fetch import Bad, BadFrameError
from shards.manifest import Manifest
from shards.mixture import Mixture, StepPlan
from shards.ring import Ring
from shards.worker import make_fetcher
from shards.workers import WorkerGroup

log = logging.getLogger(__name__)
REPLACEMENTS = 16  # pairs tried in place of an unreadable one
AHEAD = 3  # batches that workers fill before they are asked for
HELD = 3  # batches that a caller may hold on to at once; beyond, they are copied


@dataclass
class PairBatch:
    """One rank's share of a global batch."""

    frames: torch.Tensor
    """uint8 [B 2 H W 3], RGB: I_t and I_{t+δ}; a view of reused memory, valid for as long as it is held"""
    seeds: torch.Tensor
    """int64 [B], a hash of (seed, epoch, global position): seeds everything random about the sample"""
    delta: torch.Tensor
    """int32 [B], frames from I_t to its partner"""
    _keys: Callable[[], list[str]]

    @property
    def keys(self) -> list[str]:
        """`KEY/number` of each I_t."""
        return self._keys()


class PairReader:
    """Iterates over the rest of the current epoch, one PairBatch per step; then the next epoch can be iterated.

    Step k of epoch e holds the same pairs whatever `rank`, `world` and `workers`: rank r gets rows
    [r·B, (r+1)·B) of the global batch, B = global_batch / world. Every frame with a partner at δ (drawn from
    `delta`, in `delta_unit` "frames" or "ms") serves as I_t at most once per epoch.

    Args:
        manifest: a shard set, or several with their weights (shares of every global batch).
        workers: processes that decode (0: this one).
        image_size: side of the frames, px (default: as stored).
        window_frames: frames I_t that are shuffled together, over all ranks (default 131072; with `pool` 8192).
        pool: decode each frame once per window, as I_t and as partner; keeps up to window_frames / world decoded
            frames in memory (150 KB each at 224 px).
        max_bad: distinct unreadable frames per stored frame above which reading fails. An unreadable frame's pair
            is replaced by another that the index and the position choose.
        allow_missing: leave out shards that are missing; this changes the order (and `digest`).
        pin: page-lock the batches' memory, for copies to a GPU.
        cache_dir, cache_gb: where and how much of remote shards is kept on disk.
        timeout: seconds after which a worker that does not answer is replaced (a server is asked for longer than
            two minutes before it counts as down, which ends reading).

    Raises FlickerError: missing or shortened shards, too few pairs; UsageError: batch not divisible by world, δ, ….
    """

    def __init__(
        self,
        manifest: Manifest | Sequence[tuple[Manifest, float]],
        *,
        seed: int,
        global_batch: int,
        rank: int = 0,
        world: int = 1,
        delta: tuple[float, float] = (5, 11),
        delta_unit: str = "frames",
        workers: int = 0,
        image_size: int | None = None,
        window_frames: int | None = None,
        pool: bool = False,
        max_bad: float = 0.001,
        allow_missing: bool = False,
        pin: bool = False,
        cache_dir: str | Path | None = None,
        cache_gb: float = 8.0,
        timeout: float = 180.0,
    ):
        if world < 1 or not 0 <= rank < world:
            raise UsageError(f"rank {rank} of world {world}: rank must be 0 to world - 1")
        if global_batch < 1 or global_batch % world:
            fitting = [size for size in range(1, 2 * world) if global_batch % size == 0]
            raise UsageError(
                f"global batch {global_batch} does not divide by {world} ranks; it does by "
                f"{', '.join(map(str, fitting))}"
            )
        if workers < 0 or timeout <= 0 or (window_frames is not None and window_frames < 1):
            raise UsageError(f"workers {workers}, timeout {timeout} s or window_frames {window_frames} is too small")
        self.seed, self.global_batch, self.rank, self.world = seed, global_batch, rank, world
        self.epoch = 0
        self.step = 0
        self.bad_frames: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        """unreadable_frames, replaced_pairs, missing_partners, worker_restarts, slow_waits so far"""
        share = global_batch // world
        self._sets = Mixture(
            [(manifest, 1.0)] if isinstance(manifest, Manifest) else list(manifest),
            seed=seed,
            global_batch=global_batch,
            rows=slice(rank * share, (rank + 1) * share),
            processes=workers,
            delta=(delta[0], delta[1]),
            delta_unit=delta_unit,
            window_frames=window_frames or (8192 if pool else 131072),
            pool=pool,
            allow_missing=allow_missing,
            cache={"cache_dir": None if cache_dir is None else str(cache_dir), "cache_bytes": int(cache_gb * 2**30)},
        )
        self._delta = f"{delta[0]:g}-{delta[1]:g} {delta_unit}"
        self._max_bad = math.ceil(max_bad * self._sets.frames)
        self._setup = self._sets.setup(image_size or self._sets.size)
        self._fetcher = make_fetcher(self._setup | {"held": 0 if workers else self._setup["held"]})
        self._size, self._pin, self._timeout = int(self._setup["size"]), pin, timeout
        self._ring: Ring | None = None
        self._workers: WorkerGroup | None = None

    @property
    def digest(self) -> str:
        """Names the data: the manifest's digest, or one over all sets, weights and missing shards."""
        return self._sets.digest

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches per epoch."""
        return self._sets.steps_per_epoch

    @property
    def coverage(self) -> float:
        """Share of the stored frames that have a partner, so can serve as I_t."""
        return self._sets.coverage

    @property
    def processes(self) -> list[int]:
        """Process ids of the workers, while they run."""
        return self._workers.processes if self._workers else []

    def __iter__(self) -> Iterator[PairBatch]:
        self._open()
        try:
            batches = self._from_workers() if self._workers else self._in_process()
            for plan, frames, bad in batches:
                batch = self._batch(plan, frames, bad)
                self.step = plan.step + 1
                yield batch
                del batch, frames  # so that the slot is handed back as soon as the caller lets go
        except FlickerError:
            self.close()
            raise
        self.epoch, self.step = self.epoch + 1, 0

    def close(self) -> None:
        """End the workers and close the files; iterating again starts them anew."""
        if self._workers:
            self._workers.close()
        self._workers = self._ring = None
        self._fetcher.close()

    def state_dict(self) -> dict[str, Any]:
        """Where the reader is (plain ints and strings), and what its order depends on."""
        done = self.step >= self.steps_per_epoch
        return {
            "epoch": self.epoch + done,
            "step": 0 if done else self.step,
            **self._settings(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state. Raises FlickerError if it belongs to other data, seed, batch, δ or window."""
        for name, now in self._settings().items():
            if state.get(name) != now:
                raise FlickerError(
                    f"the reader's saved state has {name} {state.get(name)}, this run {now}: "
                    "resume with the same data and settings, or start a new run"
                )
        self.epoch, self.step = int(state["epoch"]), int(state["step"])

    def _settings(self) -> dict[str, Any]:
        """What the sequence of pairs depends on."""
        return {
            "manifest": self.digest,
            "seed": self.seed,
            "global_batch": self.global_batch,
            "delta": self._delta,
            "window_frames": self._sets.window_frames,
        }

    def _open(self) -> None:
        """The ring and the workers, where they are not there yet."""
        if self._ring is None:
            workers = len(self._sets.parts) if self._sets.processes else 0
            self._ring = Ring((AHEAD if workers else 1) + HELD, self.global_batch // self.world, self._size)
            if self._pin:
                _page_lock(self._ring.slots)
            if workers:
                self._workers = WorkerGroup(self._sets.parts, self._ring, self._setup, self._timeout, self.counts)

    def _in_process(self) -> Iterator[tuple[StepPlan, torch.Tensor, list[Bad]]]:
        """Batches decoded by this process."""
        assert self._ring is not None
        for step in range(self.step, self.steps_per_epoch):
            plan = self._plan(step)
            for ahead in self._sets.hints(self.epoch, step, step == self.step):
                self._fetcher.hint(ahead)
            slot = self._ring.take()
            bad = self._fetcher.fill(plan.where, plan.slots, self._ring.slots[slot])
            yield plan, self._lend(slot), bad

    def _from_workers(self) -> Iterator[tuple[StepPlan, torch.Tensor, list[Bad]]]:
        """Batches decoded by the workers, AHEAD of them on their way."""
        assert self._ring is not None and self._workers is not None
        waiting: deque[tuple[StepPlan, int]] = deque()
        group, ring, first, ahead = self._workers, self._ring, self.step, self.step
        try:
            while waiting or ahead < self.steps_per_epoch:
                while len(waiting) < AHEAD and ahead < self.steps_per_epoch and ring.free:
                    plan, slot = self._plan(ahead), ring.take()
                    hints = self._sets.hints(self.epoch, ahead, ahead == first)
                    group.submit(ahead, slot, plan.where, plan.slots, hints)
                    waiting.append((plan, slot))
                    ahead += 1
                plan, slot = waiting[0]
                bad = group.collect(plan.step)
                waiting.popleft()
                yield plan, self._lend(slot), bad
        except GeneratorExit:  # the caller stopped early, or the reader was closed
            for plan, slot in waiting if self._workers is group else ():
                group.collect(plan.step)
                ring.give(slot)
            raise

    def _lend(self, slot: int) -> torch.Tensor:
        """The slot as a tensor: a view of it, or a copy where the caller holds on to HELD batches already."""
        assert self._ring is not None
        frames = torch.from_numpy(self._ring.lease(slot))
        filling = self._workers.outstanding if self._workers else 0
        leased = len(self._ring.slots) - self._ring.free - filling
        return frames if leased <= HELD else frames.clone()

    def _plan(self, step: int) -> StepPlan:
        """The pairs of this rank in a step; partners in missing shards are replaced here."""
        plan = self._sets.plan(self.epoch, step)
        for row in plan.missing:
            self.counts["missing_partners"] += 1
            self._substitute(plan, row, None)
        return plan

    def _batch(self, plan: StepPlan, frames: torch.Tensor, bad: list[Bad]) -> PairBatch:
        """Names and seeds beside the pixels; unreadable pairs replaced."""
        for row, which, reason in sorted(bad):
            self._note_bad(plan, row, which, reason)
        for row in sorted({row for row, _, _ in bad}):
            self.counts["replaced_pairs"] += 1
            self._substitute(plan, row, frames[row].numpy())
        return PairBatch(
            frames=frames,
            seeds=torch.from_numpy(plan.seeds),
            delta=torch.from_numpy(plan.delta),
            _keys=lambda: [self._sets.key(plan, row) for row in range(len(plan.delta))],
        )

    def _substitute(self, plan: StepPlan, row: int, target: NDArray[np.uint8] | None) -> None:
        """Another pair in row `row` of the plan; read into `target` (uint8 [2 H W 3]) where it is given."""
        for attempt in range(REPLACEMENTS):
            if self._sets.replace(plan, row, attempt) and (target is None or self._read(plan, row, target)):
                return
        raise FlickerError(f"{self._sets.name}: {REPLACEMENTS} replacement pairs in a row are unreadable")

    def _read(self, plan: StepPlan, row: int, target: NDArray[np.uint8]) -> bool:
        """Both frames of a pair; whether they could be had."""
        fine = True
        for which in range(2):
            try:
                shard, offset, length, crc = plan.where[:, row, which].tolist()
                self._fetcher.read(shard, offset, length, crc, target[which])
            except BadFrameError as error:
                self._note_bad(plan, row, which, str(error))
                fine = False
        return fine

    def _note_bad(self, plan: StepPlan, row: int, which: int, reason: str) -> None:
        """Count and log an unreadable frame, once. Raises FlickerError above the limit."""
        name = self._sets.frame_name(plan, row, which)
        if name in self.bad_frames:
            return
        self.bad_frames[name] = reason
        self.counts["unreadable_frames"] += 1
        log.warning("%s is unreadable (%s): its pairs are replaced", name, reason)
        if len(self.bad_frames) > self._max_bad:
            raise FlickerError(
                f"{self._sets.name}: {len(self.bad_frames)} unreadable frames, above max_bad; the last, {name}: "
                f"{reason}; run launch/shard.py --verify and write the shards again"
            )


def _page_lock(memory: NDArray[np.uint8]) -> None:
    """Page-lock shared memory, so that a GPU copies from it while the program goes on. Raises FlickerError."""
    runtime: Any = torch.cuda.cudart()
    if int(runtime.cudaHostRegister(memory.ctypes.data, memory.nbytes, 0)):
        raise FlickerError(f"cannot page-lock {memory.nbytes / 1e6:.0f} MB for batches: raise the limit (ulimit -l)")
    weakref.finalize(memory.base, runtime.cudaHostUnregister, memory.ctypes.data)  # views hold the base, not `memory`
