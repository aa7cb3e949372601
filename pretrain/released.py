"""The authors' released Micron-BERT checkpoint (`.pth`), read without running code from it.

It was pretrained with DMA off (`diag_att=False`: full cross-attention) and DINO on, on CASME II. Its module
names are `backbone`, `att`, `decoder_*`; a DataParallel or compile prefix is stripped. DINO's heads and the
teacher, where present, are left out: they take no part in features.
"""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.architecture import AgreementConfig, ModelConfig
from pretrain.encoder import sincos_table
from shards.errors import FlickerError

_RENAMES = (
    (r"^backbone\.", "encoder."),
    (r"^att\.", "attention."),
    (r"^decoder_(embed|pos_embed|blocks|norm|pred)\b", r"decoder.\1"),
)


def read_state(path: Path) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """(parameter name -> tensor, the release's own arguments where it stored them) of a `.pth` of any system.

    Names are as stored, except that prefixes which wrappers add (DataParallel, compile) are stripped.

    Raises FlickerError: no such file, not a checkpoint, or one that needs code to be unpickled.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FlickerError(f"no such checkpoint: {path}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise FlickerError(f"cannot read {path} without running code from it: {reason}") from None
    if not isinstance(content, Mapping):
        raise FlickerError(
            f"{path} is no checkpoint: it holds a {type(content).__name__}, not a dictionary of weights"
        )
    state: Mapping[str, Any] = content
    for key in ("model", "state_dict", "teacher"):
        if isinstance(content.get(key), Mapping):
            state = content[key]
            break
    arguments = content.get("args")
    known = vars(arguments) if isinstance(arguments, argparse.Namespace) else {}
    return {_bare(name): value for name, value in state.items()}, dict(known)


def _bare(name: str) -> str:
    """A parameter's name without the prefixes that wrappers add."""
    return re.sub(r"^(module\.|_orig_mod\.)+", "", name)


def read_released(path: Path, **config: Any) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Config and renamed weights of a released Micron-BERT `.pth`. Raises FlickerError as `read_state` does."""
    state, arguments = read_state(path)
    return from_released(state, **{**arguments, **config})


def from_released(state: Mapping[str, Any], **config: Any) -> tuple[ModelConfig, dict[str, Tensor]]:
    """ModelConfig and MicronBert weights from a released state dict.

    Args:
        state: parameter name -> tensor.
        config: the release's own arguments where known (`num_heads`, `decoder_num_heads`, `diag_att`, ...);
            sizes are read off the weights. Heads are 4 and `diag_att` is False unless stated.

    Raises FlickerError: the weights are not Micron-BERT's.
    """
    weights: dict[str, Tensor] = {}
    for name, value in state.items():
        name = re.sub(r"^(module\.|_orig_mod\.|model\.)+", "", name)
        if isinstance(value, Tensor) and re.match(r"(backbone|att|decoder_\w+)\b", name):
            for pattern, new in _RENAMES:
                name = re.sub(pattern, new, name)
            weights[name] = value.float()
    model = _config(weights, config)
    grid = model.image_size // model.patch_size
    weights.setdefault("encoder.pos_embed", sincos_table(model.dim, grid))  # fixed tables: some files leave them out
    weights.setdefault("decoder.pos_embed", sincos_table(model.decoder_dim, grid))
    return model, weights


def _config(weights: dict[str, Tensor], given: dict[str, Any]) -> ModelConfig:
    """The architecture that the weights' shapes and the release's arguments describe."""
    try:
        dim, _, patch, _ = weights["encoder.patch_embed.proj.weight"].shape
        grid = given.get("img_size", 0) // patch or round((weights["encoder.pos_embed"].shape[1] - 1) ** 0.5)
        decoder_dim = weights["decoder.embed.weight"].shape[0]
        depth, decoder_depth = _depth(weights, "encoder.blocks."), _depth(weights, "decoder.blocks.")
    except KeyError as error:
        raise FlickerError(f"these are not Micron-BERT's weights: {error.args[0]} is missing") from None
    base = ModelConfig(
        preset="small",
        image_size=grid * patch,
        patch_size=patch,
        dim=dim,
        depth=depth,
        heads=int(given.get("num_heads", 4)),
        decoder_dim=decoder_dim,
        decoder_depth=decoder_depth,
        decoder_heads=int(given.get("decoder_num_heads", 4)),
    )
    return replace(
        base,
        dma="diagonal" if given.get("diag_att", False) else "full",
        dma_scaled=True,
        dma_projection=True,
        poi="none",
        normalise_pixels=bool(given.get("norm_pix_loss", False)),
        agreement=AgreementConfig(kind="none"),
    )


def _depth(weights: dict[str, Tensor], prefix: str) -> int:
    """How many blocks there are under `prefix`."""
    return len({name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)})
