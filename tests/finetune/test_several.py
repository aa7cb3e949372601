"""Several datasets as one: roots, editions, messages; and the schemes that go across them."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune import datasets, protocols, schemes
from finetune.config import DataConfig, ProtocolConfig
from shards.errors import UsageError
from shards.synthetic import write_casme2
from tests.finetune import trees


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny CASME II and a tiny SMIC, in a folder with a comma."""
    top = tmp_path_factory.mktemp("sets") / "a,b"
    classes = ("happiness", "disgust", "surprise")
    write_casme2(top / "one", subjects=2, clips_per_subject=3, classes=classes, size=(48, 48), keyframes_only=True)
    lines = [{"subject": "s1", "clip": f"s1_{kind}_01", "onset": "5", "offset": "9"} for kind in ("ne", "po", "sur")]
    for line in lines:
        kind = {"ne": "negative", "po": "positive", "sur": "surprise"}[line["clip"].split("_")[1]]
        trees.frames(top / "two/SMIC_all_raw/HS/s1/micro" / kind / line["clip"], range(5, 10), "image{:06d}.bmp")
    return f"casme2:{top}/one,smic:{top}/two"


def test_clips_keep_their_dataset_and_stand_in_the_order_of_the_root(roots: str) -> None:
    clips, report = datasets.inspect(DataConfig(root=roots))
    assert [clip.dataset for clip in clips] == ["casme2"] * 6 + ["smic"] * 3
    assert (report.dataset, report.found, report.subjects, len(report.parts)) == ("casme2+smic", 9, 3, 2)
    assert report.simulated and "smic" in report.text() and report.rows == 9
    chosen, labels, _ = schemes.get("MEGC2019").select(clips)
    assert len(chosen) == 9 and set(labels) == {0, 1, 2}
    assert protocols.involved(ProtocolConfig(kind="lodo"), chosen) == chosen


def test_several_have_no_usual_scheme(roots: str) -> None:
    with pytest.raises(UsageError, match=r"casme2\+smic together have no usual classes; name them, e.g. MEGC2019"):
        schemes.get("auto", dataset=datasets.inspect(DataConfig(root=roots))[1].dataset)


def test_a_recipes_dataset_and_the_root_must_agree(roots: str) -> None:
    with pytest.raises(
        UsageError, match=r"data.dataset: casme2, but data.root names casme2, smic; add --data.dataset"
    ):
        datasets.inspect(DataConfig(root=roots, dataset="casme2"))
    assert len(datasets.inspect(DataConfig(root=roots, dataset="several"))[0]) == 9


def test_editions_are_given_by_dataset(roots: str) -> None:
    assert len(datasets.inspect(DataConfig(root=roots, variant="smic:raw"))[0]) == 9
    with pytest.raises(UsageError, match=r"data.version: 'casme2:1999'|'1999' is not one of"):
        datasets.inspect(DataConfig(root=roots, version="casme2:1999"))


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("casme2:/a", r"'casme2:/a' names 1 datasets; give two or more"),
        ("casme2:/a,casme2:/b", "casme2 is named twice"),
        ("casme2:/a,samm:", "'samm:' is not DATASET:ROOT"),
        ("/a", "'/a' is not DATASET:ROOT; datasets: casme2, samm"),
    ],
)
def test_roots_that_name_no_several_datasets(root: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        datasets.inspect(DataConfig(root=root, dataset="several"))


def test_the_simulated_sets_of_two_datasets(shared: Path) -> None:
    sim = shared / "data/sim"
    clips, report = datasets.inspect(DataConfig(root=f"casme2:{sim}/casme2,samm:{sim}/samm"))
    assert {clip.dataset for clip in clips} == {"casme2", "samm"} and not report.missing and report.simulated
    assert len({clip.person for clip in clips}) == 7
