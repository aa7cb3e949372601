"""From paths to sources: video files and frame folders, found recursively, named and fingerprinted."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.errors import FlickerError

VIDEOS = frozenset(
    ".mp4 .mov .m4v .avi .mkv .webm .mpg .mpeg .wmv .flv .3gp .mts .m2ts .ts .ogv .y4m".split()  # noqa: SIM905
)
IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp"})
SAMPLE = 64 * 1024  # bytes of a file's start and end that its fingerprint covers
SAMPLED_FILES = 16  # files of a folder whose contents its fingerprint covers


@dataclass(frozen=True)
class Source:
    """One video file or one folder of frames."""

    path: Path
    name: str
    """path below the folder that all given paths share, with `/`: the same wherever the data lie"""
    kind: str
    """video, folder, or unknown (reported, never read)"""
    reason: str = ""
    """why an unknown source cannot be used"""


def discover(paths: Sequence[str | Path], exclude: Path | None = None) -> list[Source]:
    """All sources under `paths`, sorted by name; folders are searched recursively, `exclude` is not entered.

    A folder with images is one source, each video file another; an empty folder, a file of another kind and
    a folder without any frames become `unknown` sources with a reason. Names starting with a dot are passed
    over; links are followed once.
    Raises FlickerError: no path given, one that does not exist, or `exclude` itself.
    """
    if not paths:
        raise FlickerError("no sources given: name video files, frame folders, or folders that hold them")
    given = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100 (keeps links, unlike resolve)
    for path in given:
        if not path.exists():
            raise FlickerError(f"source not found: {path}")
        if exclude and path.resolve() == exclude.resolve():
            raise FlickerError(f"{path} is both a source and --out: give another --out")
    root = Path(os.path.commonpath([path.parent for path in given]))
    found: dict[Path, Source] = {}
    skip = {exclude.resolve()} if exclude else set()
    for path in given:
        listed = list(_walk(path, set(skip))) if path.is_dir() else [_file(path)]
        for place, kind, reason in listed or [(path, "unknown", "no video or image files in it")]:
            found.setdefault(place.resolve(), Source(place, _name(place, root), kind, reason))
    return sorted(found.values(), key=lambda source: source.name)


def _name(path: Path, root: Path) -> str:
    """The path below `root` as text that UTF-8 can hold."""
    return os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")


def _file(path: Path) -> tuple[Path, str, str]:
    """A file given by name."""
    suffix = path.suffix.lower()
    if suffix in VIDEOS:
        return path, "video", ""
    what = "a single image: give its folder" if suffix in IMAGES else f"'{path.suffix}' is no known video suffix"
    return path, "unknown", what


def _walk(folder: Path, seen: set[Path]) -> Iterator[tuple[Path, str, str]]:
    """(path, kind, reason) of the sources in `folder` and below; `seen` are folders not to enter."""
    if folder.resolve() in seen:
        return
    seen.add(folder.resolve())
    try:
        entries = sorted((entry for entry in os.scandir(folder) if entry.name[0] != "."), key=lambda e: e.name)
    except OSError as error:
        yield folder, "unknown", f"cannot be listed: {error.strerror}"
        return
    if not entries:
        yield folder, "unknown", "empty folder"
    if any(_suffix(entry.name) in IMAGES and entry.is_file() for entry in entries):
        yield folder, "folder", ""
    for entry in entries:
        if entry.is_dir():
            yield from _walk(folder / entry.name, seen)
        elif _suffix(entry.name) in VIDEOS:
            yield folder / entry.name, "video", ""


def _suffix(name: str) -> str:
    """The suffix of a file name, in lower case."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 (a Path per file is slow for millions)


def image_names(folder: Path) -> list[str]:
    """The image files of a folder, sorted by name."""
    names = (entry.name for entry in os.scandir(folder) if entry.is_file() and entry.name[0] != ".")
    return sorted(name for name in names if _suffix(name) in IMAGES)


def identity(source: Source) -> str:
    """A fingerprint of a source's contents that does not depend on where it lies or when it was touched.

    A video: its size, its first and last 64 KiB. A folder: the name and size of every image, and the same
    samples of 16 of them. A change of the same size elsewhere in a file is not noticed.
    """
    digest = hashlib.sha256(source.kind.encode())
    try:
        if source.kind == "video":
            _sample(source.path, digest)
        elif source.kind == "folder":
            names = image_names(source.path)
            for name in names:
                size = (source.path / name).stat().st_size
                digest.update(f"{name}\0{size}\n".encode(errors="surrogateescape"))
            for name in names[:: max(1, len(names) // SAMPLED_FILES)]:
                _sample(source.path / name, digest)
    except OSError as error:
        digest.update(f"unreadable {error.errno}".encode())
    return digest.hexdigest()[:32]


def _sample(path: Path, digest: hashlib._Hash) -> None:
    """Add a file's size, first and last 64 KiB to `digest`."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest.update(f"{size}\n".encode())
        for start in {0, max(0, size - SAMPLE)}:
            file.seek(start)
            digest.update(file.read(SAMPLE))
