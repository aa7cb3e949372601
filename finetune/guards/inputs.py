"""Guards on arrays: clips that occur under two subjects, values that tell the label, normalisation over all clips."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from finetune.guards.finding import Finding, listed

NUMBER = re.compile(r"\d+")
VALUES, PLACES = 2**23, 2**17
"""Values of one input, and per clip, that are looked at: of larger ones, as many positions drawn evenly."""
SKETCH = 1024  # positions that clips are compared at
PICTURE = 256  # an input of fewer values per clip (places, lengths) is alike in different clips by nature
ALIKE = 0.01  # squared distance of two standardised clips, as a share of their mean square, below which they are one
BAR = 0.95  # share of a position's variance that the label explains, on clips of other subjects
SHUFFLES = 39  # random labellings that must all explain less
FALSE_ALARM = 1e-4  # probability that random binary values tell the label somewhere
RARE = 0.05  # expected number of chance hits among the positions that vary in one subject alone


def check(
    name: str, values: np.ndarray, labels: np.ndarray, subjects: Sequence[str], ids: Sequence[str]
) -> list[Finding]:
    """All guards of this file on one input [n ...]; labels int64 [n], subjects and ids of the clips."""
    count, taken = values[0].size, min(max(VALUES // len(values), SKETCH), PLACES)
    places, seen = np.arange(count), ""
    if count > taken:
        places = np.sort(np.random.default_rng(0).choice(count, taken, replace=False))
        seen = f" ({taken:,} of {count:,} values per clip looked at)"
    x = np.stack([clip.reshape(-1)[places] for clip in values]).astype(np.float32)  # [n p]
    names, people = np.unique(np.asarray(subjects), return_inverse=True)
    found = duplicates(name, x, labels, people, ids) if _is_picture(values) else []
    varies = x.min(axis=0) < x.max(axis=0)
    x, places = x[:, varies], places[varies]
    x -= x.mean(axis=0)
    found += told(name, x, places, labels, people)
    found += told_by_one(name, x, labels, people, names.tolist())
    found += normalised(name, values)
    return [Finding(one.name, one.what + seen, one.severity) for one in found]


def _is_picture(values: np.ndarray) -> bool:
    """Whether an input [n ...] has pixels or features: not a few places, nor counters."""
    counters = np.issubdtype(values.dtype, np.integer) and values.dtype.itemsize > 1
    return values[0].size >= PICTURE and not counters


def duplicates(name: str, x: np.ndarray, labels: np.ndarray, people: np.ndarray, ids: Sequence[str]) -> list[Finding]:
    """Clips of different subjects that are equal or nearly so: one is trained on when the other is tested.

    x float32 [n p]. Blank clips (all values equal, as of flow where nothing moved) tell nothing and do not count.
    """
    drawn = np.random.default_rng(1).permutation(x.shape[1])[:SKETCH]
    part = x[:, np.sort(drawn)]
    blank = part.min(axis=1) == part.max(axis=1)
    deviation = part.std(axis=0)
    moving = deviation > 1e-6 * np.abs(part).max()
    z = (part[:, moving] - part[:, moving].mean(axis=0)) / deviation[moving]
    square = np.square(z).sum(axis=1)
    distance = square[:, None] + square[None] - 2 * z @ z.T  # [n n]
    alike = (distance <= ALIKE * (square[:, None] + square[None]) / 2) & (people[:, None] != people[None])
    pairs = np.argwhere(np.triu(alike & ~(blank[:, None] | blank[None]), 1)).tolist()
    if not pairs:
        return []
    rows = {row for pair in pairs for row in pair}
    digest = {row: hashlib.sha256(x[row].tobytes()).digest() for row in rows}
    same = sum(digest[a] == digest[b] for a, b in pairs)
    agree = sum(labels[a] == labels[b] for a, b in pairs)
    what = (
        f"input {name}: {len(pairs)} pairs of clips of different subjects are equal ({same}) or nearly so "
        f"({len(pairs) - same}), {agree} of them of one class: {listed([f'{ids[a]} = {ids[b]}' for a, b in pairs])}"
    )
    return [Finding("duplicates", what, "leak")]


def told(name: str, x: np.ndarray, places: np.ndarray, labels: np.ndarray, people: np.ndarray) -> list[Finding]:
    """Positions whose value the label determines: a class's mean over other subjects explains nearly all variance.

    A position is reported where that holds with every subject left out in turn, and where none of the random
    labellings explains as much at any position (few clips with few distinct values would by chance). x float32 [n p]
    about the column's mean, places int64 [p]. Clips so few that their labels can be dealt out in fewer than
    p / FALSE_ALARM ways tell nothing: some position agrees with them by chance.
    """
    ways = math.lgamma(len(labels) + 1) - sum(math.lgamma(count + 1) for count in np.bincount(labels).tolist())
    if ways < math.log(max(x.shape[1], 1) / FALSE_ALARM):
        return []
    near = np.flatnonzero(_explained(x, labels) >= BAR)
    if not len(near):
        return []
    held = _explained_unseen(x[:, near], labels, people)
    if held.max() < BAR:
        return []
    rng = np.random.default_rng(0)
    chance = max(float(_explained(x, rng.permutation(labels)).max()) for _ in range(SHUFFLES))
    kept = (held >= BAR) & (held > chance + 1e-6)
    if not kept.any():
        return []
    best = int(held.argmax())
    what = (
        f"input {name}: the label can be read from {int(kept.sum())} values, best at position {places[near[best]]} "
        f"of the flattened clip: it explains {held[best]:.1%} of the variance on unseen subjects (random labels: at "
        f"most {chance:.1%})"
    )
    return [Finding("labels", what, "leak")]


def _explained(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Share of each column's variance between classes (eta squared) [p]; x [n p] about its mean."""
    member = np.eye(int(labels.max()) + 1, dtype=np.float32)[labels]  # [n C]
    sizes = np.maximum(member.sum(axis=0), 1)
    between = (np.square(member.T @ x) / sizes[:, None]).sum(axis=0)
    return between / np.maximum(np.square(x).sum(axis=0), 1e-30)  # type: ignore[no-any-return]


def _explained_unseen(x: np.ndarray, labels: np.ndarray, people: np.ndarray) -> np.ndarray:
    """1 − (squared error of the class's mean over all other people) / (squared error of their mean), [p]."""
    error, total = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for person in range(int(people.max()) + 1):
        own = people == person
        rest, kinds = x[~own], labels[~own]
        for row, kind in zip(x[own], labels[own], strict=True):
            same = kinds == kind
            if same.any():
                error += np.square(row - rest[same].mean(axis=0))
                total += np.square(row - rest.mean(axis=0))
    return 1 - error / np.maximum(total, 1e-30)  # type: ignore[no-any-return]


def told_by_one(
    name: str, x: np.ndarray, labels: np.ndarray, people: np.ndarray, names: Sequence[str]
) -> list[Finding]:
    """Positions that vary in one subject's clips alone, and there as the label does (one value per class).

    Reported where chance would give fewer than RARE of them among the positions that vary in one subject alone.
    """
    order = np.argsort(people, kind="stable")
    x, labels, people = x[order], labels[order], people[order]
    starts = np.searchsorted(people, np.arange(len(names)))
    varies = np.minimum.reduceat(x, starts) < np.maximum.reduceat(x, starts)  # [people p]
    found, alone = [], varies.sum(axis=0) == 1
    tried = [(person, np.flatnonzero(varies[person] & alone)) for person in range(len(names))]
    several = sum(len(places) > 0 for _, places in tried)
    for person, places in tried:
        own = people == person
        if not len(places) or len(places) * _chance(labels[own]) * several >= RARE:
            continue
        if hits := sum(_one_value_per_class(x[own, place], labels[own]) for place in places):
            found.append(f"{names[person]} ({hits} values)")
    if not found:
        return []
    text = (
        f"input {name}: values that tell the label in the clips of one subject and vary in no other: {listed(found)}"
    )
    return [Finding("labels", text, "leak")]


def _one_value_per_class(values: np.ndarray, labels: np.ndarray) -> bool:
    """Whether clips have the same value if and only if they have the same label."""
    pairs = set(zip(values.tolist(), labels.tolist(), strict=True))
    return len(pairs) == len({value for value, _ in pairs}) == len({label for _, label in pairs})


def _chance(labels: np.ndarray) -> float:
    """Probability that a random labelling with these class sizes agrees with a given one up to the classes' names."""
    sizes = Counter(labels.tolist()).values()
    ways = math.prod(math.factorial(times) for times in Counter(sizes).values())
    return ways * math.prod(math.factorial(size) for size in sizes) / math.factorial(len(labels))


def normalised(name: str, values: np.ndarray) -> list[Finding]:
    """Channels (last axis) of mean 0 over all clips, or mean 0 and deviation 1: fitted on all, on tested ones too.

    Inputs that are so clip by clip are not meant. Division by a largest value over all clips cannot be told.
    """
    if not np.issubdtype(values.dtype, np.floating) or values.ndim < 2 or len(values) < 4 or values.size > 2 * VALUES:
        return []
    rows = [clip.reshape(-1, values.shape[-1]).astype(np.float32, copy=False) for clip in values]
    each = np.stack([row.mean(axis=0, dtype=np.float64) for row in rows])  # [n C]
    mean, n = each.mean(axis=0), len(rows) * len(rows[0])
    squares = sum(np.square(row - mean.astype(np.float32)).sum(axis=0, dtype=np.float64) for row in rows)
    moving = squares > 1e-12 * n
    if not moving.any():
        return []
    mean, each, squares = mean[moving], each[:, moving], squares[moving]
    deviation = np.sqrt(squares / n)
    centred = (np.abs(mean) <= 1e-5 * deviation).all()
    scaled = any((np.abs(np.sqrt(squares / count) - 1) < 1e-4).all() for count in (n, n - 1))
    by_clip = len(rows[0]) > 1 and (np.abs(each) <= 1e-3 * deviation).all()
    if by_clip or not centred or not (scaled or moving.sum() > 1):
        return []
    what = "mean 0 and deviation 1" if scaled else "mean 0"
    text = f"input {name}: every channel has {what} over all clips: normalised over all, test clips included"
    return [Finding("normalisation", text, "leak")]
