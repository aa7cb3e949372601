"""Patch of Interest: the scale of its scores (Micron-BERT, section 4.6, eq. 11 and 12).

The scores themselves, S = the contextual token's row of the last attention map, come from
`pretrain.encoder.attention_with_interest`.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Scale = Literal["sum1", "mean1"]


def scale_interest(scores: Tensor, scale: Scale) -> Tensor:
    """S as it multiplies diag(A) in eq. 12.

    sum1 is literal (eq. 11: S sums to 1, so every weight shrinks to about 1/N); mean1 multiplies by N, which
    keeps the features at the scale they have without PoI. [B N] -> [B N].
    """
    return scores if scale == "sum1" else scores * scores.shape[-1]
