"""What `launch/finetune.py` prints at the end of a run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from finetune.config import FinetuneConfig
from finetune.fold import SELECTIONS
from finetune.results import Results
from launch.finetune import print_summary


def scores(uf1: float, **more: Any) -> dict[str, Any]:
    """Scores of one selection."""
    return {"uf1": uf1, "uar": 0.5, "accuracy": 0.6, "war": 0.6, **more}


def test_the_protocol_each_dataset_and_the_ensemble_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    config = FinetuneConfig()
    config.protocol.kind = "lodo"
    spread = {"uf1_std": 0.01, "uar_std": 0.02}
    part = {"clips": 3, "subjects": 2, "selections": {name: scores(0.25, **spread) for name in SELECTIONS}}
    values: dict[str, Any] = {
        "out": Path("runs/a"),
        "title": "native",
        "dataset": "casme2+samm",
        "scheme": "MEGC2019",
        "simulated": False,
        "clips": 7,
        "subjects": 4,
        "selections": {name: scores(0.75, **spread) for name in SELECTIONS},
        "ensemble": {name: scores(0.875, seeds=3) for name in SELECTIONS},
        "parts": {"casme2": part, "samm": part | {"ensemble": {"last": scores(0.375, seeds=3)}}},
        "config": asdict(config),
    }
    results = Results.__new__(Results)
    vars(results).update(values)
    print_summary(results)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == ["casme2+samm MEGC2019, leave one dataset out", "7 clips, 4 subjects, native"]
    assert lines[3].startswith("  last   UF1 0.750 ± 0.010  UAR 0.500 ± 0.020  accuracy 0.600   last epoch")
    assert lines[6] == "  last   UF1 0.875  UAR 0.500  accuracy 0.600   ensemble: mean of 3 seeds' probabilities"
    assert "  casme2: 3 clips, 2 subjects" in lines and "  samm: 3 clips, 2 subjects" in lines
    assert "    oracle UF1 0.250 ± 0.010  UAR 0.500 ± 0.020  accuracy 0.600" in lines
    assert "    last   UF1 0.375  UAR 0.500  accuracy 0.600   ensemble" in lines
