"""Options of FRL-DGT (Zhai et al., CVPR 2023) and the rows of its Table 2."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from shards.errors import UsageError

Ablation = Literal["M0", "M1", "M2", "M3", "M4", "M5", "M6", "M7", "M8", "M9"]
Motion = Literal["dgm", "flow", "flow-normalised", "dynamic"]


@dataclass
class FrlDgtOptions:
    """Options of the head `frl_dgt`; values the paper states are the defaults."""

    ablation: Ablation = "M9"
    """Row of the paper's Table 2; it overrides the options that it is about. M9: the whole system."""
    sequence: bool = False
    """FRL-DGT-S: `tim` frames of the whole clip in place of the onset-apex pair."""
    face: str = "aligned"
    """Geometry of the crop."""
    size: int = 270
    """Side of the face crop, px (not stated; 3 × 90, so that Table 2's 3 × 3 even parts are 90 px too)."""
    side: int = 90
    """Side of an AU box, px of the crop."""
    patch: int = 18
    """Side of a patch, px: (side / patch)² tokens per box, (size / patch)² of the whole face."""
    colour: Literal["grey", "rgb"] = "grey"
    """Frames as the network sees them (the paper allows both): grey hides which dataset a clip is from."""
    frames_seen: Literal["pair", "difference"] = "pair"
    """What the fusion's patches show beside the displacement: onset and apex (the paper), or onset and amplified
    apex - onset, the same but for a linear map, in which a few clips are enough to find what changed."""
    motion: Motion = "dgm"
    """Dynamic features: dgm; flow (px of the crop); flow-normalised (by its largest component); dynamic (image)."""
    random_pairs: int = 2
    """Random frame pairs of the fold's training clips per labelled clip, for L_DGM alone; 0: no self-supervision."""
    regions: Literal["au", "grid"] = "au"
    """Nine AU boxes, or 3 × 3 even parts of the face."""
    local_fusion: bool = True
    """Local modules; without them a box is the mean of its patch embeddings."""
    global_fusion: bool = True
    """Global module; without it the mean of the nine local vectors."""
    full_face: bool = True
    """Full-face module; without it the classifier sees the AU regions only."""
    fusion: Literal["before", "after"] = "before"
    """Linear over the queries before the product (eq. 5-7), or ordinary attention and then linear."""
    batch_norm: Literal["token", "head"] = "token"
    """BatchNorm of eq. 6: one statistic per head and token, or one per head."""
    dim: int = 256
    """Width C of embedding vectors."""
    heads: int = 8
    """Heads of attention and of fusion layers."""
    layers: int = 2
    """Transformer layers of an Attn block ("multiple" in the paper)."""
    mlp_ratio: float = 4.0
    """Hidden width of their MLP over C (ViT's)."""
    hidden: int = 256
    """Hidden width of the classifier."""
    dropout: float = 0.0
    """Dropout before each linear layer of the classifier (0..1)."""
    dgm_widths: list[int] = field(default_factory=lambda: [32, 64, 128, 256])
    """Channels of the DGM's stages; each halves the image, and is undone by the decoder."""
    dgm_input: Literal["difference", "pair"] = "difference"
    """What the DGM's first layer sees: onset and amplified apex - onset, or onset and apex."""
    dgm_skips: bool = True
    """Connect encoder and decoder stages of the DGM directly as well (U-Net)."""
    alpha: float = 0.2
    """Largest displacement α, in halves of the face crop's side (0.2: 27 px of 270)."""
    normalise: Literal["max", "instance", "none"] = "max"
    """Displacement before output: over its largest component per clip; zero mean, unit deviation and tanh; tanh."""
    reconstruct: Literal["normalised", "raw"] = "normalised"
    """What eq. 1-4 judge: the displacement that is given out, or α·tanh before it is normalised."""
    direction: Literal["moves", "samples"] = "moves"
    """G_s: D moves onset pixels by D, G(p) = F(p - D(p)); or G(p) = F(p + D(p))."""
    rec_weight: float = 10.0
    """λ_rec."""
    norm_weight: float = 1.0
    """λ_nm."""
    smooth_weight: float = 0.2
    """λ_sm."""
    gradient_scale: float = 1e-6
    """Factor of the classification loss's gradient where it enters the DGM."""
    dgm_lr: float = 2e-3
    """Learning rate of the DGM; the rest has train.lr."""
    frames: int = 16
    """Frames kept per clip, for random pairs, apex jitter, dynamic images and TIM (0: all)."""
    tim: int = 10
    """Frames T of FRL-DGT-S after temporal interpolation."""
    jitter: int = 1
    """In training the apex is moved by up to so many kept frames, forwards or backwards."""
    magnified: list[float] = field(default_factory=list)
    """Factors (0 or more) by which motion is magnified in further copies of the training clips, e.g. [2, 3]: section
    3.3 has such copies and does not state the factors. The magnified apex is not moved by `jitter`."""
    magnifier: str = "flow"
    """What magnifies: flow (built in), or torchscript:FILE, a network of yours such as an export of MagNet (loading
    that file runs its code; finetune.motion.magnify.by_network says what it must take)."""
    layer_decay: float = 0.75
    """Plugged: learning rate of an encoder block over that of the next one."""


ABLATIONS: dict[str, dict[str, Any]] = {
    "M0": {"motion": "flow"},
    "M1": {"motion": "flow-normalised"},
    "M2": {"motion": "dynamic"},
    "M3": {"random_pairs": 0},
    "M4": {"fusion": "after"},
    "M5": {"regions": "grid"},
    "M6": {"full_face": False},
    "M7": {"local_fusion": False},
    "M8": {"global_fusion": False},
    "M9": {},
}
"""Table 2's rows as differences to the whole system (M9)."""


def effective(options: FrlDgtOptions) -> FrlDgtOptions:
    """The options with their ablation applied. Raises UsageError for values out of range, naming the key."""
    if options.ablation not in ABLATIONS:
        raise UsageError(f"head.frl_dgt.ablation: no '{options.ablation}'; choose one of {', '.join(ABLATIONS)}")
    result = replace(options, **ABLATIONS[options.ablation])
    for name, fine in _rules(result).items():
        if not fine:
            raise UsageError(
                f"head.frl_dgt.{name}: {getattr(result, name)!r} is out of range; {_HINTS.get(name, '')}"
            )
    if result.sequence and result.motion != "dgm":
        raise UsageError("head.frl_dgt.sequence: FRL-DGT-S takes its displacement from the DGM (motion: dgm)")
    if result.magnified and (result.sequence or result.motion == "dynamic"):
        raise UsageError("head.frl_dgt.magnified: it is about the pair, and this reads the sequence: give no factors")
    return result


_HINTS = {
    "size": "a multiple of head.frl_dgt.patch, and at least head.frl_dgt.side",
    "side": "a multiple of head.frl_dgt.patch",
    "dim": "a multiple of head.frl_dgt.heads",
}


def _rules(o: FrlDgtOptions) -> dict[str, bool]:
    """Key -> whether its value makes sense."""
    return {
        "motion": o.motion in get_args(Motion),
        "regions": o.regions in ("au", "grid"),
        "fusion": o.fusion in ("before", "after"),
        "batch_norm": o.batch_norm in ("token", "head"),
        "normalise": o.normalise in ("max", "instance", "none"),
        "reconstruct": o.reconstruct in ("normalised", "raw"),
        "frames_seen": o.frames_seen in ("pair", "difference"),
        "dgm_input": o.dgm_input in ("difference", "pair"),
        "direction": o.direction in ("moves", "samples"),
        "colour": o.colour in ("grey", "rgb"),
        "patch": o.patch >= 1,
        "side": o.side % max(o.patch, 1) == 0 and o.side > 0,
        "size": o.size % max(o.patch, 1) == 0 and o.size >= o.side,
        "dim": o.dim % max(o.heads, 1) == 0 and o.dim > 0,
        "heads": o.heads >= 1,
        "layers": o.layers >= 1,
        "hidden": o.hidden >= 1,
        "dropout": 0 <= o.dropout < 1,
        "dgm_widths": bool(o.dgm_widths) and min(o.dgm_widths) >= 2,
        "alpha": o.alpha > 0,
        "random_pairs": o.random_pairs >= 0,
        "frames": o.frames == 0 or o.frames >= 3,
        "tim": o.tim >= 2,
        "jitter": o.jitter >= 0,
        "magnified": all(0 <= factor < float("inf") for factor in o.magnified),
        "magnifier": o.magnifier == "flow" or o.magnifier.startswith("torchscript:"),
        "layer_decay": 0 < o.layer_decay <= 1,
    }
