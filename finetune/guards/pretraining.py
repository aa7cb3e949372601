"""Guard on the encoder: whether it was pretrained on frames of the people that are tested.

A run of launch/pretrain.py records its shards; their manifest lists every source with dataset and subject. Where that
chain is broken (the released weights, an encoder folder alone, shards that are gone), nobody can tell: 'unknown'.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from finetune.backbone import Backbone
from finetune.guards.finding import Finding, listed
from pretrain.checkpoint import find_latest
from pretrain.weights import find_folder
from shards.errors import FlickerError
from shards.files import read_json
from shards.manifest import read_manifest
from shards.schema import SourceReport
from shards.trees import LAYOUTS

RELEASED = (".pth", ".pt", ".ckpt")
TREES = {"smic_e": "smic"}
"""Dataset -> the layout of shards.trees that has the same people under the same numbers, where the names differ."""
WORDS = {
    "casme2": r"casme[\W_]*(2|ii)(?![i\d])",
    "samm": "samm",
    "smic": "smic",
    "casme3": r"cas\(?me\)?[\W_]*(3|iii)(?!\d)",
    "casme_sq": r"cas\(me\)\^?2|casme[\W_]*sq",
}
"""How a folder names a dataset."""
Person = tuple[str, str]
"""(layout, number) as a manifest has them."""


class UnknownError(Exception):
    """What an encoder was pretrained on cannot be told, and why."""


def check(backbone: Backbone | None, own_weights: bool, tested: Sequence[str]) -> list[Finding]:
    """Whether the encoder saw the people in the clips `tested` (ids).

    Args:
        backbone: the encoder, None for a native head.
        own_weights: whether a native head starts from weights of its own.
    """
    if backbone is None:
        what = (
            "the head starts from weights of its own; whether the people tested were in their training is not known"
        )
        return [Finding("pretraining", what, "unknown")] if own_weights else []
    if not backbone.pretrained:
        return []
    try:
        found = list(sources(str(backbone.provenance.get("weights", ""))))
    except (UnknownError, FlickerError) as reason:
        what = f"whether the encoder was pretrained on the people tested cannot be told: {reason}"
        return [Finding("pretraining", what, "unknown")]
    return _seen(found, tested)


def sources(weights: str, depth: int = 0) -> Iterator[SourceReport]:
    """Every source of the pretraining behind `weights`, those of the weights that it started from included.

    Raises UnknownError where it cannot be told, FlickerError where files are damaged.
    """
    if not weights:
        raise UnknownError("it was given in memory")
    if Path(weights).suffix in RELEASED:
        raise UnknownError(f"{weights} is a released checkpoint (Micron-BERT: CAS(ME)^3 'except frames of test set')")
    state = _state(Path(weights))
    config: Mapping[str, Any] = state.get("config", {})
    if not config.get("data"):
        raise UnknownError(f"{weights} does not say which shards it was trained on")
    if (start := config.get("checkpoint", {}).get("init", "")) and depth < 10:
        yield from sources(start, depth + 1)
    data = config["data"]
    places = list(data.get("mixture") or {}) or [data["shards"]] if data.get("shards") or data.get("mixture") else []
    for place in places:  # none: synthetic faces
        manifest = read_manifest(place)
        if len(places) == 1 and manifest.digest != state.get("data_digest"):
            raise UnknownError(f"the shards in {place} are not those it was trained on")
        yield from (source for source in manifest.sources if source.status == "ok")


def _state(weights: Path) -> dict[str, Any]:
    """The checkpoint state beside weights, or of the run whose encoder they are."""
    folder = find_folder(weights, whole=False)
    if (folder / "state.json").is_file():
        return dict(read_json(folder / "state.json", "checkpoint state"))
    latest = find_latest(folder.parent)
    if folder.name != "encoder" or latest is None:
        raise UnknownError(f"{weights} holds weights without the run they come from")
    return {"config": latest[1].config, "data_digest": latest[1].data_digest}


def _seen(found: Sequence[SourceReport], tested: Sequence[str]) -> list[Finding]:
    """The people tested whose frames are among the sources."""
    clips = _people(tested)
    named = {(source.dataset, source.subject) for source in found if source.dataset}
    plain = [source.name for source in found if not source.dataset]
    both = sorted(person for person, names in clips.items() if person in named or _on_path(person, names, plain))
    findings = []
    if both:
        people = listed([f"{dataset}:{number}" for dataset, number in both])
        what = f"the encoder was pretrained on frames of {len(both)} of the {len(clips)} people tested: {people}"
        findings.append(Finding("pretraining", what, "leak"))
    trees = {dataset for dataset, _ in named}
    if blind := sorted({name.split("/")[0] for name in tested if _person(name) is None} & (trees | _near(trees))):
        what = f"whether the encoder was pretrained on the people tested of {', '.join(blind)} cannot be told"
        findings.append(Finding("pretraining", f"{what}: their numbers are not those of its sources", "unknown"))
    return findings


def _near(trees: set[str]) -> set[str]:
    """Datasets of the same publication as these layouts, whose people bear other numbers."""
    return {"casme3c"} if "casme3" in trees else set()


def _person(clip: str) -> Person | None:
    """Who a clip's id shows, as a manifest names people; None where no layout tells."""
    dataset, subject = clip.split("/")[:2]
    dataset = TREES.get(dataset, dataset)
    numbers = LAYOUTS[dataset].claims([subject]) if dataset in LAYOUTS else set()
    return (dataset, numbers.pop()) if len(numbers) == 1 else None


def _people(tested: Sequence[str]) -> dict[Person, set[str]]:
    """Everyone tested -> names of their clips."""
    people: dict[Person, set[str]] = {}
    for clip in tested:
        if person := _person(clip):
            people.setdefault(person, set()).add(clip.split("/", 2)[2].lower())
    return people


def _on_path(person: Person, clips: set[str], names: Sequence[str]) -> bool:
    """Whether a plain source's path shows the person: their folder, and the dataset's name or one of their clips'."""
    dataset, number = person
    for name in names:
        parts = [PurePosixPath(part).stem if part == name.split("/")[-1] else part for part in name.split("/")]
        if number in LAYOUTS[dataset].claims(parts):
            there = {part.lower() for part in parts}
            if clips & there or re.search(WORDS[dataset], name, re.IGNORECASE):
                return True
    return False
