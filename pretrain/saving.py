"""Checkpoint files written while training goes on: the state is copied to host memory, a thread writes it.

`HostMemory` makes the copies, `Writer` owns the thread. One writing at a time. On several ranks every rank writes its
own files; the threads then agree that all succeeded before one of them completes the checkpoint (renames its folder),
so that a checkpoint of which any byte is missing is never complete.
"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shards.errors import FlickerError
from shards.files import to_disk

Agree = Callable[[bool], bool]
"""Whether every rank says yes; called by every rank's thread in the same order."""


class HostMemory:
    """Host copies of tensors, in buffers that are used again for the next copy; page-locked for a GPU's tensors."""

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []
        self._used = 0
        self._copied: Any = None

    def restart(self) -> None:
        """The next copies may overwrite the earlier ones."""
        self._used = 0
        self._copied = None

    def copy(self, tree: Any) -> Any:
        """The same nest of dicts, lists and tuples with every tensor on the host, and no part shared with `tree`.

        Copies from a GPU are queued behind its work: `ready` waits for them.
        """
        if isinstance(tree, Tensor):
            return self._copy(tree.detach())
        if isinstance(tree, dict):
            same = copy.copy(tree)  # its class, and attributes such as a state dict's _metadata
            for key, value in tree.items():
                same[key] = self.copy(value)
            return same
        if type(tree) in (list, tuple):
            return type(tree)(self.copy(value) for value in tree)
        return copy.deepcopy(tree)

    def _copy(self, tensor: Tensor) -> Tensor:
        """One tensor, contiguous."""
        on_gpu = tensor.device.type == "cuda"
        if self._used == len(self._buffers):
            self._buffers.append(torch.empty(0))
        buffer = self._buffers[self._used]
        if buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=on_gpu)
            self._buffers[self._used] = buffer
        self._used += 1
        buffer.copy_(tensor, non_blocking=on_gpu)
        if on_gpu:
            self._copied = torch.cuda.Event() if self._copied is None else self._copied
            self._copied.record()
        return buffer

    def ready(self) -> None:
        """Wait until every copy is there. May be called by another thread."""
        if self._copied is not None:
            self._copied.synchronize()


class Writer:
    """Writes one checkpoint at a time in a thread of its own."""

    def __init__(self, agree: Agree = bool):
        self._agree = agree
        self._thread: threading.Thread | None = None
        self._error: FlickerError | None = None

    @property
    def busy(self) -> bool:
        """Whether files are being written now, by this rank or by those it waits for."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def failed(self) -> bool:
        """Whether the last writing has ended without a complete checkpoint; `wait` says why."""
        return self._error is not None and not self.busy

    def start(self, folder: Path, write: Callable[[], None], complete: Callable[[], None] | None = None) -> None:
        """Write in the background, after the writing before it. Collective: every rank calls it.

        Args:
            folder: where, for messages.
            write: writes this rank's files.
            complete: makes the checkpoint valid; called once all ranks have written, on the ranks that give it.

        Raises FlickerError if the writing before it failed.
        """
        self.wait()
        self._thread = threading.Thread(
            target=self._run, args=(folder, write, complete), name="checkpoint", daemon=True
        )
        self._thread.start()

    def wait(self, seconds: float | None = None) -> None:
        """Until nothing is being written (at most so long). Raises FlickerError, once, if the writing failed."""
        if self._thread is not None:
            self._thread.join(seconds)
        error, self._error = (None, self._error) if self.busy else (self._error, None)
        if error is not None:
            raise error

    def _run(self, folder: Path, write: Callable[[], None], complete: Callable[[], None] | None) -> None:
        """The thread: write, agree, complete, agree."""
        reason, advice = "", "mend this (is the disk full?), and the same command continues from there"
        for job in (write, complete):
            try:
                if job is not None:
                    job()
            except Exception as error:
                reason = " ".join(str(error).split())[:300] or type(error).__name__
            try:
                together = self._agree(not reason)
            except RuntimeError as error:  # the connection to a rank that ended
                reason, together = reason or f"another rank has gone ({str(error).splitlines()[0][:200]})", False
                advice = "the same command continues from there, on any number of ranks"
            if not together:
                reason = reason or "another rank could not write its part; its message says why"
                self._error = FlickerError(
                    f"cannot write checkpoint {folder}: {reason}; the one before it is whole: {advice}"
                )
                return


def write_files(files: Iterable[tuple[Any, Path]]) -> None:
    """torch.save of each (nest of tensors, path), down to the disk. Raises OSError or RuntimeError."""
    folders = set()
    for tree, path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            torch.save(tree, file)
            file.flush()
            os.fsync(file.fileno())
        folders.add(path.parent)
    for folder in folders:
        to_disk(folder)
