"""Many runs of a command without many imports: one process imports, and forks a child per run.

A child calls the same `launch.cli.run(main)` as the script and ends as any process does; it differs
from a process of its own only in that its modules are there already. As a module this is the importing process; it is
told what to do in lines of JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

PRETRAIN = "launch/pretrain.py"
LATE = (
    "pretrain.loop",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "deepspeed.checkpoint.ds_to_universal",
    "wandb.sdk.launch",
)
"""Modules that import what a run imports."""


class Forks:
    """The importing process, as the tests see it."""

    def __init__(self, repository: Path, environment: dict[str, str]):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.launch.forks"],
            cwd=repository,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def start(
        self, words: list[str], log: Path, *, script: str = PRETRAIN, errors: Path | None = None, **environment: str
    ) -> int:
        """Run `SCRIPT WORDS` with more environment, its process id at once; output is appended to `log`, that on
        stderr to `errors` where it is given."""
        files = {"log": str(log), "errors": str(errors or log)}
        return int(self._ask(words=words, script=script, environment=environment, **files))

    def wait(self, pid: int) -> int:
        """Wait for a run; its exit code, negative for a signal."""
        return int(self._ask(wait=pid))

    def run(self, words: list[str], log: Path, **environment: str) -> int:
        """Start and wait."""
        return self.wait(self.start(words, log, **environment))

    def command(self, script: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run `SCRIPT WORDS` to its end; its exit code and what it printed."""
        with tempfile.TemporaryDirectory() as folder:
            out, errors = Path(folder) / "out", Path(folder) / "errors"
            code = self.wait(self.start([*map(str, words)], out, script=script, errors=errors))
            return subprocess.CompletedProcess([script, *words], code, out.read_text(), errors.read_text())

    def close(self) -> None:
        """End the importing process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def _ask(self, **request: object) -> Any:
        assert self._process.stdin is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the importing process has ended"
        return json.loads(line)


@contextlib.contextmanager
def forks(repository: Path, environment: dict[str, str]) -> Iterator[Forks]:
    """An importing process for a block."""
    server = Forks(repository, environment)
    try:
        yield server
    finally:
        server.close()


def _serve(answers: TextIO) -> dict | None:
    """Answer requests; returns a request in the child that is to run it, None in the server at the end."""
    running = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            running.discard(request["wait"])
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                return request
            running.add(answer)
        print(json.dumps(answer), file=answers, flush=True)
    for pid in running:  # whoever asked for them is gone
        os.kill(pid, signal.SIGKILL)
    return None


def _become(request: dict) -> None:
    """Make this child what a process started with these words would be."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(request["environment"])
    output, errors = (os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND) for name in ("log", "errors"))
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (errors, 2)):
        os.dup2(source, target)
    sys.argv = [request["script"], *request["words"]]


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print while they are imported is no answer
    for late in LATE:
        importlib.import_module(late)
    from launch.cli import run

    assert threading.active_count() == 1 and len(list(Path("/proc/self/task").iterdir())) == 1, "forking is safe"
    print(json.dumps("ready"), file=answers, flush=True)
    task = _serve(answers)
    if task is not None:
        _become(task)
        module = task["script"].removesuffix(".py").replace("/", ".")
        run(importlib.import_module(module).main)
