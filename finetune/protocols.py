"""Who is tested in which fold: leave-one-subject-out, k groups of subjects, across datasets, leave-one-dataset-out.

Subjects are people, unique over all datasets (`Clip.person`). A person who is tested is never trained on: in the
protocols across datasets somebody who appears on both sides is tested, and left out of the training.

- `loso` of one dataset is the single-database evaluation (SDE), of several the composite one (CDE; MEGC2019).
- `cross` in both directions is MEGC2018's holdout-database evaluation (CASME II and SAMM, five objective classes,
  scheme MEGC2018) and FDP's two folds (scheme FDP-cross).
- `lodo` leaves each dataset out in turn (CD6ME).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from finetune.clips import Clip
from finetune.config import ProtocolConfig
from finetune.folds import Fold, Samples, inner, loso
from shards.errors import FlickerError, UsageError

TITLES = {
    "loso": "leave one subject out",
    "kfold": "groups of subjects",
    "cross": "trained on one dataset, tested on another",
    "lodo": "leave one dataset out",
}


def folds(protocol: ProtocolConfig, samples: Samples) -> list[Fold]:
    """The folds of a protocol, the same for every seed.

    Raises FlickerError: too few subjects; UsageError: datasets that the samples do not have.
    """
    if protocol.kind == "kfold":
        return kfold(protocol, samples)
    if protocol.kind in ("cross", "lodo"):
        return [_between(protocol, samples, *pair) for pair in _pairs(protocol, samples.datasets)]
    return loso(
        samples.subjects,
        inner_splits=protocol.inner_splits,
        inner_share=protocol.inner_share,
        seed=protocol.inner_seed,
    )


def involved(protocol: ProtocolConfig, clips: Sequence[Clip]) -> list[Clip]:
    """The clips that the protocol trains on or tests: of `cross`, those of its datasets.

    Raises UsageError: datasets that the clips do not have.
    """
    if protocol.kind not in ("cross", "lodo"):
        return list(clips)
    pairs = _pairs(protocol, [clip.dataset for clip in clips])
    wanted = {name for pair in pairs for names in pair for name in names}
    return [clip for clip in clips if clip.dataset in wanted]


def notes(protocol: ProtocolConfig, clips: Sequence[Clip], kept: Sequence[Clip]) -> list[str]:
    """What a reader should know of the clips that `involved` kept: those not used, and people in several datasets."""
    unused = Counter(clip.dataset for clip in clips) - Counter(clip.dataset for clip in kept)
    lines = [f"protocol {protocol.kind}: the {count} clips of {name} are not used" for name, count in unused.items()]
    where: dict[str, set[str]] = {}
    for clip in kept:
        where.setdefault(clip.person, set()).add(clip.dataset)
    both = sorted(name for name, found in where.items() if len(found) > 1)
    if both:
        done = "tested, and left out of the training" if protocol.kind in ("cross", "lodo") else "tested together"
        lines.append(f"{len(both)} people with clips in several datasets are {done}: {', '.join(both)}")
    return lines


def tested(plan: Sequence[Fold], samples: Samples) -> list[str]:
    """Ids of all clips that the folds test, in the samples' order. Raises FlickerError where one is tested twice."""
    count = Counter(name for fold in plan for name in fold.test_ids(samples))
    if twice := [name for name, times in count.items() if times > 1]:
        raise FlickerError(f"{len(twice)} clips are tested in more than one fold, first {twice[0]}")
    return [name for name in samples.ids if name in count]


def kfold(protocol: ProtocolConfig, samples: Samples) -> list[Fold]:
    """`protocol.folds` groups of subjects with nearly equal numbers of clips, each tested once.

    Subjects, those with most clips first (equals in an order drawn by `inner_seed`), go to the group that has the
    fewest clips so far. Labels are not looked at.
    """
    clips = Counter(samples.subjects)
    names, count = sorted(clips), protocol.folds
    if len(names) < max(count, 3):
        raise FlickerError(
            f"protocol.folds: {count} groups need clips of at least {max(count, 3)} subjects, found {len(names)}"
        )
    drawn = np.random.default_rng(protocol.inner_seed).permutation(len(names))
    groups: list[list[str]] = [[] for _ in range(count)]
    for name in sorted((names[i] for i in drawn), key=lambda name: -clips[name]):
        min(groups, key=lambda group: (sum(clips[other] for other in group), len(group))).append(name)
    return [
        _fold(protocol, f"part {place} of {count}", group, [name for name in names if name not in group])
        for place, group in enumerate(groups, 1)
    ]


def _between(protocol: ProtocolConfig, samples: Samples, train_on: Sequence[str], test_on: Sequence[str]) -> Fold:
    """Everyone in the datasets `test_on` is tested there, everyone else in the datasets `train_on` is trained on."""
    people: dict[str, set[str]] = {}
    for name, dataset in zip(samples.subjects, samples.datasets, strict=True):
        people.setdefault(name, set()).add(dataset)
    held = sorted(name for name, where in people.items() if where & set(test_on))
    trained = sorted(name for name, where in people.items() if where <= set(train_on))
    lodo = protocol.kind == "lodo"
    name = f"dataset {test_on[0]}" if lodo else f"{'+'.join(train_on)}->{'+'.join(test_on)}"
    return _fold(protocol, name, held, trained, test_on)


def _fold(
    protocol: ProtocolConfig, name: str, held: Sequence[str], trained: Sequence[str], datasets: Sequence[str] = ()
) -> Fold:
    """A fold with its inner splits."""
    training = tuple(sorted(trained))
    splits = inner(training, protocol.inner_splits, protocol.inner_share, protocol.inner_seed, name)
    return Fold(name, training, splits, tuple(sorted(held)), tuple(datasets))


def _pairs(protocol: ProtocolConfig, datasets: Sequence[str]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """(trained on, tested on) of each fold, for clips of these datasets."""
    present = list(dict.fromkeys(datasets))
    if len(present) < 2:
        raise UsageError(
            f"protocol.kind: {protocol.kind} needs clips of at least two datasets, those of the scheme's classes are "
            f"of {' '.join(present)} alone; give several: --data.root casme2:DIR,samm:DIR"
        )
    if protocol.kind == "lodo":
        return [(tuple(other for other in present if other != name), (name,)) for name in present]
    if not protocol.train_on and len(present) > 2:
        raise UsageError(
            f"protocol.train_on, test_on: say which, the clips are of {', '.join(present)}; "
            "e.g. --protocol.train_on '[casme2]' --protocol.test_on '[samm]'"
        )
    train_on, test_on = protocol.train_on or present[:1], protocol.test_on or present[1:]
    if unknown := [name for name in (*train_on, *test_on) if name not in present]:
        raise UsageError(
            f"protocol.train_on, test_on: no clips of {', '.join(unknown)}; there are {', '.join(present)}"
        )
    pair = tuple(train_on), tuple(test_on)
    return [pair, pair[::-1]] if protocol.reverse else [pair]
