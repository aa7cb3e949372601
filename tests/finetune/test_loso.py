"""Whole runs on a tiny set: files, resume, refusal to mix, ranks, errors."""

from __future__ import annotations

import copy
import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from finetune import features, loso, metrics, prepare
from finetune import results as stored
from finetune.backbone import Backbone
from finetune.config import BackboneConfig, FinetuneConfig, HeadConfig
from finetune.options.micron import MicronOptions
from finetune.results import Results
from shards.errors import FlickerError, UsageError


def finished(config: FinetuneConfig, tiny: Backbone) -> Results:
    """Run on one rank."""
    results = loso.run(config, tiny)
    assert results is not None
    return results


def rows(config: FinetuneConfig) -> list[dict[str, str]]:
    """predictions.csv."""
    with (Path(config.out) / "predictions.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_predictions_are_complete_and_reproduce_the_scores(config: FinetuneConfig, tiny: Backbone) -> None:
    results = finished(config, tiny)
    table = rows(config)
    count = Counter((row["id"], row["selection"], row["seed"]) for row in table)
    assert len(count) == 16 * 3 * 2 and set(count.values()) == {1}
    stored = json.loads((Path(config.out) / "results.json").read_text())
    for selection, scores in stored["selections"].items():
        per_seed = []
        for seed in ("0", "1"):
            own = [row for row in table if row["selection"] == selection and row["seed"] == seed]
            truth, predicted = [row["truth"] for row in own], [row["predicted"] for row in own]
            per_seed.append(metrics.scores(truth=truth, predicted=predicted, classes=results.classes)["uf1"])
        assert scores["uf1"] == pytest.approx(sum(per_seed) / 2)
    assert all(row["fold"] == row["subject"] for row in table)
    assert stored["label"].startswith("simulated data")
    assert stored["optimism_uf1"] == pytest.approx(results.optimism)
    assert {"report.html", "confusion.png"} <= {path.name for path in Path(config.out).iterdir()}


def test_a_stopped_run_continues_and_keeps_what_was_done(config: FinetuneConfig, tiny: Backbone) -> None:
    first = finished(config, tiny)
    folds = Path(config.out) / "folds"
    lost, kept = folds / "sub02-seed1.json", folds / "sub01-seed0.json"
    before = kept.stat().st_mtime_ns
    lost.unlink()
    (folds / ".sub03-seed0.json.abcd.json").write_text("{")  # a write that was killed
    second = finished(config, tiny)
    assert second.selections == first.selections and kept.stat().st_mtime_ns == before and lost.exists()


def test_more_seeds_reuse_the_folds_that_are_there(config: FinetuneConfig, tiny: Backbone) -> None:
    finished(config, tiny)
    kept = Path(config.out) / "folds" / "sub01-seed0.json"
    before = kept.stat().st_mtime_ns
    results = finished(replace(config, protocol=replace(config.protocol, seeds=[0, 1, 2])), tiny)
    assert len(results.selections["last"]["per_seed"]) == 3 and kept.stat().st_mtime_ns == before


def test_folds_of_another_config_are_refused_and_named(config: FinetuneConfig, tiny: Backbone) -> None:
    first = finished(config, tiny)
    other = replace(config, train=replace(config.train, lr=0.02))
    with pytest.raises(FlickerError, match=r"changed: train.lr 0.01 -> 0.02\. Give another --out, or .*--fresh true"):
        loso.run(other, tiny)
    assert finished(replace(other, fresh=True), tiny).digest != first.digest


def test_folds_of_other_data_or_encoder_are_refused(config: FinetuneConfig, tiny: Backbone) -> None:
    finished(config, tiny)
    other = copy.deepcopy(tiny.model)
    torch.nn.init.zeros_(other.encoder.cls_token)
    with pytest.raises(FlickerError, match=r"changed: (?=.*data)(?=.*head.micron.face)"):
        loso.run(replace(config, head=HeadConfig(micron=MicronOptions(face="as-is-crop"))), tiny)
    with pytest.raises(FlickerError, match="changed: encoder"):
        loso.run(config, Backbone(other, False))


def test_a_fold_file_from_elsewhere_is_refused(config: FinetuneConfig, tiny: Backbone) -> None:
    finished(config, tiny)
    path = Path(config.out) / "folds" / "sub01-seed0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"digest": "0" * 32}))
    with pytest.raises(FlickerError, match=r"sub01-seed0.json was made with another config"):
        loso.run(config, tiny)


def test_ranks_share_the_folds_and_rank_0_gathers(
    config: FinetuneConfig, tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = finished(replace(config, out=str(tmp_path / "alone")), tiny)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert loso.run(config, tiny) is None
    assert len(list((Path(config.out) / "folds").glob("*.json"))) == 4
    assert len(list((Path(config.out) / loso.SHARED).glob("*.npy"))) == 1
    monkeypatch.setenv("RANK", "0")
    assert finished(config, tiny).selections == alone.selections
    assert not (Path(config.out) / loso.SHARED).exists()
    with pytest.raises(UsageError, match="fresh"):
        loso.run(replace(config, fresh=True), tiny)


def test_rank_0_gives_up_on_a_rank_that_stopped(
    config: FinetuneConfig, tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(FlickerError, match=r"fold sub02 seed 0 did not arrive .*same command continues"):
        loso.run(replace(config, wait_minutes=0.01), tiny)
    assert len(list((Path(config.out) / "folds").glob("*.json"))) == 4


@pytest.mark.parametrize("mode", ["partial", "full"])
def test_the_encoder_can_train_too(config: FinetuneConfig, tiny: Backbone, mode: str) -> None:
    before = tiny.digest()
    config = replace(config, backbone=BackboneConfig(mode=mode), train=replace(config.train, epochs=2))  # type: ignore[arg-type]
    results = finished(replace(config, protocol=replace(config.protocol, seeds=[0])), tiny)
    assert results.clips == 16 and tiny.digest() == before


def test_frozen_features_give_the_same_first_step_as_the_whole_head(config: FinetuneConfig, tiny: Backbone) -> None:
    """With encoder learning rate 0, training the whole head equals training on cached features."""
    options = HeadConfig(micron=MicronOptions(pooling="grid", cells=2))
    config = replace(config, head=options, protocol=replace(config.protocol, seeds=[0]))
    frozen = finished(replace(config, out=config.out + "-a"), tiny)
    full = replace(config, out=config.out + "-b", backbone=BackboneConfig(mode="full", lr_scale=0.0))
    for one, two in zip(frozen.folds, finished(full, tiny).folds, strict=True):
        assert one.loss == pytest.approx(two.loss, abs=1e-4)


def test_mirrored_copies_change_training_only(config: FinetuneConfig, tiny: Backbone) -> None:
    prepared = prepare.prepare(replace(config, train=replace(config.train, mirror=True)), tiny, quiet=True)
    assert prepared.samples.inputs["features"].shape[:2] == (16, 2)
    assert len(finished(replace(config, train=replace(config.train, mirror=True)), tiny).folds) == 8


def test_a_random_encoder_is_the_same_for_the_same_seed(config: FinetuneConfig) -> None:
    one, two = (prepare.prepare(config, quiet=True) for _ in range(2))
    assert one.digest == two.digest and not one.backbone.pretrained
    other = prepare.prepare(replace(config, backbone=BackboneConfig(seed=1)), quiet=True)
    assert other.identity["encoder"] != one.identity["encoder"]


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [("train", "epochs", 0), ("train", "lr", -1.0), ("protocol", "seeds", [1, 1]), ("protocol", "inner_share", 1.0)],
)
def test_values_out_of_range_are_named(config: FinetuneConfig, part: str, key: str, value: object) -> None:
    setattr(getattr(config, part), key, value)
    with pytest.raises(UsageError, match=f"{part}.{key}: "):
        loso.run(config)


def test_data_that_cannot_be_evaluated_is_refused(config: FinetuneConfig) -> None:
    with pytest.raises(UsageError, match=r"data.root: '' is missing"):
        loso.run(replace(config, data=replace(config.data, root="")))
    config.data.scheme = "C2-9"
    with pytest.raises(UsageError, match="no scheme 'C2-9'"):
        loso.run(config)


def test_folds_whose_files_would_be_one_are_refused(config: FinetuneConfig, tiny: Backbone) -> None:
    digest = finished(config, tiny).digest
    folds = Path(config.out) / "folds"
    assert stored.fold_path(folds.parent, "casme2->samm", 0).name == "casme2--samm-seed0.json"
    (folds / "sub01-seed0.json").rename(folds / "sub-01-seed0.json")
    with pytest.raises(FlickerError, match=r"is of sub01, and sub 01 would lie there too"):
        stored.read_fold(folds.parent, "sub 01", 0, digest)


def test_processes_map_the_same_file_and_keep_their_changes(tmp_path: Path) -> None:
    inputs = {"flow": torch.randn(3, 1, 4), "areas": torch.arange(6).view(3, 2)}
    first = features.shared(inputs, tmp_path, "key")
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    first["flow"][0] = 9.0
    second = features.shared(inputs, tmp_path, "key")
    assert {path.name for path in written} == {"key-flow.npy", "key-areas.npy"}
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert all(
        torch.equal(second[name], value) and second[name].dtype == value.dtype for name, value in inputs.items()
    )
