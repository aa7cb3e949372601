"""PairReader: batches of frame pairs from a shard folder, in an order that nothing but its settings decides."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from shards.errors import FlickerError, UsageError
from shards.fetch import BadFrameError, Fetched, Fetcher, Ranges
from shards.index import load_frames
from shards.order import Order, Pairs
from shards.schema import Manifest

log = logging.getLogger(__name__)
REPLACEMENTS = 16  # pairs tried in place of an unreadable one


@dataclass
class PairBatch:
    """One rank's share of a global batch."""

    frames: torch.Tensor
    """uint8 [B 2 H W 3], RGB: I_t and I_{t+δ}"""
    seeds: torch.Tensor
    """int64 [B], a hash of (seed, epoch, global position): seeds everything random about the sample"""
    delta: torch.Tensor
    """int32 [B], frames from I_t to its partner"""
    keys: list[str]
    """`KEY/number` of each I_t"""


class PairReader:
    """Iterates over the rest of the current epoch, one PairBatch per step; then the next epoch can be iterated.

    Step k of epoch e holds the same pairs whatever `rank`, `world` and `workers`: rank r gets rows
    [r·B, (r+1)·B) of the global batch, B = global_batch / world. Every frame with a partner at δ (drawn from
    `delta`, in `delta_unit` "frames" or "ms") serves as I_t at most once per epoch.

    `workers` processes decode (0: this one); they start from a fork server, so a script that uses them must keep
    its top level behind `if __name__ == "__main__":`. `image_size` px (default: as stored); `window_shards`: how
    many shards are shuffled together; `max_bad`: distinct unreadable frames per stored frame above which reading
    fails. An unreadable frame's pair is replaced by another that the index and position choose.

    Raises FlickerError: missing or shortened shards, too few pairs, batch not divisible by world.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        seed: int,
        global_batch: int,
        rank: int = 0,
        world: int = 1,
        delta: tuple[float, float] = (5, 11),
        delta_unit: str = "frames",
        workers: int = 0,
        image_size: int | None = None,
        window_shards: int = 8,
        max_bad: float = 0.001,
    ):
        if world < 1 or not 0 <= rank < world:
            raise UsageError(f"rank {rank} of world {world}: rank must be 0 to world - 1")
        if global_batch < 1 or global_batch % world:
            raise UsageError(f"global batch {global_batch} does not divide by {world} ranks")
        if window_shards < 1 or workers < 0:
            raise UsageError(f"window_shards {window_shards} must be 1 or more, workers {workers} 0 or more")
        self.manifest, self.seed, self.global_batch = manifest, seed, global_batch
        self.rank, self.world, self.workers = rank, world, workers
        self.epoch = 0
        self.step = 0
        self.bad_frames: dict[str, str] = {}
        self.index = load_frames(manifest)
        self.order = Order(
            self.index,
            seed=seed,
            global_batch=global_batch,
            delta=(delta[0], delta[1]),
            delta_unit=delta_unit,
            window_shards=window_shards,
        )
        self._delta = f"{delta[0]:g}-{delta[1]:g} {delta_unit}"
        self._max_bad = math.ceil(max_bad * len(self.index))
        paths = [manifest.directory / name for name in self.index.shard_names]
        self._fetcher = Fetcher(paths, image_size or int(manifest.options["size"]))
        self._loader: DataLoader[Fetched] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches per epoch."""
        return self.order.steps_per_epoch

    @property
    def coverage(self) -> float:
        """Share of the stored frames that have a partner, so can serve as I_t."""
        return self.order.coverage

    def __iter__(self) -> Iterator[PairBatch]:
        batches = self._fetch_all()
        try:
            for step, fetched in enumerate(batches, start=self.step):
                batch = self._batch(self._pairs(step), fetched, step)
                self.step = step + 1
                yield batch
        except FlickerError:
            batches.close()
            self.close()
            raise
        self.epoch, self.step = self.epoch + 1, 0

    def close(self) -> None:
        """End the workers and close the files; iterating again starts them anew."""
        self._loader = None
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
        """Continue from a state. Raises FlickerError if it belongs to another manifest, seed, batch, δ or window."""
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
            "manifest": self.manifest.digest,
            "seed": self.seed,
            "global_batch": self.global_batch,
            "delta": self._delta,
            "window_shards": self.order.window_shards,
        }

    def _pairs(self, step: int) -> Pairs:
        """This rank's rows of a global batch of the current epoch."""
        share = self.global_batch // self.world
        return self.order.pairs(self.epoch, step, slice(self.rank * share, (self.rank + 1) * share))

    def _ranges(self, first: np.ndarray, delta: np.ndarray) -> Ranges:
        """Byte ranges of both frames of pairs, arrays [B 2]."""
        frames = np.stack([first, first + delta], axis=1)  # [B 2]
        index = self.index
        parts = (index.shard_of(frames), index.offset[frames], index.length[frames], index.crc[frames])
        return Ranges(*(part.astype(np.int64) for part in parts))

    def _fetch_all(self) -> Generator[Fetched, None, None]:
        """Fetched batches from the current step to the end of the epoch."""
        steps = _Steps(self)
        if self.workers == 0:
            yield from map(self._fetcher.__getitem__, steps)
            return
        if self._loader is None:
            self._loader = DataLoader(
                self._fetcher,  # type: ignore[arg-type]
                sampler=steps,  # type: ignore[arg-type]
                batch_size=None,
                num_workers=self.workers,
                collate_fn=_as_is,
                persistent_workers=True,
                multiprocessing_context=_server(),
                worker_init_fn=_one_thread,
            )
        yield from self._from_workers(iter(self._loader))

    def _from_workers(self, batches: Iterator[Fetched]) -> Iterator[Fetched]:
        """The workers' batches; a worker's death in one line."""
        while True:
            try:
                fetched = next(batches)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                self._loader = None
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise FlickerError(
                    f"a reader process died: {reason}; free memory or use fewer workers (a script of your own "
                    "must start under `if __name__ == '__main__':`)"
                ) from None
            yield fetched

    def _batch(self, pairs: Pairs, fetched: Fetched, step: int) -> PairBatch:
        """Names and seeds beside the pixels; unreadable pairs replaced."""
        if fetched.fault:
            raise FlickerError(fetched.fault)
        first, delta = pairs.first.copy(), pairs.delta.copy()
        for row in sorted({row for row, _, _ in fetched.bad}):
            for _, which, reason in (item for item in fetched.bad if item[0] == row):
                self._note_bad(int(first[row] + which * delta[row]), reason)
            position = step * self.global_batch + self.rank * len(first) + row
            first[row], delta[row] = self._replace(position, fetched.frames[row])
        return PairBatch(
            frames=fetched.frames,
            seeds=torch.from_numpy(pairs.seeds),
            delta=torch.from_numpy(delta),
            keys=[self.index.name(frame) for frame in first.tolist()],
        )

    def _replace(self, position: int, target: torch.Tensor) -> tuple[int, int]:
        """Fill `target` (uint8 [2 H W 3]) with another pair; returns its frame id and δ."""
        for attempt in range(REPLACEMENTS):
            first, delta = self.order.replacement(self.epoch, position, attempt)
            ranges = self._ranges(np.array([first]), np.array([delta]))
            fine = True
            for which in range(2):
                try:
                    self._fetcher.read(ranges, 0, which, target[which].numpy())
                except BadFrameError as error:
                    self._note_bad(first + which * delta, str(error))
                    fine = False
            if fine:
                return first, delta
        raise FlickerError(f"{self.manifest.directory}: {REPLACEMENTS} replacement pairs in a row are unreadable")

    def _note_bad(self, frame: int, reason: str) -> None:
        """Count and log an unreadable frame, once. Raises FlickerError above the limit."""
        name = self.index.name(frame)
        if name in self.bad_frames:
            return
        shard = self.index.shard_names[int(self.index.shard_of(np.array(frame)))]
        self.bad_frames[name] = reason
        log.warning("frame %s in %s is unreadable (%s): its pairs are replaced", name, shard, reason)
        if len(self.bad_frames) > self._max_bad:
            raise FlickerError(
                f"{self.manifest.directory}: {len(self.bad_frames)} unreadable frames, above max_bad; the last, "
                f"{name} in {shard}: {reason}; run launch/shard.py --verify and write the shards again"
            )


class _Steps(Sampler[Ranges]):
    """Byte ranges of every step from the reader's current one to the end of its epoch."""

    def __init__(self, reader: PairReader):
        self._reader = weakref.proxy(reader)  # a cycle would delay the end of the workers

    def __iter__(self) -> Iterator[Ranges]:
        reader = self._reader
        for step in range(reader.step, reader.steps_per_epoch):
            pairs = reader._pairs(step)
            yield reader._ranges(pairs.first, pairs.delta)

    def __len__(self) -> int:
        return self._reader.steps_per_epoch - self._reader.step


def _server() -> Any:
    """A fork server that has this module loaded: workers start fast and inherit neither threads nor locks."""
    context = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["shards.fetch"])
    return context


def _as_is(item: Any) -> Any:
    """No collation: an item is a batch already."""
    return item


def _one_thread(worker: int) -> None:
    """Workers resize with one thread each."""
    import cv2

    cv2.setNumThreads(1)
