"""Pretrain Micron-BERT on shards.

    deepspeed launch/pretrain.py                                        # tiny model, synthetic faces, any machine
    deepspeed launch/pretrain.py --config launch/recipes/pretrain/micron_bert_paper.yaml --data.shards DIR
    deepspeed --hostfile hosts launch/pretrain.py --config ... --data.shards DIR --run DIR

The same command continues a stopped run.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # launch/ itself must not shadow the packages pretrain and finetune
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from launch.cli import parse, run, to_yaml

if TYPE_CHECKING:
    from pretrain.config import PretrainConfig


def main(arguments: list[str]) -> None:
    """Parse, form the process group, train."""
    from pretrain.config import PretrainConfig

    config = parse(PretrainConfig, arguments, command="deepspeed launch/pretrain.py", description=__doc__ or "")
    from pretrain import engine
    from pretrain.loop import train
    from shards import read_manifest
    from shards.files import write_text

    world = engine.start()
    logging.getLogger().setLevel(logging.INFO if world.rank == 0 else logging.WARNING)
    try:
        config = config if config.data.shards else _fit_batch(config, world.size)
        shards = Path(config.data.shards) if config.data.shards else Path(config.run) / "synthetic-shards"
        if world.rank == 0:
            write_text(Path(config.run) / "config.yaml", to_yaml(config))
            if not config.data.shards:
                _synthesise(shards, max(config.model.image_size, 96))
        engine.barrier()
        state = train(config, read_manifest(shards), world)
    finally:
        engine.stop()
    if world.rank == 0:
        print(f"step {state.step}: encoder in {config.run}/encoder, checkpoints in {config.run}/checkpoints")
        print(f"next: python launch/finetune.py --config launch/recipes/finetune/casme2_micron.yaml "
              f"--data.root CASME2 --encoder {config.run}")  # fmt: skip


def _fit_batch(config: PretrainConfig, ranks: int) -> PretrainConfig:
    """On synthetic faces any number of ranks will do: the global batch grows to the next multiple of them."""
    parts = ranks * config.engine.accumulation
    batch = -(-config.data.global_batch // parts) * parts
    if batch != config.data.global_batch:
        logging.getLogger(__name__).info("data.global_batch %d, a multiple of %d ranks", batch, ranks)
    return replace(config, data=replace(config.data, global_batch=batch))


def _synthesise(shards: Path, size: int) -> None:
    """Synthetic unlabelled faces, as shards; kept if they are there."""
    from shards import write
    from shards.synthetic import write_unlabelled

    if (shards / "manifest.json").is_file():
        return
    videos = shards.with_name("synthetic-video")
    write_unlabelled(videos, videos=80, seconds=1.6, size=size, folders=8)  # many people, little of each
    write([videos], shards, size=size)


if __name__ == "__main__":
    run(main)
