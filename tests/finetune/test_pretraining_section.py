"""The report's section about pretraining: what is read from the encoder's run, and what is left out."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune import loso
from finetune.backbone import Backbone
from finetune.config import FinetuneConfig
from finetune.reporting import pretraining


def loss_line(step: int, loss: float = 1.0) -> str:
    """A line as pretraining logs it."""
    return json.dumps({"step": step, "loss": loss + 0.01, "reconstruction": loss, "agreement": 1.0})


def probe_line(step: int, area: float) -> str:
    """A line of the motion probe."""
    return json.dumps({"step": step, "motion_auroc": area, "motion_auroc_released": 0.5})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of 300 steps that is being continued: its log ends in half a line."""
    folder = tmp_path / "pretrain"
    (folder / "pictures").mkdir(parents=True)
    (folder / "checkpoints" / "step-200").mkdir(parents=True)
    lines = [probe_line(0, 0.53), *(loss_line(step, 10 / step) for step in range(10, 310, 10))]
    lines += [probe_line(step, 0.6 + step / 1500) for step in (100, 200, 300)]
    (folder / "log.jsonl").write_text("\n".join([*lines, '{"step": 310, "loss": 0.0']))
    for step in (90, 200, 300):
        cv2.imwrite(str(folder / "pictures" / f"step-{step}.png"), np.full((24, 36, 3), step % 256, np.uint8))
    return folder


def page(config: FinetuneConfig, backbone: Backbone) -> str:
    """The report of a run with this encoder."""
    loso.run(config, backbone)
    return (Path(config.out) / "report.html").read_text(encoding="utf-8")


def test_the_report_shows_how_the_encoder_was_pretrained(config: FinetuneConfig, tiny: Backbone, run: Path) -> None:
    backbone = replace(tiny, pretrained=True, provenance={"title": "pretrained", "weights": str(run), "step": 300})
    text = page(config, backbone)
    words = " ".join(re.sub(r"<[^>]*>", " ", text).split())
    assert "0.53 → 0.80" in words and "0.53 before, 0.80 after 300 steps; 0.5 is chance." in words
    assert "Reconstruction 1.000 at step 10, 0.033 at step 300." in words
    assert "Training pairs of step 300" in words and "its licence says who may see them" in words
    assert 'aria-label="pretraining loss"' in text and text.count("<svg") == 1 + 3 + 1 + 3 + 2 + 1
    assert all(source.startswith("data:image/jpeg;base64,") for source in re.findall(r'src="([^"]*)', text))


@pytest.mark.parametrize("weights", ["random initialisation", "/nowhere/run", "released.pth"])
def test_no_section_without_a_log(config: FinetuneConfig, tiny: Backbone, weights: str) -> None:
    text = page(config, replace(tiny, pretrained=True, provenance={"title": "x", "weights": weights}))
    assert "Pretraining</h2>" not in text


def test_the_section_tells_of_the_weights_that_were_used(run: Path) -> None:
    told = pretraining.read(str(run / "checkpoints" / "step-200"), 200)
    assert told is not None and told.losses["step"][-1] == 200 and told.picture_step == 200
    assert [step for step, _ in told.probes] == [0, 100, 200] and told.probes[-1][1] == pytest.approx(
        0.7333, abs=1e-3
    )
    picture = np.frombuffer(base64.b64decode(told.picture.split(",")[1]), np.uint8)
    assert abs(int(cv2.imdecode(picture, cv2.IMREAD_COLOR).mean()) - 200) <= 2
    assert pretraining.run_directory(str(run / "checkpoints" / "step-200" / "model.safetensors")) == run
    assert pretraining.run_directory(str(run / "pictures")) is None


def test_lines_of_no_use_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    odd = [
        '{"step": 20, "lo',
        "",
        "null",
        "[1]",
        '{"loss": 1}',
        '{"step": "30", "loss": 1}',
        '{"step": 40, "loss": NaN}',
    ]
    path.write_bytes(
        "\n".join([loss_line(50, 0.5), loss_line(10), *odd, loss_line(10, 2.0)]).encode() + b"\n\xff\xc3"
    )
    lines = pretraining.read_log(path)
    assert [(line["step"], line.get("reconstruction")) for line in lines] == [(10, 2.0), (40, None), (50, 0.5)]
    told = pretraining.read(str(tmp_path))
    assert told is not None and told.losses["step"].tolist() == [10, 50] and (told.probes, told.picture) == ([], "")


@given(cut=st.integers(0, 400))
def test_a_log_cut_anywhere_is_read(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("cut")
    text = "\n".join([probe_line(0, 0.5), *(loss_line(step) for step in (10, 20, 30))])
    (folder / "log.jsonl").write_text(text[:cut])
    told = pretraining.read(str(folder))
    assert told is None or (told.chart != "") == (len(told.losses["step"]) > 1)


def test_a_picture_that_cannot_be_read_gives_way_to_an_older_one(run: Path) -> None:
    (run / "pictures" / "step-300.png").write_bytes(b"\x89PNG half")
    (run / "pictures" / "step-1000.png").write_bytes(b"")
    (run / "pictures" / "step-last.png").write_bytes(b"")
    assert pretraining.newest_picture(run / "pictures")[0] == 200


def test_a_long_log_makes_a_short_curve() -> None:
    steps = np.arange(1, 5001, dtype=np.float64) * 10
    chart = pretraining.Pretraining({"step": steps, "reconstruction": 1 / steps, "loss": 2 / steps}, [], "", 0).chart
    assert chart.count(",") < 2 * pretraining.POINTS + 10 and ">50000<" in chart and ">10<" in chart
