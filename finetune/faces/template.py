"""The mean shape of 68 facial points, as dlib numbers them, and which point mirrors which.

Chosen here (no paper prints its template): the mean of the points that dlib finds on eleven people (nine rendered,
two filmed), moved onto each other by similarity (generalised Procrustes) and made symmetric. The mean shape inside
dlib's predictor differs from it by 0.05 of its size (root mean square), as much as one person differs from it.
"""

from __future__ import annotations

import numpy as np

# The picture's left half and the midline. Unit: the height from the brows' top (0) to the chin (1).
_JAW = [(0.0031, 0.2354), (0.0115, 0.3592), (0.0285, 0.4830), (0.0525, 0.6057), (0.0942, 0.7247), (0.1634, 0.8297)]
_CHIN = [(0.2580, 0.9162), (0.3725, 0.9811), (0.5, 1.0)]
_BROW = [(0.0956, 0.0988), (0.1531, 0.0304), (0.2417, 0.0), (0.3371, 0.0043), (0.4252, 0.0387)]
_NOSE = [(0.5, 0.1703), (0.5, 0.2542), (0.5, 0.3355), (0.5, 0.4199)]
_NOSTRIL = [(0.4049, 0.4973), (0.4515, 0.5115), (0.5, 0.5235)]
_EYE = [(0.1941, 0.2037), (0.2474, 0.1724), (0.3116, 0.1732), (0.3680, 0.2107), (0.3089, 0.2252), (0.2443, 0.2255)]
_UPPER_LIP = [(0.3236, 0.6851), (0.3892, 0.6418), (0.4533, 0.6186), (0.5, 0.6307)]
_LOWER_LIP = [(0.5, 0.7574), (0.4500, 0.7533), (0.3880, 0.7322), (0.3519, 0.6845), (0.4528, 0.6717), (0.5, 0.6756)]
_INNER_LIP = [(0.5, 0.6936), (0.4527, 0.6883)]
_LEFT = {0: _JAW + _CHIN, 17: _BROW, 27: _NOSE + _NOSTRIL, 36: _EYE, 48: _UPPER_LIP, 57: _LOWER_LIP, 66: _INNER_LIP}
_MIRRORED_EYES = [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
_MIRRORED_LIPS = [*range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1)]
_MIRRORED_NOSE = [*range(27, 31), *range(35, 30, -1)]
_MIRRORED_REST = [*range(16, -1, -1), *range(26, 16, -1)]
MIRROR = np.array([*_MIRRORED_REST, *_MIRRORED_NOSE, *_MIRRORED_EYES, *_MIRRORED_LIPS])
"""Index of the point that each point becomes when left and right are exchanged [68]."""


def _whole() -> np.ndarray:
    """Both halves [68 2]."""
    points = np.full((68, 2), np.nan)
    for first, part in _LEFT.items():
        for index, (x, y) in enumerate(part, first):
            points[index], points[MIRROR[index]] = (x, y), (1 - x, y)
    return points


TEMPLATE = _whole()
"""float64 [68 2]: y from 0 (brows) to 1 (chin), x symmetric about 0.5."""
EXTENT_BOX = 1.05  # side of dlib's box over that height, and
LIFT_BOX = 0.085  # of that height, by which the box's centre lies above the points': means over 58 faces
