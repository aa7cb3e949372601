"""Weights on disk: what other people load. Safetensors and JSON, timm's key names, no pickle.

An *encoder folder* holds `model.safetensors` (the encoder alone, key names as timm's VisionTransformer) and
`config.json`; a *model folder* holds a whole objective (Micron-BERT, MAE, ...) the same way. `load_encoder` reads
either, a run directory (its newest checkpoint), or the authors' released `.pth`; `load_micron` all but encoders.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pretrain.architecture import AgreementConfig, ModelConfig, config_from_dict, config_to_dict, resolve
from pretrain.encoder import IMAGE_MEAN, IMAGE_STD, Encoder
from pretrain.model import MicronBert
from pretrain.objective import Objective, build_encoder
from pretrain.released import read_released
from shards.errors import FlickerError
from shards.files import atomic_path, read_json, write_json

VERSION = 1
LATEST = "latest"


def save_model(folder: Path, weights: dict[str, Tensor], config: ModelConfig, about: dict[str, Any]) -> None:
    """Write a model folder: all of an objective, float32. `about` (steps, data, ...) goes into config.json."""
    description = {"version": VERSION, "kind": config.objective, "model": config_to_dict(config), "about": about}
    _save(folder, weights, description)


def save_encoder(folder: Path, weights: dict[str, Tensor], config: ModelConfig, about: dict[str, Any]) -> None:
    """Write an encoder folder from an objective's weights (keys `encoder.*`), float32, without prefixes."""
    encoder = _encoder_weights(weights)
    description = {
        "version": VERSION,
        "kind": "encoder",
        "architecture": "vit",
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "embed_dim": config.dim,
        "depth": config.depth,
        "num_heads": config.heads,
        "mean": list(IMAGE_MEAN),
        "std": list(IMAGE_STD),
        "about": about,
    }
    _save(folder, encoder, description)


def _save(folder: Path, weights: dict[str, Tensor], description: dict[str, Any]) -> None:
    plain = {name: value.detach().float().cpu().contiguous().clone() for name, value in weights.items()}
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file(plain, temporary, metadata={"format": "pt"})
    write_json(folder / "config.json", description)


def load_micron(path: str | Path, device: str | torch.device = "cpu") -> MicronBert:
    """The whole model, in eval mode: `.encoder`, `.dma(swapped, reference)`, `.poi(frame)`.

    Args:
        path: a run directory, `run/checkpoints/step-N`, a model folder, its `model.safetensors`, or the
            released `.pth`.

    Raises FlickerError: nothing there, an encoder without DMA, another objective's run, weights of another
    architecture.
    """
    path = Path(path)
    if _is_released(path):
        config, weights = read_released(path)
    else:
        folder = find_folder(path, whole=True)
        stored = _read_model(folder)
        if stored is None:
            raise FlickerError(
                f"{folder} holds an encoder without DMA; give the run directory or a checkpoint step-N"
            )
        config, weights = stored
        if config.objective != "micron_bert":
            raise FlickerError(
                f"{folder} was trained as {config.objective}, which has no DMA; use pretrain.load_encoder for its "
                "encoder, or train Micron-BERT from it with checkpoint.init"
            )
    model = MicronBert(config)
    load_weights(model, weights, path)
    return model.to(device).eval()


def objective_of(path: str | Path) -> str:
    """What trained these weights: 'micron_bert', 'mae', 'mocov3', 'beit', or 'encoder' of an encoder folder.

    Args:
        path: as for `load_encoder`.
    """
    path = Path(path)
    if _is_released(path):
        return "micron_bert"
    kind = read_json(find_folder(path, whole=False) / "config.json", "model config").get("kind", "unknown")
    return str(kind).replace("-", "_")  # early versions wrote micron-bert


def load_without_dma(path: str | Path, device: str | torch.device = "cpu") -> MicronBert:
    """The encoder of any run or encoder folder inside a Micron-BERT module that has neither DMA nor PoI nor decoder
    weights, in eval mode: what compares objectives by recognition (Micron-BERT, Table 6).

    Args:
        path: as for `load_encoder`.

    Raises FlickerError: nothing there, weights of another architecture.
    """
    encoder = load_encoder(path)
    model = MicronBert(config_of(encoder))
    model.encoder = encoder
    return model.to(device).eval()


def config_of(encoder: Encoder) -> ModelConfig:
    """The config of a Micron-BERT with this encoder and neither DMA, PoI nor agreement."""
    return ModelConfig(
        image_size=encoder.image_size,
        patch_size=encoder.patch_size,
        dim=encoder.embed_dim,
        depth=len(encoder.blocks),
        heads=encoder.heads,
        dma="none",
        poi="none",
        agreement=AgreementConfig(kind="none"),
    )


def _read_model(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]] | None:
    """Config and weights of a model folder; None for an encoder folder."""
    description = read_json(folder / "config.json", "model config")
    if description.get("kind") == "encoder":
        return None
    if not isinstance(description.get("model"), dict):
        raise FlickerError(
            f"{folder / 'config.json'} describes no model; give a run directory or a checkpoint step-N"
        )
    return config_from_dict(description["model"]), _read(folder / "model.safetensors")


def load_encoder(path: str | Path, device: str | torch.device = "cpu") -> Encoder:
    """The encoder alone, in eval mode: `encoder(frames [B 3 H W]) -> tokens [B 1+N D]`.

    Args:
        path: as for `load_micron`, of a run with any objective, or an encoder folder.

    Raises FlickerError: nothing there, weights of another architecture.
    """
    path = Path(path)
    if _is_released(path):
        return load_micron(path, device).encoder
    folder = find_folder(path, whole=False)
    stored = _read_model(folder)
    if stored is not None:
        config, weights = stored
        encoder = build_encoder(resolve(config))
        load_weights(encoder, _encoder_weights(weights), path)
    else:
        encoder = _read_encoder(folder)
    return encoder.to(device).eval()


def _read_encoder(folder: Path) -> Encoder:
    """The encoder of an encoder folder."""
    description = read_json(folder / "config.json", "model config")
    encoder = Encoder(
        image_size=description["image_size"],
        patch_size=description["patch_size"],
        dim=description["embed_dim"],
        depth=description["depth"],
        heads=description["num_heads"],
    )
    load_weights(encoder, _read(folder / "model.safetensors"), folder)
    return encoder


def _encoder_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's among an objective's weights, without their prefix."""
    return {name[len("encoder.") :]: value for name, value in weights.items() if name.startswith("encoder.")}


def load_initial(objective: Objective, path: str | Path) -> str:
    """Start an objective from other weights: all that fit by name and shape if they are of the same objective, else
    the encoder alone.

    Args:
        path: as for `load_encoder`.

    Returns:
        What was loaded, for the log: "encoder, decoder (of micron_bert, RUN); attention stays random".

    Raises FlickerError: nothing there, an encoder of another architecture.
    """
    path = Path(path)
    stored = read_released(path) if _is_released(path) else _read_model(find_folder(path, whole=False))
    if stored is None:
        kind, weights = (
            "encoder",
            {f"encoder.{name}": value for name, value in load_encoder(path).state_dict().items()},
        )
    else:
        kind, weights = stored[0].objective, stored[1]
    if kind != objective.config.objective:
        weights = {name: value for name, value in weights.items() if name.startswith("encoder.")}
    load_weights(objective.encoder, _encoder_weights(weights), path)
    own = objective.state_dict()
    fitting = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    objective.load_state_dict(fitting, strict=False)
    loaded = list(dict.fromkeys(name.split(".")[0] for name in own if name in fitting))
    random = list(dict.fromkeys(name.split(".")[0] for name in own if name not in fitting))
    rest = f"; {', '.join(random)} not in there: random" if random else ""
    return f"{', '.join(loaded)} from {path} ({kind}){rest}"


def describe(path: str | Path) -> dict[str, Any]:
    """Where weights come from: the `about` of their config.json (steps, data digest, commit); {} for a `.pth`."""
    path = Path(path)
    if _is_released(path):
        return {"source": "released checkpoint (pretrained with DMA off and DINO on)"}
    return dict(read_json(find_folder(path, whole=False) / "config.json", "model config").get("about", {}))


def load_weights(module: torch.nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load strictly. Raises FlickerError naming the first keys that do not fit."""
    own = module.state_dict()
    wrong = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        if name in weights
        else f"{name} missing"
        for name in own
        if name not in weights or weights[name].shape != own[name].shape
    ]
    wrong += [f"{name} unexpected" for name in weights if name not in own]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise FlickerError(
            f"weights of another architecture in {path}: {'; '.join(wrong[:3])}{more}; "
            "use the config they were trained with"
        )
    module.load_state_dict(weights)


def _is_released(path: Path) -> bool:
    return path.is_file() and path.suffix in (".pth", ".pt", ".ckpt")


def find_folder(path: Path, whole: bool) -> Path:
    """The folder with `model.safetensors` and `config.json` that `path` means.

    For a run directory: its newest completed checkpoint (`whole`), else its `encoder/`.
    """
    if path.suffix == ".safetensors" and path.is_file():
        return path.parent
    candidates = [path]
    latest = path / "checkpoints" / LATEST
    if latest.is_file():
        candidates.append(path / "checkpoints" / latest.read_text().strip())
    if (path / LATEST).is_file():
        candidates.append(path / (path / LATEST).read_text().strip())
    if not whole:
        candidates.append(path / "encoder")
    for folder in candidates:
        if (folder / "model.safetensors").is_file() and (folder / "config.json").is_file():
            return folder
    raise FlickerError(
        f"no weights at {path}: give a run directory, run/checkpoints/step-N, a folder with model.safetensors "
        "and config.json, or the released .pth"
    )


def _read(path: Path) -> dict[str, Tensor]:
    """A safetensors file. Raises FlickerError if it is damaged."""
    try:
        return load_file(path)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise FlickerError(
            f"cannot read weights {path}: {error}; the file is damaged, take another checkpoint"
        ) from None
