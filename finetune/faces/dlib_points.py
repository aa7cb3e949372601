"""The dlib backend: HOG detector and the 68-point regression trees (Kazemi and Sullivan 2014)."""

from __future__ import annotations

import zlib
from functools import cached_property

import cv2
import numpy as np

from finetune.faces.interface import Box, FacePoints
from shards import faces
from shards.errors import FlickerError

FIT = 1  # version of `fit`: goes up when its points change
SIDE = 300  # px that a face's box is scaled to for the predictor
AROUND = 0.4  # of the box's side that is kept about it


class DlibPoints:
    """dlib behind the one interface.

    Raises FlickerError where dlib or its predictor's file is not installed.
    """

    name = "dlib"

    def __init__(self) -> None:
        version, path = faces.dlib_version(), faces.predictor_path()
        if version is None or path is None:
            missing = "dlib" if version is None else "the 68-point predictor (face_recognition_models)"
            raise FlickerError(f"landmarks need {missing}: pip install -e '.[face]'")
        self._version, self._path = version, path

    @cached_property
    def version(self) -> str:
        """dlib's version, CRC-32 of the predictor's file, and that of `fit`."""
        return f"{self._version}-{zlib.crc32(self._path.read_bytes()):08x}-{FIT}"

    def detect(self, image: np.ndarray) -> list[FacePoints]:
        """Faces of RGB uint8 [H W 3] at its own scale (dlib's detector finds those of about 80 px and more)."""
        found = sorted(faces.detector()(image, 0), key=lambda one: -one.area())
        boxes = [(one.left() - 0.5, one.top() - 0.5, float(one.width()), float(one.height())) for one in found]
        return [FacePoints(self.fit(image, box), box) for box in boxes]

    def fit(self, image: np.ndarray, box: Box) -> np.ndarray:
        """Points float64 [68 2] of the face in `box`, found in grey and at one scale.

        The predictor gives whole pixels and compares single ones: at the scale of a small face that is coarse.
        """
        x, y, width, height = box
        left, top = max(0, int(x - AROUND * width)), max(0, int(y - AROUND * height))
        right, bottom = int(x + (1 + AROUND) * width) + 1, int(y + (1 + AROUND) * height) + 1
        if right <= left or bottom <= top or left >= image.shape[1] or top >= image.shape[0]:
            raise FlickerError(f"the face's box {box} lies outside the image ({image.shape[1]} × {image.shape[0]})")
        near = cv2.cvtColor(image[top:bottom, left:right], cv2.COLOR_RGB2GRAY)
        factor = SIDE / max(width, height, 1.0)
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        scaled = cv2.resize(near, None, fx=factor, fy=factor, interpolation=method)
        scale = np.array([scaled.shape[1] / near.shape[1], scaled.shape[0] / near.shape[0]])
        edges = (np.array([[x, y], [x + width, y + height]]) + 0.5 - [left, top]) * scale
        (begin, upper), (end, lower) = np.round(edges).astype(int).tolist()
        points = faces.points_in(scaled, begin, upper, end - 1, lower - 1)
        return (points + 0.5) / scale - 0.5 + [left, top]
