"""Pretrain Micron-BERT on shards.

    deepspeed launch/pretrain.py                                        # tiny model, synthetic faces, any machine
    deepspeed launch/pretrain.py --config launch/recipes/pretrain/micron_bert_paper.yaml --data.shards DIR
    deepspeed --hostfile hosts launch/pretrain.py --config ... --data.shards DIR --run DIR

The same command continues a stopped run. `--dry-run` prints what it would take (parameters, memory, time, cost) and
does nothing else: --dry.gpu H200 --dry.gpus 8 --dry.price PRICE --dry.mfu '[0.5]' --dry.pairs PAIRS_PER_EPOCH.
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
from launch.plan import print_plan, take
from shards.errors import UsageError

if TYPE_CHECKING:
    from pretrain.config import PretrainConfig
    from pretrain.labelled import LabelledSet
    from pretrain.startup import Data


def main(arguments: list[str]) -> None:
    """Parse, form the process group, train."""
    from pretrain.config import PretrainConfig

    dry, arguments = take(arguments)
    config = parse(PretrainConfig, arguments, command="deepspeed launch/pretrain.py", description=__doc__ or "")
    given = bool(config.data.shards or config.data.mixture)
    if config.data.shards and config.data.mixture:
        raise UsageError("data.shards and data.mixture are both given; give one of them")
    if config.probe.every and not config.probe.data:
        raise UsageError("probe.every is set, but no clips: give the root of a labelled data set as --probe.data DIR")
    if dry is not None:
        config = config if given else _fit_batch(config, dry.gpus)
        print_plan(config, dry, _read_data(config, Path()) if given else ())
        return
    from pretrain import checkpoint, engine
    from pretrain.loop import train
    from pretrain.ranks import told_of_lost_ranks
    from shards.files import write_text

    world = engine.start()
    logging.getLogger().setLevel(logging.INFO if world.rank == 0 else logging.WARNING)
    try:
        config = config if given else _fit_batch(config, world.size)
        synthetic = Path(config.run) / "synthetic-shards"
        with told_of_lost_ranks():
            if world.rank == 0:
                checkpoint.tidy(Path(config.run))
                write_text(Path(config.run) / "config.yaml", to_yaml(config))
                if not given:
                    _synthesise(synthetic, max(config.model.image_size, 96))
            engine.barrier()
            state = train(config, _read_data(config, synthetic), world, _read_labelled(config))
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


def _read_labelled(config: PretrainConfig) -> LabelledSet | None:
    """The labelled clips to look at; every rank reads them, so that what is wrong with them stops all."""
    if not config.probe.every:
        return None
    from launch.labelled import read_labelled
    from pretrain.architecture import resolve

    size = resolve(config.model).image_size
    return read_labelled(config.probe.data, size, config.probe.dataset, config.probe.scheme)


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
