"""The papers' tables as data: they parse, agree with the papers' text, with each other and with the class schemes."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune import published, schemes
from finetune.datasets import LOADERS, casme2, samm, smic
from finetune.published import METRICS, Published, differences, rows

LABELS = {
    "casme2": casme2.PUBLISHED_LABELS["2019"],
    "samm": samm.PUBLISHED_LABELS,
    "smic": smic.PUBLISHED_LABELS,
    "casme3": dict(
        zip(
            ("disgust", "surprise", "others", "fear", "anger", "sad", "happy"),
            (281, 201, 170, 93, 70, 64, 64),
            strict=True,
        )
    ),
    "casme_sq": {"positive": 8, "negative": 21, "surprise": 9, "others": 19},
    "megc2019": {},
}
QUOTED = {("casme2", "C2-5", 247)}  # what CASME II's first paper counts; no published workbook has it
MEGC = {"": (250, 109, 83), "casme2": (88, 32, 25), "samm": (92, 26, 15), "smic": (70, 51, 43)}


def one(paper: str, table: str, method: str, part: str = "", dataset: str = "") -> Published:
    """The only row of that name."""
    (found,) = [
        row
        for row in rows()
        if (row.paper, row.table, row.method, row.part) == (paper, table, method, part)
        and dataset in ("", row.dataset)
    ]
    return found


def run(dataset: str, scheme: str, clips: int, subjects: int, **more: Any) -> dict[str, Any]:
    """As results.json summarises a run."""
    return {"dataset": dataset, "scheme": scheme, "clips": clips, "subjects": subjects, "config": {}, **more}


COMPOSITE = run(
    "flow-maps",
    "MEGC2019",
    442,
    68,
    parts={
        "casme2": {"clips": 145, "subjects": 24},
        "samm": {"clips": 133, "subjects": 28},
        "smic": {"clips": 164, "subjects": 16},
    },
)


def test_every_table_is_there() -> None:
    count = Counter((row.paper, row.table) for row in rows())
    assert count["micron_bert", "1"] == 10 and count["micron_bert", "6"] == 9
    assert [count["micron_bert", str(n)] for n in (2, 3, 4, 5)] == [13, 7, 8, 10]
    assert count["slstt", "1"] == 6 * 3 - 6 + 7 * 3 - 5 + 2 * 3  # handcrafted, deep, own; without the dashes
    assert count["slstt", "2"] == 16 * 4
    assert (count["frl_dgt", "1"], count["frl_dgt", "2"], count["frl_dgt", "3"]) == (12 * 4, 10 * 4, 6)
    assert [count["htnet", str(n)] for n in (2, 3, 4, 5)] == [13 * 4, 5, 6 * 4, 6 * 4]
    assert [count["fdp", str(n)] for n in range(4, 15)] == [33, 10, 5, 6, 21, 6, 5, 7, 6, 2, 5]


def test_values_are_shares_and_say_what_is_printed() -> None:
    names = {"uf1": r"UF1|F1", "uar": "UAR", "accuracy": r"Acc|Acc\(%\)", "f1": "F1", "war": "WAR"}
    for row in rows():
        printed = dict(part.rsplit(" ", 1) for part in row.printed.split("; "))
        for name in METRICS:
            value = getattr(row, name)
            if value is None:
                continue
            assert 0 <= value <= 1, row
            shown = {float(text) for label, text in printed.items() if re.fullmatch(names[name], label)}
            assert {round(value, 6), round(value * 100, 4)} & shown, row
        assert row.scored or row.other
        assert row.selection in published.SELECTIONS
        assert row.clips is None or 0 < row.clips < 2000
        assert all(value > 0 for value in row.other.values())


def test_names_are_ours() -> None:
    for row in rows():
        assert all(name in LOADERS for name in filter(None, row.dataset.split("+"))), row
        assert row.part in ("", "casme2", "samm", "smic") and bool(row.part) <= (row.dataset == "megc2019"), row
        for name in row.schemes:
            known = schemes.get(name)
            assert row.dataset in (*known.datasets, "casme2+samm"), row
    assert {row.protocol for row in rows()} == {
        "SDE LOSO",
        "CDE LOSO",
        "SDE LOOCV",
        "CDE LOOCV",
        "cross-dataset casme2->samm",
        "cross-dataset samm->casme2",
        "cross-dataset, mean of both directions",
        "none",
        "not stated",
    }


def test_clips_agree_with_the_schemes() -> None:
    compared = 0
    for row in rows():
        if row.clips is None or len(row.schemes) != 1 or (row.dataset, row.scheme, row.clips) in QUOTED:
            continue
        name = row.part or row.dataset
        expected = schemes.get(row.scheme).expected(name, LABELS[name])
        assert expected is not None and sum(expected.values()) == row.clips, row
        compared += 1
    assert compared > 50


def test_released_code_decides_the_selection() -> None:
    own = {
        paper: {row.selection for row in rows() if row.paper == paper and row.own and row.scored}
        for paper in published.PAPERS
    }
    assert own["slstt"] == own["htnet"] == {"oracle"} and own["frl_dgt"] == own["micron_bert"] == {"not stated"}
    assert own["fdp"] == {"oracle", "not stated"}  # of its runs across datasets nothing is known
    assert {row.selection for row in rows() if row.method == "STSTNet" and row.dataset == "megc2019"} == {"last"}


def test_figures_that_everybody_quotes() -> None:
    htnet = one("htnet", "2", "HTNet")
    assert (htnet.uf1, htnet.uar, htnet.clips, htnet.subjects) == (0.8603, 0.8475, 442, 68)
    assert one("htnet", "2", "HTNet", "casme2").uf1 == 0.9532
    assert (one("frl_dgt", "1", "FRL-DGT").uf1, one("slstt", "2", "SLSTT-LSTM").uar) == (0.812, 0.79)
    assert one("micron_bert", "5", "Micron-BERT").uf1 == 0.8903
    assert one("fdp", "4", "FDP", dataset="samm").f1 == 0.8529
    assert one("htnet", "5", "HTNet, layers (2,2,8)").other == {
        "parameters_millions": 438.51,
        "training_seconds": 6942,
    }


def test_printed_figures_stand_in_the_papers(shared: Path) -> None:
    for paper in published.PAPERS:
        text = (shared / "papers" / f"{paper}.txt").read_text(encoding="utf-8")
        numbers = Counter(re.findall(r"\d+(?:\.\d+)?(?:e-\d+)?", text))
        used = Counter(
            number
            for row in rows()
            if row.paper == paper
            for part in row.printed.split("; ")
            for number in re.findall(r"\d+(?:\.\d+)?(?:e-\d+)?", part.rsplit(" ", 1)[-1])
        )
        assert len(used) > 40
        assert not {number for number, times in used.items() if times > numbers[number]}, paper
        for reference in {row.reference for row in rows() if row.paper == paper and row.reference}:
            assert reference in text


def test_papers_agree_where_they_quote_the_same_figure() -> None:
    """Three transcriptions of the composite's earlier results check each other."""
    named: dict[tuple[str, str], list[Published]] = defaultdict(list)
    same = {"EMRNet": "EMR", "RCN-A": "RCN", "Bi-WOOF": "Bi-WOOF"}
    for row in rows("megc2019", "MEGC2019"):
        if not row.own and not row.ablation and row.paper != "micron_bert":
            named[same.get(row.method, row.method), row.part].append(row)
    compared = 0
    for (method, part), found in named.items():
        if method == "RCN":  # SLSTT prints another run of it
            found = [row for row in found if row.paper != "slstt"]
        for name in ("uf1", "uar"):
            values = [getattr(row, name) for row in found]
            assert max(values) - min(values) < 0.0011, (method, part, values)  # some cut off the last digit
            compared += len(values) > 1
    assert compared >= 50


def possible(counts: tuple[int, int, int], uf1: float, uar: float, step: float) -> bool:
    """Whether any confusion matrix of three classes with so many clips has both scores to within `step`."""
    n = np.array(counts)
    hits = np.stack(np.meshgrid(*(np.arange(k + 1) for k in n), indexing="ij"), -1).reshape(-1, 3)
    for tp in hits[np.abs((hits / n).mean(1) - uar) <= step + 1e-9]:
        missed = n - tp
        a, b = np.arange(missed[1] + missed[2] + 1)[:, None], np.arange(missed[0] + missed[2] + 1)[None]
        c = missed.sum() - a - b  # wrongly predicted as the third class
        f1 = sum(2 * tp[i] / np.maximum(n[i] + tp[i] + wrong, 1) for i, wrong in enumerate((a, b, c))) / 3
        if ((c >= 0) & (c <= missed[0] + missed[1]) & (np.abs(f1 - uf1) <= step + 1e-9)).any():
            return True
    return False


@pytest.mark.parametrize(
    ("row", "counts", "step"),
    [
        (one("htnet", "2", "HTNet", "smic"), MEGC["smic"], 1e-4),
        (one("htnet", "2", "HTNet", "samm"), MEGC["samm"], 1e-4),
        (one("micron_bert", "4", "Micron-BERT"), MEGC["smic"], 1e-4),
        (one("htnet", "2", "STSTNet", "casme2"), MEGC["casme2"], 1e-4),
        (one("slstt", "2", "DenseNet121", "samm"), MEGC["samm"], 1e-3),
    ],
    ids=lambda value: f"{value.method}-{value.part}" if isinstance(value, Published) else "",
)
def test_notes_are_right_about_impossible_pairs(row: Published, counts: tuple[int, int, int], step: float) -> None:
    assert row.uf1 is not None and row.uar is not None
    assert possible(counts, row.uf1, row.uar, step) != ("no confusion matrix" in row.note)


def test_accuracies_are_of_the_clips_that_the_notes_say() -> None:
    def of(value: float | None, clips: int) -> bool:
        return value is not None and round(value * clips) / clips == pytest.approx(value, abs=5.1e-5)

    for method in ("SLSTT-Mean", "SLSTT-LSTM"):
        assert of(one("slstt", "1", method, dataset="smic").accuracy, 164)
        assert of(one("slstt", "1", method, dataset="casme2").accuracy, 248)
        assert not of(one("slstt", "1", method, dataset="casme2").accuracy, 247)
        assert of(one("slstt", "1", method, dataset="samm").accuracy, 134)
    assert of(one("fdp", "6", "FDP").accuracy, 49) and not of(one("fdp", "6", "FDP").accuracy, 57)
    for dataset, clips in (("casme2", 249), ("samm", 136)):
        assert not of(one("fdp", "4", "FDP", dataset=dataset).accuracy, clips)


def test_averages_over_both_directions_are_averages() -> None:
    both = [row for row in rows() if row.protocol.startswith("cross-dataset, mean")]
    assert len(both) == 7
    for row in both:
        one_way, other_way = (one(row.paper, row.table, row.method, dataset=name) for name in ("samm", "casme2"))
        for name in ("war", "uar"):
            if (mean := getattr(row, name)) is not None:
                assert mean == pytest.approx((getattr(one_way, name) + getattr(other_way, name)) / 2, abs=5.1e-4)


def test_rows_by_dataset_and_scheme() -> None:
    assert rows("flow-maps") == rows("megc2019") and not rows("unheard-of") and not rows("casme2", "C9")
    assert {row.scheme for row in rows("casme2", "c2-5")} == {"C2-5"}
    parts = {(row.dataset, row.part) for row in rows("samm", "MEGC2019")}
    assert parts == {("megc2019", "samm")}
    assert any(row.method == "FDP" for row in rows("samm", "FDP-cross"))
    assert all(row.scored for row in rows("samm")) and not all(row.scored for row in rows())
    either = [row for row in rows("casme2", "C2-4-repression-others") if row.own]
    assert either and either == [row for row in rows("casme2", "C2-4-repression-negative") if row.own]


def test_the_same_kind_of_run_differs_in_nothing() -> None:
    for part in ("", "casme2", "samm", "smic"):
        row = one("htnet", "2", "HTNet", part)
        assert differences(row, COMPOSITE, "oracle") == []
        assert differences(row, COMPOSITE) == ["epoch: on the test subject (a leak), ours the last of a fixed budget"]
    quoted = one("htnet", "2", "STSTNet")
    assert differences(quoted, COMPOSITE) == []
    alone = run("casme2", "MEGC2019", 145, 24)
    assert differences(one("slstt", "2", "SLSTT-LSTM", "casme2"), alone, "oracle") == []


def test_columns_of_slstt_are_told_from_parts_of_a_composite() -> None:
    (text,) = differences(one("slstt", "2", "SLSTT-LSTM", "casme2"), COMPOSITE, "oracle")
    assert text.startswith("protocol: leave one subject out of one dataset (casme2 alone") and "several" in text
    assert differences(one("slstt", "2", "SLSTT-LSTM"), COMPOSITE, "oracle") == []


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"simulated": True}, "data: real, ours simulated"),
        ({"clips": 441}, "clips: 442, ours 441"),
        ({"subjects": 67}, "subjects: 68, ours 67"),
        ({"scheme": "SMIC-3"}, "classes: MEGC2019, ours SMIC-3"),
        ({"dataset": "smic", "parts": {}}, "dataset: megc2019, ours smic"),
        ({"config": {"protocol": {"kind": "kfold", "folds": 5}}}, "ours 5 groups of subjects"),
        ({"config": {"protocol": {"kind": "lodo"}}}, "ours leave one dataset out"),
    ],
)
def test_each_difference_is_said(changed: dict[str, Any], text: str) -> None:
    found = differences(one("htnet", "2", "HTNet"), COMPOSITE | changed, "oracle")
    assert text in " | ".join(found)


def test_differences_of_other_protocols_and_open_questions() -> None:
    cross = {"protocol": {"kind": "cross", "train_on": ["casme2"], "test_on": ["samm"]}}
    ours = run("samm", "FDP-cross", 67, 27, config=cross)
    row = one("fdp", "8", "FDP", dataset="samm")
    assert differences(row, ours) == ["epoch: how is not stated, ours the last of a fixed budget"]
    assert "protocol: cross-dataset" in differences(row, ours | {"config": {}})[0]
    bert = differences(one("micron_bert", "2", "SMA-STN"), run("casme2", "C2-5", 249, 26))
    assert bert[0].startswith("protocol: leave-one-out of one dataset, whether of subjects or of clips")
    four = next(row for row in rows("casme2", "C2-4-repression-others") if row.own)
    assert "does not say which" in differences(four, run("casme2", "C2-4-repression-others", 249, 26))[0]
    assert "not stated" in differences(replace(four, scheme=""), run("casme2", "C2-5", 249, 26))[0]


def test_files_are_data_of_the_package() -> None:
    for paper in published.PAPERS:
        text = resources.files("finetune.published").joinpath(f"{paper}.csv").read_text(encoding="utf-8")
        assert text.startswith("table,method,reference,dataset,scheme,part,protocol,selection,clips,subjects,uf1")
