"""Pretrained weights for other programs.

python launch/export.py RUN --to timm --out DIR          # timm.create_model("local-dir:DIR")
python launch/export.py RUN --to hub-folder --out DIR    # the same with a card and the whole model, to upload
python launch/export.py RUN --to safetensors --out DIR   # the encoder, config.json beside it
python launch/export.py RUN --to onnx --out DIR          # DIR/encoder.onnx
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # launch/ itself must not shadow the packages pretrain and finetune
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from dataclasses import dataclass, field

from launch.cli import parse, run
from shards.errors import UsageError

NEXT = {
    "safetensors": 'next: pretrain.load_encoder("{out}")',
    "timm": 'next: timm.create_model("local-dir:{out}", pretrained=True)',
    "hub-folder": "next: state licence and terms in {out}/README.md, then: hf upload USER/NAME {out}",
    "onnx": 'next: onnxruntime.InferenceSession("{out}/encoder.onnx"); frames are RGB in 0..1',
}


@dataclass
class ExportConfig:
    """Settings of launch/export.py."""

    checkpoint: list[str] = field(default_factory=list)
    """Run directory, checkpoint step-N, encoder folder, or the released .pth"""
    to: str = ""
    """safetensors, timm, hub-folder or onnx"""
    out: str = ""
    """Folder to write"""


def main(arguments: list[str]) -> None:
    """Load, write, say what is next."""
    config = parse(
        ExportConfig,
        arguments,
        command="launch/export.py",
        description=__doc__ or "",
        positional="checkpoint",
    )
    if len(config.checkpoint) != 1 or config.to not in NEXT or not config.out:
        raise UsageError(f"give one CHECKPOINT, --to {'|'.join(NEXT)} and --out DIR")
    from pretrain.export import export

    for path in export(config.checkpoint[0], config.to, Path(config.out)):
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    print(NEXT[config.to].format(out=config.out))


if __name__ == "__main__":
    run(main)
