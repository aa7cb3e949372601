"""Recognition on labelled datasets, leave-one-subject-out or across them, with a pretrained encoder or a random one.

python launch/finetune.py --config launch/recipes/finetune/casme2_micron.yaml --data.root CASME2 --encoder RUN
python launch/finetune.py --check CASME2          # what its loader finds and repairs, with a picture sheet
python launch/finetune.py --summary true           # sizes of all heads beside the papers'
deepspeed --num_gpus 8 launch/finetune.py --config ... --data.root CASME2       # folds spread over the ranks
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # launch/ itself must not shadow the packages pretrain and finetune
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from launch.cli import parse, run, to_yaml

if TYPE_CHECKING:
    from finetune.config import FinetuneConfig
    from finetune.results import Results

DESCRIPTION = (
    "Recognition on labelled datasets, leave-one-subject-out or across them; resumable, with an HTML report."
)
RECIPE = "launch/recipes/finetune/casme2_micron.yaml"
NEXT = f"next, on real data: python launch/finetune.py --config {RECIPE} --data.root CASME2 --encoder RUN"


def main(arguments: list[str]) -> None:
    """Parse, then check the data or run the protocol; ends with where the report is."""
    from finetune.config import FinetuneConfig, validate

    config = parse(FinetuneConfig, arguments, command="finetune.py", description=DESCRIPTION)
    if config.summary:
        from finetune import summaries

        print(summaries.text(config.head, config.backbone.preset))
        return
    if config.check:
        check_data(config)
        return
    validate(config)
    use_local_gpu()
    results = run_all(config)
    if results is not None:
        print_summary(results)


def check_data(config: FinetuneConfig) -> None:
    """Print and keep the loader's report, and draw some of the clips.

    Raises FlickerError after it where too many rows have no frames.
    """
    from finetune import datasets, sheet
    from shards.files import write_json, write_text

    clips, validation = datasets.inspect(replace(config.data, root=config.check))
    folder = Path(config.out) / "check"
    write_text(folder / "report.txt", validation.text() + "\n")
    write_json(folder / "report.json", validation.as_dict())
    drawn, unread = sheet.write(folder / "pairs.jpg", clips)
    print(validation.text())
    for line in unread:
        print(f"  cannot be drawn: {line}")
    print(
        f"\nreport: {folder / 'report.txt'}"
        + (f"\npictures of {drawn} clips: {folder / 'pairs.jpg'}" if drawn else "")
    )
    datasets.check_missing(validation, config.data.max_missing)


def use_local_gpu() -> None:
    """Under a launcher, one GPU per process (LOCAL_RANK)."""
    import torch

    if torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())


def run_all(config: FinetuneConfig) -> Results | None:
    """The run and, if wanted, the same run from random weights, which the report then shows beside it."""
    from finetune import loso
    from shards.files import write_text

    write_text(Path(config.out) / "config.yaml", to_yaml(config))
    if not config.backbone.compare_random:
        return loso.run(config)
    control = Path(config.out) / "random-encoder"
    backbone = replace(config.backbone, random=True, compare_random=False)
    logging.getLogger(__name__).info("control: the same protocol with random weights, in %s", control)
    loso.run(replace(config, out=str(control), backbone=backbone, compare=[]))
    return loso.run(replace(config, compare=[*config.compare, str(control)]))


def print_summary(results: Results) -> None:
    """Scores by selection, of the ensemble, of each dataset, of compared runs; and where the report is."""
    from finetune import protocols
    from finetune.results import SELECTION_TITLES, SIMULATED, read_summary

    kind = protocols.TITLES[results.config["protocol"]["kind"]]
    print(f"\n{results.dataset} {results.scheme}, {kind}")
    print(f"{results.clips} clips, {results.subjects} subjects, {results.title}")
    for name, scores in results.selections.items():
        print(f"  {name:<7}{figures(scores)}   {SELECTION_TITLES[name]}")
    for name, scores in results.ensemble.items():
        print(f"  {name:<7}{figures(scores)}   ensemble: mean of {scores['seeds']} seeds' probabilities")
    for dataset, part in results.parts.items():
        print(f"  {dataset}: {part['clips']} clips, {part['subjects']} subjects")
        for name, scores in part["selections"].items():
            print(f"    {name:<7}{figures(scores)}")
        for name, scores in part.get("ensemble", {}).items():
            print(f"    {name:<7}{figures(scores)}   ensemble")
    for name in results.config["compare"]:
        other = read_summary(Path(name))
        print(f"  {other['title']}: last UF1 {other['selections']['last']['uf1']:.3f}")
    if results.simulated:
        print(f"  {SIMULATED}")
    print(f"report: {results.out / 'report.html'}")
    if results.simulated:
        print(NEXT)


def figures(scores: Mapping[str, Any]) -> str:
    """'UF1 0.689 ± 0.010  UAR ...  accuracy ...', the deviation where there are several seeds' scores."""
    shown = []
    for key in ("uf1", "uar"):
        spread = f" ± {scores[f'{key}_std']:.3f}" if f"{key}_std" in scores else ""
        shown.append(f"{key.upper()} {scores[key]:.3f}{spread}")
    return "  ".join([*shown, f"accuracy {scores['accuracy']:.3f}"])


if __name__ == "__main__":
    run(main)
