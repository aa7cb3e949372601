"""Measuring in a process of its own, so that nothing before it counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from shards.errors import FlickerError

ROOT = Path(__file__).resolve().parent.parent.parent
MARK = "RESULT "


def run(module: str, given: dict[str, Any], threads: int, fault: str) -> Any:
    """What `python -m module JSON` told, with `given` as JSON. Raises FlickerError: `fault` and its last words."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", module, json.dumps(given)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not found:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise FlickerError(f"{fault}: {last}")
    return json.loads(found[-1][len(MARK) :])


def tell(result: Any) -> None:
    """In that process: hand over what was measured."""
    print(MARK + json.dumps(result), flush=True)
