"""Options of the head `htnet`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class HTNetOptions:
    """Options of the head `htnet`; the defaults are the paper's."""

    release: bool = False
    """As the authors' code: areas with x and y exchanged and landmarks 1 and 3 as left lip and right eye, GELU, one
    position number per token, each map drawn in 8 bits (overrides activation, position and scaling)."""
    dim: int = 256
    """Width of the bottom level; each further level has twice the width."""
    heads: int = 3
    """Attention heads of the bottom level; each further level has twice as many."""
    depths: list[int] = field(default_factory=lambda: [2, 2, 8])
    """Transformer layers per level, from the bottom."""
    block: int = 7
    """Side of a bottom block in cells of a 28-cell map (5 to 10 in the paper); areas are two blocks wide. On a map of
    another side it grows with the side, rounded."""
    patch: int = 0
    """Side of a token in cells, a divisor of the block. 0: the whole block natively (the paper's one token per
    block), 1 on an encoder's map."""
    grid: int = 28
    """Side of the flow map, and of the grid that the areas' centres are given on, cells."""
    activation: Literal["relu", "gelu"] = "relu"
    """Between the two layers of a feed-forward network: relu as the paper writes, gelu as its code has."""
    position: Literal["vector", "scalar"] = "vector"
    """Learned position of a token in its block: a vector as the paper writes, one number as its code has."""
    scaling: Literal["standard", "centred", "minmax", "none"] = "standard"
    """Of the map: standard (mean and deviation of the fold's training maps), centred (the same after each map's
    median of u and v is taken off), minmax (each map and channel to 0..255, as the code draws them), none."""
    dropout: float = 0.0
    """Dropout (0..1) in attention and feed-forward networks."""
    mirror: float = 0.0
    """Probability (0..1) that a training clip is mirrored left to right."""
    jitter: float = 0.0
    """Training areas are moved by up to so many cells in x and y, each clip's four together."""
    layer_decay: float = 0.75
    """On an encoder that trains: each block's learning rate as a share of the next one's."""
    face: str = "box"
    """Geometry of the crop that the map is made of: box, aligned, slstt, or as-is-squash, as-is-crop, as-is-pad."""
    size: int = 224
    """Side of that crop, pixels."""
