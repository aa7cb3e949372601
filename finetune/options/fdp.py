"""Options of the head `fdp`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class FdpOptions:
    """Options of the head `fdp`; values the paper states are the defaults."""

    release: bool = False
    """As the authors' code: grey frames, local blocks only, codes joined out of order, SegNet as decoder, no rank loss,
    fixed sampling without crop and flip, each split scaled by its own mean and maximum, evaluation mode from the
    second epoch on (overrides the options about those; native only)."""
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
