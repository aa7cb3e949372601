"""Files are complete or absent, and on the disk where that is asked for."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from shards.files import atomic_path, write_json, write_text


def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("durable", [False, True])
def test_durable_files_are_on_the_disk_before_and_after_they_get_their_name(
    tmp_path: Path, durable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened = []

    def fsync(handle: int) -> None:
        happened.append((stat.S_ISDIR(os.fstat(handle).st_mode), (tmp_path / "a.json").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_json(tmp_path / "a.json", {"b": 1}, durable=durable)
    assert happened == ([(False, False), (True, True)] if durable else [])
