"""From paths to sources: video files and frame folders, found recursively, named and fingerprinted."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shards import trees
from shards.errors import FlickerError, UsageError

log = logging.getLogger(__name__)
VIDEOS = frozenset(
    ".mp4 .mov .m4v .avi .mkv .webm .mpg .mpeg .wmv .flv .3gp .mts .m2ts .ts .ogv .y4m".split()  # noqa: SIM905
)
IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp"})
SAMPLE = 64 * 1024  # bytes of a video's start and end that its fingerprint covers
FILE_SAMPLE = 4 * 1024  # the same for an image of a folder
SAMPLED_FILES = 16  # files of a folder whose contents its fingerprint covers, at most
LISTED = 8  # sources that an error names
_NO_CONTENT = "__MACOSX"  # what zips made on a Mac hold beside the content


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
    dataset: str = ""
    """layout of the dataset root it was found in (`shards.trees.LAYOUTS`); empty elsewhere"""
    subject: str = ""
    """who is shown, as a number without padding; only within a dataset"""
    fps: float | None = None
    """frames per second that the dataset's layout tells (a video's container knows better)"""


@dataclass(frozen=True)
class _Root:
    """One given path."""

    path: str
    dataset: str


@dataclass(frozen=True)
class _Place:
    """Something found on disk."""

    path: str
    real: str
    """the path without links"""
    kind: str
    reason: str = ""
    image: str = ""
    """one of a folder's images, PNG only if all are"""


def settings(
    paths: Sequence[str | Path], dataset: str = "", exclude_subjects: Sequence[str] = ()
) -> tuple[str, tuple[str, ...]]:
    """The datasets of a call, joined by commas, and its exclusions as `dataset:number`: what a manifest records.

    Raises UsageError as `discover` does. Looks at no disk.
    """
    datasets = {trees.split_source(path, dataset)[0] for path in paths}
    return ",".join(sorted(datasets - {""})), trees.exclusions(exclude_subjects, datasets)


def discover(
    paths: Sequence[str | Path],
    exclude: Path | None = None,
    *,
    dataset: str = "",
    exclude_subjects: Sequence[str] = (),
) -> list[Source]:
    """All sources under `paths`, sorted by name; folders are searched recursively, `exclude` is not entered.

    A folder with images is one source, each video file another; an empty folder, a file of another kind and
    a folder without any frames become `unknown` sources with a reason. Names starting with a dot are passed
    over; links are followed once.

    A path given as `casme2:PATH`, or any path where `dataset` is set, is the root of a dataset (or a part of
    it): its sources know their subject, and those of `exclude_subjects` (`1`, `sub01`, `casme2:1`) are left out.

    Raises FlickerError: no path given, one that does not exist, `exclude` itself, frames in a dataset whose
    subject cannot be told, an excluded subject that is not there. UsageError: unknown dataset, an id that
    belongs to no dataset.
    """
    if not paths:
        raise FlickerError("no sources given: name video files, frame folders, or folders that hold them")
    roots = _roots(paths, dataset, exclude)
    excluded = settings(paths, dataset, exclude_subjects)[1]
    common = os.path.commonpath([os.path.dirname(root.path) for root in roots])  # noqa: PTH120 (text throughout)
    found: dict[str, Source] = {}
    seen = {os.path.realpath(exclude)} if exclude else set()
    passed_over: Counter[str] = Counter()
    # Dataset roots first: a plain folder that holds one must not bring its subjects back under no name.
    for root in sorted(roots, key=lambda root: not root.dataset):
        for place in _search(root, seen, passed_over):
            if place.real not in found:
                found[place.real] = _source(place, root, common)
    for name, count in passed_over.items():
        log.info("passed over %d folders and videos of depth in %s", count, name)
    sources = sorted(found.values(), key=lambda source: source.name)
    return _without(_check_subjects(sources), excluded)


def _roots(paths: Sequence[str | Path], dataset: str, exclude: Path | None) -> list[_Root]:
    """The given paths, absolute, each once. Raises FlickerError as `discover` does."""
    roots = []
    for path in paths:
        name, place = trees.split_source(path, dataset)
        if not place.exists():
            prefix = str(path).partition(":")[0]
            known = f" (datasets are {', '.join(trees.LAYOUTS)})" if ":" in str(path) and "/" not in prefix else ""
            raise FlickerError(f"source not found: {os.path.abspath(place)}{known}")  # noqa: PTH100
        if exclude and place.resolve() == exclude.resolve():
            raise FlickerError(f"{place} is both a source and --out: give another --out")
        roots.append(_Root(os.path.abspath(place), name))  # noqa: PTH100 (keeps links, unlike resolve)
    _check_overlap(roots)
    return list(dict.fromkeys(roots))


def _check_overlap(roots: list[_Root]) -> None:
    """Raise UsageError where one folder would belong to two datasets."""
    real = [(root, Path(root.path).resolve()) for root in roots if root.dataset]
    for root, path in real:
        for other, above in real:
            if root.dataset != other.dataset and path.is_relative_to(above):
                raise UsageError(
                    f"{root.path} is given as {root.dataset} and lies in {other.path}, given as {other.dataset}: "
                    "give each folder to one dataset"
                )


def _search(root: _Root, seen: set[str], passed_over: Counter[str]) -> Iterator[_Place]:
    """What lies at one given path; `seen` are folders (without links) not to enter, and grows."""
    if not os.path.isdir(root.path):  # noqa: PTH112
        yield _file(root.path)
        return
    layout = trees.LAYOUTS.get(root.dataset)
    nothing = os.path.realpath(root.path) not in seen
    for place in _walk(root.path, seen):
        nothing = False
        if layout is not None and _is_depth(place, root, layout):
            passed_over[root.dataset] += 1
        else:
            yield place
    if nothing:
        yield _Place(root.path, os.path.realpath(root.path), "unknown", "no video or image files in it")


def _is_depth(place: _Place, root: _Root, layout: trees.Layout) -> bool:
    """Whether a place of a dataset holds depth pictures."""
    if not layout.depth:
        return False
    if any(layout.passes_over(name) for name in _parts(place, root)):
        return True
    return _suffix(place.image) == ".png" and trees.is_depth_png(f"{place.path}/{place.image}")


def _parts(place: _Place, root: _Root) -> list[str]:
    """The root's name and the names below it; a video's without suffix."""
    below = place.path[len(root.path) :].strip("/")
    parts = [os.path.basename(root.path), *below.split("/")] if below else [os.path.basename(root.path)]  # noqa: PTH119
    if place.kind == "video":
        parts[-1] = os.path.splitext(parts[-1])[0]  # noqa: PTH122
    return parts


def _source(place: _Place, root: _Root, common: str) -> Source:
    """A place under its name and, in a dataset, with its subject (several, joined by `|`, if names disagree)."""
    below = place.path[len(common) :].lstrip("/")
    name = os.fsencode(below).decode("utf-8", "backslashreplace")
    source = Source(Path(place.path), name, place.kind, place.reason)
    if not root.dataset:
        return source
    layout, parts = trees.LAYOUTS[root.dataset], _parts(place, root)
    subjects = "|".join(sorted(layout.subjects(parts), key=int))
    return replace(source, dataset=root.dataset, subject=subjects, fps=layout.fps(parts))


def _check_subjects(sources: list[Source]) -> list[Source]:
    """Raise FlickerError where a dataset's frames belong to nobody, or to several."""
    unclear = [source for source in sources if source.dataset and not source.subject.isdigit()]
    unclear = [source for source in unclear if source.kind != "unknown"]  # nothing of those is read
    if not unclear:
        return sources
    layout = trees.LAYOUTS[unclear[0].dataset]
    names = [s.name + (f" ({' or '.join(s.subject.split('|'))})" if s.subject else "") for s in unclear[:LISTED]]
    more = f" and {len(unclear) - LISTED} more" if len(unclear) > LISTED else ""
    raise FlickerError(
        f"{layout.title}: whose frames these are cannot be told from the folders' names: {', '.join(names)}{more}; "
        f"give a folder that holds folders such as {layout.folder}, or move these out of it"
    )


def _without(sources: list[Source], excluded: tuple[str, ...]) -> list[Source]:
    """The sources of all other subjects. Raises FlickerError for an excluded one that is not there."""
    trees.check_excluded(excluded, {(source.dataset, source.subject) for source in sources})
    kept = [source for source in sources if f"{source.dataset}:{source.subject}" not in set(excluded)]
    if excluded:
        count, people = len(sources) - len(kept), len(excluded)
        log.info("left out %d sources of %d subjects: %s", count, people, ", ".join(excluded))
    if not kept:
        why = f"all {len(sources)} sources are of excluded subjects" if sources else "no colour frames among them"
        raise FlickerError(f"nothing is left of the sources: {why}")
    return kept


def _file(path: str) -> _Place:
    """A file given by name."""
    suffix, real = _suffix(path), os.path.realpath(path)
    if suffix in VIDEOS:
        return _Place(path, real, "video")
    shown = os.path.splitext(path)[1]  # noqa: PTH122
    what = "a single image: give its folder" if suffix in IMAGES else f"'{shown}' is no known video suffix"
    return _Place(path, real, "unknown", what)


def _walk(top: str, seen: set[str]) -> Iterator[_Place]:
    """The sources in the folder `top` and below. Text and one listing per folder: there may be 100,000."""
    stack = [(top, os.path.realpath(top))]
    while stack:
        folder, real = stack.pop()
        if real in seen:
            continue
        seen.add(real)
        try:
            listing = _list(folder)
        except OSError as error:
            yield _Place(folder, real, "unknown", f"cannot be listed: {error.strerror}")
            continue
        if listing.empty:
            yield _Place(folder, real, "unknown", "empty folder")
        if listing.image:
            yield _Place(folder, real, "folder", "", listing.image)
        for name, link in sorted(listing.videos):
            path = f"{folder}/{name}"
            yield _Place(path, os.path.realpath(path) if link else f"{real}/{name}", "video")
        for name, link in sorted(listing.folders, reverse=True):
            path = f"{folder}/{name}"
            stack.append((path, os.path.realpath(path) if link else f"{real}/{name}"))


@dataclass
class _Listing:
    """The entries of one folder that matter, each with whether it is a link."""

    folders: list[tuple[str, bool]]
    videos: list[tuple[str, bool]]
    image: str = ""
    empty: bool = True


def _list(folder: str) -> _Listing:
    """One pass over a folder; its images are not kept."""
    listing = _Listing([], [])
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name[0] == "." or name == _NO_CONTENT:
                continue
            listing.empty = False
            suffix = _suffix(name)
            if suffix in IMAGES and entry.is_file():
                if not listing.image or (suffix != ".png" and _suffix(listing.image) == ".png"):
                    listing.image = name
            elif entry.is_dir():
                listing.folders.append((name, entry.is_symlink()))
            elif suffix in VIDEOS:
                listing.videos.append((name, entry.is_symlink()))
    return listing


def _suffix(name: str) -> str:
    """The suffix of a file name, in lower case."""
    _, dot, suffix = name.rpartition(".")  # there may be millions: splitext takes four times as long
    return (dot + suffix).lower()


def image_names(folder: Path) -> list[str]:
    """The image files of a folder, sorted by name."""
    return [name for name, _ in _images(folder)]


def _images(folder: Path, sizes: bool = False) -> list[tuple[str, int]]:
    """(name, size in bytes, or 0 without `sizes`) of the image files of a folder, sorted by name."""
    with os.scandir(folder) as entries:
        found = [
            (entry.name, entry.stat().st_size if sizes else 0)
            for entry in entries
            if entry.name[0] != "." and _suffix(entry.name) in IMAGES and entry.is_file()
        ]
    return sorted(found)


def identity(source: Source) -> str:
    """A fingerprint of a source's contents that does not depend on where it lies or when it was touched.

    A video: its size, its first and last 64 KiB. A folder: the name and size of every image, and the first and
    last 4 KiB of up to 16 of them. A change of the same size elsewhere in a file is not noticed.
    """
    digest = hashlib.sha256(source.kind.encode())
    try:
        if source.kind == "video":
            _sample(os.fspath(source.path), digest, SAMPLE)
        elif source.kind == "folder":
            images = _images(source.path, sizes=True)
            lines = (f"{name}\0{size}\n" for name, size in images)
            digest.update("".join(lines).encode(errors="surrogateescape"))
            count = min(SAMPLED_FILES, len(images))
            for number in range(count):
                _sample(f"{source.path}/{images[number * len(images) // count][0]}", digest, FILE_SAMPLE)
    except OSError as error:
        digest.update(f"unreadable {error.errno}".encode())
    return digest.hexdigest()[:32]


def _sample(path: str, digest: hashlib._Hash, sample: int) -> None:
    """Add a file's size, first and last `sample` bytes to `digest`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        digest.update(f"{size}\n".encode())
        for start in sorted({0, max(0, size - sample)}):
            digest.update(os.pread(descriptor, sample, start))
    finally:
        os.close(descriptor)
