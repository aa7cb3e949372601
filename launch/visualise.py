"""Pictures of what a pretrained model sees between two frames (Micron-BERT, Fig. 7).

python launch/visualise.py --checkpoint RUN --shards DIR --out PICTURES       # pairs drawn from shards
python launch/visualise.py --checkpoint RUN --onset a.jpg --apex b.jpg --out PICTURES
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # launch/ itself must not shadow the packages pretrain and finetune
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from dataclasses import dataclass
from typing import Any

from launch.cli import parse, run
from shards.errors import FlickerError, UsageError


@dataclass
class VisualiseConfig:
    """Settings of launch/visualise.py."""

    checkpoint: str = ""
    """Run directory, checkpoint step-N, or the released .pth"""
    shards: str = ""
    """Folder of shards to draw pairs from"""
    onset: str = ""
    """An image, instead of shards"""
    apex: str = ""
    """The image to compare with `onset`"""
    out: str = "pictures"
    """Folder for seen.png"""
    count: int = 8
    """Pairs drawn from shards"""
    delta: tuple[int, int] = (5, 11)
    """Distance between the frames of a drawn pair, frames"""
    seed: int = 0
    """Which pairs are drawn"""


def main(arguments: list[str]) -> None:
    """Load, draw, write."""
    config = parse(VisualiseConfig, arguments, command="launch/visualise.py", description=__doc__ or "")
    if not config.checkpoint or bool(config.shards) == bool(config.onset and config.apex):
        raise UsageError("give --checkpoint RUN and either --shards DIR or --onset FILE --apex FILE")
    from pretrain import load_micron
    from pretrain.pictures import seen, write_png

    model = load_micron(config.checkpoint)
    if model.attention is None:
        raise FlickerError(f"{config.checkpoint} was trained without DMA (model.dma: none): there is no change map")
    onset, apex = _from_shards(config, model.config.image_size) if config.shards else _from_images(config)
    path = Path(config.out) / "seen.png"
    write_png(path, seen(model, onset, apex))
    print(f"{len(onset)} pair(s): {path}")


def _from_shards(config: VisualiseConfig, size: int) -> tuple[Any, Any]:
    """Pairs of a shard folder: two uint8 [B S S 3]."""
    from shards import PairReader, read_manifest

    reader = PairReader(
        read_manifest(Path(config.shards)),
        seed=config.seed,
        global_batch=config.count,
        delta=config.delta,
        image_size=size,
    )
    frames = next(iter(reader)).frames
    return frames[:, 0], frames[:, 1]


def _from_images(config: VisualiseConfig) -> tuple[Any, Any]:
    """Two image files: two uint8 [1 H W 3] RGB."""
    import cv2
    import torch

    images = []
    for name in (config.onset, config.apex):
        image = cv2.imread(name, cv2.IMREAD_COLOR)
        if image is None:
            raise FlickerError(f"cannot read the image {name}; give a JPEG, PNG or BMP file")
        images.append(torch.from_numpy(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))[None])
    return images[0], images[1]


if __name__ == "__main__":
    run(main)
