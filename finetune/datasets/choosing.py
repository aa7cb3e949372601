"""Choosing among the editions and variants of a dataset that lie under a root, and walking its folders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from finetune.clips import Clip
from finetune.datasets.assemble import Entry
from finetune.datasets.finding import NotHere, edition_files, folders
from finetune.validation import Validation
from shards.errors import UsageError

AUTO = "auto"
DEEP = 6
"""Folders between the root and the clips in the deepest published tree (with one doubled folder)."""
Kind = TypeVar("Kind")


def check_option(key: str, value: str, known: Sequence[str]) -> None:
    """Raise UsageError unless `value` is one of `known`."""
    if value not in known:
        raise UsageError(f"data.{key}: '{value}' is not one of {', '.join(known)}")


def choose(present: Mapping[str, Kind], wanted: str, order: Sequence[str]) -> str | None:
    """The name that is wanted, or with 'auto' the first of `order`; None where it is not present."""
    return next((name for name in (order if wanted == AUTO else (wanted,)) if name in present), None)


def find_workbook(root: Path, version: str, editions: Mapping[str, tuple[str, str]], title: str) -> tuple[str, Path]:
    """(edition, file) of the labels under `root`: the wanted one, or with 'auto' the first in order.

    Args:
        editions: edition -> (the file's published name, pattern of the names it may have).
        title: the dataset's, for messages.

    Raises UsageError: an unknown edition; NotHere: it is not there.
    """
    check_option("version", version, (AUTO, *editions))
    present = edition_files(root, {name: pattern for name, (_, pattern) in editions.items()})
    name = choose(present, version, tuple(editions))
    if name is None:
        names = " or ".join(file for file, _ in editions.values()) if version == AUTO else editions[version][0]
        other = f" (found {', '.join(path.name for path in present.values())})" if present else ""
        raise NotHere(f"{root}: no workbook {names}{other}; put the workbook of {title} there")
    return name, present[name]


def holders(
    root: Path,
    kind: Callable[[str], Kind | None],
    skip: Callable[[str], bool] = lambda name: False,
    depth: int = DEEP,
) -> Iterator[tuple[Kind, Path]]:
    """(kind, folder) of each folder with a child folder of that kind, in order of name; none below another.

    Args:
        kind: what a child's name tells, or None.
        skip: names of folders below the root that are not entered.
        depth: levels below the root at which such a folder may lie.
    """
    children = [child for child in folders(root) if not skip(child.name)]
    told = next((found for child in children if (found := kind(child.name)) is not None), None)
    if told is not None:
        yield told, root
    elif depth:
        for child in children:
            yield from holders(child, kind, skip, depth - 1)


def path_from(root: Path, folder: Path) -> Path:
    """The folder below the root, the root's own name in front: what its names tell counts wherever the root lies."""
    return Path(root.resolve().name) / folder.relative_to(root)


def note_spelling(entries: Iterable[Entry], tree: Mapping[Any, Path], report: Validation) -> None:
    """Report clips whose folder (`tree` by `Entry.key`) is named as they are but for the case of its letters."""
    for entry in entries:
        name = tree[entry.key].name if entry.key in tree else entry.clip
        if name != entry.clip and name.lower() == entry.clip.lower():
            entry.flags.append(report.note(entry.name, "folder-case", name))


def within(clips: Iterable[Clip]) -> list[Clip]:
    """The clips with the frames from onset to offset alone: of whole videos, what the published clips hold."""
    return [
        replace(clip, frames={n: path for n, path in clip.frames.items() if clip.onset <= n <= clip.offset})
        for clip in clips
    ]
