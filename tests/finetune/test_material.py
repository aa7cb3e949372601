"""Inputs of a run: from images, from ready-made maps, mirrored, and a whole run on each."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from finetune import loso, material
from finetune.config import DataConfig, FinetuneConfig, HeadConfig, ProtocolConfig, TrainConfig
from finetune.datasets import flow_maps
from finetune.inputs import FlowMap, LongFlow, Pair, Regions, Sequence
from finetune.mirroring import mirrored
from finetune.options.htnet import HTNetOptions
from shards.errors import FlickerError, UsageError

RANDOM = np.random.default_rng(0)
HTNET = HTNetOptions(dim=8, heads=1, depths=[1, 1, 1])


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Flow maps of 4 subjects of 3 clips, whose class is the sign of u in the left mouth corner."""
    root = tmp_path / "maps"
    root.mkdir()
    values = RANDOM.normal(0, 0.2, (12, 28, 28, 3)).astype(np.float32)
    names = ["left_eye", "right_eye", "mouth_left", "mouth_right"]
    places = ["7.0", "8.0", "21.0", "8.0", "8.0", "21.0", "20.0", "21.0"]
    with (root / "clips.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(
            ["dataset", "subject", "clip", "label", *(f"{name}_{axis}" for name in names for axis in "xy")]
        )
        for row in range(12):
            values[row, 18:24, 5:11, 0] += row % 3 - 1
            table.writerow(["casme2", f"sub{row // 3 + 1:02d}", f"EP{row:02d}", row % 3, *places])
    np.savez(root / "maps.npz", maps=values)
    return root


def run_config(root: Path, out: Path) -> FinetuneConfig:
    """HTNet of the smallest size on flow maps."""
    return FinetuneConfig(
        out=str(out),
        device="cpu",
        data=DataConfig(root=str(root), dataset="flow-maps", cache=str(out / "prepared")),
        head=HeadConfig(name="htnet", htnet=HTNET),
        train=TrainConfig(epochs=12, batch=0, lr=0.01),
        protocol=ProtocolConfig(seeds=[0]),
    )


def test_a_native_head_runs_on_ready_made_maps(maps: Path, tmp_path: Path) -> None:
    results = loso.run(run_config(maps, tmp_path / "run"))
    assert results is not None and results.title == "native" and results.clips == 12 and results.subjects == 4
    assert results.scheme == "MEGC2019" and results.encoder["weights"].startswith("none")
    assert "flow onset" in (tmp_path / "run" / "report.html").read_text()


def test_heads_that_read_images_are_refused_on_maps(maps: Path, tmp_path: Path) -> None:
    config = run_config(maps, tmp_path / "run")
    with pytest.raises(UsageError, match=r"flow-maps hold no images, and this head reads pair"):
        loso.run(replace(config, head=HeadConfig(name="micron")))
    lines = (maps / "clips.csv").read_text().splitlines()
    (maps / "clips.csv").write_text("\n".join(",".join(line.split(",")[:4]) for line in lines) + "\n")
    with pytest.raises(FlickerError, match="no landmarks"):
        loso.run(config)


def test_parts_of_a_composite_can_be_taken_alone(maps: Path, tmp_path: Path) -> None:
    table = maps / "clips.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *(line.replace("casme2", "samm") for line in lines[1:4]), *lines[4:]]))
    config = run_config(maps, tmp_path / "run")
    config.data.parts = ["casme2"]
    results = loso.run(config)
    assert results is not None and results.clips == 9 and results.subjects == 3 and not results.parts
    config.data.parts = ["casme2", "smic"]
    with pytest.raises(UsageError, match=r"data\.parts: no clips of smic; there are casme2, samm"):
        loso.run(config)


def test_rows_of_maps_follow_the_clips(maps: Path) -> None:
    found = flow_maps.load(maps)
    some = [found.clips[7], found.clips[2]]
    recipes = {"flow": FlowMap("box", 224), "areas": Regions("box", 224)}
    made = material.from_flow_maps(some, found, recipes, str(maps))
    assert (made.arrays["flow"] == found.maps[[7, 2]]).all() and made.arrays["areas"].shape == (2, 4, 2)
    assert made.digest() != replace(made, arrays={"flow": made.arrays["flow"]}).digest()


def test_a_composite_leaves_out_persons_not_numbers(maps: Path, tmp_path: Path) -> None:
    text = (maps / "clips.csv").read_text()
    lines = [line.replace("casme2,sub04", "samm,001") for line in text.splitlines()]
    (maps / "clips.csv").write_text("\n".join(lines) + "\n")
    results = loso.run(run_config(maps, tmp_path / "run"))
    assert results is not None
    subjects = {fold.subject for fold in results.folds}
    assert subjects == {"casme2/sub01", "casme2/sub02", "casme2/sub03", "samm/001"}
    assert len(list((tmp_path / "run" / "folds").glob("*.json"))) == 4


def test_mirroring_twice_gives_the_same_and_once_exchanges_the_sides() -> None:
    recipes = {
        "pair": Pair("box", 32),
        "sequence": Sequence("box", 32),
        "flow": FlowMap("box", 32, grid=8),
        "long_flow": LongFlow("box", 32, frames=3),
        "areas": Regions("box", 32, side=8, grid=8),
        "boxes": Regions("box", 32, side=8, grid=8),
    }
    arrays = {
        "pair": RANDOM.integers(0, 256, (2, 2, 32, 32, 3), dtype=np.uint8),
        "sequence": RANDOM.integers(0, 256, (2, 5, 32, 32, 3), dtype=np.uint8),
        "sequence.apex": np.array([1, 2]),
        "flow": RANDOM.normal(size=(2, 8, 8, 3)).astype(np.float32),
        "long_flow": RANDOM.normal(size=(2, 3, 32, 32, 2)).astype(np.float32),
        "areas": RANDOM.uniform(0, 7, (2, 4, 2)),
        "boxes": RANDOM.integers(0, 24, (2, 9, 4)),
    }
    once = mirrored(arrays, recipes)
    assert (once["pair"][0, 1, 3, 5] == arrays["pair"][0, 1, 3, 26]).all()
    assert (
        once["flow"][1, 2, 0, 0] == -arrays["flow"][1, 2, 7, 0]
        and once["flow"][1, 2, 0, 1] == arrays["flow"][1, 2, 7, 1]
    )
    assert np.allclose(once["areas"][0, 0], [7 - arrays["areas"][0, 1, 0], arrays["areas"][0, 1, 1]])
    left, right = once["boxes"][0, 0], arrays["boxes"][0, 1]
    assert left[0] == 32 - right[0] - right[2] and (left[1:] == right[1:]).all()
    twice = mirrored(once, recipes)
    for name, value in arrays.items():
        assert np.allclose(twice[name], value), name
