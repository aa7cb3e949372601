"""Dataset roots: how the micro-expression datasets lie on disk, and who is shown where.

A layout tells, from the names of folders and videos alone, the person shown, the frame rate, and what is no colour
picture. Names are matched without regard to case, padding or how often a zip doubled a folder.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.errors import FlickerError, UsageError

_DEPTH = re.compile(r"(?:.*[^a-z])?depth(?:[^a-z].*|maps?|images?)?", re.IGNORECASE)
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Layout:
    """One dataset's tree."""

    title: str
    folder: str
    """a subject's folder as the dataset writes it, to name in messages"""
    subject: re.Pattern[str]
    """a folder or video name that tells the subject; its only matching group is the number"""
    rates: tuple[tuple[str, float], ...]
    """(word in a folder's name, frames per second); an empty word holds everywhere"""
    depth: bool = False
    """depth pictures lie beside the colour ones and are passed over"""
    two_numberings: str = ""
    """why a bare number does not name a subject"""

    def claims(self, names: Iterable[str]) -> set[str]:
        """The subjects that these folder names (or a video's stem) tell, as plain numbers."""
        found = (self.subject.fullmatch(name) for name in names)
        return {str(int(next(group for group in match.groups() if group))) for match in found if match}

    def subjects(self, parts: Sequence[str]) -> set[str]:
        """Who a source shows: by the names below the given root, or else by the root's own (`parts[0]`)."""
        return self.claims(parts[1:]) or self.claims(parts[:1])

    def fps(self, parts: Sequence[str]) -> float | None:
        """Frames per second of a source; the deepest name that tells counts. None where none does."""
        for name in reversed(parts):
            for word, rate in self.rates:
                if word and re.search(rf"(?<![a-z]){word}(?![a-z])", name, re.IGNORECASE):
                    return rate
        return next((rate for word, rate in self.rates if not word), None)

    def passes_over(self, name: str) -> bool:
        """Whether a folder, or a video of this stem, holds depth and no colour."""
        return self.depth and _DEPTH.fullmatch(name) is not None


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE | re.ASCII)


LAYOUTS = {
    "casme2": Layout("CASME II", "sub01", _pattern(r"s(?:ub)?(\d+)"), (("", 200),)),
    "samm": Layout("SAMM", "006", _pattern(r"(\d{1,3})(?:_\d{1,2}){0,2}"), (("", 200),)),
    "smic": Layout("SMIC", "s1", _pattern(r"s(\d{1,3})(?:_.*)?"), (("hs", 100), ("vis", 25), ("nir", 25))),
    "casme_sq": Layout(
        "CAS(ME)²",
        "s15",
        _pattern(r"s(\d+)|(\d{2})|(\d{2})_\d{4}.*"),
        (("", 30),),
        two_numberings="folder s15 is participant 1 in the workbook: give the folder's name, such as s15",
    ),
    "casme3": Layout("CAS(ME)³", "spNO.1", _pattern(r"sp[ _]?no[ ._]*(\d+)(?:_.*)?"), (("", 30),), depth=True),
}


def layout(dataset: str) -> Layout:
    """The layout of that name. Raises UsageError, with the known ones."""
    if dataset not in LAYOUTS:
        near = difflib.get_close_matches(dataset.lower(), LAYOUTS, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UsageError(f"dataset '{dataset}' is unknown; {hint}give one of {', '.join(LAYOUTS)}")
    return LAYOUTS[dataset]


def split_source(source: str | Path, default: str = "") -> tuple[str, Path]:
    """(dataset, path) of a source such as `samm:/data/SAMM`; `default` where it has no such prefix.

    Raises UsageError: `default` names no layout.
    """
    prefix, colon, rest = str(source).partition(":")
    if isinstance(source, str) and colon and prefix in LAYOUTS:
        return prefix, Path(rest)
    if default:
        layout(default)
    return default, Path(source)


def read_subjects(text: str) -> list[str]:
    """The ids in `1,2,15`, or in `@FILE`: one a line, `#` begins a comment. Raises FlickerError: no such file."""
    if not text.startswith("@"):
        return [item.strip() for item in text.split(",") if item.strip()]
    try:
        lines = Path(text[1:]).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise FlickerError(f"list of subjects {text[1:]} cannot be read: {reason}") from None
    return [item for line in lines if (item := line.partition("#")[0].strip())]


def exclusions(subjects: Sequence[str], datasets: Collection[str]) -> tuple[str, ...]:
    """Ids such as `1`, `sub01`, `casme2:01` as `casme2:1`, sorted, each once.

    `datasets` are those of the call; an id without one belongs to the only dataset. Raises UsageError: no
    dataset, several and the id names none of them, or an id that the dataset's folders could not bear.
    """
    normal = {_exclusion(text, sorted(set(datasets) - {""})) for text in subjects}
    return tuple(
        f"{dataset}:{number}" for dataset, number in sorted(normal, key=lambda item: (item[0], int(item[1])))
    )


def _exclusion(text: str, datasets: list[str]) -> tuple[str, str]:
    """(dataset, number) of one id."""
    dataset, _, name = text.strip().rpartition(":")
    if not datasets:
        raise UsageError(f"subject '{text}' cannot be left out: name the dataset (--dataset, or casme2:PATH)")
    if not dataset and len(datasets) > 1:
        raise UsageError(f"subject '{text}' of which dataset? give {datasets[0]}:{text} or {datasets[1]}:{text}")
    dataset = dataset or datasets[0]
    if dataset not in datasets:
        raise UsageError(f"subject '{text}': no source is of dataset '{dataset}', only of {', '.join(datasets)}")
    known = layout(dataset)
    if re.fullmatch(r"[0-9]+", name):
        if known.two_numberings:
            raise UsageError(f"subject '{text}' of {dataset} can mean two people: {known.two_numberings}")
        return dataset, str(int(name))
    claimed = known.claims([name])
    if len(claimed) != 1:
        raise UsageError(f"subject '{text}': {dataset} has folders such as {known.folder}; give that, or its number")
    return dataset, claimed.pop()


def check_excluded(excluded: Iterable[str], present: Collection[tuple[str, str]]) -> None:
    """Raise FlickerError where an excluded `dataset:number` is not among the (dataset, number) `present`."""
    for item in excluded:
        dataset, number = item.split(":")
        if (dataset, number) in present:
            continue
        others = [int(subject) for where, subject in present if where == dataset and subject]
        near = sorted(others, key=lambda other: (abs(other - int(number)), other))[:3]
        hint = f"the nearest are {', '.join(map(str, sorted(near)))}" if near else "none was found at all"
        raise FlickerError(
            f"subject {item} is not among the sources ({hint}): correct --exclude_subjects, or remove it"
        )


def is_depth_png(path: str) -> bool:
    """Whether a PNG file is a depth map: one channel, as its header says. False where it cannot be read."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 (called for folders by the ten thousand)
            head = file.read(26)
    except OSError:
        return False
    return len(head) == 26 and head.startswith(_PNG) and head[25] in (0, 4)  # grey, grey with alpha
