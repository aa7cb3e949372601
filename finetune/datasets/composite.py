"""MEGC2019: the composite of CASME II, SAMM and SMIC in three classes, by its exact rule (docs/datasets.md).

The rule is the scheme MEGC2019 (finetune/schemes.py): all of SMIC; SAMM without 'other'; of CASME II happiness,
surprise, disgust and repression without five clips left out by name. It holds for every edition of the labels. Clips
keep their dataset, subject and published label; who a person is tells `Clip.person`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from finetune import schemes
from finetune.clips import Clip
from finetune.datasets import casme2, samm, smic
from finetune.datasets.finding import NotHere, check_root, folders
from finetune.validation import Validation, count_labels
from shards.errors import UsageError

NAME = "megc2019"
SCHEME = "MEGC2019"
PARTS = {"casme2": casme2.inspect, "samm": samm.inspect, "smic": smic.inspect}
FOLDERS = {"casme2": r"casme[ _-]?(?:2|ii)", "samm": r"samm", "smic": r"smic(?:[ _-]?hs)?"}
"""What a dataset's own folder is called, below the root."""
PUBLISHED = (442, 68)
"""Clips and subjects."""


def inspect(root: str | Path, version: str = "auto", variant: str = "auto") -> tuple[list[Clip], Validation]:
    """The composite's clips, CASME II, SAMM, SMIC in this order, and the report with that of each dataset in `parts`.

    Args:
        root: a folder with a folder of each dataset (`CASME2`, `SAMM`, `SMIC`, case ignored), or one root for each:
            `casme2:/data/a,samm:/data/b,smic:/data/c`.
        version: 'auto', or editions by dataset such as `casme2:2014,samm:v2`; the others are 'auto'.
        variant: the same for the frames, e.g. `smic:raw`.

    Raises:
        FlickerError: a dataset is not there, or what its loader raises.
        UsageError: an unknown dataset, version or variant.
    """
    roots = _roots(root)
    versions, variants = _choices("version", version), _choices("variant", variant)
    scheme = schemes.get(SCHEME)
    clips: list[Clip] = []
    report = Validation(NAME, str(root), "", version, str(root), published=PUBLISHED)
    for dataset, loader in PARTS.items():
        found, part = loader(roots[dataset], versions.get(dataset, "auto"), variants.get(dataset, "auto"))
        chosen, _, left_out = scheme.select(found)
        report.parts.append(part)
        report.notes.append(f"{dataset}: {len(chosen)} of {len(found)} clips; left out: {_said(left_out)}")
        report.missing += [f"{dataset}/{line}" for line in part.missing]
        report.simulated |= part.simulated
        clips += chosen
    report.found, report.rows = len(clips), len(clips) + len(report.missing)
    report.subjects, report.labels = len({clip.person for clip in clips}), count_labels(clips)
    schemes.count(report, clips, {})
    return clips, report


def _roots(root: str | Path) -> Mapping[str, Path]:
    """Dataset -> its root."""
    if str(root).partition(":")[0] in PARTS:
        given = _choices("root", str(root))
        absent = ", ".join(dataset for dataset in PARTS if dataset not in given)
        if absent:
            raise UsageError(f"data.root: no root for {absent}; give casme2:DIR,samm:DIR,smic:DIR")
        return {dataset: Path(path) for dataset, path in given.items()}
    folder = check_root(root, "folders CASME2, SAMM and SMIC")
    found = {dataset: _folder(folder, pattern) for dataset, pattern in FOLDERS.items()}
    lacking = [dataset for dataset, path in found.items() if path is None]
    if lacking:
        raise NotHere(
            f"{folder}: no folder of {' and '.join(lacking)} there; expected CASME2, SAMM and SMIC, or give "
            "data.root as casme2:DIR,samm:DIR,smic:DIR"
        )
    return {dataset: path for dataset, path in found.items() if path is not None}


def _folder(root: Path, pattern: str) -> Path | None:
    """The child folder whose whole name matches."""
    wanted = re.compile(pattern, re.IGNORECASE)
    return next((path for path in folders(root) if wanted.fullmatch(path.name)), None)


def _choices(key: str, text: str) -> dict[str, str]:
    """Dataset -> choice, from `casme2:A,samm:B`; 'auto' gives none."""
    if text == "auto":
        return {}
    choices = {}
    for item in re.split(rf",(?=(?:{'|'.join(PARTS)}):)", text):
        dataset, colon, choice = item.partition(":")
        if dataset not in PARTS or not colon or not choice:
            raise UsageError(f"data.{key}: '{item}' is not one of casme2:..., samm:..., smic:... (commas between)")
        choices[dataset] = choice
    return choices


def _said(left_out: Mapping[str, int]) -> str:
    """'others 99, sadness 4', or 'none'."""
    return ", ".join(f"{label} {count}" for label, count in sorted(left_out.items())) or "none"
