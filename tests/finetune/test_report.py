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

from finetune import charts, loso, report
from finetune.backbone import Backbone
from finetune.config import FinetuneConfig
from finetune.examples import examples, overlay
from finetune.prepare import prepare
from finetune.validation import PRIVATE
from shards.errors import FlickerError


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
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("rect", "line", "polyline"):
            self.open.remove(tag)
        else:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Self-closing SVG shapes."""

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture
def page(config: FinetuneConfig, tiny: Backbone, tmp_path: Path) -> str:
    """A report that compares two runs."""
    other = replace(config, out=str(tmp_path / "other"))
    loso.run(other, tiny)
    loso.run(replace(config, compare=[other.out]), tiny)
    return (Path(config.out) / "report.html").read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_fetches_nothing(page: str) -> None:
    parsed = Page(page)
    assert not parsed.open
    assert parsed.sources and all(source.startswith("data:image/") for source in parsed.sources)
    assert "http" not in re.sub(r"data:image/[^\"]*", "", page) and "@import" not in page and "<script" not in page


def test_the_page_says_what_it_must(page: str) -> None:
    words = " ".join(Page(page).words.split())
    for phrase in (
        "simulated data: not a result on a real dataset",
        "as published, leaks",
        "Optimism of the published protocol",
        "random initialisation",
        "Fixed budget of 6 epochs",
        "Comparison",
        "DMA change map",
        "16 of 16 clips found",
        "torch",
        "weight_decay: 0.05",
    ):
        assert phrase in words, phrase
    assert page.count("<svg") == 3 + 1 + 2


def test_pictures_decode(page: str) -> None:
    for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", page)[:4]:
        image = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        assert image is not None and image.shape == (168, 168, 3)


def test_names_from_data_are_escaped(config: FinetuneConfig, tiny: Backbone) -> None:
    results = loso.run(config, tiny)
    assert results is not None
    prepared = prepare(config, tiny, quiet=True)
    results.classes = ["<b>x</b>", "y & z", '"q"']
    text = report.render(report.context(replace(results, title="<script>1</script>"), prepared, []))
    assert "<script>" not in text and "<b>x" not in text and "y &amp; z" in text


def test_faces_that_must_not_be_published_are_not_shown(config: FinetuneConfig, tiny: Backbone) -> None:
    results = loso.run(config, tiny)
    assert results is not None
    prepared = prepare(config, tiny, quiet=True)
    shown = examples(prepared, results.folds)
    assert {example.correct for example in shown} <= {True, False} and 4 <= len(shown) <= 8
    clips = [replace(clip, flags=(PRIVATE,)) if clip.subject != "sub03" else clip for clip in prepared.clips]
    prepared.material = replace(prepared.material, clips=clips)
    assert {example.clip.split("/")[0] for example in examples(prepared, results.folds)} == {"sub03"}


def test_only_runs_on_the_same_clips_compare(config: FinetuneConfig, tiny: Backbone, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "results.json").write_text('{"dataset": "samm", "title": "x", "selections": {}}')
    with pytest.raises(FlickerError, match=r"compare: .*dataset samm, this run casme2"):
        loso.run(replace(config, compare=[str(other)]), tiny)
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
