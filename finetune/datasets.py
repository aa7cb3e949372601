"""Loaders by dataset name: every one gives clips and a validation report."""

from __future__ import annotations

from finetune import casme2
from finetune.casme2 import check_missing
from finetune.clips import Clip
from finetune.config import DataConfig
from finetune.validation import Validation

__all__ = ["check_missing", "inspect"]


def inspect(config: DataConfig) -> tuple[list[Clip], Validation]:
    """The dataset's clips and what its loader found, missed and repaired.

    Rows without frames are reported, however many; `check_missing` refuses too many.
    """
    clips, validation = casme2.inspect(config.root, config.version, config.variant)
    validation.simulated |= config.simulated
    return clips, validation
