"""The run's diary: log.jsonl always, wandb beside it (offline unless the user says otherwise)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import wandb

from shards.errors import FlickerError
from shards.files import write_text


class Tracker:
    """Rank 0's diary; on other ranks every method does nothing.

    wandb reads WANDB_MODE (offline where unset), WANDB_PROJECT, WANDB_RUN_GROUP and WANDB_RUN_ID. `run_id` is
    the id found in a checkpoint, so that a resumed run continues the same wandb run.
    """

    def __init__(self, run: Path, config: dict[str, Any], project: str, run_id: str | None, active: bool):
        self.run_id, self._wandb, self._path = run_id, None, run / "log.jsonl"
        if not active:
            return
        os.environ.setdefault("WANDB_SILENT", "true")
        try:
            self._wandb = wandb.init(
                project=os.environ.get("WANDB_PROJECT", project),
                id=os.environ.get("WANDB_RUN_ID", run_id),
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
        if self._wandb is None or not self._path.is_file():
            return
        kept = []
        for line in self._path.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (json.JSONDecodeError, KeyError):
                continue  # a line cut off by a kill
        write_text(self._path, "".join(line + "\n" for line in kept))

    def log(self, step: int, values: dict[str, float]) -> None:
        """One line of figures."""
        if self._wandb is None:
            return
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        self._wandb.log(values, step=step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """A picture, uint8 [H W 3] RGB."""
        if self._wandb is not None:
            self._wandb.log({name: wandb.Image(image)}, step=step)

    def alert(self, title: str, text: str) -> None:
        """A warning that wandb forwards to the run's owner."""
        if self._wandb is not None:
            self._wandb.alert(title=title, text=text, wait_duration=3600)

    def close(self, exit_code: int = 0) -> None:
        """Finish the wandb run."""
        if self._wandb is not None:
            self._wandb.finish(exit_code=exit_code)
            self._wandb = None
