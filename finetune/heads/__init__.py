"""Recognition heads by name, each in a file of its own.

A head's file has `needs(options, encoder) -> {input name: recipe of finetune.inputs}`, so that only those inputs are
prepared, and `build(classes, encoder, **options)`. A head (finetune.heads.base.Head) has `extract(inputs)` (what a
frozen encoder computes once per clip), `readout()` (an untrained model of that) and `trainable(mode, blocks,
lr_scale)` (a copy whose encoder trains).
"""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any

from finetune.heads import fdp, frl_dgt, htnet, micron, slstt
from finetune.options.fdp import FdpOptions
from finetune.options.frl_dgt import FrlDgtOptions
from finetune.options.htnet import HTNetOptions
from finetune.options.micron import MicronOptions
from finetune.options.slstt import SlsttOptions
from pretrain import MicronBert
from shards.errors import UsageError

HEADS: dict[str, tuple[ModuleType, type]] = {
    "micron": (micron, MicronOptions),
    "htnet": (htnet, HTNetOptions),
    "frl_dgt": (frl_dgt, FrlDgtOptions),
    "fdp": (fdp, FdpOptions),
    "slstt": (slstt, SlsttOptions),
}


def create(name: str, classes: int, encoder: MicronBert | None = None, **options: Any) -> Any:
    """The head `name` for `classes` classes with its own options: on `encoder`, or without one as its paper has it.

    Raises UsageError: unknown head, an option the head does not have, an encoder missing.
    """
    module, known = _find(name)
    keys = [field.name for field in dataclasses.fields(known)]
    if unknown := sorted(set(options) - set(keys)):
        raise UsageError(f"head.{name}: no option {', '.join(unknown)}; known options: {', '.join(keys)}")
    return module.build(classes, encoder, **options)


def needs(name: str, options: Any, encoder: MicronBert | None = None) -> dict[str, Any]:
    """Recipes of finetune.inputs by input name, for the head `name`. Raises UsageError: unknown head."""
    recipes: dict[str, Any] = _find(name)[0].needs(options, encoder)
    return recipes


def _find(name: str) -> tuple[ModuleType, type]:
    """The head's module and the class of its options."""
    if name not in HEADS:
        raise UsageError(f"head.name: no head '{name}'; known: {', '.join(HEADS)}")
    return HEADS[name]
