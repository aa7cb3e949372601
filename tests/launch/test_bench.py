"""launch/bench.py as a person runs it: it ends, says what it measured, and writes the figures others look for."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.benchmarks import streaming, table
from tests.launch.conftest import Run

SCRIPT = "launch/bench.py"
READER = {
    "vs_limit",
    "vs_webdataset",
    "vs_loose",
    "decode_once_vs_webdataset",
    "bytes_per_used",
    "transport_us",
    "sources_per_batch",
    "workers_2x",
    "startup_s",
    "memory_mb",
    "plan_8m_s",
}
WRITER = {"vs_limit", "copy_mb_s", "workers_2x"}


def measured(command: Run, folder: Path, *words: str) -> tuple[dict, str]:
    """The JSON and the printed text of a quick run."""
    done = command(SCRIPT, *words, "--quick", "--json", folder / "figures.json")
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "figures.json").read_text()), done.stdout


def check(written: dict, names: set[str]) -> None:
    figures = written["figures"]
    assert names <= set(figures)
    assert all(math.isfinite(value) and value >= 0 for name, value in figures.items() if not name.endswith("_us"))
    assert all(math.isfinite(value) for value in figures.values())
    assert written["machine"]["cores"] > 0 and "simplejpeg" in written["machine"]["packages"]
    assert written["settings"]["quick"] is True


@pytest.mark.slow
def test_reader(command: Run, tmp_path: Path) -> None:
    written, text = measured(command, tmp_path, "reader")
    check(written, READER | ({"vs_streaming"} if streaming.available() else set()))
    figures = written["figures"]
    assert figures["it_share"] == 1  # every frame with a partner can serve as I_t
    assert 1 <= figures["bytes_per_used"] < 2 and 1 < figures["storage_ratio"] < 2
    assert 2 <= figures["sources_per_batch"] <= 6
    assert "Flicker, 1 worker" in text and "CRC32C" in text
    assert ("vs_streaming is left out" in text) == (not streaming.available())


def test_writer(command: Run, tmp_path: Path) -> None:
    written, text = measured(command, tmp_path, "writer")
    check(written, WRITER)
    assert "webdataset.TarWriter" in text


def test_kept_data_of_other_settings_is_refused(command: Run, tmp_path: Path) -> None:
    (tmp_path / "material.json").write_text('{"lengths": {}, "size": 1, "videos": [], "bytes": 0}')
    done = command(SCRIPT, "reader", "--quick", "--data", tmp_path)
    assert done.returncode == 1
    assert "holds benchmark data of other settings" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give a benchmark: reader, writer"),
        (("raeder",), "give a benchmark: reader, writer"),
        (("reader", "--repeat", "3"), "did you mean 'repeats'?"),
        (("reader", "--peers", "[tensorflow]"), "unknown peer tensorflow"),
        (("writer", "--repeats", "0"), "give at least one of --repeats"),
    ],
)
def test_wrong_use_is_explained_in_one_line(command: Run, words: tuple[str, ...], message: str) -> None:
    done = command(SCRIPT, *words)
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.splitlines()) == 1


def test_help_lists_the_benchmarks_and_their_defaults(repository: Path) -> None:
    def run(*words: str) -> str:
        return subprocess.run(
            [sys.executable, SCRIPT, *words], cwd=repository, capture_output=True, text=True, check=True
        ).stdout

    assert "reader" in run("--help") and "writer" in run("--help")
    assert "default: 8192" in run("reader", "--help")


def test_ratios_compare_neighbours_in_time() -> None:
    """A machine that gets twice as slow halfway changes no ratio."""
    ours, theirs = [1.0, 1.0, 2.0, 2.0], [1.5, 1.5, 3.0, 3.0]
    assert table.ratio(ours, theirs) == 1.5


def test_cpu_time_counts_what_workers_use() -> None:
    from launch.benchmarks.meter import usage

    def others() -> float:
        return usage().cpu - time.process_time()

    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        start, patience = others(), time.monotonic() + 60
        while others() - start < 0.2 and time.monotonic() < patience:
            time.sleep(0.05)
        seen = others() - start
        busy.kill()
    assert seen >= 0.2
