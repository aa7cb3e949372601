"""Regions of a face by its landmarks: the 43 RoIs of AU R-CNN, FRL-DGT's nine boxes, HTNet's four areas.

"Left" and "right" are the picture's here, as in these papers (dlib's points 36-41 are the left eye).
"""

from __future__ import annotations

import numpy as np

from finetune.faces.chain import locate
from finetune.faces.interface import FacePoints, Landmarker
from finetune.faces.template import MIRROR
from shards.crop import resize
from shards.errors import FlickerError

VERSION = 1  # goes up when any region changes
RAISED = 0.15  # of the distance between the eyes' centres, per step above a brow
_RAISE = 100  # a corner written 119 is point 19 one step up, 227 is point 27 two steps up; (2, 41): between the two

_Corner = int | tuple[int, int]
_LEFT_ROIS: dict[int, tuple[_Corner, ...]] = {
    1: (117, 119, 19, 17),  # brow, outer half
    2: (119, 121, 21, 19),  # brow, inner half
    3: (121, 227, 27, 21),  # between the brows
    7: (0, 1, 36, 17),  # temple
    8: (17, 19, 37, 36),  # lid, outer half
    9: (19, 21, 39, 38),  # lid, inner half
    10: (21, 27, 28, 39),  # root of the nose
    15: (2, 3, (3, 29), (2, 41)),  # cheekbone, outer part
    16: ((2, 41), (3, 29), 39, 41),  # below the eye
    17: (39, (3, 29), 29, 28),  # side of the nose
    21: (3, 4, (4, 33), (3, 29)),  # cheek, outer part
    22: ((3, 29), (4, 33), 33, 29),  # beside the nostril
    25: (4, 5, (5, 59), (4, 33)),  # beside the mouth
    26: ((4, 33), (5, 59), 59, 33),  # corner of the mouth
    29: ((5, 59), (6, 58), 58, 59),  # below the lip, outer part
    30: ((6, 58), (8, 57), 57, 58),  # below the lip, inner part
    33: (5, 6, (6, 58), (5, 59)),  # jaw
    34: (6, 8, (8, 57), (6, 58)),  # chin
    37: (33, 55, 56, 57, 58, 59),  # mouth
    38: (1, 2, 37, 36),  # beside the eye
    40: (19, 38, 37),  # lid, middle
    42: (36, 37, 38, 39, 40, 41),  # eye
}
_RIGHT_OF = {1: 6, 2: 5, 3: 4, 7: 14, 8: 13, 9: 12, 10: 11, 15: 20, 16: 19, 17: 18, 21: 24, 22: 23, 25: 28, 26: 27}
_RIGHT_OF |= {29: 32, 30: 31, 33: 36, 34: 35, 38: 39, 40: 41, 42: 43}
AU_REGIONS: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("#1 left: brow and eye", (1, 2, 8, 9, 40, 42)),
    ("#1 right: brow and eye", (5, 6, 12, 13, 41, 43)),
    ("#2: between and above the brows", (1, 2, 3, 4, 5, 6, 8, 9, 12, 13, 40, 41)),
    ("#3 left: lower eyelid and cheek", (16, 17, 42)),
    ("#3 right: lower eyelid and cheek", (18, 19, 43)),
    ("#4: root and sides of the nose", (10, 11, 17, 18, 22, 23)),
    ("#5 left: cheek and corner of the mouth", (21, 22, 25, 26)),
    ("#5 right: cheek and corner of the mouth", (23, 24, 27, 28)),
    ("#6: below the lips, chin", (29, 30, 31, 32, 33, 34, 35, 36)),
)
"""FRL-DGT's nine regions in the order of its Fig. 4 (a)-(i): name, RoIs."""


def rois(points: np.ndarray) -> dict[int, np.ndarray]:
    """The 43 basic regions of interest of AU R-CNN (Ma, Chen and Yong 2019): number -> polygon float64 [k 2], px.

    From its release (configuration of RoIs by landmarks, read for facts): which landmarks, midpoints of two landmarks
    and raised landmarks bound each RoI, its numbers, and that corners are sorted about their centre. Chosen here:

    - "raised" there means 20 or 40 px up in its own pictures; here RAISED or twice RAISED of the distance between the
      eyes' centres, along the face's own upward direction, so that the RoIs follow any turn and scale;
    - RoI 7 there is a triangle where its mirror image, 14, has four corners, since its table of landmarks lacks point
      0; here both have four. All others are mirror images of each other there too.

    Args:
        points: float64 [68 2], px.
    """
    mirrored = points[MIRROR]
    found = {}
    for number, corners in _LEFT_ROIS.items():
        found[number] = _polygon(points, corners, 1.0)
        if number in _RIGHT_OF:
            found[_RIGHT_OF[number]] = _polygon(mirrored, corners, -1.0)
    return dict(sorted(found.items()))


def _polygon(points: np.ndarray, corners: tuple[_Corner, ...], hand: float) -> np.ndarray:
    """Corners in order about their centre [k 2]; `hand` -1 for points whose left and right are exchanged."""
    across = (points[42:48].mean(axis=0) - points[36:42].mean(axis=0)) * hand
    up = RAISED * np.array([across[1], -across[0]])
    where = np.array([_corner(points, corner, up) for corner in corners])
    centred = where - where.mean(axis=0)
    angles = np.arctan2(centred[:, 1], centred[:, 0])
    return where[np.argsort((angles - angles[0]) % (2 * np.pi), kind="stable")]


def _corner(points: np.ndarray, corner: _Corner, up: np.ndarray) -> np.ndarray:
    """A landmark, one raised, or the middle of two [2]."""
    if isinstance(corner, tuple):
        return (points[corner[0]] + points[corner[1]]) / 2
    steps, index = divmod(corner, _RAISE)
    return points[index] + steps * up


def au_boxes(points: np.ndarray, size: tuple[int, int], side: int = 90) -> np.ndarray:
    """FRL-DGT's nine action unit boxes (3.2.1, 3.3, Fig. 4): int32 [9 4] (x, y, width, height), inside the image.

    From the paper: 43 RoIs; six AU regions of which #1, #3 and #5 are split into left and right; #1 and #2 above the
    eyes, #3 and #4 about nose and lower eyelids, #5 and #6 mouth, chin and cheeks; 90 px. From the release of AU
    R-CNN: the RoIs of each group of action units. Chosen here, since the paper prints no table: #1 are the RoIs of
    AU 1/2/5/7, #2 of AU 4, #3 of AU 6, #4 of AU 9, #5 of AU 10-15 (without the mouth, 37, which both halves share),
    #6 of AU 17 (`AU_REGIONS`); a box is centred on the rectangle about its RoIs, and moved inside the image.

    Args:
        points: float64 [68 2], px.
        size: width and height of the image, px.
        side: of the boxes, px.

    Raises FlickerError where the image is smaller than a box.
    """
    width, height = size
    if side > min(width, height):
        raise FlickerError(f"boxes of {side} px do not fit an image of {width} × {height}; take a larger size")
    polygons = rois(points)
    boxes = []
    for _, numbers in AU_REGIONS:
        corners = np.concatenate([polygons[number] for number in numbers])
        boxes.append((corners.min(axis=0) + corners.max(axis=0)) / 2)
    corner = _first(np.array(boxes), np.array([width, height]), side)
    return np.column_stack([corner, np.full((9, 2), side)]).astype(np.int32)


def _first(centres: np.ndarray, size: np.ndarray | int, side: int) -> np.ndarray:
    """The first pixel of windows of `side` about centres [N 2], moved inside: int64 [N 2]."""
    return np.clip(np.round(centres - (side - 1) / 2), 0, size - side).astype(np.int64)


def areas(points: np.ndarray, size: int, grid: int = 28, *, release: bool = False) -> np.ndarray:
    """Centres of HTNet's four areas on a grid × grid map of a square image: float64 [4 2] (x, y), in cells.

    Order: left eye, right eye, left corner of the mouth, right corner (the picture's left; the person's right). Eyes
    are the means of their six points, the corners points 48 and 54; `area_corners` gives the windows of half the map
    (HTNet, 3.1).

    `release`: the windows that the published code cuts for these four names. It takes landmark 3 (of eye, eye, nose,
    mouth, mouth) as "right eye" and landmark 1 as "left lips", uses x as row and y as column, limits both to
    [grid/4, 3 grid/4] and drops fractions. Exchanging the axes of an upright face turns the left corner of the mouth
    into about the right eye, so the two errors nearly cancel: each window lies near the area it is named after, off
    by how far the face is from symmetric about the picture's diagonal. It puts them together as left eye, left lips
    over right eye, right lips. Its points come from a 28 px image: see `release_points`.

    Args:
        points: float64 [68 2], px of the image.
        size: side of the image, px.
        grid: side of the map, cells.
    """
    five = np.array([points[36:42].mean(axis=0), points[42:48].mean(axis=0), points[48], points[54]])
    cells = (five + 0.5) * (grid / size) - 0.5
    if not release:
        return cells
    quarter = grid // 4
    limited = np.floor(np.clip(cells, quarter, grid - quarter))[[0, 2, 1, 3], ::-1]
    return limited - 0.5  # centre of the window from limited - quarter on


def area_corners(centres: np.ndarray, grid: int, side: int = 14) -> np.ndarray:
    """First cells (x, y) of the windows of `side` about centres [N 2], inside the grid: int64 [N 2]."""
    return _first(centres, grid, side)


def release_points(image: np.ndarray, backend: Landmarker, grid: int = 28) -> FacePoints:
    """The points as HTNet's release finds them: in the image shrunk to grid × grid, in that image's pixels.

    Use with `areas(points, size=grid, release=True)`. The release uses MTCNN there, and one fixed set of points
    where it finds no face; here `backend` and the fallback chain, whose step `source` tells.
    """
    return locate(resize(image, grid), backend)
