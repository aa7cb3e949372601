"""Optical flow: end-point error on warps of known displacement, and at the landmarks of simulated clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from finetune.frames import read_image
from finetune.motion.flow import PRESETS, compute, preset
from tests.finetune import warps

SIZE = 224
FIELDS = {"broad": warps.broad, "local": warps.local}
TEXTURES = {"face": warps.face, "noise": warps.noise}
CONTRIB = hasattr(cv2, "optflow")
AVAILABLE = [name for name in PRESETS if name != "tvl1" or CONTRIB]


def warped(texture: str, field: str, amplitude: float, size: int = SIZE, seed: int = 0) -> warps.Pair:
    return warps.pair(TEXTURES[texture](size, seed), size, FIELDS[field](size, amplitude, seed + 10))


@pytest.fixture(scope="module")
def two_px() -> dict[tuple[str, str], warps.Pair]:
    """Warps of up to 2 px, by texture and field."""
    return {(texture, field): warped(texture, field, 2.0) for texture in TEXTURES for field in FIELDS}


# -- end-point error


@pytest.mark.parametrize(("name", "limit"), [("fine", 0.1), ("dis", 0.06)])
def test_error_of_smooth_warps_of_two_px(two_px: dict[tuple[str, str], warps.Pair], name: str, limit: float) -> None:
    errors = {key: pair.error(compute(pair.first, pair.second, preset(name))) for key, pair in two_px.items()}
    assert max(errors.values()) <= limit, errors


def test_error_of_the_default(two_px: dict[tuple[str, str], warps.Pair]) -> None:
    """The release's values reach 0.1 px except on a face that moves as a whole by 2 px: there `fine` is needed."""
    errors = {key: pair.error(compute(pair.first, pair.second)) for key, pair in two_px.items()}
    hard = errors.pop(("face", "broad"))
    assert max(errors.values()) <= 0.1, errors
    pair = two_px["face", "broad"]
    assert 0.1 < hard < 0.15
    assert pair.error(compute(pair.first, pair.second, preset("fine"))) < 0.75 * hard


@pytest.mark.parametrize("name", ["slstt", "fine", "dis"])
def test_error_falls_with_the_displacement(two_px: dict[tuple[str, str], warps.Pair], name: str) -> None:
    small, large = warped("face", "local", 0.25), two_px["face", "local"]
    config = preset(name)
    assert small.error(compute(small.first, small.second, config)) <= 0.02
    assert small.error(compute(small.first, small.second, config)) < large.error(
        compute(large.first, large.second, config)
    )


@pytest.mark.parametrize("name", AVAILABLE)
def test_direction_and_units(name: str) -> None:
    """What moves 1.5 px right and 0.5 px up has u = 1.5, v = -0.5."""
    moved = warps.pair(warps.noise(96, 3), 96, lambda q: np.broadcast_to([1.5, -0.5], q.shape))
    found = compute(moved.first, moved.second, preset(name))
    assert found.shape == (96, 96, 2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[16:-16, 16:-16].mean((0, 1)), [1.5, -0.5], atol=0.05)


@pytest.mark.parametrize("name", [name for name in AVAILABLE if name != "slstt"])
def test_a_still_frame_has_no_flow(name: str) -> None:
    still = warps.face(SIZE, 0).draw(warps.grid(SIZE))
    assert np.abs(compute(still, still, preset(name))).max() < 1e-3


def test_the_default_invents_motion_at_the_edges_alone() -> None:
    """A property of OpenCV that the documentation states."""
    still = warps.face(SIZE, 0).draw(warps.grid(SIZE))
    found = np.linalg.norm(compute(still, still), axis=-1)
    assert found.max() > 0.1
    assert found[16:-16, 16:-16].max() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("size", [224, 384])
def test_table_of_errors(size: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints mean end-point errors (px) per method, texture, field and displacement; three people, one noise."""
    amplitudes, rows = (0.25, 0.5, 1.0, 2.0), {name: [] for name in AVAILABLE}  # type: ignore[var-annotated]
    for texture in TEXTURES:
        for field in FIELDS:
            for amplitude in amplitudes:
                seeds = range(3) if texture == "face" else range(1)
                pairs = [warped(texture, field, amplitude, size, seed) for seed in seeds]
                for name, row in rows.items():
                    row.append(
                        np.mean([pair.error(compute(pair.first, pair.second, preset(name))) for pair in pairs])
                    )
    with capsys.disabled():
        heads = [f"{texture} {field}" for texture in TEXTURES for field in FIELDS]
        print(f"\n{size} px, displacements {amplitudes}: " + " | ".join(heads))
        for name, row in rows.items():
            groups = [" ".join(f"{value:.3f}" for value in row[i : i + 4]) for i in range(0, 16, 4)]
            print(f"{name:6} " + " | ".join(groups))
    assert max(rows["fine"]) <= 0.1


# -- simulated clips: flow at the landmarks, onset to apex


def landmark_errors(shared: Path, dataset: str, names: list[str], most: int) -> dict[str, np.ndarray]:
    """End-point errors [clips 68] at the true landmarks, px, per preset; `none` is flow zero."""
    truth = json.loads((shared / "data/sim/ground_truth" / f"{dataset}.json").read_text())
    found: dict[str, list[np.ndarray]] = {name: [] for name in [*names, "none"]}
    for clip in truth["clips"][:most]:
        onset, apex = (read_image(_frame(shared / "data/sim", dataset, clip, clip[key])) for key in ("onset", "apex"))
        points = np.array(clip["landmarks_onset"])
        motion = np.array(clip["landmarks_apex"]) - points
        for name in found:
            flow = (
                np.zeros((*onset.shape[:2], 2), np.float32) if name == "none" else compute(onset, apex, preset(name))
            )
            where = points.astype(np.float32)[None]
            at = cv2.remap(flow, where[..., 0], where[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]
            found[name].append(np.linalg.norm(at - motion, axis=-1))
    return {name: np.array(errors) for name, errors in found.items()}


def _frame(root: Path, dataset: str, clip: dict[str, Any], number: int) -> Path:
    folders = {
        "casme2": f"casme2/Cropped/sub{int(clip['subject']):02d}" if dataset == "casme2" else "",
        "samm": f"samm/{clip['subject']}",
        "smic": f"smic/SMIC_all_cropped/HS/{clip['subject']}/micro/*",
    }
    (found,) = root.glob(f"{folders[dataset]}/{clip['clip']}/*[!1-9]{number}.*")
    return found


INNER = np.r_[17:36, 48:68]  # without the jaw (a contour, along which the skin slides) and the eyes (blinks)


@pytest.mark.parametrize(("dataset", "name", "limit"), [("samm", "slstt", 0.2), ("smic", "dis", 0.12)])
def test_flow_follows_true_landmarks(shared: Path, dataset: str, name: str, limit: float) -> None:
    """On noisy, compressed, simulated clips, flow at the landmarks is closer to the truth than a quarter of it."""
    errors = landmark_errors(shared, dataset, [name], 6)
    assert errors[name][:, INNER].mean() <= limit
    assert errors[name][:, INNER].mean() <= 0.25 * errors["none"][:, INNER].mean()


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["casme2", "samm", "smic"])
def test_table_of_landmarks(shared: Path, dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints errors at the landmarks (px): brows, nose and mouth; eyes; jaw; and the median clip of the first."""
    errors = landmark_errors(shared, dataset, AVAILABLE, 1000)
    with capsys.disabled():
        print(f"\n{dataset}, {len(errors['none'])} clips: inner, eyes, jaw, inner of the median clip (px)")
        for name, error in errors.items():
            parts = [error[:, part].mean() for part in (INNER, slice(36, 48), slice(0, 17))]
            print(f"{name:6}", *(f"{value:.3f}" for value in [*parts, np.median(error[:, INNER].mean(1))]))
    assert errors["fine"][:, INNER].mean() <= errors["slstt"][:, INNER].mean() + 0.005
