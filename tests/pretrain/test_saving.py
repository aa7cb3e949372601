"""Checkpoints are written while training goes on, and are complete or not there."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from pretrain.saving import HostMemory, Writer, write_files
from shards.errors import FlickerError


def test_copies_share_nothing_and_keep_their_form() -> None:
    flat = torch.arange(12.0)
    state = OrderedDict(
        weight=flat[2:8].view(2, 3).t(), nested=[(flat[:2], 7)], shape=torch.Size([3]), odd={"a", "b"}
    )
    memory = HostMemory()
    copied = memory.copy(state)
    flat.zero_()
    state["odd"].add("c")
    assert type(copied) is OrderedDict and copied["weight"].is_contiguous() and copied["shape"] == torch.Size([3])
    assert copied["weight"].tolist() == [[2, 5], [3, 6], [4, 7]] and copied["nested"][0][0].tolist() == [0, 1]
    assert copied["nested"][0][1] == 7 and copied["odd"] == {"a", "b"}
    assert copied["weight"].untyped_storage().nbytes() == 24, "the file holds the weight, not the flat buffer"


def test_the_next_copy_uses_the_same_memory() -> None:
    memory = HostMemory()
    first = memory.copy({"a": torch.ones(5), "b": torch.ones(2, dtype=torch.bfloat16)})
    places = {name: value.data_ptr() for name, value in first.items()}
    memory.restart()
    second = memory.copy({"a": torch.zeros(5), "b": torch.zeros(3, dtype=torch.bfloat16)})
    assert second["a"].data_ptr() == places["a"] and second["a"].sum() == 0
    assert second["b"].shape == (3,) and memory.copy(torch.ones(1)).item() == 1


def test_training_goes_on_while_files_are_written(tmp_path: Path) -> None:
    go, writer, done = threading.Event(), Writer(), []
    writer.start(tmp_path, lambda: done.append(go.wait(30)), lambda: done.append("complete"))
    assert writer.busy and not done, "start waits for nothing"
    go.set()
    writer.start(tmp_path, lambda: done.append("second"))
    assert done[:2] == [True, "complete"], "one writing at a time"
    writer.wait()
    assert done[2:] == ["second"] and not writer.busy and not writer.failed


def test_a_full_disk_is_told_once_and_completes_nothing(tmp_path: Path) -> None:
    writer, completed = Writer(), []
    writer.start(tmp_path / "step-2", lambda: write_files([(torch.ones(9), Path("/dev/full"))]), completed.append)  # type: ignore[arg-type]
    while writer.busy:
        pass
    assert writer.failed
    with pytest.raises(FlickerError, match=r"cannot write checkpoint .*step-2: .*No space left on device") as raised:
        writer.wait()
    assert "\n" not in str(raised.value) and not completed
    writer.wait()  # told once
    writer.start(tmp_path, lambda: None)
    writer.wait()


def test_no_rank_completes_what_another_could_not_write(tmp_path: Path) -> None:
    barrier, votes = threading.Barrier(2), [True, True]

    def agreement(rank: int):  # type: ignore[no-untyped-def]
        def agree(own: bool) -> bool:
            votes[rank] = own
            barrier.wait(30)
            together = all(votes)
            barrier.wait(30)
            return together

        return agree

    def fail() -> None:
        raise OSError(28, "No space left on device")

    completed: list[int] = []
    writers = [Writer(agreement(rank)) for rank in range(2)]
    for _ in range(2):  # fails, then works
        for rank, job in enumerate((lambda: None, fail)):
            writers[rank].start(tmp_path, job, (lambda: completed.append(1)) if rank == 0 else None)
        with pytest.raises(FlickerError, match="another rank could not write"):
            writers[0].wait()
        with pytest.raises(FlickerError, match="No space left"):
            writers[1].wait()
    assert not completed
    for rank in range(2):
        writers[rank].start(tmp_path, lambda: None, (lambda: completed.append(1)) if rank == 0 else None)
    for writer in writers:
        writer.wait()
    assert completed == [1]


def test_files_load_without_pickles(tmp_path: Path) -> None:
    write_files([({"a": torch.ones(3), "b": [1, "x"]}, tmp_path / "deep" / "file.pt")])
    state = torch.load(tmp_path / "deep" / "file.pt", weights_only=True)
    assert state["a"].tolist() == [1, 1, 1] and state["b"] == [1, "x"]
