"""Batches one step ahead on the device."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from pretrain.device import Copies, Feed
from shards.errors import FlickerError

CPU = torch.device("cpu")
STEPS = 3  # per epoch


@dataclass
class Pairs:
    """As much of a PairBatch as the feed touches."""

    frames: torch.Tensor
    seeds: torch.Tensor
    keys: list[str]


class Reader:
    """Counts; from `broken` on it cannot read. Keeps no batch alive."""

    def __init__(self, broken: int = 10**9):
        self.epoch = self.step = self.reads = 0
        self.broken = broken
        self.out: list[weakref.ref] = []

    def __iter__(self) -> Iterator[Pairs]:
        for step in range(self.step, STEPS):
            if self.reads == self.broken:
                raise FlickerError("shard-000007.tar is gone")
            self.reads, self.step = self.reads + 1, step + 1
            number = self.epoch * STEPS + step
            pairs = Pairs(torch.full((2, 2, 4, 4, 3), number, dtype=torch.uint8), torch.arange(2), [str(number)])
            self.out.append(weakref.ref(pairs))
            yield pairs
            del pairs
        self.epoch, self.step = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        done = self.step == STEPS
        return {"epoch": self.epoch + done, "step": 0 if done else self.step}


def _feed(reader: Reader, device: torch.device = CPU) -> Feed:
    return Feed(reader, device)  # type: ignore[arg-type]


@pytest.mark.parametrize("ahead", [False, True])
def test_a_batch_brings_the_readers_state_after_it_whatever_was_read_since(ahead: bool) -> None:
    reader = Reader()
    feed = _feed(reader)
    for number in range(8):
        fed = feed.take()
        if ahead:
            feed.read_ahead()
            feed.read_ahead()  # never more than one
        assert reader.reads == number + 1 + ahead
        assert fed.pairs.keys == [str(number)] and int(fed.pairs.frames[0, 0, 0, 0, 0]) == number
        assert fed.reader == {"epoch": (number + 1) // STEPS, "step": (number + 1) % STEPS}
        assert fed.epoch == number // STEPS


def test_a_run_continued_from_a_batchs_state_sees_the_next_batch() -> None:
    feed = _feed(Reader())
    for _ in range(4):
        state = feed.take().reader
        feed.read_ahead()
    reader = Reader()
    reader.epoch, reader.step = state["epoch"], state["step"]
    assert _feed(reader).take().pairs.keys == feed.take().pairs.keys == ["4"]


def test_what_fails_ahead_is_raised_when_it_is_taken() -> None:
    feed = _feed(Reader(broken=2))
    feed.take()
    feed.read_ahead()
    assert not feed.failed
    assert feed.take().pairs.keys == ["1"]
    feed.read_ahead()
    assert feed.failed
    with pytest.raises(FlickerError, match="shard-000007"):
        feed.take()


def test_a_closed_feed_holds_no_batch() -> None:
    reader = Reader()
    feed = _feed(reader)
    feed.take()
    feed.read_ahead()
    feed.close()
    assert reader.out[0]() is None  # nobody has it any more
    del feed
    assert reader.out[1]() is None


class Event:
    """A copy's end, which comes when the test says so."""

    done = False

    def query(self) -> bool:
        return self.done


class Stream:
    """Notes what it is asked; nothing runs."""

    def __init__(self, device: torch.device):
        self.events: list[Event] = []
        self.waits = 0

    def record_event(self) -> Event:
        self.events.append(Event())
        return self.events[-1]

    def wait_stream(self, other: Stream) -> None:
        self.waits += 1

    def synchronize(self) -> None:
        for event in self.events:
            event.done = True


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands in for a GPU's streams; copies are to the CPU."""
    made: dict[str, Any] = {"current": Stream(CPU), "used": []}
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: made.setdefault("side", Stream(device)))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: made["current"])
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda x, stream: made["used"].append(stream))
    return made


def test_a_batchs_memory_is_kept_until_its_copy_is_done(streams: dict[str, Any]) -> None:
    reader, copies = Reader(), Copies(CPU)
    feed = _feed(reader)
    feed._copies = copies
    fed = feed.take()
    assert streams["current"].waits == 1 and streams["used"] == [streams["current"]] * 2
    assert fed.pairs.keys == ["0"], "a batch on the device still names its pairs"
    feed.read_ahead()
    assert reader.out[0]() is not None, "its copy is under way"
    streams["side"].events[0].done = True
    feed.take()
    feed.read_ahead()
    assert reader.out[0]() is None and reader.out[1]() is not None
    feed.close()
    feed._batches.close()
    assert all(batch() is None for batch in reader.out)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_same_batches() -> None:
    device = torch.device("cuda")
    feed = _feed(Reader(), device)
    for number in range(7):
        fed = feed.take()
        feed.read_ahead()
        assert fed.pairs.frames.device.type == "cuda" and fed.pairs.frames.unique().tolist() == [number]
    feed.close()
