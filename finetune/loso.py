"""A protocol (leave-one-subject-out and others) from data to results: prepare, train every fold for every seed, pool.

Each finished fold is a file; a run that was stopped continues, and several processes (RANK, WORLD_SIZE, as set by
deepspeed or torchrun) share the folds, rank 0 gathering the files.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from finetune import ensembles, features, guards, parts, protocols, recogniser
from finetune import results as stored
from finetune.backbone import Backbone
from finetune.config import FinetuneConfig
from finetune.fold import FoldResult
from finetune.prepare import Prepared, prepare
from finetune.reporting import report, tracking
from finetune.results import Results
from finetune.running import Job, run_folds
from shards.errors import FlickerError, UsageError
from shards.files import read_json, write_json

log = logging.getLogger(__name__)
POLL_SECONDS = 0.2
SHARED = "shared"
"""Folder of the inputs that several processes map into memory; gone when the run is."""


@dataclass(frozen=True)
class World:
    """This process among those that share the folds."""

    rank: int = 0
    size: int = 1

    @classmethod
    def from_environment(cls) -> World:
        """RANK and WORLD_SIZE as the launchers set them; one process without them."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def run(config: FinetuneConfig, backbone: Backbone | None = None) -> Results | None:
    """The whole run, resumed where it was: the results on rank 0, None on the others.

    Writes folds/, results.json, predictions.csv and report.html into config.out. `backbone` replaces the encoder
    that the config names (one already in memory).

    Raises FlickerError: bad data or checkpoint, folds of another config in `out`, a rank that stopped.
    """
    world, out = World.from_environment(), Path(config.out)
    _clear(config, out, world)
    started = time.perf_counter()
    prepared = prepare(config, backbone, quiet=world.rank != 0)
    if world.size > 1:
        held = features.shared(prepared.samples.inputs, out / SHARED, prepared.digest)
        prepared.samples = replace(prepared.samples, inputs=held)
    ready = time.perf_counter()
    claim(out, prepared.identity)
    findings = look_for_leaks(config, prepared) if world.rank == 0 else []
    jobs = plan(config, prepared)
    run_folds(jobs[world.rank :: world.size], prepared, config, out, quiet=world.rank != 0)
    if world.rank != 0:
        return None
    folds = gather(jobs, out, prepared.digest, config.wait_minutes * 60)
    shutil.rmtree(out / SHARED, ignore_errors=True)
    seconds = {"prepare": round(ready - started, 2), "folds": round(time.perf_counter() - ready, 2)}
    results = summarise(config, prepared, folds, seconds)
    results.findings = [asdict(finding) for finding in (*findings, *guards.check_results(results))]
    finish(config, prepared, results)
    return results


def look_for_leaks(config: FinetuneConfig, prepared: Prepared) -> list[guards.Finding]:
    """What the guards find in the prepared run; each is logged before training starts."""
    findings = guards.check(prepared, config)
    for finding in findings:
        log.warning("%s: %s (docs/leaks.md)", finding.severity, finding.what)
    return findings


def finish(config: FinetuneConfig, prepared: Prepared, results: Results) -> None:
    """Write everything that a run leaves; a recogniser of all clips where the config asks for one."""
    write_json(results.out / "results.json", results.summary())
    stored.write_predictions(results.out / "predictions.csv", results.folds, results.classes)
    report.write(results, prepared, config.compare)
    tracking.log(results, config)
    if config.save_recogniser:
        recogniser.train_on_all(prepared, config, results.out)


def plan(config: FinetuneConfig, prepared: Prepared) -> list[Job]:
    """Every (fold, seed), seed by seed."""
    folds = protocols.folds(config.protocol, prepared.samples)
    protocols.tested(folds, prepared.samples)  # refuses folds that test a clip twice
    return [(fold, seed) for seed in config.protocol.seeds for fold in folds]


def _clear(config: FinetuneConfig, out: Path, world: World) -> None:
    """Delete old folds where the config says so."""
    if config.fresh:
        if world.size > 1:
            raise UsageError(
                "fresh: not with several processes, they would delete each other's folds; use a new --out"
            )
        shutil.rmtree(out / "folds", ignore_errors=True)
        (out / "identity.json").unlink(missing_ok=True)


def claim(out: Path, identity: dict[str, Any]) -> None:
    """Record what the folds in `out` depend on. Raises FlickerError where folds of something else lie there."""
    path = out / "identity.json"
    if path.exists() and any((out / "folds").glob("*.json")):
        old = read_json(path, "identity of the run")
        changed = [key for key in {**old, **identity} if old.get(key) != identity.get(key)]
        if changed:
            what = ", ".join(f"{key} {_short(old.get(key))} -> {_short(identity.get(key))}" for key in changed[:4])
            more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
            raise FlickerError(
                f"{out / 'folds'} holds folds of another run; changed: {what}{more}. "
                "Give another --out, or delete the old folds with --fresh true"
            )
    write_json(path, identity)


def _short(value: Any) -> str:
    """A value for a message; digests cut."""
    text = "absent" if value is None else str(value)
    return text if len(text) < 32 else text[:8]


def gather(jobs: Sequence[Job], out: Path, digest: str, wait: float) -> list[FoldResult]:
    """All folds' results in order, waiting for those of other ranks.

    Raises FlickerError if no new fold arrives for `wait` seconds: what is done stays, a new start continues.
    """
    found: list[FoldResult] = []
    deadline = time.monotonic() + wait
    for fold, seed in jobs:
        while (result := stored.read_fold(out, fold.subject, seed, digest)) is None:
            if time.monotonic() > deadline:
                raise FlickerError(
                    f"fold {fold.subject} seed {seed} did not arrive in {out / 'folds'} within {wait:.0f} s; "
                    "see the other ranks' messages; the same command continues with the folds that are done"
                )
            time.sleep(POLL_SECONDS)
        found.append(result)
        deadline = time.monotonic() + wait
    return found


def summarise(
    config: FinetuneConfig, prepared: Prepared, folds: list[FoldResult], seconds: dict[str, float]
) -> Results:
    """Pooled scores and everything the report says about the run."""
    samples, classes = prepared.samples, list(prepared.scheme.classes)
    people, truth = dict(zip(samples.ids, samples.subjects, strict=True)), expected(config, prepared)
    ensemble = config.protocol.ensemble
    return Results(
        out=Path(config.out),
        title=prepared.title,
        dataset=prepared.validation.dataset,
        scheme=prepared.scheme.name,
        classes=classes,
        simulated=prepared.validation.simulated,
        clips=len(truth),
        subjects=len({people[name] for name in truth}),
        folds=folds,
        selections=stored.pool(folds, truth, classes),
        encoder=provenance(prepared),
        inputs=prepared.material.report,
        validation=prepared.validation.as_dict(),
        config=asdict(config),
        machine=machine(prepared.device),
        digest=prepared.digest,
        seconds=seconds,
        parts=parts.scores(folds, truth, people, classes, ensemble),
        ensemble=ensembles.scores(folds, truth, classes) if ensemble else {},
    )


def expected(config: FinetuneConfig, prepared: Prepared) -> dict[str, int]:
    """Clip id -> true class of every clip that the protocol tests: what predictions must be of, once per seed."""
    samples = prepared.samples
    tested = protocols.tested(protocols.folds(config.protocol, samples), samples)
    labels = dict(zip(samples.ids, samples.labels.tolist(), strict=True))
    return {name: labels[name] for name in tested}


def provenance(prepared: Prepared) -> dict[str, Any]:
    """Where the encoder's weights come from; of a native head, whether there are any."""
    if prepared.backbone is None and prepared.identity["encoder"]:
        own = "the head's own, as its options say"
        return {"title": prepared.title, "weights": own, "sha256": prepared.identity["encoder"]}
    if prepared.backbone is None:
        return {"title": prepared.title, "weights": "none: trained from the start in every fold"}
    return prepared.backbone.provenance | {"sha256": prepared.identity["encoder"]}


def machine(device: torch.device) -> dict[str, Any]:
    """Where the run was made: system, processor, versions of what matters."""
    names = ("flicker-mer", "torch", "timm", "numpy", "opencv-python-headless")
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {os.cpu_count()} cores"
    return {"system": platform.platform(), "python": platform.python_version(), "device": on, "versions": versions}
