"""A recogniser for use: trained once on all clips of a run, stored, and applied to recordings without a label.

Its score is what the run's leave-one-subject-out says; on the people it was trained on it has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune import heads
from finetune.config import FinetuneConfig
from finetune.fold import softmax
from finetune.folds import Portion, everything
from finetune.heads.base import Head
from finetune.inputs import MagnifiedApex
from finetune.prepare import Prepared
from finetune.training import predict, train
from pretrain import MicronBert
from pretrain.architecture import config_from_dict, config_to_dict
from shards.errors import FlickerError
from shards.files import atomic_path, read_json, write_json

FOLDER = "recogniser"
VERSION = 1


@dataclass
class Recogniser:
    """A trained head and everything that it needs to read a clip."""

    head: Head
    """Untrained shell with the encoder, whose `extract` makes what `model` reads."""
    model: Head
    whole: bool
    """Whether `model` reads prepared inputs itself (its encoder was trained too)."""
    about: dict[str, Any]
    """config.json."""

    @property
    def classes(self) -> list[str]:
        """Names, in the order of the probabilities."""
        return list(self.about["classes"])

    @property
    def recipes(self) -> dict[str, Any]:
        """Which inputs it reads (finetune.inputs)."""
        wanted = heads.needs(self.about["head"], _options(self.about), _encoder(self.head))
        return {name: recipe for name, recipe in wanted.items() if not isinstance(recipe, MagnifiedApex)}

    @torch.no_grad()
    def probabilities(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Prepared inputs [n ...] by name -> float64 [n C]."""
        inputs = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}
        if not self.whole:
            inputs = self.head.eval().extract(inputs)
        return softmax(predict(self.model, inputs, batch=16))


def train_on_all(prepared: Prepared, config: FinetuneConfig, out: Path) -> Path:
    """Train on every clip of the run with its settings and first seed, and store the result in OUT/recogniser.

    Nothing is chosen: the state after the last epoch. Returns the folder.
    """
    whole = prepared.backbone is not None and config.backbone.mode != "frozen"
    made: list[Head] = []

    def make_model() -> Head:
        backbone = config.backbone
        head = prepared.head
        made.append(head.trainable(backbone.mode, backbone.blocks, backbone.lr_scale) if whole else head.readout())
        return made[-1]

    samples, seed = prepared.samples, config.protocol.seeds[0]
    clips = everything(samples)
    train(clips, _nothing(clips), make_model, samples.classes, config.train, seed, prepared.device)
    about = {
        "version": VERSION,
        "head": config.head.name,
        "options": asdict(getattr(config.head, config.head.name)),
        "classes": list(samples.classes),
        "scheme": prepared.scheme.name,
        "dataset": prepared.validation.dataset,
        "simulated": prepared.validation.simulated,
        "whole": whole,
        "mode": asdict(config.backbone) if whole else None,
        "encoder": None if prepared.backbone is None else config_to_dict(prepared.backbone.model.config),
        "trained_on": {"clips": len(samples.ids), "subjects": sorted(set(samples.subjects)), "seed": seed},
        "identity": prepared.digest,
    }
    folder = out / FOLDER
    weights = {f"model.{name}": value for name, value in made[-1].state_dict().items()}
    if prepared.backbone is not None and not whole:
        weights |= {f"encoder.{name}": value for name, value in prepared.backbone.model.state_dict().items()}
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file({name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}, temporary)
    write_json(folder / "config.json", about)
    return folder


def _nothing(portion: Portion) -> Portion:
    """A portion without clips: nothing is watched."""
    return Portion("test", (), (), {name: value[:0] for name, value in portion.inputs.items()}, None)


def load(path: str | Path) -> Recogniser:
    """The recogniser of a run directory or of its folder `recogniser`.

    Raises FlickerError: nothing there, another version, weights that do not fit.
    """
    folder = Path(path) if (Path(path) / "model.safetensors").is_file() else Path(path) / FOLDER
    if not (folder / "config.json").is_file():
        raise FlickerError(
            f"{path} holds no recogniser; make one: python launch/finetune.py --config ... --save_recogniser true"
        )
    about = dict(read_json(folder / "config.json", "recogniser"))
    if about.get("version") != VERSION or "head" not in about:
        raise FlickerError(f"{folder / 'config.json'} is of another version or no recogniser; train it again")
    weights = _read(folder / "model.safetensors")
    encoder = MicronBert(config_from_dict(about["encoder"])) if about["encoder"] else None
    head = heads.create(about["head"], len(about["classes"]), encoder, **about["options"])
    if about["whole"]:
        mode = about["mode"]
        model = head.trainable(mode["mode"], mode["blocks"], mode["lr_scale"])
    else:
        model = head.readout()
    parts = {"model": model} | ({"encoder": encoder} if encoder is not None and not about["whole"] else {})
    for name, module in parts.items():
        own = {key[len(name) + 1 :]: value for key, value in weights.items() if key.startswith(f"{name}.")}
        _fill(module, own, folder)
    return Recogniser(head.eval(), model.eval(), bool(about["whole"]), about)


def _fill(module: torch.nn.Module, weights: dict[str, Tensor], folder: Path) -> None:
    """Load strictly, in one line where it does not fit."""
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise FlickerError(
            f"weights in {folder} do not fit its config.json: {str(error).splitlines()[-1].strip()}"
        ) from None


def _read(path: Path) -> dict[str, Tensor]:
    """A safetensors file. Raises FlickerError if it is missing or damaged."""
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise FlickerError(f"cannot read {path}: {error}; train the recogniser again") from None


def _options(about: Mapping[str, Any]) -> Any:
    """The head's options as its dataclass."""
    kind = heads.HEADS[about["head"]][1]
    return kind(**{name: value for name, value in about["options"].items() if name in get_type_hints(kind)})


def _encoder(head: Head) -> MicronBert | None:
    """What the head is plugged into."""
    return getattr(head, "encoder", None)
