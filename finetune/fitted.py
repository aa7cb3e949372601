"""Which clips a statistic was fitted on: every head keeps the record, and training refuses what others went into.

`Head.fit` runs within `within`, which tells whatever sets statistics (`mark`) whose clips they are of. A statistic
that is set anywhere else is recorded as fitted on `OUTSIDE`: nobody knows on what.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from finetune.folds import LeakError, Portion

OUTSIDE: tuple[str, ...] = ()
"""The record of statistics that were set outside of `Head.fit`."""
_now: ContextVar[tuple[str, ...]] = ContextVar("clips that statistics are being fitted on", default=OUTSIDE)
Fit = Callable[[Any, Portion], None]


def within(fit: Fit) -> Fit:
    """A head's `fit` that records its clips, and raises LeakError after anything but a training portion."""

    @functools.wraps(fit)
    def recorded(head: Any, portion: Portion) -> None:
        before = [] if hasattr(head, "fitted_on") else _set_already(head)
        token = _now.set(portion.ids)
        try:
            fit(head, portion)
        finally:
            _now.reset(token)
        portion.require_training(f"statistics of {type(head).__name__}")
        head.fitted_on = portion.ids
        for module, mean, scale in before:
            if torch.equal(module.mean, mean) and torch.equal(module.scale, scale):
                module.fitted_on = OUTSIDE

    return recorded


def _set_already(model: nn.Module) -> list[tuple[Any, Tensor, Tensor]]:
    """Modules whose mean and scale are set although nothing was fitted yet, with both."""
    found: list[Any] = [part for part in model.modules() if _changed(part) and not hasattr(part, "fitted_on")]
    return [(part, part.mean.clone(), part.scale.clone()) for part in found]


def mark(module: nn.Module) -> None:
    """Note in `module`, whose statistics are being set now, on which clips."""
    module.fitted_on = _now.get()  # type: ignore[assignment]


def records(model: nn.Module) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(module's name, ids of the clips that its statistics are of) for every module that was fitted.

    Means and scales that are no longer 0 and 1 count as fitted, by the head around them where they bear no record.
    """
    known: dict[str, tuple[str, ...]] = {}
    for name, module in model.named_modules():
        ids = getattr(module, "fitted_on", None)
        if ids is None and _changed(module):
            above = [known[head] for head in known if head == "" or name.startswith(f"{head}.")]
            ids = above[-1] if above else OUTSIDE
        if ids is not None:
            known[name] = ids
            yield name or type(model).__name__, ids


def _changed(module: nn.Module) -> bool:
    """Whether a module has a mean and a scale, and they are not as they began."""
    buffers = dict(module.named_buffers(recurse=False))
    if not {"mean", "scale"} <= set(buffers):
        return False
    return bool((buffers["mean"] != 0).any() or (buffers["scale"] != 1).any())


def require(model: nn.Module, training: Portion) -> None:
    """Raise LeakError where a statistic of `model` was fitted on anything but clips of `training`."""
    allowed = set(training.ids)
    for name, ids in records(model):
        if ids == OUTSIDE:
            raise LeakError(f"statistics of {name} were fitted outside a fold; fit them in Head.fit(portion)")
        if others := sorted(set(ids) - allowed):
            raise LeakError(
                f"statistics of {name} were fitted on {len(others)} clips that are not among the fold's training "
                f"clips, first {others[0]}"
            )
