"""A short soak; `python tests/shards/soak.py --minutes 30` is the long one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_nothing_is_lost_wrong_or_growing_while_everything_goes_wrong(repository: Path) -> None:
    command = [sys.executable, "tests/shards/soak.py", "--minutes", "2", "--size", "96"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads(done.stdout)
    assert report["replaced"] > 0 and report["worker_restarts"] > 0 and report["epochs"] > 0
