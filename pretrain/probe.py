"""A probe of pretraining: does DMA's change map light up where the face moved?

Synthetic pairs carry their true motion field. The probe gives DMA the two whole frames (nothing swapped, as in
recognition) and asks how well the change map ranks moved patches above still ones.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from pretrain.dma import change_map
from pretrain.model import MicronBert

MOVED_PX = 0.5  # a patch has moved if its mean displacement reaches this many pixels
STILL_PX = 0.1  # and is still below this; patches between are left out


def moved_patches(displacement: np.ndarray, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Which patches moved, from a motion field.

    Args:
        displacement: float32 [n S S 2], pixels.

    Returns:
        (moved, decided): bool [n grid²]; `decided` leaves out patches between still and moved.
    """
    magnitude = torch.from_numpy(np.linalg.norm(displacement, axis=-1))[:, None].float()  # [n 1 S S]
    mean = F.adaptive_avg_pool2d(magnitude, grid).flatten(1).numpy()
    return mean >= MOVED_PX, (mean >= MOVED_PX) | (mean < STILL_PX)


@torch.no_grad()
def motion_auroc(
    model: MicronBert, frames: np.ndarray, displacement: np.ndarray, batch: int = 16
) -> dict[str, float]:
    """Area under the ROC curve of DMA's maps against the true motion; 0.5 is chance.

    Patches are compared within each pair and the pairs' areas averaged, so that differences between faces do
    not count.

    Args:
        frames: uint8 [n 2 S S 3], onset and apex.
        displacement: float32 [n S S 2], pixels.

    Returns:
        motion_auroc: of `MicronBert.change`; motion_auroc_released: of the released code's `change_map`.

    Raises ValueError if no pair has both moved and still patches.
    """
    parameter = next(model.parameters())
    was_training = model.training
    model.eval()
    change, released = [], []
    for i in range(0, len(frames), batch):
        pair = [torch.from_numpy(frames[i : i + batch, j]).to(parameter.device) for j in (0, 1)]
        onset, apex = (model.preprocess(x).to(parameter.dtype) for x in pair)
        change.append(model.change(onset, apex).float().cpu().numpy())
        released.append(change_map(model.dma(onset, apex)[1]).float().cpu().numpy())
    model.train(was_training)
    moved, decided = moved_patches(displacement, model.encoder.grid)
    return {
        "motion_auroc": _mean_auroc(np.concatenate(change), moved, decided),
        "motion_auroc_released": _mean_auroc(np.concatenate(released), moved, decided),
    }


def _mean_auroc(scores: np.ndarray, moved: np.ndarray, decided: np.ndarray) -> float:
    """Mean over pairs of the area of scores [n N] against moved [n N], on decided patches."""
    from sklearn.metrics import roc_auc_score  # three seconds that training without pictures need not wait for

    areas = [
        roc_auc_score(truth[keep], score[keep])
        for truth, keep, score in zip(moved, decided, scores, strict=True)
        if 0 < truth[keep].sum() < keep.sum()
    ]
    if not areas:
        raise ValueError("no pair has both moved and still patches")
    return float(np.mean(areas))
