"""Weights that SLSTT's spatial encoder starts from: timm's, or a file of timm's or of SLSTT's release."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from pretrain.released import read_state
from pretrain.weights import load_weights
from shards.errors import FlickerError

log = logging.getLogger(__name__)

TIMM = "vit_base_patch16_384.orig_in21k_ft_in1k"
"""The ViT-B/16 that Dosovitskiy et al. published, of 384 px, trained on ImageNet-21k and ImageNet-1k."""
_RENAMES = (
    (r"^vit\.", ""),
    (r"^class_token$", "cls_token"),
    (r"^patch_embedding\.", "patch_embed.proj."),
    (r"^positional_embedding\.pos_embedding$", "pos_embed"),
    (r"^transformer\.", ""),
    (r"^(blocks\.\d+)\.proj\.", r"\1.attn.proj."),
    (r"^(blocks\.\d+)\.pwff\.", r"\1.mlp."),
)
_CLASSIFIERS = ("head.", "fc.", "pre_logits.", "lstm.", "fc1.", "fc2.")
_PARTS = ("proj_q", "proj_k", "proj_v")


def start(vit: VisionTransformer, source: str) -> None:
    """Load `source` ('timm' or a file) into the encoder; positions of another grid are resampled, which is logged.

    Raises FlickerError: nothing to fetch or to read, weights of another architecture.
    """
    weights = {name: value for name, value in _read(source).items() if not name.startswith(_CLASSIFIERS)}
    own, given = vit.pos_embed, weights.get("pos_embed")
    if own is not None and given is not None and given.ndim == 3 and given.shape[1] != own.shape[1]:
        side = round((own.shape[1] - 1) ** 0.5)
        log.info("head.slstt.weights: positions of %d tokens resampled to %d", given.shape[1], own.shape[1])
        weights["pos_embed"] = resample_abs_pos_embed(given, [side, side], num_prefix_tokens=1)
    load_weights(vit, weights, Path(source))


@lru_cache(maxsize=1)
def _read(source: str) -> dict[str, Tensor]:
    """Weights by timm's names; read once, as every fold starts from them."""
    if source == "timm":
        return _fetch()
    path = Path(source)
    if path.suffix != ".safetensors":
        return to_timm(read_state(path)[0])
    try:
        return to_timm(load_file(path))
    except FileNotFoundError:
        raise FlickerError(f"head.slstt.weights: no such file: {path}") from None
    except (OSError, SafetensorError) as error:
        raise FlickerError(f"head.slstt.weights: {path} is no safetensors file: {error}") from None


def _fetch() -> dict[str, Tensor]:
    """timm's own, from its cache or the network."""
    try:
        return dict(timm.create_model(TIMM, pretrained=True, num_classes=0).state_dict())
    except Exception as error:  # the hub, the network and the disk raise what they like
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise FlickerError(
            f"head.slstt.weights: timm cannot fetch {TIMM} ({lines[0][:120]}); without a network give, instead of "
            "timm, the file: model.safetensors of timm's repository of that name"
        ) from None


def to_timm(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights of SLSTT's release, or of the ViT that it builds on, by timm's names; timm's own stay as they are."""
    weights: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            name = re.sub(r"^(module\.|_orig_mod\.)+", "", name)
            for pattern, new in _RENAMES:
                name = re.sub(pattern, new, name)
            weights[name] = value.float()
    for name in [name for name in weights if f".{_PARTS[0]}." in name]:
        names = [name.replace(_PARTS[0], part) for part in _PARTS]
        if all(part in weights for part in names):
            together = torch.cat([weights.pop(part) for part in names])
            weights[name.replace(_PARTS[0], "qkv")] = together
    return weights
