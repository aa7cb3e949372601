"""A decoding process: `python -m shards.worker CONTROL RING`, two inherited file descriptors.

The first message is JSON (stores, counts, size, held, shape); each further one is a request (see `pack`), answered
by JSON {ticket, bad, fault}. The process ends when the reader closes its side, however the reader ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import FlickerError
from shards.fetch import Bad, Fetcher
from shards.locations import open_store
from shards.ring import attach

HEAD = 6  # int64: ticket, slot, first row, rows, whether slots follow, hints


def pack(
    ticket: int,
    slot: int,
    first: int,
    where: NDArray[np.int64],
    slots: NDArray[np.int32] | None,
    hints: NDArray[np.int64],
) -> bytes:
    """A request: fill rows `first`… of a ring slot with `where` [4 n 2]; `hints` [m 3] will be read soon."""
    rows = where.shape[1]
    head = np.array([ticket, slot, first, rows, slots is not None, len(hints)], np.int64)
    kept = b"" if slots is None else np.ascontiguousarray(slots, np.int64).tobytes()
    return head.tobytes() + where.tobytes() + kept + hints.tobytes()


def unpack(message: bytes) -> tuple[int, int, int, NDArray[np.int64], NDArray[np.int32] | None, NDArray[np.int64]]:
    """What `pack` packed."""
    words = np.frombuffer(message, np.int64)
    ticket, slot, first, rows, kept, hints = words[:HEAD].tolist()
    where, rest = words[HEAD : HEAD + 8 * rows], words[HEAD + 8 * rows :]
    slots = rest[: 2 * rows].astype(np.int32).reshape(rows, 2) if kept else None
    return ticket, slot, first, where.reshape(4, rows, 2), slots, rest[len(rest) - 3 * hints :].reshape(hints, 3)


def make_fetcher(setup: dict[str, Any]) -> Fetcher:
    """The fetcher that a setup message describes."""
    stores = [open_store(**arguments) for arguments in setup["stores"]]
    return Fetcher(stores, setup["counts"], setup["size"], setup["held"])


def serve(control: Connection, ring: int) -> None:
    """Answer requests until the other side closes."""
    setup = json.loads(control.recv_bytes())
    fetcher = make_fetcher(setup)
    memory = attach(ring, tuple(setup["shape"]))
    os.close(ring)
    control.send_bytes(b"{}")  # ready
    while True:
        ticket, slot, first, where, slots, hints = unpack(control.recv_bytes())
        fetcher.hint(hints)
        bad: list[Bad] = []
        fault = ""
        try:
            bad = fetcher.fill(where, slots, memory[slot, first : first + where.shape[1]])
        except FlickerError as error:
            fault = str(error)
        control.send_bytes(json.dumps({"ticket": ticket, "bad": bad, "fault": fault}).encode())


def main() -> None:
    """Serve; the signals that end a run are the reader's to handle."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
    except (EOFError, ConnectionError):
        os._exit(0)  # the reader is gone; threads that fetch ahead must not hold this process


if __name__ == "__main__":
    main()
