"""The training loop: read, make views, step, agree, log, save."""

from __future__ import annotations

import logging
import signal
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from pretrain import checkpoint
from pretrain.attention import using
from pretrain.checkpoint import RunState
from pretrain.config import PretrainConfig
from pretrain.device import Fed, Feed
from pretrain.health import Health
from pretrain.labelled import LabelledSet
from pretrain.objective import Losses, Views
from pretrain.optim import learning_rate
from pretrain.ranks import World
from pretrain.reporting import Reporter
from pretrain.startup import Data, Session, micro_batch, open_session
from shards.errors import FlickerError
from shards.progress import Progress

log = logging.getLogger(__name__)


def train(config: PretrainConfig, data: Data, world: World, labelled: LabelledSet | None = None) -> RunState:
    """Train until the budget is used up, SIGTERM arrives, or a loss is not finite.

    `data` is one shard set, or several with their shares of the pairs; every rank calls it with the same arguments.
    `labelled` is looked at every `probe.every` steps; nothing is trained on it.

    Raises FlickerError (on every rank) for a non-finite loss or a checkpoint that does not fit, in which case the
    last checkpoint stays, for a checkpoint that cannot be written, and for data that some rank cannot read, after a
    checkpoint of what was trained.
    """
    session = open_session(config, data, world)
    trainer: Trainer | None = None
    failed = True
    try:
        with _Termination() as termination, using(session.attention):
            trainer = Trainer(config, session, termination, labelled)
            trainer.run()
        failed = False
    finally:
        if trainer is not None:
            trainer.reporter.close(failed)
            trainer.feed.close()
        session.reader.close()
        with suppress(FlickerError):  # of a run that has failed already; `run` has waited for the last checkpoint
            session.engine.close()
    return session.state


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

    def __init__(
        self, config: PretrainConfig, session: Session, termination: _Termination, labelled: LabelledSet | None
    ):
        self.config, self.session, self.termination = config, session, termination
        self.engine, self.state, self.steps = session.engine, session.state, session.steps
        self.world, self.run_dir = session.engine.world, Path(config.run)
        self.views = Views(config.swap, config.data.augment)
        self.micro_batch = micro_batch(config, self.world)
        self.feed = Feed(session.reader, self.world.device)
        self.reporter = Reporter(config, session, labelled)
        self.meters = self.reporter.meters
        self.health = Health(self.world.device)
        self._saved_at = time.monotonic()
        self._stopping = self._unreadable = self._overdue = False

    def run(self) -> None:
        """All steps that are left."""
        if self.state.step >= self.steps:
            log.info("nothing to do: %s has its %d steps", self.run_dir, self.steps)
            return
        self._announce()
        if self.state.step == 0:
            self.reporter.motion(0)
            if self.config.probe.every:
                self.reporter.probe(0)
        self.meters.restart()
        self._start_reading()
        with Progress(self.steps, "pretraining", "steps", self.state.step, self.world.rank != 0) as progress:
            while self.state.step < self.steps and not self._stopping:
                self._advance()
                progress.advance(1)
        self.engine.saved()
        if self._stopping:
            log.info("SIGTERM: saved step %d; the same command continues", self.state.step)

    def _announce(self) -> None:
        """What is going to be done."""
        reader = self.session.reader
        log.info(
            "%d steps of %d pairs, %d per epoch, %.1f %% of frames have a partner, %s, attention %s, compile %s",
            self.steps,
            self.config.data.global_batch,
            reader.steps_per_epoch,
            100 * reader.coverage,
            self.engine.precision,
            self.session.attention,
            self.session.compiled,
        )

    def _start_reading(self) -> None:
        """The first batch; every rank learns whether one of them cannot read its own. Raises FlickerError."""
        self.feed.read_ahead()
        self._unreadable = bool(self.engine.host.max([float(self.feed.failed)]).result()[0])
        self._raise_unreadable()

    def _due(self, every: int) -> bool:
        """Whether something done every so many steps (and at the last) is due now."""
        return every > 0 and (self.state.step % every == 0 or self.state.step == self.steps)

    def _advance(self) -> None:
        """One step and what is due after it."""
        losses, batch, fed, rate = self._step()
        self.reporter.step(self.state.step)
        self._agree()
        if self._due(self.config.log.every):
            more = {"lr": rate, "grad_norm": self.engine.gradient_norm(), "epoch": float(fed.epoch)}
            self.reporter.figures(self.state.step, losses, more)
        if self._due(self.config.log.pictures):
            self.reporter.show(self.state.step, batch, losses[-1])
        if self._due(self.config.probe.every):
            self.reporter.probe(self.state.step)
        if self._saves():
            self._save()
        self._raise_unreadable()

    def _step(self) -> tuple[list[Losses], Any, Fed, float]:
        """One optimiser step. On a GPU it is queued, not waited for; the next batch is read meanwhile."""
        self.meters.phase("data")
        fed = self.feed.take()
        self.meters.waited(fed.waited)
        rate = learning_rate(self.state.step, self.steps, self.config.optim)
        self.engine.set_learning_rate(rate)
        done: list[Losses] = []
        batch: Any = None
        for part in range(self.config.engine.accumulation):
            rows = slice(part * self.micro_batch, (part + 1) * self.micro_batch)
            self.meters.phase("forward")
            batch = self._batch(fed.pairs.frames[rows], fed.pairs.seeds[rows])
            losses = self.engine(batch)
            done.append(losses)
            self.meters.phase("backward")
            self.engine.backward(losses.total)
            self.engine.step()
        if self.session.teacher is not None:
            with self.engine.whole_weights() as student:
                self.session.teacher.update(student, (self.state.step + 1) / self.steps)
        self.state.step += 1
        self.state.reader = fed.reader
        self.state.samples += self.config.data.global_batch
        figures = {f"loss {i}": item.total for i, item in enumerate(done)}
        figures["gradient norm"] = self.engine.gradient_norm_tensor()
        self.health.note(self.state.step, figures, fed.pairs.keys[0])
        if self.state.step < self.steps:
            self.meters.phase("data")
            self.feed.read_ahead()
        self.meters.counted(self.config.data.global_batch)
        return done, batch, fed, rate

    def _batch(self, frames: Tensor, seeds: Tensor) -> Any:
        """A batch from uint8 pairs, with the teacher's targets where there is one, in the engine's precision."""
        with torch.no_grad():
            batch = self.session.objective.views(frames, seeds, self.views)
            if self.session.teacher is not None:
                self.session.teacher.prepare(batch)
            return batch.to(self.engine.dtype)

    def _agree(self) -> None:
        """All ranks learn what one of them knows. Raises FlickerError on all where a loss was not finite.

        The facts travel between hosts, not devices. On a GPU a loss is looked at one step late, but always before
        anything is logged or saved.
        """
        bad = self.health.bad(all_steps=self._due(self.config.log.every) or self._saves())
        age = time.monotonic() - self._saved_at
        overdue = self.world.rank == 0 and 0 < 60 * self.config.checkpoint.minutes <= age
        facts = (self.termination.asked, self.feed.failed, overdue, self.engine.save_failed, bad is not None)
        told = self.engine.host.max([float(fact) for fact in facts]).result()
        self._stopping, self._unreadable, self._overdue, unsaved, broken = (bool(value) for value in told)
        if not broken and self._saves() and (late := self.health.bad(all_steps=True)):
            bad = late  # this rank's newest step; the gradient's norm is that of all ranks, so they all see it
        if broken or bad:
            raise FlickerError(self._diverged(bad))
        if unsaved:
            self.engine.saved()

    def _saves(self) -> bool:
        """Whether this step ends with a checkpoint."""
        now = self._stopping or self._unreadable or self._overdue
        return now or self.state.step == self.steps or self._due(self.config.checkpoint.every)

    def _diverged(self, bad: str | None) -> str:
        """What happened and what to do, in one line."""
        return (
            f"{bad or 'another rank has a loss that is not finite; its message says which'}; nothing was saved after "
            f"it: lower optim.lr (now {self.config.optim.lr:g}), lengthen optim.warmup, or look at the frames; the "
            f"same command continues from the last checkpoint in {self.run_dir}"
        )

    def _raise_unreadable(self) -> None:
        """Stop every rank where one of them cannot read its next batch. Raises FlickerError."""
        if self._unreadable:
            self.engine.saved()
            if self.feed.failed:
                self.feed.take()
            raise FlickerError("another rank cannot read its next batch; its message says why")

    def _save(self) -> None:
        """A checkpoint of this step; its files are written while training goes on."""
        with self.reporter.busy("checkpoint"):
            checkpoint.save(self.run_dir, self.session, self.config.checkpoint.keep)
        self._saved_at, self._overdue = time.monotonic(), False
