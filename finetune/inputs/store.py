"""Where the entry of a clip and a recipe lies, and whether it is there: decided without opening an image."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.clips import Clip
from finetune.inputs.base import Recipe
from finetune.inputs.entries import read_note
from finetune.inputs.result import Report
from shards.errors import FlickerError
from shards.files import write_json

DETECTED = "detected"  # the way a face is found that is no fallback (finetune.faces.interface.SOURCES)


def fingerprint(clip: Clip) -> str:
    """Digest of the clip's name, onset, apex, offset, and of number, name, size, mtime (ns) of its frame files.

    A file that is absent counts as such, so that putting it there gives another fingerprint.
    """
    parts: list[Any] = [clip.id, clip.onset, clip.apex, clip.offset]
    for number in sorted(clip.frames):
        path = clip.frames[number]
        try:
            stat = path.stat()
            parts.append((number, path.name, stat.st_size, stat.st_mtime_ns))
        except OSError:
            parts.append((number, path.name, -1, -1))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@dataclass
class Store:
    """The entries of some clips and recipes under one folder: `KIND-KEY/CLIP-FINGERPRINT.npz`.

    The recipe's key, and for one that needs landmarks the backend's identity, name the folder; the clip's name and
    fingerprint the file. So nothing is ever read that another parameter, version, backend or image has made.
    """

    root: Path
    recipes: Mapping[str, Recipe]
    backend: str = ""
    """Identity of the landmark backend, '' where no recipe needs one."""
    folders: dict[str, Path] = field(default_factory=dict)
    """Of every recipe, by name."""

    def __post_init__(self) -> None:
        """Name the folders."""
        for name, recipe in self.recipes.items():
            parts = [recipe.key(), self.backend if recipe.needs_points else ""]
            key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
            self.folders[name] = self.root / f"{recipe.kind}-{key}"

    def paths(self, clip: Clip) -> dict[str, Path]:
        """The clip's entry for every recipe, whether it is there or not."""
        readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", clip.id)
        file = f"{readable}-{fingerprint(clip)}.npz"
        return {name: folder / file for name, folder in self.folders.items()}

    def describe(self) -> None:
        """Beside the entries, what made them: `recipe.json`, for people."""
        for name, recipe in self.recipes.items():
            path = self.folders[name] / "recipe.json"
            if not path.exists():
                landmarks = self.backend if recipe.needs_points else ""
                write_json(path, recipe.describe() | {"landmarks": landmarks})


def survey(paths: Mapping[str, Mapping[str, Path]], report: Report) -> str:
    """Add to the report what the entries say (clip id -> recipe -> entry); returns the digest of all their arrays."""
    bad: dict[str, None] = {}
    digest = hashlib.sha256()
    sources: dict[str, str] = {}
    for clip, places in paths.items():
        for name, path in places.items():
            note = read_note(path)
            if note is None:
                raise FlickerError(f"prepared input {path} has gone or is cut short; run again")
            report.bytes += path.stat().st_size
            bad |= dict.fromkeys(note.bad)
            digest.update(f"{clip}|{name}|{note.digest}|".encode())
            if note.source:
                sources[clip] = note.source
    report.bad = list(bad)
    report.sources = dict(Counter(sources.values()).most_common())
    for clip, source in sources.items():
        if source != DETECTED:
            report.fallbacks.setdefault(source, []).append(clip)
    return digest.hexdigest()
