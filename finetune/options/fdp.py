"""Options of the head `fdp`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from shards.errors import UsageError


@dataclass
class FdpOptions:
    """Options of the head `fdp`; values the paper states are the defaults."""

    release: bool = False
    """As the authors' code: grey frames, local blocks only, codes joined out of order, SegNet as decoder, no rank
    loss, fixed sampling without crop and flip, each split scaled by its own mean and maximum, evaluation mode from
    the second epoch on (overrides the options about those; native only)."""
    frames: int = 8
    """Frames t that a clip is seen as, sampled evenly (at random offset in training)."""
    stored: int = 64
    """Frames kept per clip, from which `frames` are sampled (0: all)."""
    stored_plugged: int = 16
    """The same on an encoder, where each of them is encoded."""
    face: str = "aligned"
    """Geometry of the crop: aligned, box, slstt, or as-is-squash, as-is-crop, as-is-pad."""
    size: int = 72
    """Side of the frames kept, pixels; on an encoder they have the encoder's."""
    crop: int = 64
    """Side of the crop that the network sees (random in training, else central), of a frame's code laid out as a map,
    and of the dynamic image, pixels."""
    relative: Literal["plugged", "always", "never"] = "plugged"
    """Where frames are seen as what changed since the first sampled one, which shows what moved and hides who it is:
    on an encoder (its tokens), natively as well, or not at all. The paper's frames are as they are."""
    mirror: float = 0.5
    """Probability (0..1) that a training clip is mirrored left to right; not on frozen features."""
    widths: list[int] = field(default_factory=lambda: [64, 128, 320, 512])
    """Width of each of the N_S stages of the local-global feature-aware transformer (widths are not stated)."""
    head_dim: int = 32
    """Channels of a head in its convolution and attention blocks (not stated)."""
    mlp_ratio: float = 4.0
    """Hidden width of its MLPs over the stage's (not stated)."""
    local_layers: int = 2
    """Local aggregators N_L per stage (0: Table 9's "w/o L")."""
    global_layers: int = 1
    """Global aggregators N_G per stage (0: Table 9's "w/o G")."""
    dropout: float = 0.1
    """Dropout (0..1) after the fully connected layer of attention (there is one; its rate is not stated)."""
    decoder_widths: list[int] = field(default_factory=lambda: [64, 128, 256, 512])
    """Channels of the dynamic image's encoder blocks; each halves the map, and has its decoder block."""
    hidden: int = 256
    """Width of the first fully connected layer of the recognition module (its release's)."""
    dynamic_weight: float = 100.0
    """λ_d of the dynamic image's loss (0: Table 9's "w/o L_DIC")."""
    rank_weight: float = 0.1
    """λ_r of the rank loss (0: Table 9's "w/o L_Rank")."""
    slope: float = 1.0
    """Of K(k) = slope·k, the rank score that frame k is to have (positive; not stated)."""
    cells: int = 8
    """On an encoder: its tokens are averaged over cells x cells areas, fewer if its grid has fewer."""
    layer_decay: float = 0.75
    """On an encoder that trains: each block's learning rate as a share of the next one's."""


def check(o: FdpOptions, plug: tuple[int, int] | None) -> None:
    """Raise UsageError naming the option that does not fit.

    plug: (width, grid side) of the encoder that the head is plugged into.
    """
    native = plug is None and not o.release
    steps = 2 ** (len(o.widths) + 1)
    cells = min(o.cells, plug[1]) if plug is not None else 1
    rules = {
        "release": not o.release or plug is None,
        "frames": o.frames >= 2,
        "stored": o.stored == 0 or o.stored >= 3,
        "stored_plugged": o.stored_plugged == 0 or o.stored_plugged >= 3,
        "relative": o.relative in ("plugged", "always", "never"),
        "crop": 3 <= o.crop <= o.size or (plug is not None and o.crop >= 3),
        "widths": bool(o.widths) and min(o.widths) >= 1 and not (native and o.crop % steps),
        "head_dim": o.head_dim >= 1 and all(width % o.head_dim == 0 for width in o.widths),
        "mlp_ratio": o.mlp_ratio > 0,
        "local_layers": o.local_layers >= 0,
        "global_layers": o.global_layers >= 0,
        "decoder_widths": bool(o.decoder_widths) and o.crop % 2 ** (5 if o.release else len(o.decoder_widths)) == 0,
        "hidden": o.hidden >= 1,
        "dropout": 0 <= o.dropout < 1,
        "mirror": 0 <= o.mirror <= 1,
        "dynamic_weight": o.dynamic_weight >= 0,
        "rank_weight": o.rank_weight >= 0,
        "slope": o.slope > 0,
        "cells": cells >= 1 and o.crop % cells == 0,
        "layer_decay": 0 < o.layer_decay <= 1,
    }
    hints = {
        "release": "the released behaviour is native: give no encoder",
        "widths": f"each stage halves the crop: {len(o.widths)} of them need a multiple of {steps} px",
        "head_dim": "it divides every width",
        "crop": "at most head.fdp.size",
        "decoder_widths": "each block halves the crop",
        "cells": "it divides head.fdp.crop",
    }
    for key, fine in rules.items():
        if not fine:
            raise UsageError(f"head.fdp.{key}: {getattr(o, key)!r} does not fit; {hints.get(key, 'out of range')}")
