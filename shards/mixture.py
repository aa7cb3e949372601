"""One or several shard sets as one sequence of batches: each set gives a fixed share of every global batch."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import FlickerError, UsageError
from shards.locations import open_store
from shards.manifest import Manifest
from shards.order import I64, SAMPLE, mix
from shards.plan import Planner, Window
from shards.schema import canonical, shard_name
from shards.store import Store

log = logging.getLogger(__name__)
LISTED = 20  # faulty shards that a message names


@dataclass
class StepPlan:
    """The pairs of one rank in one step; arrays [B], `where` [4 B 2] with shard numbers over all sets."""

    epoch: int
    step: int
    set: NDArray[np.int32]
    shard: NDArray[np.int32]
    """within the set"""
    clip: NDArray[np.int32]
    position: NDArray[np.int32]
    delta: NDArray[np.int32]
    where: NDArray[np.int64]
    slots: NDArray[np.int32] | None
    seeds: NDArray[np.int64]
    missing: list[int]
    """rows whose partner lies in a missing shard"""


class Mixture:
    """The rows `rows` of every global batch over shard sets with weights.

    Set i gives round(weight_i · global_batch) rows of every batch (largest remainders), spread evenly over the rows.
    An epoch has as many steps as all sets together have whole batches; each set goes through its own frames again
    and again. See `PairReader` for the arguments. Raises FlickerError, UsageError.
    """

    def __init__(
        self,
        sets: Sequence[tuple[Manifest, float]],
        *,
        seed: int,
        global_batch: int,
        rows: slice,
        processes: int,
        delta: tuple[float, float],
        delta_unit: str,
        window_frames: int,
        pool: bool,
        allow_missing: bool,
        cache: dict[str, Any],
    ):
        self.manifests = [manifest for manifest, _ in sets]
        self.processes, self.seed, self.global_batch, self.window_frames = (
            processes,
            seed,
            global_batch,
            window_frames,
        )
        shares = batch_shares([weight for _, weight in sets], global_batch)
        pattern = interleave(shares)  # [global_batch]
        self.set = pattern[rows].astype(np.int32)
        self.positions = np.arange(rows.start, rows.stop)
        self.parts = split(len(self.set), max(processes, 1))
        self.stores = [open_store(m.location, version=m.digest, **cache) for m in self.manifests]
        self.absent = [_check(m, store, allow_missing) for m, store in zip(self.manifests, self.stores, strict=True)]
        self.held = -(-window_frames * len(self.set) // global_batch // len(self.parts)) if pool else 0
        self.planners = [
            Planner(
                self.manifests[n],
                self.stores[n],
                seed=seed,
                global_batch=shares[n],
                rows=slice(*(int((pattern[:end] == n).sum()) for end in (rows.start, rows.stop))),
                parts=[slice(*(int((self.set[:end] == n).sum()) for end in (p.start, p.stop))) for p in self.parts],
                held=self.held * shares[n] // global_batch,
                delta=delta,
                delta_unit=delta_unit,
                window_frames=max(1, window_frames * shares[n] // global_batch),
                absent=self.absent[n],
            )
            for n in range(len(sets))
        ]
        self.digest = _digest(self.manifests, [weight for _, weight in sets], self.absent)
        self._first = np.concatenate([[0], np.cumsum([len(m.shards) for m in self.manifests])])
        self._held_before = np.concatenate([[0], np.cumsum([planner.held for planner in self.planners])])

    @property
    def name(self) -> str:
        """The sets' places, for messages."""
        return ", ".join(manifest.name for manifest in self.manifests)

    @property
    def frames(self) -> int:
        """Stored frames of all sets."""
        return sum(manifest.frames for manifest in self.manifests)

    @property
    def size(self) -> int:
        """Side of the stored frames, px. Raises UsageError where the sets differ."""
        sizes = {int(manifest.options["size"]) for manifest in self.manifests}
        if len(sizes) > 1:
            raise UsageError(f"{self.name} hold frames of {sorted(sizes)} px: give image_size")
        return sizes.pop()

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches that all sets have together."""
        return sum(planner.order.total for planner in self.planners) // self.global_batch

    @property
    def coverage(self) -> float:
        """Share of the stored frames that have a partner."""
        return sum(p.coverage * m.frames for p, m in zip(self.planners, self.manifests, strict=True)) / self.frames

    def setup(self, size: int) -> dict[str, Any]:
        """What a process needs to fetch frames: plain values."""
        return {
            "stores": [store.arguments() for store in self.stores],
            "counts": [len(manifest.shards) for manifest in self.manifests],
            "size": size,
            "held": sum(planner.held for planner in self.planners),
        }

    def plan(self, epoch: int, step: int) -> StepPlan:
        """The pairs of a step."""
        parts = [planner.step(*self._own(n, epoch, step)) for n, planner in enumerate(self.planners)]
        joined = StepPlan(
            epoch=epoch,
            step=step,
            set=self.set,
            shard=self._join([window.shard[at] for window, at in parts]),
            clip=self._join([window.clip[at] for window, at in parts]),
            position=self._join([window.position[at] for window, at in parts]),
            delta=self._join([window.delta[at] for window, at in parts]),
            where=self._join([w.where[:, at] + self._shift(n) for n, (w, at) in enumerate(parts)], 1),
            slots=self._join([self._slots(n, w, at) for n, (w, at) in enumerate(parts)]) if self.held else None,
            seeds=self._seeds(epoch, step),
            missing=[],
        )
        joined.missing = self._missing(joined)
        return joined

    def hints(self, epoch: int, step: int, begin: bool) -> list[NDArray[np.int64]]:
        """Per process [n 3], byte ranges that will be read soon: a part of the next window's, step by step; with
        `begin` also those of this window, if reading them one by one would be slow."""
        found: list[list[NDArray[np.int64]]] = [[] for _ in self.parts]
        for n, planner in enumerate(self.planners):
            at = self._own(n, epoch, step)
            window, row = planner.step(*at)
            ahead = planner.following(*at)
            for part in range(len(self.parts)):
                pieces = [window.spans[part]] if begin and self.stores[n].remote else []
                if ahead is not None:
                    spans = ahead.spans[part]
                    pieces.append(spans[len(spans) * row // len(window) : len(spans) * (row + 1) // len(window)])
                found[part] += [piece + self._shift(n)[:3, 0, 0] for piece in pieces]
        return [np.concatenate(pieces) if pieces else np.zeros((0, 3), np.int64) for pieces in found]

    def replace(self, plan: StepPlan, row: int, attempt: int) -> bool:
        """Put another pair of the same set in row `row`; False where its partner lies in a missing shard too."""
        n = int(plan.set[row])
        planner = self.planners[n]
        epoch, step = self._own(n, plan.epoch, plan.step)
        nth = planner.rows.start + int((plan.set[:row] == n).sum())
        place = planner.order.replacement(epoch, step * planner.order.global_batch + nth, attempt)
        window = planner.resolve(epoch, np.array([[place]]))
        for name in ("shard", "clip", "position", "delta"):
            getattr(plan, name)[row] = getattr(window, name)[0, 0]
        plan.where[:, row] = window.where[:, 0, 0] + self._shift(n)[:, 0]
        if plan.slots is not None:
            plan.slots[row] = -1
        return not {int(shard) - int(self._first[n]) for shard in plan.where[0, row]} & self.absent[n]

    def key(self, plan: StepPlan, row: int) -> str:
        """`KEY/number` of a pair's I_t."""
        planner = self.planners[int(plan.set[row])]
        return planner.key(int(plan.shard[row]), int(plan.clip[row]), int(plan.position[row]))

    def frame_name(self, plan: StepPlan, row: int, which: int) -> str:
        """Source, number and place of a frame of a pair."""
        n = int(plan.set[row])
        position = int(plan.position[row]) + which * int(plan.delta[row])
        source = self.planners[n].source(int(plan.shard[row]), int(plan.clip[row]), position)
        shard = int(plan.where[0, row, which]) - int(self._first[n])
        place = f"{shard_name(shard)}.tar, byte {int(plan.where[1, row, which])}"
        return f"{source} in {self.manifests[n].name} ({place})"

    def _own(self, n: int, epoch: int, step: int) -> tuple[int, int]:
        """A set's own epoch and step: it starts again when its frames are used up."""
        if len(self.planners) == 1:
            return epoch, step
        return divmod(epoch * self.steps_per_epoch + step, self.planners[n].order.steps_per_epoch)

    def _join(self, parts: list[NDArray[Any]], axis: int = 0) -> NDArray[Any]:
        """Rows of all sets in the batch's order; always a copy."""
        shape = list(parts[0].shape)
        shape[axis] = len(self.set)
        joined = np.empty(shape, parts[0].dtype)
        for n, part in enumerate(parts):
            rows: Any = np.flatnonzero(self.set == n) if len(parts) > 1 else slice(None)
            joined[(slice(None),) * axis + (rows,)] = part
        return joined

    def _shift(self, n: int) -> NDArray[np.int64]:
        """What turns a set's shard numbers into those over all sets: [4 1 1]."""
        return np.array([self._first[n], 0, 0, 0], np.int64).reshape(4, 1, 1)

    def _slots(self, n: int, window: Window, at: int) -> NDArray[np.int32]:
        """A set's slots among those of all sets, [B 2]."""
        assert window.slots is not None
        slots = window.slots[at]
        return np.where(slots < 0, slots, slots + int(self._held_before[n])).astype(np.int32)

    def _seeds(self, epoch: int, step: int) -> I64:
        """One seed per pair, [B], 0 to 2^63 - 1."""
        positions = step * self.global_batch + self.positions
        return (mix(self.seed, epoch, positions, SAMPLE) >> np.uint64(1)).astype(np.int64)

    def _missing(self, plan: StepPlan) -> list[int]:
        """Rows whose partner lies in a missing shard."""
        lost = [int(self._first[n]) + shard for n, absent in enumerate(self.absent) for shard in absent]
        return np.flatnonzero(np.isin(plan.where[0], lost).any(1)).tolist() if lost else []


def batch_shares(weights: Sequence[float], global_batch: int) -> list[int]:
    """Rows of every global batch for each weight, by largest remainders. Raises UsageError where one gets none."""
    if not weights or any(not weight > 0 for weight in weights):
        raise UsageError(f"weights {list(weights)} of shard sets: give each a weight above 0")
    exact = np.array(weights, np.float64) / sum(weights) * global_batch
    shares = np.floor(exact).astype(int)
    for n in np.argsort(shares - exact, kind="stable")[: global_batch - shares.sum()]:
        shares[n] += 1
    if not shares.all():
        raise UsageError(f"weights {list(weights)} leave a shard set without a row in a batch of {global_batch}")
    return shares.tolist()  # type: ignore[no-any-return]


def interleave(shares: Sequence[int]) -> NDArray[np.int64]:
    """Which set each row of a batch belongs to, the sets spread evenly: [sum of shares]."""
    at = np.concatenate([(np.arange(share) + 0.5) / share for share in shares])
    return np.repeat(np.arange(len(shares)), shares)[np.argsort(at, kind="stable")]


def split(rows: int, processes: int) -> list[slice]:
    """Rows in consecutive parts of nearly equal size, none empty."""
    ends = [rows * n // min(processes, rows) for n in range(min(processes, rows) + 1)]
    return [slice(low, high) for low, high in itertools.pairwise(ends)]


def _check(manifest: Manifest, store: Store, allow_missing: bool) -> frozenset[int]:
    """Numbers of the missing shards. Raises FlickerError naming them unless they may be missing."""
    names, indexes = manifest.shards.text("name"), manifest.shards.text("index")
    wrong = [name for n, name in enumerate(names) if name != f"{shard_name(n)}.tar"]
    if wrong:
        raise FlickerError(f"{manifest.name}: shard {wrong[0]} is out of order in the manifest: write it again")
    sizes = store.sizes([*names, *indexes])
    if sizes is None:
        return frozenset()  # cannot be listed: what is missing shows when it is read
    faults = {}
    expected = zip(names, indexes, manifest.shards.numbers("bytes"), strict=True)
    for number, (name, index, listed) in enumerate(expected):
        size = sizes.get(name)
        if size is None or index not in sizes:
            faults[number] = f"{name if size is None else index} is missing"
        elif size != listed:
            faults[number] = f"{name} has {size} bytes, not {listed}"
    if faults and not allow_missing:
        first = "; ".join(list(faults.values())[:LISTED])
        more = f"; and {len(faults) - LISTED} more" if len(faults) > LISTED else ""
        raise FlickerError(
            f"{manifest.name}: {first}{more}: restore the files, write the folder again, or leave these shards "
            "out with allow_missing"
        )
    for fault in faults.values():
        log.warning("%s: %s: left out", manifest.name, fault)
    return frozenset(faults)


def _digest(manifests: Sequence[Manifest], weights: Sequence[float], absent: Sequence[frozenset[int]]) -> str:
    """The manifest's digest for a single whole set, else a hash over sets, shares and missing shards."""
    if len(manifests) == 1 and not absent[0]:
        return manifests[0].digest
    total = sum(weights)
    parts = [
        [manifest.digest, round(weight / total, 9), sorted(lost)]
        for manifest, weight, lost in zip(manifests, weights, absent, strict=True)
    ]
    return hashlib.sha256(canonical(parts)).hexdigest()
