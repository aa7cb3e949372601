"""Labelled datasets by name: every loader gives clips and a validation report.

A loader module has `inspect(root, version, variant) -> (clips, Validation)`, and in VERSIONS and VARIANTS what it
accepts for the last two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from finetune.clips import Clip
from finetune.config import DataConfig
from finetune.datasets import (
    casme,
    casme2,
    casme3,
    casme3c,
    casme_sq,
    composite,
    flow_maps,
    fourdme,
    mmew,
    samm,
    several,
    smic,
    smic_e,
)
from finetune.datasets.finding import NotHere
from finetune.validation import Validation, check_missing
from shards.errors import FlickerError, UsageError

__all__ = ["check_missing", "inspect", "load"]


class Inspect(Protocol):
    """A loader's function."""

    def __call__(self, root: str, version: str, variant: str) -> tuple[list[Clip], Validation]: ...


AUTO = "auto"
LOADERS: dict[str, Inspect] = {
    "casme2": casme2.inspect,
    "samm": samm.inspect,
    "smic": smic.inspect,
    "smic_e": smic_e.inspect,
    "casme_sq": casme_sq.inspect,
    "casme3": casme3.inspect,
    "casme3c": casme3c.inspect,
    "mmew": mmew.inspect,
    "4dme": fourdme.inspect,
    "casme": casme.inspect,
    "megc2019": composite.inspect,
    flow_maps.NAME: flow_maps.inspect,
}
SINGLE = {name: loader for name, loader in LOADERS.items() if name not in (composite.NAME, flow_maps.NAME)}
"""What may be named in a root of several datasets."""


def inspect(config: DataConfig) -> tuple[list[Clip], Validation]:
    """The dataset's clips and what its loader found, missed and repaired.

    Rows without frames are reported, however many; `check_missing` refuses too many. Raises FlickerError for bad
    data, UsageError for an unknown dataset, version or variant.
    """
    named = several.stated(config.root, SINGLE)
    if config.dataset == several.NAME or (config.dataset == AUTO and named and named != set(composite.PARTS)):
        clips, validation = several.inspect(SINGLE, config.root, config.version, config.variant)
    elif config.dataset == AUTO:
        clips, validation = _detect(config)
    elif named and config.dataset != composite.NAME:
        raise UsageError(
            f"data.dataset: {config.dataset}, but data.root names {', '.join(sorted(named))}; "
            f"add --data.dataset {several.NAME}, or give the folder of {config.dataset}"
        )
    elif config.dataset in LOADERS:
        clips, validation = LOADERS[config.dataset](config.root, config.version, config.variant)
    else:
        known = ", ".join((*LOADERS, several.NAME, AUTO))
        raise UsageError(f"data.dataset: no dataset '{config.dataset}'; known: {known}")
    validation.simulated |= config.simulated
    return clips, validation


def _detect(config: DataConfig) -> tuple[list[Clip], Validation]:
    """What the only loader that finds clips finds."""
    found, faults = {}, []
    for name, loader in LOADERS.items():
        try:
            clips, validation = loader(config.root, config.version, config.variant)
        except (NotHere, UsageError):  # not this dataset, or a version that it does not have
            continue
        except FlickerError as error:
            faults.append(error)
        else:
            if clips:
                found[name] = clips, validation
    if not found and faults:
        raise faults[0]
    if len(found) != 1:
        what = (
            f"holds {' and '.join(found)}"
            if found
            else f"no dataset found there ({config.version}, {config.variant})"
        )
        raise UsageError(f"{config.root}: {what}; name it with --data.dataset: {', '.join(LOADERS)}")
    return next(iter(found.values()))


def load(
    dataset: str, root: str | Path, version: str = "auto", variant: str = "auto", max_missing: float = 0.0
) -> tuple[list[Clip], Validation]:
    """As `inspect`, for use without a config; too many rows without frames raise FlickerError."""
    clips, validation = inspect(DataConfig(root=str(root), dataset=dataset, version=version, variant=variant))
    check_missing(validation, max_missing)
    return clips, validation
