"""The training loop: read, assemble, step, check, log, save."""

from __future__ import annotations

import logging
import math
import signal
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from pretrain import checkpoint
from pretrain.checkpoint import RunState
from pretrain.config import PretrainConfig
from pretrain.device import Fed, Feed
from pretrain.engine import World
from pretrain.meters import Meters
from pretrain.objective import Losses, Views
from pretrain.optim import learning_rate
from pretrain.pictures import write_png
from pretrain.probe import motion_auroc
from pretrain.startup import Data, micro_batch, open_session
from pretrain.tracking import Tracker
from shards import PairBatch
from shards.errors import FlickerError
from shards.progress import Progress
from shards.synthetic import motion_pairs

log = logging.getLogger(__name__)
COLLAPSED = 0.02  # spread of the contextual feature over the batch (its channels have unit variance) that warns
COLLAPSE_BATCH = 8  # smaller batches may well hold one face only
PROBE_PAIRS, PROBE_SIZE = 48, 96  # synthetic pairs of the motion probe, and the least size they are drawn at, pixels


def train(config: PretrainConfig, data: Data, world: World) -> RunState:
    """Train until the budget is used up, SIGTERM arrives, or a loss is not finite.

    `data` is one shard set, or several with their shares of the pairs; every rank calls it with the same arguments.
    Raises FlickerError (on every rank) for a non-finite loss or a checkpoint that does not fit, in which case the
    last checkpoint stays, and for data that some rank cannot read, after a checkpoint of what was trained.
    """
    trainer = Trainer(config, data, world)
    with _Termination() as termination:
        try:
            trainer.run(termination)
        except BaseException:
            trainer.tracker.close(exit_code=1)
            raise
        finally:
            trainer.feed.close()
            trainer.reader.close()
    trainer.tracker.close()
    return trainer.state


class _Termination:
    """Notes SIGTERM instead of dying of it, for the time of a `with` block."""

    def __enter__(self) -> _Termination:
        self.asked = False
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def __exit__(self, *exc: object) -> None:
        signal.signal(signal.SIGTERM, self._before)


class Trainer:
    """One rank's share of a run."""

    def __init__(self, config: PretrainConfig, data: Data, world: World):
        self.config, self.world, self.run_dir = config, world, Path(config.run)
        session = open_session(config, data, world)
        self.engine, self.reader, self.state = session.engine, session.reader, session.state
        self.objective, self.teacher, self.steps = session.objective, session.teacher, session.steps
        self.views = Views(config.swap, config.data.augment)
        self.feed = Feed(self.reader, world.device)
        self.micro_batch = micro_batch(config, world)
        self.meters = Meters(self.objective.config, world.device, world.size)
        first = world.rank == 0
        self.tracker = Tracker(self.run_dir, asdict(config), config.log.project, self.state.wandb_id, first)
        self.tracker.truncate(self.state.step)
        self.state.wandb_id = self.tracker.run_id
        self._probe: Any = None
        self._stopping = self._unreadable = False

    def run(self, termination: _Termination) -> None:
        """All steps that are left."""
        if self.state.step >= self.steps:
            log.info("nothing to do: %s has its %d steps", self.run_dir, self.steps)
            return
        if self.world.rank == 0:
            log.info(
                "%d steps of %d pairs, %d per epoch, %.1f %% of frames have a partner, %s",
                self.steps,
                self.config.data.global_batch,
                self.reader.steps_per_epoch,
                100 * self.reader.coverage,
                self.engine.precision,
            )
        if self.state.step == 0:
            self._log_probe()
            self.meters.restart()
        self._start_reading()
        quiet = self.world.rank != 0
        with Progress(self.steps, "pretraining", "steps", self.state.step, quiet) as progress:
            while self.state.step < self.steps:
                losses, batch = self._step(termination)
                progress.advance(1)
                if self._due(self.config.log.pictures):
                    self._show(batch, losses)
                last = self.state.step == self.steps
                if last or self._stopping or self._unreadable or self._due(self.config.checkpoint.every):
                    self._save()
                self._raise_unreadable()
                if self._stopping:
                    log.info("SIGTERM: saved step %d; the same command continues", self.state.step)
                    return

    def _start_reading(self) -> None:
        """The first batch; every rank learns whether one of them cannot read its own. Raises FlickerError."""
        self.feed.read_ahead()
        failed = torch.tensor([float(self.feed.failed)], device=self.world.device)
        self._unreadable = bool(self.engine.reduce(failed, "max"))
        self._raise_unreadable()

    def _due(self, every: int) -> bool:
        """Whether something done every so many steps (and at the last) is due now."""
        return every > 0 and (self.state.step % every == 0 or self.state.step == self.steps)

    def _step(self, termination: _Termination) -> tuple[Losses, Any]:
        """One optimiser step; updates state, logs when due."""
        fed = self.feed.take()
        pairs = fed.pairs
        self.meters.waited(fed.waited)
        rate = learning_rate(self.state.step, self.steps, self.config.optim)
        self.engine.set_learning_rate(rate)
        done: list[Losses] = []
        for part in range(self.config.engine.accumulation):
            rows = slice(part * self.micro_batch, (part + 1) * self.micro_batch)
            batch = self._batch(pairs.frames[rows], pairs.seeds[rows])
            losses = self.engine(batch)
            done.append(losses)
            if part == self.config.engine.accumulation - 1:
                if self.state.step + 1 < self.steps:
                    self.feed.read_ahead()  # while the device is busy with this step
                self._agree(done, pairs, termination)
            self.engine.backward(losses.total)
            self.engine.step()
        if self.teacher is not None:
            self.teacher.update(self.objective, self.state.step / self.steps)
        self.state.step += 1
        self.state.reader = fed.reader
        self.state.samples += self.config.data.global_batch
        self.meters.counted(self.config.data.global_batch)
        norm = self.engine.gradient_norm()
        if not math.isfinite(norm):
            raise FlickerError(self._diverged(f"the gradient norm of step {self.state.step} is {norm}", pairs))
        if self._due(self.config.log.every):
            self._log(done, rate, norm, fed)
        return done[-1], batch

    def _batch(self, frames: Tensor, seeds: Tensor) -> Any:
        """A batch from uint8 pairs, with the teacher's targets where there is one, in the engine's precision."""
        with torch.no_grad():
            batch = self.objective.views(frames, seeds, self.views)
            if self.teacher is not None:
                self.teacher.prepare(batch)
            return batch.to(self.engine.dtype)

    def _raise_unreadable(self) -> None:
        """Stop every rank where one of them cannot read its next batch. Raises FlickerError."""
        if self._unreadable and self.feed.failed:
            self.feed.take()
        if self._unreadable:
            raise FlickerError("another rank cannot read its next batch; its message says why")

    def _agree(self, losses: list[Losses], pairs: PairBatch, termination: _Termination) -> None:
        """Before the update: stop every rank if any loss is not finite; agree on SIGTERM and readers that failed."""
        finite = torch.stack([item.total.detach().float() for item in losses]).isfinite().all()
        told = torch.tensor([termination.asked, self.feed.failed], dtype=torch.float32)
        flags = torch.cat([(~finite).float()[None], told.to(finite.device)])
        bad, stop, unreadable = self.engine.reduce(flags, "max").tolist()
        self._stopping, self._unreadable = bool(stop), bool(unreadable)
        if bad:
            terms = ", ".join(f"{name} {float(value):.4g}" for name, value in losses[-1].terms.items())
            raise FlickerError(
                self._diverged(f"the loss of step {self.state.step + 1} is not finite ({terms})", pairs)
            )

    def _diverged(self, what: str, pairs: PairBatch) -> str:
        """What happened and what to do, in one line."""
        return (
            f"{what} on some rank (rank {self.world.rank} read {pairs.keys[0]} ...); nothing was saved after it: "
            f"lower optim.lr (now {self.config.optim.lr:g}), lengthen optim.warmup, or look at the frames; "
            f"the same command continues from the last checkpoint in {self.run_dir}"
        )

    def _log(self, losses: list[Losses], rate: float, norm: float, fed: Fed) -> None:
        """Means over micro-batches and ranks, the readers' counts over all ranks, and the meters, to the diary."""
        means = _means(losses)  # name -> []
        counts = torch.tensor([float(self.reader.counts[name]) for name in COUNTED], device=self.world.device)
        values = self.engine.reduce(torch.cat([torch.stack(list(means.values())), counts]), "mean").tolist()
        figures = dict(zip((*means, *COUNTED), values, strict=True))
        figures |= {name: round(figures[name] * self.world.size) for name in COUNTED}
        figures |= {"lr": rate, "grad_norm": norm, "epoch": fed.epoch + 0.0, **self.meters.read()}
        tell = self.micro_batch >= COLLAPSE_BATCH and self.objective.config.agreement.kind != "none"
        if tell and figures["cls_spread"] < COLLAPSED:
            text = (
                f"step {self.state.step}: the contextual feature hardly differs between faces (spread "
                f"{figures['cls_spread']:.4f}): collapse; lower model.agreement_weight, or use agreement.kind dino"
            )
            log.warning(text)
            self.tracker.alert("collapse", text)
        self.tracker.log(self.state.step, figures)

    def _show(self, batch: Any, losses: Losses) -> None:
        """Pictures and the motion probe, by rank 0."""
        if self.world.rank != 0:
            return
        image = self.objective.sheet(batch, losses)
        if image is not None:
            write_png(self.run_dir / "pictures" / f"step-{self.state.step}.png", image)
            self.tracker.picture(self.state.step, "pairs", image)
        self._log_probe()

    def _log_probe(self) -> None:
        """AUROC of the change map on synthetic faces of known motion, by rank 0 (not without DMA)."""
        module: Any = self.objective
        if self.world.rank != 0 or getattr(module, "attention", None) is None or not self.config.log.pictures:
            return
        if self._probe is None:
            size = max(self.objective.config.image_size, PROBE_SIZE)
            self._probe = motion_pairs(PROBE_PAIRS, size=size, seed=self.config.seed)
        self.tracker.log(self.state.step, motion_auroc(module, *self._probe))

    def _save(self) -> None:
        """A checkpoint of this step."""
        keep = self.config.checkpoint.keep
        checkpoint.save(self.run_dir, self.engine, self.state, self.objective.config, self.teacher, keep)


COUNTED = ("unreadable_frames", "replaced_pairs", "worker_restarts")


def _means(losses: list[Losses]) -> dict[str, Tensor]:
    """The loss, its terms and cls_spread, each averaged over micro-batches: float32 []."""
    rows = [{"loss": item.total, **item.terms, "cls_spread": item.cls_spread} for item in losses]
    return {name: torch.stack([row[name].detach().float() for row in rows]).mean() for name in rows[0]}
