"""Finding a dataset's parts under a root: workbooks, and the folders that hold the subjects' folders.

Downloads differ in how often a folder is doubled (`Cropped/Cropped`) and in the case of names, so nothing is asked of
the way from the root to the wanted folder except its depth.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
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


def listed(folder: Path) -> list[tuple[str, bool]]:
    """(name, whether it is a folder) of all that lies there, by name; hidden names (`__MACOSX` too) are left out.

    Files are not asked about one by one: there may be many thousand frames. Raises FlickerError where the folder
    cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(
                (entry.name, entry.is_dir())
                for entry in entries
                if not entry.name.startswith((".", "~$", "__MACOSX"))
            )
    except OSError as error:
        reason = error.strerror or error
        raise FlickerError(
            f"{folder}: cannot be listed ({reason}); mend its permissions, or name another root"
        ) from None


def folders(parent: Path) -> list[Path]:
    """Child folders by name; hidden ones (and macOS' `__MACOSX`) are left out."""
    return [parent / name for name, is_folder in listed(parent) if is_folder]


def named(root: Path, pattern: re.Pattern[str], depth: int = 6) -> Iterator[tuple[re.Match[str], Path]]:
    """(match, folder) of every folder at most `depth` levels below `root` whose whole name matches, in path order.

    What lies below a folder that matches is not looked at.
    """
    for folder in folders(root):
        match = pattern.fullmatch(folder.name)
        if match:
            yield match, folder
        elif depth > 1:
            yield from named(folder, pattern, depth - 1)


def way(root: Path, folder: Path, own: str) -> list[str]:
    """Names of the folders above a clip's: below the root, and the root's own two where they match `own`.

    A root may be a folder of the dataset's tree (`SMIC_all_cropped/HS`); other names above it tell nothing.
    """
    top = root.resolve()
    names = [name for name in (top.parent.name, top.name) if re.fullmatch(own, name, re.IGNORECASE)]
    return [*names, *folder.relative_to(root).parts[:-1]]


def workbooks(root: Path, pattern: str, depth: int = 3) -> Iterator[tuple[re.Match[str], Path]]:
    """(match, file) of every file whose whole name matches `pattern` (case ignored), outermost folders first."""
    wanted = re.compile(pattern, re.IGNORECASE)
    level = [root]
    for left in range(depth, -1, -1):
        below = []
        for folder in level:
            for name, is_folder in listed(folder):
                match = wanted.fullmatch(name)
                if is_folder and left:
                    below.append(folder / name)
                elif match and not is_folder:
                    yield match, folder / name
        level = below


def edition_files(root: Path, patterns: Mapping[str, str]) -> dict[str, Path]:
    """Edition -> the first file under `root` whose whole name matches its pattern."""
    present: dict[str, Path] = {}
    anyone = "|".join(f"(?P<edition_{name}>{pattern})" for name, pattern in patterns.items())
    for match, path in workbooks(root, anyone):
        present.setdefault(str(match.lastgroup).removeprefix("edition_"), path)
    return present


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


class FrameFiles(dict[int, Path]):
    """Real frame number -> image file, ascending."""

    twice = 0
    """Files left out because another has their number."""


def frame_files(folder: Path) -> FrameFiles:
    """A folder's images by the number in their names; of two files with one number the first by name is taken."""
    images = [path for path in (Path(name) for name, _ in listed(folder)) if path.suffix.lower() in IMAGE_SUFFIXES]
    numbers = [(number, path.name) for path in images if (number := frame_number(path)) is not None]
    first: dict[int, str] = {}
    for number, name in numbers:
        first.setdefault(number, name)
    found = FrameFiles((number, folder / first[number]) for number in sorted(first))
    found.twice = len(numbers) - len(found)
    return found
