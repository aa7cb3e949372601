"""Pretrained weights in forms that other people load without Flicker."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pretrain.encoder import Encoder
from pretrain.weights import config_of, describe, load_encoder, load_micron, objective_of, save_encoder, save_model
from shards.errors import FlickerError, UsageError
from shards.files import atomic_path, write_json, write_text

TIMM_BASE = "vit_small_patch16_224"
"""The timm architecture whose sizes are overridden by `model_args`."""


def to_safetensors(checkpoint: str | Path, out: Path) -> list[Path]:
    """An encoder folder: `model.safetensors` (timm's key names) and `config.json`. Returns the files."""
    encoder = load_encoder(checkpoint)
    weights = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    save_encoder(out, weights, config_of(encoder), describe(checkpoint))
    return [out / "model.safetensors", out / "config.json"]


def to_timm(checkpoint: str | Path, out: Path) -> list[Path]:
    """A folder for `timm.create_model("local-dir:OUT")`: the encoder with timm's config. Returns the files.

    timm pools by `global_pool`; the default here, '', gives all tokens, as `encoder(frames)` does.
    """
    encoder = load_encoder(checkpoint)
    with atomic_path(out / "model.safetensors") as temporary:
        save_file(_plain(encoder.state_dict()), temporary, metadata={"format": "pt"})
    write_json(out / "config.json", timm_config(encoder) | {"about": describe(checkpoint)})
    return [out / "model.safetensors", out / "config.json"]


def timm_config(encoder: Encoder) -> dict[str, Any]:
    """What timm reads from config.json."""
    size = encoder.image_size
    return {
        "architecture": TIMM_BASE,
        "num_classes": 0,
        "num_features": int(encoder.embed_dim),
        "global_pool": "",
        "model_args": {
            "img_size": size,
            "patch_size": encoder.patch_size,
            "embed_dim": int(encoder.embed_dim),
            "depth": len(encoder.blocks),
            "num_heads": encoder.heads,
            "global_pool": "",
        },
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "fixed_input_size": True,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "mean": list(encoder.mean),
            "std": list(encoder.std),
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def to_hub_folder(checkpoint: str | Path, out: Path) -> list[Path]:
    """A folder to upload to a model hub: `to_timm`, a card, and in `whole/` everything that was trained.

    Returns the files. Whoever loads it by timm gets the encoder; `pretrain.load_micron("OUT/whole")` gets DMA too.
    """
    files = to_timm(checkpoint, out)
    objective = objective_of(checkpoint)
    if objective == "micron_bert":
        model = load_micron(checkpoint)
        save_model(out / "whole", model.state_dict(), model.config, describe(checkpoint))
        files += [out / "whole" / "model.safetensors", out / "whole" / "config.json"]
    card = Path(checkpoint) / "model-card.md"
    if card.is_file():
        shutil.copyfile(card, out / "README.md")
    else:
        write_text(out / "README.md", _card(objective, describe(checkpoint)))
    return [*files, out / "README.md"]


def _card(objective: str, about: dict[str, Any]) -> str:
    """A card where the run left none."""
    facts = "".join(f"- {key}: {value}\n" for key, value in about.items())
    return (
        "---\ntags: [micro-expression, self-supervised]\nlibrary_name: timm\n---\n"
        f"# A face encoder pretrained by {objective}\n\n{facts}\n"
        "Licence and terms are those of the frames it was trained on: state them here before you publish it.\n"
    )


class Tokens(nn.Module):
    """What goes into an ONNX file: frames float32 [B 3 S S], RGB in 0..1, to tokens [B 1+N D]."""

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder
        self.register_buffer("mean", torch.tensor(encoder.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(encoder.std).view(1, 3, 1, 1))

    def forward(self, frames: Tensor) -> Tensor:
        """Normalise, then encode."""
        return self.encoder((frames - self.mean) / self.std)


def to_onnx(checkpoint: str | Path, out: Path) -> list[Path]:
    """`encoder.onnx`: input 'frames' float32 [B 3 S S], RGB in 0..1, any B; output 'tokens' [B 1+N D].

    Raises FlickerError without the packages of the extra `onnx`.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise FlickerError(f"ONNX needs the package {error.name}: pip install 'flicker-mer[onnx]'") from None
    encoder = load_encoder(checkpoint)
    size = encoder.image_size
    example = (torch.rand(2, 3, size, size),)
    program = torch.onnx.export(
        Tokens(encoder).eval(),
        example,
        input_names=["frames"],
        output_names=["tokens"],
        dynamic_shapes={"frames": {0: torch.export.Dim("batch")}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    with atomic_path(out / "encoder.onnx") as temporary:
        program.save(str(temporary), external_data=False)
    return [out / "encoder.onnx"]


FORMS = {"safetensors": to_safetensors, "timm": to_timm, "hub-folder": to_hub_folder, "onnx": to_onnx}


def export(checkpoint: str | Path, form: str, out: Path) -> list[Path]:
    """Write `checkpoint` (anything `load_encoder` reads) as `form` into the folder `out`; returns the files.

    Raises UsageError for an unknown form, FlickerError where the checkpoint cannot be read.
    """
    if form not in FORMS:
        raise UsageError(f"unknown form {form}; choose one of {', '.join(FORMS)}")
    out.mkdir(parents=True, exist_ok=True)
    return FORMS[form](checkpoint, out)


def _plain(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """float32 on the CPU, each tensor its own memory."""
    return {name: value.detach().float().cpu().contiguous().clone() for name, value in weights.items()}
