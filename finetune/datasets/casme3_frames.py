"""Frames of CAS(ME)³ part A: cut clips or whole videos, names in any case, files that do not open."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from finetune.datasets.assemble import Entry
from finetune.datasets.choosing import choose, holders
from finetune.datasets.finding import NotHere, folders, frame_files
from finetune.frames import read_image
from finetune.validation import Validation
from shards.errors import FlickerError
from shards.trees import LAYOUTS

VARIANTS = ("auto", "clips", "videos")
DAMAGED = {(3, "j"): range(498, 577), (4, "j"): range(568, 610)}
"""(subject, video) -> frames that the authors list as files that do not open: 79 (in 88 lines) and 42."""
SUBJECT = re.compile(r"sp[ _]?no[ ._]*([0-9]+)", re.IGNORECASE)
_CLIP = re.compile(SUBJECT.pattern + r"_([a-z])_([0-9]+)", re.IGNORECASE)
_ELSEWHERE = re.compile(r"part[ _]?[bc](?:[ _].*)?|exceptions?|annotations?", re.IGNORECASE)

Key = tuple[int, str, int]
"""A row: the subject's number, the video in lower case, the onset as stated."""


@dataclass(frozen=True)
class Images:
    """The frames found under a root."""

    kind: str
    """'clips' or 'videos'."""
    root: Path
    """Holds the clips' folders, or the subjects' folders."""
    index: Mapping[tuple[int, str, int | None], tuple[Path, ...]]
    """(subject, video, onset; None for a whole video) -> folders of frames: several where names differ in case."""

    @cached_property
    def shown(self) -> Mapping[Path, tuple[int, str]]:
        """Folder of frames -> (subject, video)."""
        return {path: key[:2] for key, paths in self.index.items() for path in paths}


def find(root: Path, variant: str) -> Images:
    """The frames of the wanted variant ('auto': clips before videos) under `root`. Raises NotHere without any."""
    present: dict[str, Path] = {}
    for kind, folder in holders(root, _kind, _passed_over):
        present.setdefault(kind, folder)
    name = choose(present, variant, VARIANTS[1:])
    if name is None:
        found = f"found only: {', '.join(present)}" if present else "no folder there holds spNO.1, spNO.2, ..."
        raise NotHere(
            f"{root}: no frames of CAS(ME)³ part A ({found}); expected e.g. Part_A_ME_clip/frame/spNO.1_a_355/355.jpg"
        )
    index: dict[tuple[int, str, int | None], tuple[Path, ...]] = {}
    for key, folder in _clips(present[name]) if name == "clips" else _videos(present[name]):
        index[key] = (*index.get(key, ()), folder)
    return Images(name, present[name], index)


def _kind(name: str) -> str | None:
    """What a folder of this name is: one of the 'clips', the 'videos' of a subject, or None."""
    if _CLIP.fullmatch(name):
        return "clips"
    return "videos" if SUBJECT.fullmatch(name) else None


def _passed_over(name: str) -> bool:
    """Depth pictures, other parts of CAS(ME)³, and the authors' lists."""
    return LAYOUTS["casme3"].passes_over(name) or _ELSEWHERE.fullmatch(name) is not None


def _clips(root: Path) -> Iterable[tuple[tuple[int, str, int], Path]]:
    """The folders `spNO.1_a_355`."""
    for folder in folders(root):
        if match := _CLIP.fullmatch(folder.name):
            yield (int(match[1]), match[2].lower(), int(match[3])), folder


def _videos(root: Path) -> Iterable[tuple[tuple[int, str, None], Path]]:
    """The folders `spNO.1/a/color`; those without `color` hold the frames themselves."""
    for folder in folders(root):
        if match := SUBJECT.fullmatch(folder.name):
            for video in folders(folder):
                colour = [path for path in folders(video) if path.name.lower() == "color"]
                yield (int(match[1]), video.name.lower(), None), colour[0] if colour else video


def assign(entries: Iterable[Entry], images: Images, report: Validation) -> dict[Key, Path]:
    """Entry.key -> folder of frames; a folder under another spelling of the name is reported.

    A cut clip is looked for by the onset as stated, then by the corrected one. Where two folders differ in case
    alone, the one spelt as in the row is taken.
    """
    tree: dict[Key, Path] = {}
    for entry in entries:
        number, video, stated = key = as_key(entry)
        film = entry.clip.rpartition("_")[0]
        if images.kind == "clips":
            onsets: tuple[int | None, ...] = (stated, entry.onset)
            expected = [f"{entry.subject}_{film}_{onset}" for onset in onsets]
        else:
            onsets, expected = (None,), [f"{entry.subject}/{film}"]
        paths = next((images.index[number, video, on] for on in onsets if (number, video, on) in images.index), ())
        spelt = {"/".join(path.relative_to(images.root).parts[:2]): path for path in paths}
        exact = next((name for name in expected if name in spelt), None)
        if spelt:
            name = exact or next(iter(spelt))
            tree[key] = spelt[name]
            if exact is None:
                entry.flags.append(report.note(entry.name, "folder-case", name))
    return tree


def as_key(entry: Entry) -> Key:
    """The entry's key, as the type it has here."""
    key: Key = entry.key  # type: ignore[assignment]
    return key


def readable(folder: Path, images: Images, report: Validation) -> dict[int, Path]:
    """Frame number -> file of a folder; the files listed in DAMAGED are left out, and reported, unless they open."""
    found = frame_files(folder)
    number, video = images.shown[folder]
    broken = [frame for frame in DAMAGED.get((number, video), ()) if frame in found and not _opens(found[frame])]
    if broken:
        report.note(f"spNO.{number}/{video}", "unreadable", f"{len(broken)} frames, {broken[0]} to {broken[-1]}")
    return {frame: path for frame, path in found.items() if frame not in broken}


def _opens(path: Path) -> bool:
    """Whether the image can be decoded."""
    try:
        read_image(path)
    except FlickerError:
        return False
    return True
