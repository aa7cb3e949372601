"""The report in headless Chromium: every figure shows, nothing is fetched, nothing sticks out."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from finetune.reporting import report
from shards.files import write_json
from tests.finetune import made_runs

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PROBE = """<script>addEventListener('load', () => {
  document.querySelectorAll('details').forEach(d => d.open = true);
  const size = e => { const r = e.getBoundingClientRect(); return [r.width, r.height]; };
  const outside = (t, s) => { const a = t.getBoundingClientRect(), b = s.getBoundingClientRect();
    return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1; };
  const found = { page: document.documentElement.scrollWidth - innerWidth,
    fetched: performance.getEntriesByType('resource').map(r => r.name).filter(n => !n.startsWith('data:')),
    charts: [...document.querySelectorAll('svg')].map(s => ({ label: s.getAttribute('aria-label'), size: size(s),
      shapes: s.querySelectorAll('rect, circle, polyline').length,
      cut: [...s.querySelectorAll('text')].filter(t => outside(t, s)).map(t => t.textContent) })),
    pictures: [...document.querySelectorAll('img')].map(i => [i.naturalWidth, ...size(i)]) };
  const shown = document.createElement('pre'); shown.id = 'probe'; shown.textContent = JSON.stringify(found);
  document.body.append(shown); });</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two runs with pictures, with the probe in it."""
    folder = tmp_path_factory.mktemp("browser")
    datasets = ("casme2", "samm", "smic")
    runs = [
        made_runs.run(folder / name, made_runs.folds(seed, datasets=datasets), dataset="megc2019", scheme="MEGC2019")
        for seed, name in enumerate(("a", "b"))
    ]
    picture = np.random.default_rng(0).integers(0, 256, (168, 168, 3), dtype=np.uint8)
    (runs[0] / "examples").mkdir()
    cv2.imwrite(str(runs[0] / "examples" / "00-0.jpg"), picture)
    entry = {"clip": "casme2/sub01/c1", "truth": "positive", "predicted": "negative", "probability": 0.9, "aus": "4"}
    write_json(runs[0] / "examples" / "examples.json", [entry | {"pictures": [["apex", "00-0.jpg"]]}])
    path = report.write_folders(runs, folder / "out")
    path.write_text(path.read_text().replace("</body>", PROBE + "</body>"))
    return path


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1440, 600])
def test_every_figure_shows(page: Path, width: int) -> None:
    words = [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},1000"]
    done = subprocess.run([*words, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120)
    probe = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.S)
    assert probe, done.stderr[-500:]
    found: dict[str, Any] = json.loads(html.unescape(probe[1]))
    assert found["fetched"] == [] and found["page"] <= 0
    assert len(found["charts"]) == 1 + 2 * (2 + 3 + 1 + 3 + 2) and found["pictures"] == [
        [168, *found["pictures"][0][1:]]
    ]
    for chart in found["charts"]:
        assert min(chart["size"]) > 60 and chart["shapes"] and not chart["cut"], chart
    assert min(found["pictures"][0][1:]) > 60
