"""Finding a dataset's parts under a root: workbooks, and the folders that hold the subjects' folders.

Downloads differ in how often a folder is doubled (`Cropped/Cropped`) and in the case of names, so nothing is asked of
the way from the root to the wanted folder except its depth.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from finetune.annotations import frame_number
from shards.errors import FlickerError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp"})
DEPTH = 4
"""Folders between the root and what is looked for, at most."""
Subject = TypeVar("Subject", str, int)


class NotHere(FlickerError):
    """The folder does not hold this dataset: its workbook or its frames are not there."""


def check_root(root: str | Path, title: str) -> Path:
    """The root as a path. Raises FlickerError where it is no folder."""
    folder = Path(root)
    if not folder.is_dir():
        raise FlickerError(f"data.root: no such folder: {folder}; give the folder that holds {title}")
    return folder


def folders(parent: Path) -> list[Path]:
    """Child folders by name; hidden ones (and macOS' `__MACOSX`) are left out."""
    return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith((".", "__MACOSX")))


def workbooks(root: Path, pattern: str, depth: int = 3) -> Iterator[tuple[re.Match[str], Path]]:
    """(match, file) of every file whose whole name matches `pattern` (case ignored), outermost folders first."""
    wanted = re.compile(pattern, re.IGNORECASE)
    for level in range(depth + 1):
        for path in sorted(root.glob("*/" * level + "*")):
            match = wanted.fullmatch(path.name)
            if match and path.is_file() and not path.name.startswith((".", "~$")):
                yield match, path


def parents(root: Path, subject: Callable[[str], Subject | None], depth: int = DEPTH) -> list[Path]:
    """Folders, at most `depth` levels down, with a child folder that names a subject; none below another."""
    children = folders(root)
    if any(subject(child.name) is not None for child in children):
        return [root]
    return [found for child in children for found in parents(child, subject, depth - 1)] if depth else []


def subjects(parent: Path, subject: Callable[[str], Subject | None]) -> Iterator[tuple[Subject, Path]]:
    """(subject, folder) of the children that name one."""
    for folder in folders(parent):
        name = subject(folder.name)
        if name is not None:
            yield name, folder


def frame_files(folder: Path) -> dict[int, Path]:
    """Real frame number -> image file, ascending. Of two files with one number the first by name is taken."""
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        number = frame_number(path) if path.suffix.lower() in IMAGE_SUFFIXES else None
        if number is not None and not path.name.startswith("."):
            found.setdefault(number, path)
    return dict(sorted(found.items()))
