"""Class schemes: which published labels form which class, in the class order the field uses.

The orders follow the released evaluation code (SLSTT for five classes; negative, positive, surprise = 0, 1, 2
in MEGC2019, STSTNet, HTNet). FRL-DGT does not say where repression goes in its four classes, so both maps exist.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from finetune.clips import Clip
from finetune.validation import Validation
from shards.errors import UsageError


@dataclass(frozen=True)
class Scheme:
    """Ordered class names and the map from published label to class; labels without a class are left out."""

    name: str
    classes: tuple[str, ...]
    members: Mapping[str, str]

    def label(self, clip: Clip) -> int | None:
        """The clip's class index, or None where its label is outside the scheme."""
        name = self.members.get(clip.emotion)
        return None if name is None else self.classes.index(name)

    def select(self, clips: Iterable[Clip]) -> tuple[list[Clip], list[int], dict[str, int]]:
        """(clips in the scheme, their class indices, how many clips of which label were left out)."""
        kept, labels, left_out = [], [], Counter[str]()
        for clip in clips:
            label = self.label(clip)
            if label is None:
                left_out[clip.emotion] += 1
            else:
                kept.append(clip)
                labels.append(label)
        return kept, labels, dict(left_out)

    def counts(self, clips: Iterable[Clip]) -> dict[str, int]:
        """Clips per class, in class order, zero included."""
        _, labels, _ = self.select(clips)
        tally = Counter(labels)
        return {name: tally[index] for index, name in enumerate(self.classes)}


def _scheme(name: str, classes: Sequence[str], **groups: Sequence[str]) -> Scheme:
    """A scheme from class = (labels...) groups; a class without a group stands for its own label."""
    members = {label: group for group, labels in groups.items() for label in labels}
    members |= {name: name for name in classes if name not in groups}
    return Scheme(name, tuple(classes), members)


_THREE = ("negative", "positive", "surprise")
SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        _scheme("C2-3", _THREE, negative=("disgust", "repression"), positive=("happiness",)),
        _scheme(
            "C2-3-with-sadness-fear",
            _THREE,
            negative=("disgust", "repression", "sadness", "fear"),
            positive=("happiness",),
        ),
        _scheme(
            "C2-4-repression-negative",
            (*_THREE, "others"),
            negative=("disgust", "repression"),
            positive=("happiness",),
        ),
        _scheme(
            "C2-4-repression-others",
            (*_THREE, "others"),
            negative=("disgust",),
            positive=("happiness",),
            others=("others", "repression"),
        ),
        _scheme("C2-5", ("disgust", "happiness", "repression", "surprise", "others")),
        _scheme("C2-7", ("happiness", "disgust", "surprise", "repression", "others", "sadness", "fear")),
    )
}
PRESENT = "present"


def get(name: str, clips: Sequence[Clip] = ()) -> Scheme:
    """The scheme of that name; 'present' makes one class of each label that `clips` show, in alphabetical order.

    Raises UsageError for an unknown name, with the nearest known ones.
    """
    if name.lower() == PRESENT:
        labels = tuple(sorted({clip.emotion for clip in clips if clip.emotion}))
        return Scheme(PRESENT, labels, {label: label for label in labels})
    known = {key.lower(): scheme for key, scheme in SCHEMES.items()}
    if name.lower() in known:
        return known[name.lower()]
    near = [key for key in SCHEMES if key.lower().startswith(name.lower())]
    near = near or difflib.get_close_matches(name, SCHEMES, n=2, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else ""
    raise UsageError(f"data.scheme: no scheme '{name}'; known: {', '.join(SCHEMES)}, {PRESENT}. {hint}".strip())


def count(report: Validation, clips: Sequence[Clip], published: Mapping[str, int]) -> None:
    """Note in `report` the clips per class of every scheme, beside those that published label counts give."""
    for scheme in SCHEMES.values():
        expected = dict.fromkeys(scheme.classes, 0)
        for label, number in published.items():
            if label in scheme.members:
                expected[scheme.members[label]] += number
        report.schemes.append((scheme.name, scheme.counts(clips), expected))
