"""Runs: where frames belong together, and where not."""

import itertools
from collections import Counter

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.frames import Frame
from shards.runs import split
from tests.shards.material import picture


def runs_of(frames):
    """Frame numbers per run, and the counts."""
    counts: Counter = Counter()
    runs = {}
    for run, frame in split(frames, counts):
        runs.setdefault(run, []).append(frame.number)
    return list(runs.values()), {name: count for name, count in counts.items() if count}


@given(st.sets(st.integers(0, 60), min_size=1))
def test_runs_are_the_stretches_of_consecutive_numbers(numbers):
    still = picture(0)
    runs, counts = runs_of(Frame(number, pixels=still) for number in sorted(numbers))
    assert [number for run in runs for number in run] == sorted(numbers)
    assert all(run == list(range(run[0], run[-1] + 1)) for run in runs)
    assert counts.get("gaps", 0) == len(runs) - 1
    assert all(one[-1] + 1 < two[0] for one, two in itertools.pairwise(runs))


def test_another_size_starts_a_run():
    frames = [Frame(number, pixels=picture(0, size=(64, 48) if number < 5 else (60, 48))) for number in range(9)]
    assert runs_of(frames) == ([[*range(5)], [*range(5, 9)]], {"size_changes": 1})


def test_flicker_noise_and_movement_are_no_cuts():
    rng = np.random.default_rng(0)
    frames = []
    for number in range(60):
        image = picture(4 * number).astype(float) * (1 + 0.04 * (-1) ** number) + rng.normal(0, 6, (48, 64, 3))
        frames.append(Frame(number, pixels=image.clip(0, 255).astype(np.uint8)))
    assert len(runs_of(frames)[0]) == 1


@pytest.mark.parametrize("jpeg", [False, True])
def test_cuts_between_real_scenes_are_found_and_nothing_else(shared, jpeg):
    from shards.video import VideoFrames

    images = []
    for name in ("single_face", "WolfgangLanger_Pexels", "no_face"):
        scene = [frame.image for frame in VideoFrames(shared / f"data/video/{name}.mp4")][:70]
        images += [cv2.resize(image, (320, 180)) for image in scene]
    if jpeg:
        data = [cv2.imencode(".jpg", image[..., ::-1])[1].tobytes() for image in images]
        frames = [Frame(number, jpeg=item) for number, item in enumerate(data)]
    else:
        frames = [Frame(number, pixels=image) for number, image in enumerate(images)]
    runs, counts = runs_of(frames)
    assert [run[0] for run in runs] == [0, 70, 140]
    assert counts == {"cuts": 2}
