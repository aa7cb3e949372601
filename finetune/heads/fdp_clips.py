"""FDP's way from prepared clips to what its network sees, on the device and for whole batches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from finetune.heads.base import Inputs
from finetune.heads.frl_dgt_clips import lengths, pictures
from finetune.motion import dynamic
from finetune.options.fdp import FdpOptions
from shards.errors import FlickerError

SAMPLED = ("clip", "clip.features", "clip.pictures")
LUMA = (19595, 38470, 7471)  # ITU-R BT.601 as PIL computes it: 2^-16 each


def sampled(
    inputs: Inputs, o: FdpOptions, crops: bool, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """The t frames that the network sees; of inputs that are sampled already, those.

    'clip' uint8 [B t S S 3]; of extracted inputs 'clip.features' [B t cells² D] and 'clip.pictures' [B t S S].
    `generator` draws offset, crop (where `crops`) and flip; None is the test's centre.
    """
    if found := {name: inputs[name] for name in SAMPLED if name in inputs}:
        return found
    name = "features" if "features" in inputs else "sequence"
    if name not in inputs:
        raise FlickerError("FDP: the input 'sequence' is absent; prepare the inputs that `needs` names")
    frames, index = inputs[name], inputs.get("sequence.index")
    own = lengths({"sequence": frames} | ({} if index is None else {"sequence.index": index}))
    places = _places(own, o, generator)
    if name == "sequence":
        side = o.crop if crops else frames.shape[2]
        return {"clip": _cropped(frames, places, side, o, generator)}
    row = torch.arange(len(places), device=places.device)[:, None]
    return {"clip.features": frames[row, places], "clip.pictures": inputs["pictures"][row, places]}


def _places(own: Tensor, o: FdpOptions, generator: torch.Generator | None) -> Tensor:
    """Which frames: int64 [B t]."""
    if o.release:
        return released_positions(own, o.frames)
    offset = torch.full((len(own),), 0.5, dtype=torch.float64)
    if generator is not None:
        offset = torch.rand(len(own), generator=generator, dtype=torch.float64)
    return positions(own, o.frames, offset.to(own.device))


def _cropped(frames: Tensor, places: Tensor, side: int, o: FdpOptions, generator: torch.Generator | None) -> Tensor:
    """Those frames, cropped and mirrored: uint8 [B t side side 3]."""
    batch, whole = len(frames), frames.shape[2]
    if side > whole:
        raise FlickerError(f"FDP: frames of {whole} px cannot be cropped to {side} px (head.fdp.crop)")
    corner = torch.full((batch, 2), (whole - side) // 2)
    mirrored = torch.zeros(batch, dtype=torch.bool)
    if generator is not None and not o.release:
        corner = torch.randint(whole - side + 1, (batch, 2), generator=generator)
        mirrored = torch.rand(batch, generator=generator) < o.mirror
    return cut(frames, places, corner.to(frames.device), side, mirrored.to(frames.device))


def positions(own: Tensor, count: int, offset: Tensor) -> Tensor:
    """As finetune.motion.sampling.uniform for each clip: int64 [B count], ascending.

    own int64 [B], frames that the clip has; offset float64 [B] in 0..1, the place within each of `count` equal
    parts: random in training, 0.5 in the test (4.1.3).
    """
    part = own.double()[:, None] / count
    steps = torch.arange(count, device=own.device, dtype=torch.float64)
    places = (part * offset.double()[:, None] + part * steps).floor().long()
    return torch.minimum(places, own[:, None] - 1)


def released_positions(own: Tensor, count: int) -> Tensor:
    """Every (own // count)-th frame from the first, as the release samples: int64 [B count].

    The release leaves out clips of fewer than `count` frames; here each of their frames is then used in turn.
    """
    steps = torch.arange(count, device=own.device)
    each = own[:, None] // count
    return torch.where(each > 0, steps * each, steps * own[:, None] // count)


def cut(sequence: Tensor, places: Tensor, corner: Tensor, side: int, mirrored: Tensor) -> Tensor:
    """Frames at `places` int64 [B t], cropped and mirrored alike in a clip: uint8 [B t side side 3].

    sequence uint8 [B T S S 3]; corner int64 [B 2], top and left; mirrored bool [B]. One crop per clip: one per frame
    would move the face by pixels where expressions move it by less than one.
    """
    steps = torch.arange(side, device=sequence.device)
    rows, columns = corner[:, :1] + steps, corner[:, 1:] + torch.where(mirrored[:, None], side - 1 - steps, steps)
    clip = torch.arange(len(sequence), device=sequence.device)[:, None, None, None]
    return sequence[clip, places[:, :, None, None], rows[:, None, :, None], columns[:, None, None, :]]


def frames(clip: Tensor, o: FdpOptions) -> Tensor:
    """What a native network sees, before it is scaled by training clips: RGB uint8 [B t S S 3] -> [B t M S S]."""
    if o.release:
        return released_frames(clip)
    x = 2 * pictures(clip, "rgb") - 1
    return x - x[:, :1] if o.relative == "always" else x


def grey(clip: Tensor, side: int) -> Tensor:
    """RGB uint8 [B t H W 3] as grey pictures of side × side px, by area: float32 [B t side side] in 0..1."""
    x = pictures(clip, "grey")[:, :, 0]
    return x if x.shape[-1] == side else F.interpolate(x, (side, side), mode="area")


def dynamic_images(frames: Tensor, release: bool = False) -> Tensor:
    """The target D of eq. 6: approximate rank pooling (Bilen et al. 2016) of the frames [B t H W]: [B H W] in 0..1.

    As finetune.motion.dynamic with range `unit`. In the release the image is cut to 8 bits.
    """
    weights = torch.from_numpy(dynamic.coefficients(frames.shape[1])).to(frames)
    image = torch.einsum("t,bthw->bhw", weights[1:], frames[:, 1:] - frames[:, :1])  # weights sum to 0
    low, high = image.amin(dim=(1, 2), keepdim=True), image.amax(dim=(1, 2), keepdim=True)
    unit = (image - low) / torch.where(high > low, high - low, torch.ones_like(high))
    return (255 * unit).floor() / 255 if release else unit


def released_frames(clip: Tensor) -> Tensor:
    """RGB uint8 [B t S S 3] as the release's 8-bit grey frames, -1..1: [B t 1 S S]."""
    weighted = clip.int() * torch.tensor(LUMA, dtype=torch.int32, device=clip.device)
    level = (weighted.sum(-1, dtype=torch.int32) + (1 << 15)) >> 16
    return 2 * level[:, :, None] / 255 - 1


def split_scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, and the largest value after it is taken off (1 where all are equal)."""
    mean = x.mean()
    top = x.max() - mean
    return mean, torch.where(top > 0, top, torch.ones_like(top))
