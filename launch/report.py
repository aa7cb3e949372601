"""One report of finished recognition runs: scores side by side, tests between them, the papers' figures, every run.

python launch/report.py runs/htnet                          # the report of a run again, by this version
python launch/report.py runs/htnet runs/slstt --out compared        # several, tested against each other

Needs no dataset: results.json, predictions.csv, folds/ and examples/ of the run directories are enough.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # launch/ itself must not shadow the packages pretrain and finetune
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from dataclasses import dataclass, field

from launch.cli import parse, run
from shards.errors import UsageError

DESCRIPTION = (
    "Report of one or several finished recognition runs, from their directories alone: report.html, report.md, "
    "report.json, report.tex. Runs on the same clips are tested against each other."
)


@dataclass
class ReportConfig:
    """Settings of launch/report.py."""

    runs: list[str] = field(default_factory=list)
    """Directories of finished runs"""
    out: str = ""
    """Folder for the report (of one run alone: its own directory)"""


def main(arguments: list[str]) -> None:
    """Read the runs, write the report, say where it is."""
    config = parse(ReportConfig, arguments, command="report.py", description=DESCRIPTION, positional="runs")
    if not config.runs:
        raise UsageError("give the directory of at least one finished run: launch/report.py RUN [RUN ...] --out DIR")
    if not config.out and len(config.runs) > 1:
        raise UsageError("out: '' is missing; several runs need a folder for their report: --out DIR")
    if len(set(config.runs)) < len(config.runs):
        raise UsageError("runs: a run is given twice; give each once")
    from finetune.reporting import report

    path = report.write_folders([Path(name) for name in config.runs], Path(config.out or config.runs[0]))
    print(f"report: {path}")
    print(f"tables: {', '.join(f'report.{kind}' for kind in ('md', 'json', 'tex'))} beside it")


if __name__ == "__main__":
    run(main)
