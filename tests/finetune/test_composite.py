"""MEGC2019: derived from the three datasets it equals the published list, whatever edition the labels are of."""

from __future__ import annotations

import csv
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from finetune import datasets, schemes
from shards.errors import FlickerError, UsageError
from tests.finetune import trees

load = partial(datasets.load, "megc2019")
Line = tuple[str, str, str, int]


@pytest.fixture(scope="module")
def published(shared: Path) -> set[Line]:
    """The published list: dataset, subject, clip, class; subjects as the loaders write them."""
    with (shared / "data/annotations/megc2019_3class.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    return {(name, f"{int(who):03d}" if name == "samm" else who, clip, int(label)) for name, who, clip, label in rows}


@pytest.fixture(scope="module")
def root(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three datasets, from the published tables, in every edition."""
    top = tmp_path_factory.mktemp("megc")
    names = {"2014": "CASME2-coding-20140508.xlsx", "2019": "CASME2-coding-20190701.xlsx"}
    trees.casme2_tree(top / "CASME2", trees.published(shared, "casme2"), names)
    table = trees.published(shared, "samm")
    trees.samm_workbook(top / "SAMM/SAMM_Micro_FACS_Codes_v2.xlsx", map(trees.samm_row, table))
    for line in table:
        trees.samm_frames(top / "SAMM", line, trees.keyframes(line))
    trees.smic_tree(top / "SMIC", trees.published(shared, "smic"), "SMIC_all_raw/HS", "image{:06d}.bmp")
    for name in ("casme2", "samm", "smic"):
        source = shared / f"data/annotations/slstt_{name}.csv"
        (top / name.upper() / source.name).write_bytes(source.read_bytes())
    return top


@pytest.mark.parametrize(
    "version", ["auto", "casme2:2014", "casme2:2019,samm:v2,smic:folders", "casme2:slstt,samm:slstt,smic:slstt"]
)
def test_the_derived_composite_is_the_published_one(root: Path, published: set[Line], version: str) -> None:
    clips, report = load(root, version)
    scheme = schemes.get("MEGC2019")
    labels = [scheme.label(clip) for clip in clips]
    assert {(c.dataset, c.subject, c.clip, label) for c, label in zip(clips, labels, strict=True)} == published
    assert len(clips) == len({clip.id for clip in clips}) == 442 and len({clip.person for clip in clips}) == 68
    assert Counter(labels) == {0: 250, 1: 109, 2: 83}
    assert sum(clip.offset - clip.onset + 1 for clip in clips) == 25460
    assert (report.found, report.subjects) == report.published == (442, 68)


def test_each_dataset_is_reported_beside_what_was_published(root: Path) -> None:
    report = load(root)[1]
    (whole,) = report.schemes
    assert whole == ("MEGC2019", *[{"negative": 250, "positive": 109, "surprise": 83}] * 2)
    for part, numbers in zip(report.parts, ([88, 32, 25], [92, 26, 15], [70, 51, 43]), strict=True):
        found, expected = next(row[1:] for row in part.schemes if row[0] == "MEGC2019")
        assert list(found.values()) == numbers == list((expected or {}).values())
    assert report.notes == [
        "casme2: 145 of 255 clips; left out: disgust 2, fear 2, others 99, sadness 4, surprise 3",
        "samm: 133 of 159 clips; left out: others 26",
        "smic: 164 of 164 clips; left out: none",
    ]
    text = report.text()
    for words in ("megc2019 auto: 442 of 442 clips", "casme2 2019: 255 of 255", "samm v2: 159", "smic folders: 164"):
        assert words in text


def test_people_of_different_datasets_stay_apart(root: Path) -> None:
    clips, _ = load(root)
    people = {clip.person.split("/")[0]: set() for clip in clips}
    for clip in clips:
        people[clip.dataset].add(clip.person)
    assert {name: len(group) for name, group in people.items()} == {"casme2": 24, "samm": 28, "smic": 16}
    absent = {"casme2/sub10", "casme2/sub18", "samm/025"}
    assert not absent & {clip.person for clip in clips}


def test_a_root_for_each_dataset(root: Path, tmp_path: Path) -> None:
    for name, place in (("CASME2", "a,b"), ("SAMM", "c"), ("SMIC", "d")):
        (tmp_path / place).symlink_to(root / name)
    clips, _ = load(f"casme2:{tmp_path}/a,b,samm:{tmp_path}/c,smic:{tmp_path}/d")
    assert len(clips) == 442
    with pytest.raises(UsageError, match=r"data.root: no root for samm, smic; give casme2:DIR,samm:DIR,smic:DIR"):
        load(f"casme2:{tmp_path}/c")


@pytest.mark.parametrize("version", ["2014", "casme:2014", "casme2"])
def test_versions_are_given_by_dataset(root: Path, version: str) -> None:
    with pytest.raises(UsageError, match=rf"data.version: '{version}' is not one of casme2:\.\.\."):
        load(root, version)


def test_a_missing_dataset_is_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "casme_ii").symlink_to(root / "CASME2")
    with pytest.raises(FlickerError, match=r"no folder of samm and smic there; expected CASME2, SAMM and SMIC"):
        load(tmp_path)


def test_missing_frames_are_counted_for_the_whole(root: Path, tmp_path: Path) -> None:
    for name in ("CASME2", "SMIC"):
        (tmp_path / name).symlink_to(root / name)
    (tmp_path / "SAMM").mkdir()
    (tmp_path / "SAMM/SAMM_Micro_FACS_Codes_v2.xlsx").symlink_to(root / "SAMM/SAMM_Micro_FACS_Codes_v2.xlsx")
    (tmp_path / "SAMM/006").symlink_to(root / "SAMM/006")
    with pytest.raises(FlickerError, match=r"\d+ of \d+ rows of megc2019 have no frames .*samm/007/007_3_1"):
        load(tmp_path)
    clips, report = load(tmp_path, max_missing=0.5)
    assert {clip.subject for clip in clips if clip.dataset == "samm"} == {"006"}
    assert (report.found, report.subjects) != report.published and ") *" in report.text()


def test_the_simulated_sets_load_as_one(shared: Path) -> None:
    clips, report = load(shared / "data/sim")
    assert {clip.dataset for clip in clips} == {"casme2", "samm", "smic"} and not report.missing
    assert len({clip.person for clip in clips}) == 9
