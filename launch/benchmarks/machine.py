"""The machine and the software that figures belong to."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import psutil

PACKAGES = (
    "torch",
    "numpy",
    "simplejpeg",
    "pillow",
    "webdataset",
    "mosaicml-streaming",
    "decord",
    "av",
    "opencv-python-headless",
)


def describe(extra_path: Path | None = None) -> dict[str, Any]:
    """Processor, cores, memory, load, versions; packages under `extra_path` too."""
    return {
        "cpu": _processor(),
        "cores": os.cpu_count() or 1,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": _versions(extra_path),
    }


def _processor() -> str:
    """The processor's name."""
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        for line in listed.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _versions(extra_path: Path | None) -> dict[str, str]:
    """Installed versions of what is measured."""
    found = {}
    for name in PACKAGES:
        for place in importlib.metadata.distributions(name=name):
            found[name] = place.version
    if extra_path is not None:
        for place in importlib.metadata.distributions(path=[str(extra_path)]):
            if (name := str(place.metadata["Name"]).lower()) in PACKAGES:
                found.setdefault(name, place.version)
    return found
