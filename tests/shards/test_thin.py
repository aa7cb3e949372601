"""Thinning: the rest of long static stretches is left out, and nothing else."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards import UsageError, write
from shards.frames import Frame
from shards.thin import thin
from tests.shards.material import make_folder


def frames_of(levels, run=0, first=0):
    """Frames of even pictures of these grey levels, numbered from `first`."""
    for number, level in enumerate(levels, first):
        yield run, Frame(number, pixels=np.full((40, 40, 3), level, np.uint8))


def thinned(runs, levels=0.0, keep=3):
    """Frame numbers per run, and how many were left out."""
    counts: Counter = Counter()
    found = {}
    for run, frame in thin(runs, levels, keep, counts):
        found.setdefault(run, []).append(frame.number)
    return [found[run] for run in sorted(found)], counts["frames_thinned"]


def test_a_static_stretch_keeps_its_first_frames_and_the_run_is_split_where_it_moves_again():
    levels = [10, 20, 30, 30, 30, 30, 30, 40, 50, 50, 50]
    assert thinned(frames_of(levels)) == ([[0, 1, 2, 3, 4], [7, 8, 9, 10]], 2)


def test_levels_say_what_is_static():
    levels = [10, 12, 10, 12, 10, 12, 10]
    assert thinned(frames_of(levels), levels=1.9) == ([[*range(7)]], 0)
    assert thinned(frames_of(levels), levels=2.0) == ([[0, 1, 2]], 4)


def test_none_keeps_everything_and_runs_stay_apart():
    runs = [*frames_of([5] * 6), *frames_of([5] * 4, run=1, first=6)]
    assert thinned(iter(runs), None) == ([[*range(6)], [*range(6, 10)]], 0)
    assert thinned(iter(runs)) == ([[0, 1, 2], [6, 7, 8]], 4)


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 6))
def test_by_definition(levels, keep):
    """Frame k is left out if it and the `keep` before it are all alike; runs are what is left between those."""
    left_out = {k for k in range(len(levels)) if k >= keep and len(set(levels[k - keep : k + 1])) == 1}
    kept = [k for k in range(len(levels)) if k not in left_out]
    starts = [k for before, k in pairwise([-2, *kept]) if k != before + 1]
    runs, count = thinned(frames_of([60 * level for level in levels]), keep=keep)
    assert ([k for run in runs for k in run], count) == (kept, len(left_out))
    assert [run[0] for run in runs] == starts


def test_the_writer_thins_and_counts_and_still_copies(tmp_path):
    still = make_folder(tmp_path / "in", range(40), size=(32, 32))
    moving = [(still / f"reg_img{number}.jpg").read_bytes() for number in range(40)]
    for number in range(6, 40):  # still from 5 to 29
        (still / f"reg_img{number}.jpg").write_bytes(moving[max(5, number - 24)])
    settings = {"size": 32, "clip_frames": 8, "min_run": 2}
    assert write([still], tmp_path / "all", **settings).frames == 40
    manifest = write([still], tmp_path / "thin", thin=0, **settings)
    (report,) = manifest.sources
    assert report.counts == {"copied_frames": 23, "frames_thinned": 17}
    assert (report.frames, report.runs, manifest.options["thin"]) == (23, 2, 0)
    with pytest.raises(UsageError, match="thin -1 is out of range"):
        write([still], tmp_path / "bad", thin=-1)
