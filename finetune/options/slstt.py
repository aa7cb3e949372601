"""Options of the head `slstt`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from shards.errors import UsageError

Aggregation = Literal["lstm", "mean"]
Drawing = Literal["raw", "hsv"]
Activation = Literal["gelu", "gelu-tanh"]
FEATURES = ("tokens", "difference", "dma", "contextual")


@dataclass
class SlsttOptions:
    """Options of the head `slstt`; values the paper states are the defaults."""

    release: bool = False
    """As the authors' code: flow drawn as HSV pictures with each frame's own range, an encoder that does not train,
    GELU by tanh, one linear layer behind the mean (overrides drawing, scale, steady, freeze and activation)."""
    aggregation: Aggregation = "lstm"
    """Frames' vectors to the clip's: lstm, or mean."""
    drawing: Drawing = "raw"
    """Flow as the encoder sees it: raw (u, v, length), or hsv (a picture: hue the direction, value the length)."""
    scale: float = 0.0
    """Length that becomes 1 (raw) or full brightness (hsv), px of the crop. 0: raw is standardised by the fold's
    training clips, hsv takes each frame's own smallest and largest length."""
    steady: bool = False
    """Take each frame's median flow off, natively: the shift of the whole head, which is most of what moves where a
    head is free (not in the paper)."""
    face: str = "slstt"
    """Geometry of the crop: slstt (eq. 16), box, aligned, or as-is-squash, as-is-crop, as-is-pad."""
    crop: int = 256
    """Side of the crop that flow is computed on, px (the paper: the face's own size)."""
    size: int = 384
    """Side of what the native encoder sees, px, a multiple of `patch`; the crop is resized to it."""
    frames: int = 11
    """Frames around the apex, odd: the apex and as many on either side."""
    interpolation: str = "flow"
    """How missing frames are made (native): flow, linear, tim, or torchscript:FILE (an export of RIFE)."""
    patch: int = 16
    """Side of a patch of the native encoder, px."""
    dim: int = 768
    """Width D of a frame's vector; natively of the encoder's tokens, too."""
    depth: int = 12
    """Layers of the native encoder."""
    heads: int = 12
    """Its attention heads."""
    activation: Activation = "gelu"
    """Its GELU: exact, or by tanh."""
    weights: str = ""
    """Weights that the native encoder starts from: '' (random), timm (ViT-B/16 of 384 px, fetched by timm), or a file
    with those of timm or of SLSTT's release (.safetensors, .pth)."""
    freeze: bool = False
    """The native encoder does not train. Where its input does not depend on the fold (hsv, or `scale` above 0), its
    vectors are computed once per clip and kept."""
    hidden: int = 512
    """Width of the LSTM."""
    layers: int = 3
    """Layers of the LSTM."""
    classifier: int = 256
    """Width of the first of the two linear layers at the end."""
    dropout: float = 0.0
    """Dropout (0..1) between LSTM layers and before the linear layers."""
    features: list[str] = field(default_factory=lambda: ["tokens", "dma"])
    """On an encoder, of each frame: tokens, difference (tokens minus the onset's), dma (of onset and frame),
    contextual (its contextual token), concatenated."""
    cells: int = 4
    """On an encoder: areas per side that patches are averaged over (1: the whole face)."""
    kept: int = 0
    """On an encoder: frames kept per clip, uniformly spaced, from which those around the apex are taken (0: all)."""
    layer_decay: float = 0.75
    """On an encoder that trains: each block's learning rate as a share of the next one's."""


def effective(options: SlsttOptions, grid: int | None = None) -> SlsttOptions:
    """The options with what `release` overrides. `grid`: patches per side of the encoder that the head is put on.

    Raises UsageError naming the option that is out of range.
    """
    found = options
    if options.release:
        found = replace(options, drawing="hsv", scale=0.0, steady=False, freeze=True, activation="gelu-tanh")
    for name, fine in _rules(found, grid).items():
        if not fine:
            raise UsageError(f"head.slstt.{name}: {getattr(found, name)!r} is out of range{_HINTS.get(name, '')}")
    return found


_HINTS = {
    "size": "; a multiple of head.slstt.patch",
    "dim": "; natively a multiple of head.slstt.heads, on an encoder of head.slstt.cells squared",
    "frames": "; an odd number",
    "features": f"; one or more of {', '.join(FEATURES)}",
    "cells": "; at most as many as the encoder has patches per side",
    "kept": "; 0, or 3 and more",
}


def _rules(o: SlsttOptions, grid: int | None) -> dict[str, bool]:
    """Key -> whether its value makes sense."""
    rules = {
        "aggregation": o.aggregation in get_args(Aggregation),
        "drawing": o.drawing in get_args(Drawing),
        "activation": o.activation in get_args(Activation),
        "scale": 0 <= o.scale < float("inf"),
        "frames": o.frames >= 1 and o.frames % 2 == 1,
        "crop": o.crop >= 8,
        "hidden": o.hidden >= 1,
        "layers": o.layers >= 1,
        "classifier": o.classifier >= 1,
        "dropout": 0 <= o.dropout < 1,
    }
    if grid is None:
        return rules | {
            "patch": o.patch >= 1,
            "size": o.size >= 1 and o.size % max(o.patch, 1) == 0,
            "depth": o.depth >= 1,
            "heads": o.heads >= 1,
            "dim": o.dim >= 1 and o.dim % max(o.heads, 1) == 0,
        }
    return rules | {
        "features": bool(o.features) and not set(o.features) - set(FEATURES),
        "cells": 1 <= o.cells <= grid,
        "dim": o.dim >= 1 and o.dim % max(o.cells, 1) ** 2 == 0,
        "kept": o.kept == 0 or o.kept >= 3,
        "layer_decay": 0 < o.layer_decay <= 1,
    }
