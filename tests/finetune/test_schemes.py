"""Class schemes: orders, members, counts."""

from __future__ import annotations

import pytest

from finetune import schemes
from finetune.clips import Clip
from finetune.datasets.casme2 import PUBLISHED_LABELS
from shards.errors import UsageError

TOTALS = {
    ("C2-3", "2014"): [90, 32, 25],
    ("C2-3", "2019"): [90, 32, 28],
    ("C2-3-with-sadness-fear", "2019"): [96, 32, 28],
    ("C2-4-repression-negative", "2014"): [90, 32, 25, 99],
    ("C2-4-repression-others", "2019"): [63, 32, 28, 126],
    ("C2-5", "2014"): [63, 32, 27, 25, 99],
    ("C2-5", "2019"): [63, 32, 27, 28, 99],
    ("C2-7", "2014"): [32, 63, 25, 27, 99, 7, 2],
}


def clips(version: str) -> list[Clip]:
    """As many clips per label as published."""
    return [
        Clip("casme2", "sub01", f"{emotion}{place}", 1, 2, 3, emotion)
        for emotion, count in PUBLISHED_LABELS[version].items()
        for place in range(count)
    ]


@pytest.mark.parametrize(("name", "version"), TOTALS)
def test_counts_and_order_of_the_published_schemes(name: str, version: str) -> None:
    assert list(schemes.get(name).counts(clips(version)).values()) == TOTALS[name, version]


def test_class_orders_are_the_fields() -> None:
    assert schemes.get("c2-5").classes == ("disgust", "happiness", "repression", "surprise", "others")
    assert schemes.get("C2-3").classes == ("negative", "positive", "surprise")


def test_present_makes_a_class_of_each_label() -> None:
    some = [clip for clip in clips("2014") if clip.emotion in ("fear", "disgust")]
    scheme = schemes.get("present", some)
    assert scheme.classes == ("disgust", "fear")
    assert schemes.get("C2-5").select(some)[2] == {"fear": 2}


@pytest.mark.parametrize(
    ("name", "hint"), [("C2-4", "C2-4-repression-negative or C2-4-repression-others"), ("C25", "C2-5")]
)
def test_unknown_schemes_suggest_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        schemes.get(name)
