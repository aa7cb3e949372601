"""A probe of pretraining: does DMA's change map light up where the face moved?

Synthetic pairs carry their true motion field. The probe gives DMA the two whole frames (nothing swapped, as in
recognition) and asks how well the change map ranks moved patches above still ones.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score

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
def motion_auroc(model: MicronBert, frames: np.ndarray, displacement: np.ndarray, batch: int = 16) -> float:
    """Area under the ROC curve of the change map against the true motion; 0.5 is chance.

    Patches are compared within each pair and the pairs' areas averaged, so that differences between faces do
    not count.

    Args:
        frames: uint8 [n 2 S S 3], onset and apex.
        displacement: float32 [n S S 2], pixels.

    Raises ValueError if no pair has both moved and still patches.
    """
    moved, decided = moved_patches(displacement, model.encoder.grid)
    device = next(model.parameters()).device
    dtype = next(model.parameters()).dtype
    was_training = model.training
    model.eval()
    maps = []
    for i in range(0, len(frames), batch):
        onset, apex = (
            model.preprocess(torch.from_numpy(frames[i : i + batch, j]).to(device)).to(dtype) for j in (0, 1)
        )
        maps.append(change_map(model.dma(onset, apex)[1]).float().cpu().numpy())
    model.train(was_training)
    scores = np.concatenate(maps)
    areas = [
        roc_auc_score(truth[keep], score[keep])
        for truth, keep, score in zip(moved, decided, scores, strict=True)
        if 0 < truth[keep].sum() < keep.sum()
    ]
    if not areas:
        raise ValueError("no pair has both moved and still patches")
    return float(np.mean(areas))
