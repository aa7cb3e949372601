"""What a run tells while it runs: figures, pictures, probes, alerts. Rank 0 writes; every rank calls everything."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.config import PretrainConfig
from pretrain.labelled import LabelledSet, labelled_probe
from pretrain.meters import Meters
from pretrain.objective import Losses
from pretrain.pictures import write_png
from pretrain.probe import motion_auroc
from pretrain.startup import Session, micro_batch
from pretrain.stragglers import Stragglers
from pretrain.tracking import Tracker
from pretrain.watch import NO_COLLAPSE, Limits, Watch
from shards.synthetic import motion_pairs

log = logging.getLogger(__name__)
COLLAPSE_BATCH = 8  # smaller batches may well hold one face only
PROBE_PAIRS, PROBE_SIZE = 48, 96  # synthetic pairs of the motion probe, and the least size they are drawn at, pixels
COUNTED = ("unreadable_frames", "replaced_pairs", "worker_restarts")


class Reporter:
    """One rank's part in the run's diary. Collective."""

    def __init__(self, config: PretrainConfig, session: Session, labelled: LabelledSet | None):
        self.config, self.session, self.labelled = config, session, labelled
        self.run_dir, self.first = Path(config.run), session.engine.world.rank == 0
        world, state = session.engine.world, session.state
        self.meters = Meters(session.objective.config, world.device, world.size)
        self.tracker = Tracker(self.run_dir, asdict(config), config.log.project, state.wandb_id, self.first)
        self.stragglers = Stragglers(self.run_dir, session.engine.gather_floats, world.rank)
        self.tracker.truncate(state.step)
        self.stragglers.truncate(state.step)
        state.wandb_id = self.tracker.run_id
        watched = session.objective.can_collapse and micro_batch(config, world) >= COLLAPSE_BATCH
        self._watch = Watch(
            self.tracker.alert,
            self.run_dir,
            world.rank,
            hosts=self.stragglers.hosts,
            workers=config.data.workers,
            limits=Limits() if watched else Limits(cls_spread=NO_COLLAPSE),
        )
        self._pairs: Any = None

    def busy(self, what: str) -> AbstractContextManager[None]:
        """For what takes longer than a step and is none."""
        return self._watch.busy(what)

    def step(self, step: int) -> None:
        """A step has ended."""
        self._watch.step(step)

    def figures(self, step: int, losses: list[Losses], more: dict[str, float]) -> None:
        """A log line: means over micro-batches and ranks, the readers' counts over all ranks, meters, `more`."""
        engine = self.session.engine
        means = _means(losses)  # name -> []
        counts = [float(self.session.reader.counts[name]) for name in COUNTED]
        values = torch.cat([torch.stack(list(means.values())), torch.tensor(counts).to(engine.world.device)])
        figures = dict(zip((*means, *COUNTED), engine.reduce(values, "mean").tolist(), strict=True))
        figures |= {name: round(figures[name] * engine.world.size) for name in COUNTED}
        own = self.meters.read()
        figures |= {**more, **own, **self.stragglers.compare(step, own)}
        self._watch.figures(step, figures)
        self.tracker.log(step, figures)

    def show(self, step: int, batch: Any, losses: Losses) -> None:
        """Pictures of the batch, and the motion probe."""
        with self.busy("pictures"):
            image = self.session.objective.sheet(batch, losses) if self.first else None
            if image is not None:
                write_png(self.run_dir / "pictures" / f"step-{step}.png", image)
                self.tracker.picture(step, "pairs", image)
            self.motion(step)

    def motion(self, step: int) -> None:
        """AUROC of the change map on synthetic faces of known motion (not without DMA)."""
        if getattr(self.session.objective, "attention", None) is None or not self.config.log.pictures:
            return
        with self.session.engine.whole_weights() as module:
            if not self.first:
                return
            if self._pairs is None:
                size = max(self.session.objective.config.image_size, PROBE_SIZE)
                self._pairs = motion_pairs(PROBE_PAIRS, size=size, seed=self.config.seed)
            self.tracker.log(step, motion_auroc(module, *self._pairs))  # type: ignore[arg-type]

    def probe(self, step: int) -> None:
        """k-NN and linear probe of the frozen encoder on the labelled clips, where there are some."""
        if self.labelled is None:
            return
        with self.busy("probe"), self.session.engine.whole_weights() as module:
            if self.first:
                encoder: Any = module.encoder
                figures = labelled_probe(encoder, self.labelled)
                text = ", ".join(f"{name} {value:.3f}" for name, value in figures.items() if "clips" not in name)
                log.info("step %d: probe on %d clips: %s", step, len(self.labelled.labels), text)
                self.tracker.log(step, {f"probe/{name}": value for name, value in figures.items()})

    def close(self, failed: bool) -> None:
        """End the watching, and the wandb run."""
        self._watch.close()
        self.tracker.close(exit_code=int(failed))


def _means(losses: list[Losses]) -> dict[str, Tensor]:
    """The loss, its terms and cls_spread, each averaged over micro-batches: float32 []."""
    rows = [{"loss": item.total, **item.terms, "cls_spread": item.cls_spread} for item in losses]
    return {name: torch.stack([row[name].detach().float() for row in rows]).mean() for name in rows[0]}
