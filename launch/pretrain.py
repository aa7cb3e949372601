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
    from pretrain.startup import Data


def main(arguments: list[str]) -> None:
    """Parse, form the process group, train."""
    from pretrain.config import PretrainConfig

    config = parse(PretrainConfig, arguments, command="deepspeed launch/pretrain.py", description=__doc__ or "")
    from pretrain import engine
    from pretrain.loop import train
    from shards.errors import UsageError
    from shards.files import write_text

    if config.data.shards and config.data.mixture:
        raise UsageError("data.shards and data.mixture are both given; give one of them")
    world = engine.start()
    logging.getLogger().setLevel(logging.INFO if world.rank == 0 else logging.WARNING)
    try:
        given = bool(config.data.shards or config.data.mixture)
        config = config if given else _fit_batch(config, world.size)
        synthetic = Path(config.run) / "synthetic-shards"
        if world.rank == 0:
            write_text(Path(config.run) / "config.yaml", to_yaml(config))
            if not given:
                _synthesise(synthetic, max(config.model.image_size, 96))
        engine.barrier()
        state = train(config, _read_data(config, synthetic), world)
    finally:
        engine.stop()
    if world.rank == 0:
        print(f"step {state.step}: encoder in {config.run}/encoder, checkpoints in {config.run}/checkpoints")
        print(f"next: python launch/finetune.py --config launch/recipes/finetune/casme2_micron.yaml "
              f"--data.root CASME2 --encoder {config.run}")  # fmt: skip


def _read_data(config: PretrainConfig, synthetic: Path) -> Data:
    """The manifests of the shards to train on."""
    from shards import read_manifest

    if config.data.mixture:
        return [(read_manifest(place), share) for place, share in config.data.mixture.items()]
    return read_manifest(config.data.shards or synthetic)


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
