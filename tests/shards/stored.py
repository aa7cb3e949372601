"""What a shard folder holds, read with tarfile and nothing of Flicker's."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np


def clips(folder: Path) -> Iterator[tuple[dict[str, Any], list[bytes]]]:
    """KEY.json and the JPEG files of every clip."""
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        for name in (name for name in members if name.endswith(".json")):
            meta = json.loads(members[name])
            yield meta, [members[f"{meta['key']}.{at:03d}.jpg"] for at in range(len(meta["numbers"]))]


def frames(folder: Path) -> Iterator[tuple[str, int, np.ndarray, np.ndarray]]:
    """(source, frame number, picture uint8 [S S 3] RGB, transform [2 3]) of every frame."""
    for meta, files in clips(folder):
        each = meta["transform"] if np.ndim(meta["transform"]) == 3 else [meta["transform"]] * len(files)
        for number, file, matrix in zip(meta["numbers"], files, each, strict=True):
            picture = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
            yield meta["source"], number, np.ascontiguousarray(picture), np.array(matrix)
