"""The guard on the encoder: who was in its pretraining, as far as its run and shards tell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from finetune import guards
from finetune.backbone import Backbone
from finetune.config import BackboneConfig, FinetuneConfig
from finetune.folds import Samples
from finetune.guards import pretraining
from shards.files import write_json
from shards.index import REACH
from shards.manifest import write_manifest
from shards.schema import Options, SourceReport
from shards.tails import Tails

TESTED = tuple(
    f"casme2/{subject}/{clip}" for subject in ("sub01", "sub02", "sub17") for clip in ("EP02_01f", "EP06_03")
)
NOTHING = Tails(np.zeros(0, np.int32), np.zeros(0), np.zeros(0, np.int64), np.zeros((0, REACH), np.uint32))


def shards(folder: Path, *sources: SourceReport) -> str:
    """A shard folder's manifest; returns its digest."""
    folder.mkdir(parents=True)
    return write_manifest(folder, Options(), [], sources, NOTHING).digest


def source(name: str, dataset: str = "", subject: str = "", status: str = "ok") -> SourceReport:
    """A source of frames."""
    return SourceReport(name, "folder", "", status=status, dataset=dataset, subject=subject)


def pretrained(folder: Path, digest: str, **config: Any) -> Path:
    """The files of a run that tell what it was trained on; its weights are empty."""
    step = folder / "checkpoints" / "step-5"
    for place in (step, folder / "encoder"):
        place.mkdir(parents=True)
        (place / "model.safetensors").touch()
        write_json(place / "config.json", {"about": {"data_digest": digest}})
    write_json(step / "state.json", {"step": 5, "data_digest": digest, "config": config})
    (folder / "checkpoints" / "latest").write_text("step-5")
    return folder


def encoder(weights: str | Path, pretrained: bool = True) -> Backbone:
    """An encoder from there."""
    return Backbone(nn.Identity(), pretrained, {"weights": str(weights)})  # type: ignore[arg-type]


def report(backbone: Backbone | None, tested: tuple[str, ...] = TESTED) -> list[tuple[str, str]]:
    """(severity, what) of the findings."""
    return [(one.severity, one.what) for one in pretraining.check(backbone, False, tested)]


def trained_on(tmp_path: Path, *sources: SourceReport) -> Path:
    """A run on shards of these sources."""
    digest = shards(tmp_path / "shards", *sources)
    return pretrained(tmp_path / "run", digest, data={"shards": str(tmp_path / "shards")})


@pytest.mark.parametrize("where", ["", "encoder", "checkpoints/step-5", "checkpoints/step-5/model.safetensors"])
def test_pretraining_on_test_subjects_is_reported(tmp_path: Path, where: str) -> None:
    people = [source(f"sub{n:02d}/EP01", "casme2", str(n)) for n in (1, 17, 20)]
    run = trained_on(tmp_path, *people)
    ((severity, what),) = report(encoder(run / where))
    assert severity == "leak" and "2 of the 3 people tested: casme2:1, casme2:17" in what


def test_other_people_skipped_sources_and_other_datasets_are_no_leak(tmp_path: Path) -> None:
    run = trained_on(
        tmp_path,
        source("sub03/EP01", "casme2", "3"),
        source("sub01/EP01", "casme2", "1", status="skipped"),
        source("001/001_1", "samm", "1"),
        source("talks/a.mp4"),
    )
    assert report(encoder(run)) == []
    assert report(encoder(run), ("samm/001/001_1_2",))[0][0] == "leak"
    assert report(encoder(run), ("casme3/spNO.3/a_1",)) == []


@pytest.mark.parametrize(
    ("name", "leak"),
    [
        ("Cropped/sub02/EP06_03", True),  # subject and clip of a dataset that nobody named
        ("CASME2_RAW/sub02/EP99", True),
        ("CASME II/s17/x", True),
        ("Cropped/sub02/EP99", False),  # somebody's sub02
        ("Cropped/sub05/EP06_03", False),
        ("CASME3/sub02/EP99", False),
        ("EP06_03/other", False),
    ],
)
def test_plain_folders_are_read_by_their_names(tmp_path: Path, name: str, leak: bool) -> None:
    run = trained_on(tmp_path, source(name), source("faces/1.mp4"))
    assert [severity for severity, _ in report(encoder(run))] == ["leak"] * leak


def test_weights_that_the_run_started_from_count(tmp_path: Path) -> None:
    first = trained_on(tmp_path / "first", source("sub01/EP01", "casme2", "1"))
    digest = shards(tmp_path / "clean", source("talks/a.mp4"))
    data = {"shards": str(tmp_path / "clean")}
    run = pretrained(tmp_path / "run", digest, data=data, checkpoint={"init": str(first)})
    assert report(encoder(run))[0][0] == "leak"
    run = pretrained(tmp_path / "other", digest, data=data, checkpoint={"init": "micron.pth"})
    assert report(encoder(run))[0][0] == "unknown"


def test_every_set_of_a_mixture_counts(tmp_path: Path) -> None:
    shards(tmp_path / "a", source("talks/a.mp4"))
    shards(tmp_path / "b", source("sub01/EP01", "casme2", "1"))
    run = pretrained(tmp_path / "run", "x", data={"mixture": {str(tmp_path / "a"): 0.5, str(tmp_path / "b"): 0.5}})
    assert report(encoder(run))[0][0] == "leak"


def test_what_cannot_be_told_is_said(tmp_path: Path) -> None:
    run = trained_on(tmp_path, source("talks/a.mp4"))
    shutil.copytree(run / "encoder", tmp_path / "copied")
    changed = pretrained(tmp_path / "changed", "0" * 64, data={"shards": str(tmp_path / "shards")})
    gone = pretrained(tmp_path / "gone", "0" * 64, data={"shards": str(tmp_path / "nowhere")})
    silent = pretrained(tmp_path / "silent", "0" * 64)
    for weights, why in [
        ("CASME2-is224-p8-b16-ep200.pth", "released checkpoint"),
        (tmp_path / "copied", "without the run"),
        (changed, "are not those it was trained on"),
        (gone, "manifest not found"),
        (silent, "does not say which shards"),
        (tmp_path / "missing", "no weights"),
        ("", "given in memory"),
    ]:
        ((severity, what),) = report(encoder(weights))
        assert severity == "unknown" and "cannot be told" in what and why in what, weights
    ((severity, what),) = report(encoder(trained_on(tmp_path / "c3", source("x", "casme3", "1"))), ("casme3c/7/a",))
    assert severity == "unknown" and "casme3c" in what


def test_random_and_synthetic_encoders_saw_nobody(tmp_path: Path) -> None:
    assert report(encoder("", pretrained=False)) == [] == report(None)
    assert report(encoder(pretrained(tmp_path / "run", "x", data={"shards": "", "mixture": {}}))) == []
    ((severity, _),) = [(one.severity, one.what) for one in pretraining.check(None, True, TESTED)]
    assert severity == "unknown"


def test_the_config_may_allow_it_and_then_it_is_stated(tmp_path: Path) -> None:
    run = trained_on(tmp_path, source("sub01/EP01", "casme2", "1"))
    x = torch.randn(len(TESTED), 1, 400)
    subjects = tuple(name.split("/")[1] for name in TESTED)
    samples = Samples(TESTED, subjects, torch.tensor([0, 1, 1, 0, 0, 1]), {"features": x}, ("a", "b"))
    prepared: Any = SimpleNamespace(
        samples=samples,
        material=SimpleNamespace(arrays={}),
        head=nn.Identity(),
        backbone=encoder(run),
        identity={"encoder": "0"},
    )
    config = FinetuneConfig()
    (finding,) = guards.check(prepared, config)
    assert (finding.name, finding.severity) == ("pretraining", "leak")
    (finding,) = guards.check(prepared, replace(config, backbone=BackboneConfig(test_subjects_seen=True)))
    assert finding.severity == "stated" and "allowed: backbone.test_subjects_seen" in finding.what


@pytest.mark.slow
def test_the_guard_reads_what_the_commands_write(tmp_path: Path, shared: Path, repository: Path) -> None:
    """launch/shard.py with one subject left out, launch/pretrain.py: the others are named."""
    root, made, run = f"casme2:{shared / 'data/sim/casme2'}", tmp_path / "shards", tmp_path / "run"
    quick = ["--steps", "2", "--data.global_batch", "4", "--log.pictures", "0"]
    for words in (
        ["launch/shard.py", root, "--out", str(made), "--size", "64", "--exclude_subjects", "sub02"],
        ["launch/pretrain.py", "--run", str(run), "--data.shards", str(made), *quick],
    ):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
        subprocess.run([sys.executable, *words], cwd=repository, env=environment, check=True, timeout=300)
    people = tuple(f"casme2/sub0{n}/EP01" for n in (1, 2, 3, 4))
    for weights in (run, run / "encoder"):
        ((severity, what),) = report(encoder(weights), people)
        assert severity == "leak" and "3 of the 4 people tested: casme2:1, casme2:3, casme2:4" in what
        assert report(encoder(weights), people[1:2]) == []
