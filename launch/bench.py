"""How fast it is here, against other ways to do the same in the same run.

python launch/bench.py reader|writer|step|inputs|spotting|loso [--json OUT] [--quick]
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # launch/ itself must not shadow the packages pretrain and finetune
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import importlib

from launch.cli import run
from shards.errors import UsageError

COMMANDS = {
    "reader": "pairs per second of the reader, against webdataset, MosaicML Streaming, loose files, decord",
    "writer": "frames per second of the writer, against decoding and encoding alone",
    "step": "pairs per second, MFU and memory of a training step, against a direct reading of the paper",
    "inputs": "clips per second of preparing what the five heads read, against plain dlib and OpenCV calls",
    "loso": "seconds per fold of a small HTNet, folds trained together against one after the other",
    "spotting": "error of apex spotting on simulated clips, in frames and milliseconds",
}
"""Each is `main` of the module of its name in launch.benchmarks."""


def main(arguments: list[str]) -> None:
    """Run one benchmark."""
    command = arguments[0] if arguments else ""
    if command in ("-h", "--help"):
        print(f"usage: launch/bench.py COMMAND [OPTIONS]\n\n{__doc__}\ncommands (each has --help):")
        for name, what in COMMANDS.items():
            print(f"  {name:10}{what}")
        return
    if command not in COMMANDS:
        raise UsageError(f"give a benchmark: {', '.join(COMMANDS)}; --help says what they measure")
    rest = ["--quick=true" if word == "--quick" else word for word in arguments[1:]]
    importlib.import_module(f"launch.benchmarks.{command}").main(rest)


if __name__ == "__main__":
    run(main)
