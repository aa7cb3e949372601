"""Class schemes: which published labels form which class, in the class order the field uses.

The orders follow the released evaluation code (SLSTT for five classes; negative, positive, surprise = 0, 1, 2
in MEGC2019, STSTNet, HTNet). FRL-DGT does not say where repression goes in its four classes, so both maps exist.
docs/datasets.md lists them all. A scheme named after a dataset's clip count in a paper does not exist: few papers say
which clips they left out.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from finetune.clips import Clip
from finetune.validation import Validation
from shards.errors import UsageError


@dataclass(frozen=True)
class Scheme:
    """Ordered class names and the map from published label to class; labels without a class are left out."""

    name: str
    classes: tuple[str, ...]
    members: Mapping[str, str]
    """Published label -> class, in every dataset that is not in `special`."""
    datasets: tuple[str, ...] = ()
    """The datasets it is published for, as loaders name them."""
    special: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Dataset -> its own map, where the same label means different classes in different datasets."""
    excluded: frozenset[str] = frozenset()
    """Clips (`Clip.id` in lower case) that the publication leaves out by name."""
    objective: bool = False
    """The label is the clip's objective class, '1'..'7', not its emotion."""
    published: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Dataset -> published clips per class, where the counts per label do not tell them."""

    def label(self, clip: Clip) -> int | None:
        """The clip's class index, or None where its label is outside the scheme."""
        if clip.id.lower() in self.excluded:
            return None
        name = self._map(clip.dataset).get(str(clip.objective) if self.objective else clip.emotion)
        return None if name is None else self.classes.index(name)

    def _map(self, dataset: str) -> Mapping[str, str]:
        return self.special.get(dataset, self.members)

    def select(self, clips: Iterable[Clip]) -> tuple[list[Clip], list[int], dict[str, int]]:
        """(clips in the scheme, their class indices, how many clips of which label were left out)."""
        kept, labels, left_out = [], [], Counter[str]()
        for clip in clips:
            label = self.label(clip)
            if label is None:
                left_out[f"objective class {clip.objective}" if self.objective else clip.emotion] += 1
            else:
                kept.append(clip)
                labels.append(label)
        return kept, labels, dict(left_out)

    def counts(self, clips: Iterable[Clip]) -> dict[str, int]:
        """Clips per class, in class order, zero included."""
        _, labels, _ = self.select(clips)
        tally = Counter(labels)
        return {name: tally[index] for index, name in enumerate(self.classes)}

    def expected(self, dataset: str, labels: Mapping[str, int]) -> dict[str, int] | None:
        """Published clips per class of a dataset, given its published clips per label; None where unknown."""
        if dataset in self.published:
            return dict(zip(self.classes, self.published[dataset], strict=True))
        if not labels or self.objective:
            return None
        counts = dict.fromkeys(self.classes, 0)
        for label, name in self._map(dataset).items():
            counts[name] += labels.get(label, 0)
        return counts


def _members(classes: Sequence[str], groups: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Label -> class from class -> labels; a class without a group stands for its own label."""
    members = {label: group for group, labels in groups.items() for label in labels}
    return members | {name: name for name in classes if name not in groups}


def _scheme(name: str, datasets: str, classes: Sequence[str], **groups: Sequence[str]) -> Scheme:
    """A scheme of some datasets (names with spaces between) from class=(labels...) groups."""
    return Scheme(name, tuple(classes), _members(classes, groups), tuple(datasets.split()))


_THREE = ("negative", "positive", "surprise")
_FOUR = (*_THREE, "others")
_C2 = (
    _scheme("C2-3", "casme2", _THREE, negative=("disgust", "repression"), positive=("happiness",)),
    _scheme(
        "C2-3-with-sadness-fear",
        "casme2",
        _THREE,
        negative=("disgust", "repression", "sadness", "fear"),
        positive=("happiness",),
    ),
    _scheme(
        "C2-4-repression-negative",
        "casme2",
        _FOUR,
        negative=("disgust", "repression"),
        positive=("happiness",),
    ),
    _scheme(
        "C2-4-repression-others",
        "casme2",
        _FOUR,
        negative=("disgust",),
        positive=("happiness",),
        others=("others", "repression"),
    ),
    _scheme("C2-5", "casme2", ("disgust", "happiness", "repression", "surprise", "others")),
    _scheme("C2-7", "casme2", ("happiness", "disgust", "surprise", "repression", "others", "sadness", "fear")),
)
_SAMM_NEGATIVE = ("anger", "contempt", "disgust", "fear", "sadness")
_SAMM_SMIC = (
    _scheme("SAMM-5", "samm", ("others", "anger", "contempt", "happiness", "surprise")),
    _scheme("SAMM-3", "samm", _THREE, negative=_SAMM_NEGATIVE, positive=("happiness",)),
    _scheme("SMIC-3", "smic smic_e", _THREE),
)
_MAPPED = {name: name for name in _THREE}  # labels of tables that state the class, such as ready-made flow maps
_SEVERAL = (
    Scheme(  # docs/datasets.md; sadness and fear are negative in SAMM and no class in CASME II
        "MEGC2019",
        _THREE,
        _MAPPED,
        ("casme2", "samm", "smic", "megc2019", "flow-maps"),
        special={
            "casme2": {
                "disgust": "negative",
                "repression": "negative",
                "happiness": "positive",
                **_MAPPED,
            },
            "samm": _members(_THREE, {"negative": _SAMM_NEGATIVE, "positive": ("happiness",)}) | _MAPPED,
        },
        excluded=frozenset(
            f"casme2/{clip}"
            for clip in ("sub04/ep12_01f", "sub05/ep09_05f", "sub24/ep07_01", "sub24/ep07_04f", "sub24/ep10_03")
        ),
        published={
            "casme2": (88, 32, 25),
            "samm": (92, 26, 15),
            "smic": (70, 51, 43),
            "megc2019": (250, 109, 83),
        },
    ),
    Scheme(  # the first five objective classes (Davison et al. 2018): 185 and 68 clips, docs/datasets.md
        "MEGC2018",
        ("I", "II", "III", "IV", "V"),
        {"1": "I", "2": "II", "3": "III", "4": "IV", "5": "V"},
        ("casme2", "samm"),
        objective=True,
        published={"casme2": (25, 15, 99, 26, 20), "samm": (24, 13, 20, 8, 3)},
    ),
    _scheme("FDP-cross", "casme2 samm", ("happiness", "surprise", "others")),  # trained on one, tested on the other
)
# The other datasets' schemes. C3-7 is in the order of HTNet's label_for_7 (happy 1 ... anger 6); CASME's eight stand
# by frequency, as no publication orders them.
_C3_NEGATIVE = ("disgust", "fear", "anger", "sad", "negative")
_MORE = (
    _scheme("C3-3", "casme3 casme3c", _THREE, negative=_C3_NEGATIVE, positive=("happy", "positive")),
    _scheme("C3-4", "casme3 casme3c", _FOUR, negative=_C3_NEGATIVE, positive=("happy", "positive")),
    _scheme("C3-7", "casme3", ("happy", "surprise", "sad", "disgust", "fear", "anger", "others")),
    _scheme("CASME-SQ-4", "casme_sq", ("positive", "negative", "surprise", "others")),
    _scheme("MMEW-7", "mmew", ("happiness", "anger", "surprise", "disgust", "fear", "sadness", "others")),
    _scheme("4DME-5", "4dme", ("positive", "negative", "surprise", "repression", "others")),
    _scheme(
        "CASME-8",
        "casme",
        ("tense", "disgust", "repression", "surprise", "happiness", "sadness", "fear", "contempt"),
    ),
)
SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in (*_C2, *_SAMM_SMIC, *_SEVERAL, *_MORE)}
PRESENT, AUTO = "present", "auto"
USUAL = {
    "casme2": "C2-5",
    "samm": "SAMM-5",
    "smic": "SMIC-3",
    "smic_e": "SMIC-3",
    "casme_sq": "CASME-SQ-4",
    "casme3": "C3-7",
    "casme3c": "C3-4",
    "mmew": "MMEW-7",
    "4dme": "4DME-5",
    "casme": "CASME-8",
    "megc2019": "MEGC2019",
    "flow-maps": "MEGC2019",
}
"""The scheme that 'auto' stands for, by dataset."""


def get(name: str, clips: Sequence[Clip] = (), dataset: str = "") -> Scheme:
    """The scheme of that name; 'auto': the usual one of the dataset.

    'present' makes one class of each label that `clips` show, in alphabetical order.

    Raises UsageError for an unknown name, with the nearest known ones, and for 'auto' of several datasets together.
    """
    if name.lower() == AUTO and dataset in USUAL:
        name = USUAL[dataset]
    if name.lower() == AUTO and "+" in dataset:
        raise UsageError(
            f"data.scheme: {dataset} together have no usual classes; name them, e.g. MEGC2019, MEGC2018, FDP-cross"
        )
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
    """Note in `report` the clips per class of its dataset's schemes, beside the published ones.

    Args:
        published: published clips per label; empty where unknown for this version.
    """
    for scheme in SCHEMES.values():
        if report.dataset not in scheme.datasets:
            continue
        if scheme.objective and not any(clip.objective for clip in clips):
            report.notes.append(f"scheme {scheme.name} needs objective classes: none were found")
            continue
        report.schemes.append((scheme.name, scheme.counts(clips), scheme.expected(report.dataset, published)))
