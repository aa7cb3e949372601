"""Released checkpoints of the published systems, with the released behaviour.

A file per system has `load(source, **config) -> module`: `source` is a state dict or a path, `config` the release's
own arguments. Files are read without running code from them (pretrain.released.read_state).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from shards.errors import UsageError

SYSTEMS = ("micronbert", "htnet", "fdp", "slstt")


def load(system: str, source: Mapping[str, Any] | str | Path, **config: Any) -> nn.Module:
    """A released model in eval mode.

    Args:
        system: one of SYSTEMS.
        source: a state dict, or the path of a released checkpoint.
        config: the release's own arguments.

    Raises:
        UsageError: unknown system.
        FlickerError: the weights are not the system's, or the file cannot be read without running code from it.
    """
    if system not in SYSTEMS:
        raise UsageError(f"no released loader for '{system}'; known: {', '.join(SYSTEMS)}")
    module = importlib.import_module(f"finetune.released.{system}")
    return module.load(source if isinstance(source, Mapping) else Path(source), **config).eval()
