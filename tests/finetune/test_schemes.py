"""Class schemes: orders, members, counts."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from finetune import schemes
from finetune.clips import Clip
from finetune.datasets import casme2, samm, smic
from finetune.validation import Validation
from shards.errors import UsageError

LABELS: dict[tuple[str, str], Mapping[str, int]] = {
    ("casme2", "2014"): casme2.PUBLISHED_LABELS["2014"],
    ("casme2", "2019"): casme2.PUBLISHED_LABELS["2019"],
    ("samm", "v2"): samm.PUBLISHED_LABELS,
    ("smic", "folders"): smic.PUBLISHED_LABELS,
    ("smic_e", ""): smic.PUBLISHED_LABELS,
    **{
        ("casme3", version): dict(
            zip(("disgust", "surprise", "others", "fear", "anger", "sad", "happy"), counts, strict=True)
        )
        for version, counts in {
            "tpami": (281, 201, 170, 93, 70, 64, 64),
            "v1": (275, 199, 166, 91, 67, 63, 60),
            "v2": (250, 187, 161, 86, 64, 57, 55),
        }.items()
    },
    ("casme3c", ""): {"negative": 99, "surprise": 30, "others": 20, "positive": 16},
    ("casme_sq", ""): {"positive": 8, "negative": 21, "surprise": 9, "others": 19},
}
COUNTS = {
    ("C2-3", "casme2", "2014"): [90, 32, 25],
    ("C2-3", "casme2", "2019"): [90, 32, 28],
    ("C2-3-with-sadness-fear", "casme2", "2019"): [96, 32, 28],
    ("C2-4-repression-negative", "casme2", "2014"): [90, 32, 25, 99],
    ("C2-4-repression-others", "casme2", "2019"): [63, 32, 28, 126],
    ("C2-5", "casme2", "2014"): [63, 32, 27, 25, 99],
    ("C2-5", "casme2", "2019"): [63, 32, 27, 28, 99],
    ("C2-7", "casme2", "2014"): [32, 63, 25, 27, 99, 7, 2],
    ("SAMM-5", "samm", "v2"): [26, 57, 12, 26, 15],
    ("SAMM-3", "samm", "v2"): [92, 26, 15],
    ("SMIC-3", "smic", "folders"): [70, 51, 43],
    ("FDP-cross", "casme2", "2019"): [32, 28, 99],
    ("FDP-cross", "samm", "v2"): [26, 15, 26],
    ("C3-3", "casme3", "tpami"): [508, 64, 201],
    ("C3-3", "casme3", "v1"): [496, 60, 199],
    ("C3-3", "casme3", "v2"): [457, 55, 187],
    ("C3-4", "casme3", "v2"): [457, 55, 187, 161],
    ("C3-7", "casme3", "v2"): [55, 187, 57, 250, 86, 64, 161],
    ("C3-4", "casme3c", ""): [99, 16, 30, 20],
    ("CASME-SQ-4", "casme_sq", ""): [8, 21, 9, 19],
}
TOTALS = {
    ("C2-5", "2014"): 246,
    ("C2-5", "2019"): 249,
    ("C2-3", "2014"): 147,
    ("C2-3-with-sadness-fear", "2019"): 156,
}
TOTALS |= {("C2-7", "2014"): 255, ("FDP-cross", "2019"): 159, ("FDP-cross", "v2"): 67, ("SAMM-5", "v2"): 136}


def clips(dataset: str, version: str) -> list[Clip]:
    """As many clips per label as published."""
    return [
        Clip(dataset, "sub01", f"{emotion}{place}", 1, 2, 3, emotion)
        for emotion, count in LABELS[dataset, version].items()
        for place in range(count)
    ]


@pytest.mark.parametrize(("name", "dataset", "version"), COUNTS)
def test_counts_and_order_of_the_published_schemes(name: str, dataset: str, version: str) -> None:
    scheme = schemes.get(name)
    assert dataset in scheme.datasets
    counted = scheme.counts(clips(dataset, version))
    assert list(counted.values()) == COUNTS[name, dataset, version]
    assert scheme.expected(dataset, LABELS[dataset, version]) == counted


@pytest.mark.parametrize(("name", "version"), TOTALS)
def test_totals_that_papers_quote(name: str, version: str) -> None:
    (counts,) = [found for (scheme, _, edition), found in COUNTS.items() if (scheme, edition) == (name, version)]
    assert sum(counts) == TOTALS[name, version]


def test_class_orders_are_the_fields() -> None:
    assert schemes.get("c2-5").classes == ("disgust", "happiness", "repression", "surprise", "others")
    assert schemes.get("C2-3").classes == ("negative", "positive", "surprise")
    assert schemes.get("SAMM-5").classes == ("others", "anger", "contempt", "happiness", "surprise")
    assert schemes.get("C3-7").classes == ("happy", "surprise", "sad", "disgust", "fear", "anger", "others")


def test_every_scheme_maps_onto_all_its_classes_and_no_others() -> None:
    for scheme in schemes.SCHEMES.values():
        for members in [*scheme.special.values(), scheme.members]:
            assert set(members.values()) == set(scheme.classes), scheme.name
        assert len(set(scheme.classes)) == len(scheme.classes) and scheme.datasets


def test_one_label_can_mean_different_classes_in_different_datasets() -> None:
    scheme = schemes.get("MEGC2019")
    sad = [Clip(dataset, "1", "c", 1, 2, 3, "sadness") for dataset in ("casme2", "samm")]
    assert [scheme.label(clip) for clip in sad] == [None, 0]


def test_clips_left_out_by_name() -> None:
    scheme = schemes.get("MEGC2019")
    for subject, clip in (("sub04", "EP12_01f"), ("sub05", "EP09_05f"), ("sub24", "EP07_01")):
        assert scheme.label(Clip("casme2", subject, clip, 1, 2, 3, "surprise")) is None
        assert schemes.get("C2-5").label(Clip("casme2", subject, clip, 1, 2, 3, "surprise")) == 3
    assert scheme.label(Clip("casme2", "sub05", "EP12_03f", 1, 2, 3, "surprise")) == 2  # meb drops this one instead


def test_objective_classes() -> None:
    scheme = schemes.get("MEGC2018")
    some = [Clip("samm", "006", f"{place}", 1, 2, 3, "anger", objective=place) for place in (1, 5, 6, None)]
    assert [scheme.label(clip) for clip in some] == [0, 4, None, None]
    assert scheme.select(some)[2] == {"objective class 6": 1, "objective class None": 1}
    for dataset, total in (("casme2", 185), ("samm", 68)):
        assert sum((scheme.expected(dataset, {}) or {}).values()) == total


def test_a_report_counts_the_schemes_of_its_dataset_alone() -> None:
    report = Validation("smic", "", "", "", "")
    schemes.count(report, clips("smic", "folders"), {})
    assert [name for name, _, _ in report.schemes] == ["SMIC-3", "MEGC2019"]
    assert report.schemes[0][2] is None  # nothing published was given


def test_present_makes_a_class_of_each_label() -> None:
    some = [clip for clip in clips("casme2", "2014") if clip.emotion in ("fear", "disgust")]
    scheme = schemes.get("present", some)
    assert scheme.classes == ("disgust", "fear")
    assert schemes.get("C2-5").select(some)[2] == {"fear": 2}


@pytest.mark.parametrize(
    ("name", "hint"), [("C2-4", "C2-4-repression-negative or C2-4-repression-others"), ("C25", "C2-5")]
)
def test_unknown_schemes_suggest_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        schemes.get(name)
