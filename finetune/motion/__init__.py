"""Facial motion: optical flow and what is drawn from it, dynamic images, magnification, time.

Points are (x, y) pixel centres; flow is float32 [H W 2] = (u right, v down) in pixels of the stated image size,
from the reference frame to the other one: what is at p in the reference is at p + flow[p] in the other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

KEY_LENGTH = 16
"""hexadecimal digits of a cache key"""


def digest(kind: str, version: int, parameters: Mapping[str, Any]) -> str:
    """The cache key of a parameter set: `KEY_LENGTH` digits that change with any of the three.

    `parameters` holds JSON values only. A `version` is raised when a computation changes its meaning.
    """
    text = json.dumps([kind, version, dict(parameters)], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
