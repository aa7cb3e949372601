"""The report's LaTeX tables go through pdflatex, whatever runs and classes are called."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from finetune.reporting import report
from tests.finetune import made_runs

CONFIG = {"head": {"name": "micron_&%"}, "train": {"epochs": 4}, "protocol": {"kind": "loso"}}
PAGE = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{booktabs}
\begin{document}
\input{report.tex}
\end{document}
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX on this machine")
def test_the_tables_of_two_runs_compile(tmp_path: Path) -> None:
    datasets = ("casme2", "samm", "smic")
    runs = [
        made_runs.run(tmp_path / name, made_runs.folds(seed, datasets=datasets), dataset="megc2019", config=CONFIG)
        for seed, name in enumerate(("50%_of & {all}", "CAS(ME)² ~ #2 $x^2$ × ± – ≥ \\end"))
    ]
    report.write_folders(runs, tmp_path / "out")
    assert r"50\%\_of" in (tmp_path / "out" / "report.tex").read_text(encoding="utf-8")
    page = tmp_path / "out" / "page.tex"
    page.write_text(PAGE, encoding="utf-8")
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", page.name]
    done = subprocess.run(words, cwd=page.parent, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert page.with_suffix(".pdf").stat().st_size > 10_000
