"""A recogniser trained on all clips, stored, and applied to recordings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from finetune import loso, material, recogniser, recording
from finetune.backbone import Backbone
from finetune.config import BackboneConfig, FinetuneConfig
from finetune.prepare import prepare
from finetune.recognising import draw, recognise
from shards.errors import FlickerError


@pytest.mark.parametrize("mode", ["frozen", "partial", "full"])
def test_what_was_trained_comes_back_equal_and_knows_its_clips(
    config: FinetuneConfig, tiny: Backbone, mode: str, tmp_path: Path
) -> None:
    settings = replace(config.train, epochs=40)
    config = replace(config, backbone=BackboneConfig(mode=mode), train=settings)  # type: ignore[arg-type]
    prepared = prepare(config, tiny, quiet=True)
    folder = recogniser.train_on_all(prepared, config, tmp_path)
    found, again = recogniser.load(tmp_path), recogniser.load(folder)
    arrays = prepared.material.arrays
    probabilities = found.probabilities(arrays)
    assert np.array_equal(probabilities, again.probabilities(arrays))
    assert probabilities.shape == (16, len(prepared.scheme.classes)) and np.allclose(probabilities.sum(1), 1)
    assert (probabilities.argmax(1) == prepared.samples.labels.numpy()).mean() > 0.6
    assert found.about["trained_on"]["subjects"] == sorted(set(prepared.samples.subjects))
    assert found.about["simulated"] and found.whole == (mode != "frozen")
    one = material.from_images(prepared.clips[:1], found.recipes, config.data, quiet=True)
    assert np.allclose(found.probabilities(one.arrays), probabilities[:1], atol=1e-5)


def test_a_run_leaves_one_where_asked(config: FinetuneConfig, tiny: Backbone) -> None:
    loso.run(config, tiny)
    assert not (Path(config.out) / recogniser.FOLDER).exists()
    loso.run(replace(config, save_recogniser=True), tiny)
    assert recogniser.load(config.out).about["identity"] == prepare(config, tiny, quiet=True).digest


def test_training_it_twice_gives_the_same(config: FinetuneConfig, tiny: Backbone, tmp_path: Path) -> None:
    prepared = prepare(config, tiny, quiet=True)
    files = [recogniser.train_on_all(prepared, config, tmp_path / name) for name in ("a", "b")]
    first, second = ((folder / "model.safetensors").read_bytes() for folder in files)
    assert first == second


def test_faults_are_told_in_one_line(config: FinetuneConfig, tiny: Backbone, tmp_path: Path) -> None:
    with pytest.raises(FlickerError, match=r"holds no recogniser; make one: .*--save_recogniser true"):
        recogniser.load(tmp_path)
    folder = recogniser.train_on_all(prepare(config, tiny, quiet=True), config, tmp_path)
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | {"classes": ["one", "two"]}))
    with pytest.raises(FlickerError, match=r"do not fit its config\.json") as told:
        recogniser.load(tmp_path)
    assert "\n" not in str(told.value)
    (folder / "config.json").write_text(json.dumps(about | {"version": 99}))
    with pytest.raises(FlickerError, match="another version"):
        recogniser.load(tmp_path)
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "model.safetensors").write_bytes(b"x" * 40)
    with pytest.raises(FlickerError, match="train the recogniser again"):
        recogniser.load(tmp_path)


def test_frames_are_taken_in_the_order_of_their_numbers(shared: Path, tmp_path: Path) -> None:
    source = next(iter(sorted((shared / "data/sim").rglob("*.jpg"))))
    for number in (2, 10, 9):
        (tmp_path / f"img{number}.jpg").write_bytes(source.read_bytes())
    clip = recording.from_folder(tmp_path, 200)
    assert [path.name for path in clip.frames.values()] == ["img2.jpg", "img9.jpg", "img10.jpg"]
    with pytest.raises(FlickerError, match="give their rate, --fps"):
        recording.from_folder(tmp_path, 0)
    with pytest.raises(FlickerError, match="is no micro-expression"):
        recording.from_folder(tmp_path, 0.5)
    (tmp_path / "img10.jpg").unlink()
    with pytest.raises(FlickerError, match="2 frames there"):
        recording.from_folder(tmp_path, 200)


def test_a_recording_is_recognised_and_drawn(
    shared: Path, config: FinetuneConfig, tiny: Backbone, tmp_path: Path
) -> None:
    recogniser.train_on_all(prepare(config, tiny, quiet=True), config, tmp_path)
    folder = next(path for path in sorted((shared / "data/sim").rglob("*")) if len(list(path.glob("*.jpg"))) > 30)
    clip = recording.from_folder(folder, 200)
    found = recognise(recogniser.load(tmp_path), clip, tmp_path / "prepared")
    assert found.label in found.classes and clip.onset < found.clip.apex < clip.offset
    assert found.motion[0] < found.motion.max() and len(found.motion) == len(clip.frames)
    assert found.change is not None and found.change.min() >= 0
    draw(found, tmp_path / "recognised.png")
    assert (tmp_path / "recognised.png").stat().st_size > 10_000
    assert json.loads(json.dumps(found.as_dict()))["label"] == found.label
