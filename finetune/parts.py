"""Scores of each dataset of a run over several: the pooled predictions, filtered by the clips' dataset.

This is how MEGC2019 and the papers that follow it (STSTNet, HTNet, FRL-DGT) make the columns of a dataset in the
composite protocol. SLSTT's columns are something else: a protocol of that dataset alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from finetune import ensembles
from finetune import results as stored
from finetune.fold import FoldResult


def scores(
    folds: Sequence[FoldResult],
    truth: Mapping[str, int],
    people: Mapping[str, str],
    classes: Sequence[str],
    ensemble: bool = False,
) -> dict[str, dict[str, Any]]:
    """Dataset -> its 'clips', 'subjects', 'selections' as of the whole, and with `ensemble` 'ensemble'.

    Args:
        folds: all folds of all seeds.
        truth: clip id -> class, of every tested clip.
        people: clip id -> who it shows.

    Returns nothing where all clips are of one dataset. Raises FlickerError as `finetune.results.pool`.
    """
    datasets = list(dict.fromkeys(dataset_of(name) for name in truth))
    found: dict[str, dict[str, Any]] = {}
    for dataset in datasets if len(datasets) > 1 else ():
        own = {name: label for name, label in truth.items() if dataset_of(name) == dataset}
        part = [one for fold in folds if (one := only(fold, dataset)).ids]
        selections = stored.pool(part, own, classes)
        found[dataset] = {"clips": len(own), "subjects": len({people[n] for n in own}), "selections": selections}
        if ensemble:
            found[dataset]["ensemble"] = ensembles.scores(part, own, classes)
    return found


def dataset_of(clip: str) -> str:
    """The dataset in a clip's id."""
    return clip.partition("/")[0]


def only(fold: FoldResult, dataset: str) -> FoldResult:
    """The fold with the clips of one dataset alone (curves and chosen epochs stay the whole fold's)."""
    kept = [place for place, name in enumerate(fold.ids) if dataset_of(name) == dataset]
    return replace(
        fold,
        ids=[fold.ids[place] for place in kept],
        truth=[fold.truth[place] for place in kept],
        probabilities={name: [rows[place] for place in kept] for name, rows in fold.probabilities.items()},
        by_epoch=[[row[place] for place in kept] for row in fold.by_epoch],
    )
