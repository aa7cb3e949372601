"""Runs: where frames belong together, and where not."""

import itertools
from collections import Counter

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.frames import Frame, difference, jpeg_thumbnail
from shards.runs import STEP, jumps, sparse_cuts, split
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


def cuts_of(pictures, lengths=None):
    """Positions of the cuts by sparse_cuts, and which frames it looked at."""
    looked = []
    steps = jumps(np.array([1000] * len(pictures) if lengths is None else lengths))
    cuts = list(sparse_cuts(0, len(pictures), steps, lambda n: (looked.append(n), pictures[n])[1]))
    return cuts, set(looked)


def split_cuts(pictures):
    """The same by `split`, which looks at every frame."""
    runs, _ = runs_of(Fixed(number, picture) for number, picture in enumerate(pictures))
    return [run[0] for run in runs[1:]]


class Fixed(Frame):
    """A frame whose thumbnail is given."""

    def __init__(self, number, thumbnail):
        super().__init__(number, pixels=np.zeros((1, 1, 3), np.uint8))
        self.__dict__["thumbnail"] = thumbnail


scenes = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5)), min_size=1, max_size=6)


@given(scenes, st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_the_sparse_search_finds_the_cuts_of_the_dense_one(scenes, seed):
    """Quiet scenes of at least STEP frames: both agree on every cut."""
    rng = np.random.default_rng(seed)
    pictures = []
    for length, level in scenes:
        base = np.full((28, 28), 30 * level, np.int64) + rng.integers(0, 8, (28, 28))
        pictures += [(base + rng.integers(0, 3, base.shape)).astype(np.uint8) for _ in range(length + STEP)]
    cuts, looked = cuts_of(pictures)
    assert cuts == split_cuts(pictures)
    assert len(looked) <= 2 + len(pictures) // STEP + 24 * (len(scenes) - 1)


def test_a_flash_is_found_where_its_jpeg_is_longer_or_shorter():
    quiet = np.full((28, 28), 90, np.uint8)
    pictures = [quiet] * 20 + [quiet + 60] + [quiet] * 20
    assert cuts_of(pictures, [1000] * 20 + [1200] + [1000] * 20)[0] == [20, 21] == split_cuts(pictures)
    assert cuts_of(pictures)[0] == []  # between the frames it looks at, in a JPEG of the usual length


def test_jumps_are_relative_to_what_is_usual_in_the_source():
    assert jumps(np.array([1000, 1010, 1000, 1300, 1290])).tolist() == [3]
    noisy = 1000 + 100 * (np.arange(40) % 2)
    assert jumps(noisy).tolist() == []
    assert jumps(np.array([], int)).tolist() == jumps(np.array([7])).tolist() == []


def test_cuts_of_real_scenes_are_found_with_few_frames_decoded(shared):
    from shards.video import VideoFrames

    data = []
    for name in ("single_face", "WolfgangLanger_Pexels", "no_face"):
        scene = [frame.image for frame in VideoFrames(shared / f"data/video/{name}.mp4")][:70]
        small = [cv2.resize(image, (224, 224), interpolation=cv2.INTER_AREA)[..., ::-1] for image in scene]
        data += [cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes() for image in small]
    pictures = [jpeg_thumbnail(item) for item in data]
    cuts, looked = cuts_of(pictures, [len(item) for item in data])
    assert cuts == split_cuts(pictures) == [70, 140]
    assert len(looked) < 0.5 * len(data)


@pytest.mark.parametrize("size", [16, 100, 160, 224, 256, 500])
def test_thumbnails_show_the_picture(size):
    """A JPEG's thumbnail and the pixels' differ little, and both follow the picture's levels."""
    image = cv2.resize(picture(3), (size, size))
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    of_jpeg, of_pixels = jpeg_thumbnail(data), Frame(0, pixels=image).thumbnail
    assert max(of_jpeg.shape) <= 32 and of_pixels.shape == (32, 32)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    assert difference(cv2.resize(grey, of_jpeg.shape, interpolation=cv2.INTER_AREA), of_jpeg) < 3
    assert difference(cv2.resize(of_jpeg, (32, 32)), of_pixels) < 8
    assert abs(float(of_pixels.mean()) - float(grey.mean())) < 4
