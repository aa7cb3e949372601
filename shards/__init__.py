"""Video files and frame folders as shards; shards as batches of frame pairs. Knows no model and no training.

The names below are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shards.errors import FlickerError, UsageError
    from shards.manifest import Manifest, read_manifest
    from shards.reader import PairBatch, PairReader
    from shards.verification import verify
    from shards.writer import write

__all__ = [
    "FlickerError",
    "Manifest",
    "PairBatch",
    "PairReader",
    "UsageError",
    "read_manifest",
    "verify",
    "write",
]
_HOMES = {
    "FlickerError": "errors",
    "UsageError": "errors",
    "PairBatch": "reader",
    "PairReader": "reader",
    "Manifest": "manifest",
    "read_manifest": "manifest",
    "verify": "verification",
    "write": "writer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'shards' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"shards.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
