"""The chain of ways to find a face in an image, from the best to the last resort; every step but the first is named.

detected      at the image's own scale
enlarged      the image doubled, or to a short side of 480 px, whichever is more
equalised     with local contrast equalised (CLAHE), at its own scale, then enlarged
neighbour     the box found in a frame nearby; the points are fitted in this one
whole-image   for cropped datasets, whose faces reach over the edge: the image's central square is the box
template      the mean shape in that square: a guess, which says nothing about the image

Points can be fitted to anything, and equalised noise can look like a face to a detector. So the three steps before
the last are taken only where fits from moved boxes agree: on a face they are drawn to the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import cv2
import numpy as np

from finetune.faces.interface import Box, FacePoints, Landmarker, largest
from finetune.faces.template import EXTENT_BOX, LIFT_BOX, TEMPLATE

VERSION = 1  # goes up when any step's result changes
SHORT_SIDE = 480  # px
CLAHE = 3.0  # contrast limit, on 8 × 8 tiles
SQUARES = (0.93, 1.1, 1.3)  # of the short side: sides of the central square taken as the box
MOVED = ((0.0, 0.0, 1.0), (0.08, 0.0, 1.0), (-0.08, 0.0, 1.0), (0.0, 0.08, 1.0), (0.0, -0.08, 1.0), (0.0, 0.0, 0.85))
# How far, of the face's size, the fits may lie apart (root mean square). Measured with dlib: clear faces 0.01-0.09,
# very dark ones mostly up to 0.16, 110 pictures without a face 0.10 and more in each of the squares.
APART = {"equalised": 0.16, "neighbour": 0.16, "whole-image": 0.1}


def locate(image: np.ndarray, backend: Landmarker, neighbours: Iterable[Callable[[], np.ndarray]] = ()) -> FacePoints:
    """The face of an image (RGB uint8 [H W 3]) by the first way that finds one; `source` says which.

    `neighbours` give images of the same size taken shortly before or after, nearest first; they are drawn only where
    the image itself shows no face.
    """
    return search(image, backend) or fall_back(image, backend, neighbours)


def search(image: np.ndarray, backend: Landmarker) -> FacePoints | None:
    """The largest face that the detector finds: as it is, enlarged, or with equalised contrast."""
    found = _detect(image, backend)
    if found is None:
        equalised = _equalised(image)
        found = _detect(equalised, backend)
        if found is not None:
            found = _agreed(equalised, backend, found.box, "equalised")
    return found


def fall_back(
    image: np.ndarray, backend: Landmarker, neighbours: Iterable[Callable[[], np.ndarray]] = ()
) -> FacePoints:
    """For an image in which `search` finds nothing: by a neighbour, the whole image, or the template."""
    for neighbour in neighbours:
        other = neighbour()
        near = _detect(other, backend) if other.shape == image.shape else None
        found = None if near is None else _agreed(image, backend, near.box, "neighbour")
        if found is not None:
            return found
    for share in SQUARES:
        found = _agreed(image, backend, _square(image, share), "whole-image")
        if found is not None:
            return found
    return template(image)


def _detect(image: np.ndarray, backend: Landmarker) -> FacePoints | None:
    """The largest face, sought in the image and then in an enlarged one; in the image's pixels."""
    found = largest(backend.detect(image))
    if found is not None:
        return replace(found, source="detected")
    factor = max(2.0, SHORT_SIDE / min(image.shape[:2]))
    large = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    found = largest(backend.detect(large))
    if found is None:
        return None
    scale = np.array(image.shape[1::-1]) / np.array(large.shape[1::-1])
    x, y = ((np.array(found.box[:2]) + 0.5) * scale - 0.5).tolist()
    width, height = (np.array(found.box[2:]) * scale).tolist()
    return FacePoints((found.points + 0.5) * scale - 0.5, (x, y, width, height), "enlarged")


def _equalised(image: np.ndarray) -> np.ndarray:
    """The image with its lightness equalised in tiles."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(CLAHE, (8, 8)).apply(np.ascontiguousarray(lab[..., 0]))
    return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), np.uint8)


def _agreed(image: np.ndarray, backend: Landmarker, box: Box, source: str) -> FacePoints | None:
    """The mean of the points fitted with `box` and moved ones; None where they lie apart: then there is no face."""
    x, y, width, height = box
    fits = []
    for right, down, scale in MOVED:
        left, top = x + (right + (1 - scale) / 2) * width, y + (down + (1 - scale) / 2) * height
        fits.append(backend.fit(image, (left, top, scale * width, scale * height)))
    mean = np.mean(fits, axis=0)
    size = np.sqrt(np.square(mean - mean.mean(axis=0)).sum(axis=1).mean())
    apart = np.sqrt(np.square(np.array(fits) - mean).sum(axis=2).mean())
    return FacePoints(mean, box, source) if apart < APART[source] * size else None


def template(image: np.ndarray) -> FacePoints:
    """The mean shape, where a face would lie whose box is the image's central square."""
    x, y, side, _ = _square(image, SQUARES[0])
    extent = side / EXTENT_BOX
    centre = np.array([x + side / 2, y + side / 2 + LIFT_BOX * extent])
    return FacePoints((TEMPLATE - 0.5) * extent + centre, (x, y, side, side), "template")


def _square(image: np.ndarray, share: float) -> Box:
    """The central square of `share` of the short side."""
    height, width = image.shape[:2]
    side = share * min(width, height)
    return ((width - side) / 2 - 0.5, (height - side) / 2 - 0.5, side, side)
