"""The report: self-contained, complete, honest, safe."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from finetune import loso
from finetune.backbone import Backbone
from finetune.config import DataConfig, FinetuneConfig, ProtocolConfig, TrainConfig
from finetune.prepare import prepare
from finetune.reporting import charts, examples, finished, predictions, report
from finetune.reporting.examples import overlay
from finetune.validation import PRIVATE
from shards.errors import FlickerError
from tests.finetune import made_runs


class Page(HTMLParser):
    """Collects what a browser would fetch, and the text."""

    def __init__(self, text: str):
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in ("meta", "img", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Self-closing SVG shapes."""

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def page(labelled: Path, tiny: Backbone, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report that compares two runs."""
    folder = tmp_path_factory.mktemp("compared")
    config = FinetuneConfig(
        out=str(folder / "run"),
        device="cpu",
        data=DataConfig(root=str(labelled), scheme="present", cache=str(folder / "prepared"), workers=1),
        train=TrainConfig(epochs=6, batch=8, lr=0.01),
        protocol=ProtocolConfig(seeds=[0, 1]),
    )
    other = replace(config, out=str(folder / "other"), train=replace(config.train, lr=0.02))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        loso.run(other, tiny)
        loso.run(replace(config, compare=[other.out]), tiny)
    return (Path(config.out) / "report.html").read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_fetches_nothing(page: str) -> None:
    parsed = Page(page)
    assert not parsed.open
    assert parsed.sources and all(source.startswith(("data:image/", "#")) for source in parsed.sources)
    assert "http" not in re.sub(r"data:image/[^\"]*", "", page) and "@import" not in page and "<script" not in page
    assert "url(" not in page and "<link" not in page


def test_every_link_of_the_navigation_leads_somewhere(page: str) -> None:
    links = re.findall(r'href="#([^"]+)"', page)
    places = re.findall(r' id="([^"]+)"', page)
    assert len(links) >= 10 and set(links) <= set(places) and len(places) == len(set(places))


def test_the_page_says_what_it_must(page: str) -> None:
    words = " ".join(Page(page).words.split())
    for phrase in (
        "simulated data: not a result on a real dataset",
        "as published, leaks",
        "Optimism of the published protocol",
        "random initialisation",
        "Fixed budget of 6 epochs",
        "Comparison",
        "Tests between runs",
        "all exchanges of the two runs within subjects",
        "Mean over folds",
        "weighted F1",
        "ECE (10 bins)",
        "10,000 bootstrap resamples of the 4 subjects",
        "The papers' tables hold no row for casme2 present",
        "DMA change map",
        "16 of 16 clips found",
        "torch",
        "weight_decay: 0.05",
    ):
        assert phrase in words, phrase
    assert "train.lr" in words and "0.02" in words, "settings that differ"
    assert page.count("<svg") == 2 + 3 + 1 + 3 + 2


def test_pictures_decode(page: str) -> None:
    for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", page)[:4]:
        image = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        assert image is not None and image.shape == (168, 168, 3)


def test_names_from_data_are_escaped(tmp_path: Path) -> None:
    results = made_runs.results(tmp_path, made_runs.folds(), title="<script>1</script>")
    results.classes = ["<b>x</b>", "y & z", '"q"']
    results.findings = [{"name": "<em>", "what": "the <test> subject", "severity": "leak"}]
    run = finished.of(results, predictions.from_folds(results.folds, results.classes))
    values = report.context([run], 1)
    text = report.render(values)
    for raw in ("<script>", "<b>x", "<em>", "<test>", "y & z"):
        assert raw not in text
    assert "y &amp; z" in text and "&lt;em&gt;" in text
    assert r"\textless{}script\textgreater{}" in report.latex(values)
    assert "<b>x" not in report.markdown(values) and "&lt;b&gt;x" in report.markdown(values)


def test_faces_that_must_not_be_published_are_not_stored(config: FinetuneConfig, tiny: Backbone) -> None:
    results = loso.run(config, tiny)
    assert results is not None
    prepared = prepare(config, tiny, quiet=True)
    table = predictions.from_folds(results.folds, results.classes)
    shown = examples.load(results.out)
    assert {one.correct for one in shown} <= {True, False} and 4 <= len(shown) <= 12
    wrong = [one.probability for one in shown if not one.correct]
    assert wrong == sorted(wrong, reverse=True), "the surest first"
    assert all(uri.startswith("data:image/jpeg;base64,") for one in shown for _, uri in one.pictures)
    clips = [replace(clip, flags=(PRIVATE,)) if clip.subject != "sub03" else clip for clip in prepared.clips]
    prepared.material = replace(prepared.material, clips=clips)
    examples.store(prepared, table, results.out)
    left = examples.load(results.out)
    assert {one.clip.split("/")[1] for one in left} == {"sub03"}
    files = {path.name for path in (results.out / "examples").glob("*.jpg")}
    assert len(files) == sum(len(one.pictures) for one in left), "pictures of the earlier start are gone"


def test_runs_without_results_are_refused(config: FinetuneConfig, tiny: Backbone, tmp_path: Path) -> None:
    with pytest.raises(FlickerError, match="results of a run not found"):
        loso.run(replace(config, compare=[str(tmp_path / "absent")]), tiny)


def test_overlay_leaves_the_unchanged_face_grey() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    change = np.zeros((6, 6), np.float32)
    change[4, 1] = 1
    picture = overlay(frame, change).astype(int)
    assert np.ptp(picture[:16, 24:], axis=-1).max() <= 2  # grey
    assert np.ptp(picture[34:38, 10:14], axis=-1).max() > 20  # coloured


def test_charts_survive_empty_rows_and_odd_names() -> None:
    text = charts.confusion(np.array([[3, 1], [0, 0]]), ["a<b", "an exceedingly long name"], "last")
    assert "a&lt;b" in text and "–" in text and text.count("<rect") == 4
    assert "polyline" in charts.curves([("one", "accent-line", np.array([0.5]))], "one epoch", (0, 1))
    line = charts.forest([("a & b", "accent", 0.5, 0.4, 0.6), ("c", "muted", 0.2, None, None)], "two")
    assert "a &amp; b" in line and line.count("<circle") == 2 and line.count("whisker") == 1
    assert charts.reliability([0, 3], [None, 0.9], [None, 0.5], "r").count("<circle") == 1
