"""The run's diary: log.jsonl always, wandb beside it (offline unless the user says otherwise)."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import wandb

from pretrain.lines import Lines
from shards.errors import FlickerError

log = logging.getLogger(__name__)


class Tracker:
    """Rank 0's diary; on other ranks every method does nothing.

    wandb reads WANDB_MODE (offline where unset), WANDB_PROJECT, WANDB_RUN_GROUP and WANDB_RUN_ID. `run_id` is
    the id found in a checkpoint, so that a resumed run continues the same wandb run; `group` the group where
    WANDB_RUN_GROUP names none.
    """

    def __init__(
        self,
        run: Path,
        config: dict[str, Any],
        project: str,
        run_id: str | None,
        active: bool,
        group: str | None = None,
    ):
        self.run_id, self._lines, self._active = run_id, Lines(run / "log.jsonl"), active
        self._wandb: Any = None
        if not active:
            return
        os.environ.setdefault("WANDB_SILENT", "true")
        try:
            self._wandb = wandb.init(
                project=os.environ.get("WANDB_PROJECT", project),
                id=os.environ.get("WANDB_RUN_ID", run_id),
                group=os.environ.get("WANDB_RUN_GROUP", group),
                dir=run,
                name=run.name,
                config=config,
                mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
                resume="allow",
                settings=wandb.Settings(console="off"),
            )
        except (wandb.errors.Error, OSError) as error:
            reason = str(error).splitlines()[0]
            raise FlickerError(f"wandb cannot start: {reason}; WANDB_MODE=offline needs no account") from None
        self.run_id = self._wandb.id

    def truncate(self, step: int) -> None:
        """Forget log lines after `step`: a resumed run writes them again."""
        if self._active:
            self._lines.truncate(step)

    def log(self, step: int, values: dict[str, float]) -> None:
        """One line of figures."""
        if self._active:
            self._lines.append(step, values)
        self._tell(lambda run: run.log(values, step=step))

    def show(self, values: dict[str, Any], step: int | None = None) -> None:
        """Figures for wandb alone."""
        self._tell(lambda run: run.log(values, step=step))

    def table(self, name: str, columns: list[Any], rows: list[Any]) -> None:
        """A table for wandb."""
        self._tell(lambda run: run.log({name: wandb.Table(columns=columns, data=rows)}))

    def confusion(self, name: str, counts: np.ndarray, classes: list[str]) -> None:
        """A confusion matrix for wandb, counts int [C C], row = truth."""
        truth, predicted = (np.repeat(axis.ravel(), counts.ravel()).tolist() for axis in np.indices(counts.shape))
        self._tell(
            lambda run: run.log(
                {name: wandb.plot.confusion_matrix(y_true=truth, preds=predicted, class_names=classes, title=name)}
            )
        )

    def summary(self, values: dict[str, Any]) -> None:
        """What wandb shows of the whole run."""
        self._tell(lambda run: run.summary.update(values))

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """A picture, uint8 [H W 3] RGB."""
        self._tell(lambda run: run.log({name: wandb.Image(image)}, step=step))

    def alert(self, title: str, text: str) -> None:
        """A warning that wandb forwards to the run's owner."""
        self._tell(lambda run: run.alert(title=title, text=text, wait_duration=3600))

    def close(self, exit_code: int = 0) -> None:
        """Finish the wandb run."""
        self._tell(lambda run: run.finish(exit_code=exit_code))
        self._wandb = None

    def _tell(self, action: Callable[[Any], object]) -> None:
        """Do something with wandb's run; if wandb fails, say so once and go on without it.

        Its service is a process of its own, which a launcher's or a cluster's SIGTERM also ends: the training run,
        which has a checkpoint to write then, must not die of that.
        """
        if self._wandb is None:
            return
        try:
            action(self._wandb)
        except Exception as error:  # whatever it is, training matters more
            self._wandb = None
            log.warning("wandb stopped (%s); log.jsonl goes on", type(error).__name__)
            with contextlib.suppress(Exception):
                wandb.teardown(exit_code=1)
