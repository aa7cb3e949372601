"""A file of JSON lines, one per step, that a resumed run continues."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shards.files import write_text


class Lines:
    """Appends `{"step": ..., ...}` to a file; one process does."""

    def __init__(self, path: Path):
        self._path = path

    def append(self, step: int, values: dict[str, Any]) -> None:
        """One line."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def truncate(self, step: int) -> None:
        """Forget the lines after `step`: a resumed run writes them again."""
        if not self._path.is_file():
            return
        kept = []
        for line in self._path.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (json.JSONDecodeError, KeyError):
                continue  # a line cut off by a kill
        write_text(self._path, "".join(line + "\n" for line in kept))
