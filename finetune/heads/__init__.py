"""Recognition heads by name, each in a file of its own.

A head class declares `needs` (e.g. {"onset", "apex"}), so that only those inputs are prepared, and has
`extract(inputs)` (what a frozen encoder computes once per clip), `readout()` (an untrained classifier for it),
`trainable(mode, blocks)` (a copy whose encoder trains) and `forward(inputs) -> logits [B C]`.
"""

from __future__ import annotations

from typing import Any

from finetune.heads import micron
from pretrain import MicronBert
from shards.errors import UsageError

HEADS = {"micron": micron.build}


def create(name: str, classes: int, encoder: MicronBert | None = None, **options: Any) -> Any:
    """The head `name` for `classes` classes, on `encoder` (a pretrain.MicronBert), with its own options.

    Raises UsageError: unknown head, an option the head does not have, an encoder missing.
    """
    if name not in HEADS:
        raise UsageError(f"head.name: no head '{name}'; known: {', '.join(HEADS)}")
    try:
        return HEADS[name](classes, encoder, **options)
    except TypeError as error:
        raise UsageError(f"head.{name}: {error}; known options: {', '.join(micron.option_names())}") from None
