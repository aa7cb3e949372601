"""Several datasets as one, for protocols across them: the root names each, `casme2:DIR,samm:DIR`.

Clips keep their dataset, subject and label, and stand in the order in which the root names the datasets. The scheme
chooses among them. MEGC2019's composite of three has a loader of its own (composite.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from finetune.clips import Clip
from finetune.validation import Validation, count_labels
from shards.errors import UsageError

NAME = "several"
Loader = Callable[[str, str, str], tuple[list[Clip], Validation]]


def stated(root: str, known: Iterable[str]) -> set[str]:
    """The datasets that a root names; empty where it is a plain folder."""
    names = set(known)
    return {item.partition(":")[0] for item in _items(root, names)} if root.partition(":")[0] in names else set()


def inspect(loaders: Mapping[str, Loader], root: str, version: str, variant: str) -> tuple[list[Clip], Validation]:
    """The clips of all datasets named, and the report, with that of each dataset in `parts`.

    Args:
        loaders: dataset -> its loader.
        root: `casme2:/data/a,samm:/data/b`.
        version, variant: 'auto', or by dataset such as `casme2:2014,samm:v2`; the others are 'auto'.

    Raises UsageError: an unknown dataset, one named twice, fewer than two; else what its loader raises.
    """
    roots = _choices("root", root, loaders)
    if len(roots) < 2:
        raise UsageError(f"data.root: '{root}' names {len(roots)} datasets; give two or more: casme2:DIR,samm:DIR")
    versions, variants = _choices("version", version, loaders), _choices("variant", variant, loaders)
    clips: list[Clip] = []
    report = Validation("+".join(roots), root, "", version, root)
    for dataset, folder in roots.items():
        found, part = loaders[dataset](folder, versions.get(dataset, "auto"), variants.get(dataset, "auto"))
        report.parts.append(part)
        report.missing += [f"{dataset}/{line}" for line in part.missing]
        report.rows += part.rows
        report.simulated |= part.simulated
        clips += found
    report.found, report.subjects = len(clips), len({clip.person for clip in clips})
    report.labels = count_labels(clips)
    return clips, report


def _choices(key: str, text: str, known: Iterable[str]) -> dict[str, str]:
    """Dataset -> choice, from `casme2:A,samm:B`; 'auto' gives none."""
    names = list(known)
    choices: dict[str, str] = {}
    for item in [] if text == "auto" else _items(text, names):
        dataset, _, choice = item.partition(":")
        if dataset not in names or not choice:
            raise UsageError(f"data.{key}: '{item}' is not DATASET:{key.upper()}; datasets: {', '.join(names)}")
        if dataset in choices:
            raise UsageError(f"data.{key}: {dataset} is named twice; name each dataset once")
        choices[dataset] = choice
    return choices


def _items(text: str, names: Iterable[str]) -> list[str]:
    """`name:...` items; a comma within a path does not divide."""
    return re.split(rf",(?=(?:{'|'.join(map(re.escape, names))}):)", text)
