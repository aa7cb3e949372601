"""The order contract, on made-up indexes: ranks, workers, restarts, other sizes, coverage, no frame twice."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import FlickerError, UsageError
from shards.index import REACH, read_index
from shards.mixture import Mixture, batch_shares, interleave, split
from shards.order import Order, delta_bounds, mix, permutation
from tests.shards.bare import Run, crc, make_bare

SETTINGS = {"seed": 3, "global_batch": 8, "delta": (2, 5), "delta_unit": "frames", "window_frames": 64}


def open_rows(sets, rows=None, processes=0, pool=False, **changed):
    """The rows of one rank."""
    options = {**SETTINGS, **changed}
    rows = rows or slice(0, options["global_batch"])
    sets = sets if isinstance(sets, list) else [(sets, 1.0)]
    return Mixture(sets, rows=rows, processes=processes, pool=pool, allow_missing=False, cache={}, **options)


def frames_of(plan):
    """(run, frame) of I_t and of the partner, and δ, of every row."""
    (first, second), delta = plan.where[3].T, plan.delta
    return list(zip(first.tolist(), second.tolist(), delta.tolist(), plan.seeds.tolist(), strict=True))


layouts = st.fixed_dictionaries(
    {
        "runs": st.lists(st.integers(1, 150), min_size=1, max_size=6).filter(lambda runs: sum(runs) > 90),
        "clip_frames": st.integers(1, 64),
        "shards": st.integers(1, 5),
        "window_frames": st.integers(1, 300),
        "seed": st.integers(0, 2**62),
        "delta": st.tuples(st.integers(1, 9), st.integers(0, 12)).map(lambda pair: (pair[0], sum(pair))),
    }
)


@given(layouts, st.data())
@settings(max_examples=25, deadline=None)
def test_every_rank_and_every_restart_continue_the_one_sequence(layout, data):
    world = data.draw(st.sampled_from([1, 2, 3, 5, 8, 16, 64]))
    other = data.draw(st.sampled_from([1, 2, 4, 7, 32]))
    batch = int(np.lcm(world, other)) if np.lcm(world, other) <= 64 else world
    other = other if batch % other == 0 else 1
    with tempfile.TemporaryDirectory() as folder:
        runs = [Run(f"s{n}", length, first=n) for n, length in enumerate(layout["runs"])]
        manifest = make_bare(Path(folder), runs, layout["clip_frames"], layout["shards"])
        options = {name: layout[name] for name in ("window_frames", "seed", "delta")} | {"global_batch": batch}
        anchors = [(n, f) for n, run in enumerate(runs) for f in range(run.frames - layout["delta"][0])]
        if len(anchors) < batch:
            with pytest.raises(FlickerError, match="fewer than one global batch"):
                open_rows(manifest, **options)
            return
        whole = open_rows(manifest, **options)
        assert whole.steps_per_epoch == len(anchors) // batch
        assert whole.coverage == pytest.approx(len(anchors) / manifest.frames)
        epoch = data.draw(st.integers(0, 3))
        expected = [frames_of(whole.plan(epoch, step)) for step in range(whole.steps_per_epoch)]
        _check_pairs(expected, runs, layout["delta"])
        stop = data.draw(st.integers(0, whole.steps_per_epoch - 1))
        for size, steps in ((world, range(stop)), (other, range(stop, whole.steps_per_epoch))):
            workers = data.draw(st.integers(0, 8))
            share = batch // size
            ranks = [open_rows(manifest, slice(r * share, (r + 1) * share), workers, **options) for r in range(size)]
            for step in steps:
                assert [f for rank in ranks for f in frames_of(rank.plan(epoch, step))] == expected[step]


def _check_pairs(steps, runs, delta):
    """Each frame is I_t at most once, and its partner is δ frames on in the same run."""
    firsts = [first for step in steps for first, _, _, _ in step]
    assert len(set(firsts)) == len(firsts)
    for step in steps:
        for first, second, distance, seed in step:
            assert second - first == distance and delta[0] <= distance <= delta[1]
            run, frame = divmod(second, crc(1, 0))
            assert frame < runs[run].frames and seed >= 0


def test_every_frame_with_a_partner_is_used(tmp_path):
    runs = [Run("a", 70), Run("b", 133), Run("c", 6), Run("d", 2)]
    mixture = open_rows(make_bare(tmp_path, runs, clip_frames=16), global_batch=1)
    used = {first for step in range(mixture.steps_per_epoch) for first, *_ in frames_of(mixture.plan(0, step))}
    assert used == {crc(n, f) for n, run in enumerate(runs) for f in range(run.frames - 2)}


def test_epochs_differ_and_repeat(tmp_path):
    manifest = make_bare(tmp_path, [Run("a", 300), Run("b", 200)])
    one, two = open_rows(manifest), open_rows(manifest)
    epochs = [[frames_of(one.plan(epoch, step)) for step in range(5)] for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert [frames_of(two.plan(1, step)) for step in range(5)] == epochs[1]
    assert frames_of(open_rows(manifest, seed=4).plan(1, 0)) != epochs[1][0]


def test_delta_is_uniform_over_what_the_run_allows(tmp_path):
    mixture = open_rows(make_bare(tmp_path, [Run("a", 6000)]), global_batch=50)
    delta = np.concatenate([mixture.plan(0, step).delta for step in range(100)])
    counts = np.bincount(delta, minlength=6)[2:]
    assert counts.sum() == 5000 and np.abs(counts - 1250).max() < 150  # 5 standard deviations


def test_a_batch_mixes_sources(tmp_path):
    runs = [Run(f"s{n}", 158) for n in range(170)]
    manifest = make_bare(tmp_path, runs, shards=4)
    mixture = open_rows(manifest, global_batch=64, delta=(5, 11), window_frames=131072)
    distinct = [len(set(mixture.plan(0, s).where[3, :, 0] // crc(1, 0))) for s in range(mixture.steps_per_epoch)]
    assert np.median(distinct) >= 45


def test_a_rank_reads_few_clips(tmp_path):
    """The rows of one of 8 ranks come from an eighth of the window's clips, and a little at the edges."""
    manifest = make_bare(tmp_path, [Run("a", 64 * 256)], shards=1)
    rank = open_rows(manifest, slice(0, 8), global_batch=64, window_frames=64 * 256)
    clips = {int(clip) for step in range(rank.steps_per_epoch) for clip in rank.plan(0, step).clip}
    assert len(clips) <= 256 / 8 + 2


def test_reading_ahead_covers_what_is_read(tmp_path):
    manifest = make_bare(tmp_path, [Run("a", 900), Run("b", 900)], shards=4)
    mixture = open_rows(manifest, processes=2)
    planner = mixture.planners[0]
    window = planner._window(0, 0, listed=True)
    for part, spans in zip(mixture.parts, window.spans, strict=True):
        for shard, offset, length, _ in window.where[:, :, part].reshape(4, -1).T.tolist():
            assert any(s == shard and o <= offset and offset + length <= o + n for s, o, n in spans.tolist())
        bytes_used = {tuple(f[:3]) for f in window.where[:, :, part].reshape(4, -1).T.tolist()}
        assert spans[:, 2].sum() <= 6 * sum(length for _, _, length in bytes_used)


@given(
    st.floats(1, 1000),
    st.integers(1, 100),
    st.integers(0, 100),
    st.sampled_from([None, 23.976, 25, 29.97, 59.94, 200]),
)
@settings(deadline=None)
def test_delta_bounds_in_ms(rate, low, more, real):
    rates = np.array([real or rate])
    if (low + more) * rates[0] / 1000 > REACH:
        return
    lows, highs = delta_bounds(rates, (low, low + more), "ms")
    assert 1 <= lows[0] <= highs[0]
    if highs[0] > lows[0]:
        assert lows[0] * 1000 / rates[0] >= low - 1e-2 and highs[0] * 1000 / rates[0] <= low + more + 1e-2
    else:
        assert abs(lows[0] - max(low, 1) * rates[0] / 1000) <= max(1.0, more * rates[0] / 1000) + 1e-9


@pytest.mark.parametrize(
    "delta, unit", [((0, 3), "frames"), ((5, 4), "frames"), ((1.5, 3), "frames"), ((1, 2), "s"), ((1, 129), "frames")]
)
def test_bad_delta(delta, unit):
    with pytest.raises(UsageError):
        delta_bounds(np.array([30.0]), delta, unit)


def test_delta_in_ms_without_rates(tmp_path):
    manifest = make_bare(tmp_path, [Run("a", 300, fps=None)])
    with pytest.raises(FlickerError, match="folder_fps"):
        open_rows(manifest, delta=(100, 200), delta_unit="ms")


def test_delta_in_ms_follows_each_source(tmp_path):
    manifest = make_bare(tmp_path, [Run("slow", 300, fps=25), Run("fast", 300, fps=100)])
    mixture = open_rows(manifest, delta=(200, 400), delta_unit="ms")
    for step in range(mixture.steps_per_epoch):
        for first, _, distance, _ in frames_of(mixture.plan(0, step)):
            low, high = ((5, 10), (20, 40))[first // crc(1, 0)]
            assert low <= distance <= high


@given(st.lists(st.floats(0.05, 1), min_size=1, max_size=4), st.integers(64, 300))
def test_shares_of_a_mixture(weights, batch):
    shares = batch_shares(weights, batch)
    assert sum(shares) == batch
    exact = np.array(weights) / sum(weights) * batch
    assert np.abs(exact - shares).max() < 1
    pattern = interleave(shares)
    assert np.bincount(pattern).tolist() == shares
    for end in range(batch):  # spread evenly: every beginning has its share
        assert np.abs(np.bincount(pattern[:end], minlength=len(shares)) - end * np.array(shares) / batch).max() < 2


def test_mixture_takes_its_share_of_every_batch(tmp_path):
    one = make_bare(tmp_path / "one", [Run("a", 500)], shards=2)
    two = make_bare(tmp_path / "two", [Run("b", 200)], seed=1)
    sets = [(one, 3.0), (two, 1.0)]
    whole = open_rows(sets, global_batch=16)
    assert whole.steps_per_epoch == (498 + 198) // 16
    ranks = [open_rows(sets, slice(4 * r, 4 * r + 4), processes=2, global_batch=16) for r in range(4)]
    seen = []
    for step in range(whole.steps_per_epoch):
        plan = whole.plan(0, step)
        assert np.bincount(plan.set).tolist() == [12, 4]
        assert [f for rank in ranks for f in frames_of(rank.plan(0, step))] == frames_of(plan)
        assert ((plan.where[0] >= len(one.shards)) == (plan.set == 1)[:, None]).all()
        seen += [where for where, of in zip(plan.where[3, :, 0].tolist(), plan.set.tolist(), strict=True) if of == 0]
    first_pass = seen[: 498 // 12 * 12]
    assert len(set(first_pass)) == len(first_pass)  # no frame of a set twice before the set is used up


def test_bad_mixtures(tmp_path):
    manifest = make_bare(tmp_path, [Run("a", 500)])
    with pytest.raises(UsageError, match="above 0"):
        open_rows([(manifest, 1.0), (manifest, 0.0)])
    with pytest.raises(UsageError, match="without a row"):
        open_rows([(manifest, 1.0), (manifest, 0.001)])


@given(st.integers(1, 100), st.integers(1, 20))
def test_split_into_parts(rows, processes):
    parts = split(rows, processes)
    assert [row for part in parts for row in range(rows)[part]] == list(range(rows))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 1


def test_index_out_of_step_with_the_manifest(tmp_path):
    one = make_bare(tmp_path / "one", [Run("a", 500)], shards=2)
    make_bare(tmp_path / "two", [Run("a", 400)], shards=2)
    for name in ("shard-000000.idx", "shard-000001.idx"):
        (tmp_path / "one" / name).write_bytes((tmp_path / "two" / name).read_bytes())
    with pytest.raises(FlickerError, match=r"shard-00000.\.idx: its SHA-256 differs"):
        open_rows(one).plan(0, 0)
    with pytest.raises(FlickerError, match="damaged"):
        read_index(b"nonsense", "x.idx")


def test_planning_touches_few_shards(tmp_path):
    """Opening a reader reads no index; a step reads those of its window."""
    manifest = make_bare(tmp_path, [Run(f"s{n}", 640) for n in range(20)], shards=20)
    for number in range(20):
        (tmp_path / f"shard-{number:06d}.idx").write_bytes(b"")
    mixture = open_rows(manifest)
    assert mixture.steps_per_epoch == 20 * 638 // 8
    with pytest.raises(FlickerError):
        mixture.plan(0, 0)


def test_permutation_and_hash():
    assert sorted(permutation(1000, 1, 2)) == list(range(1000))
    assert (permutation(1000, 1, 2) != permutation(1000, 1, 3)).any()
    bits = np.unpackbits(mix(7, np.arange(4096)).view(np.uint8))
    assert abs(bits.mean() - 0.5) < 0.005
    # Vigna's reference: splitmix64 seeded with 1234567
    assert mix(1234567)[0] == 6457827717110365317


def test_too_little_data():
    with pytest.raises(FlickerError, match="7 pairs are fewer than one global batch of 8"):
        Order(np.array([3, 4]), seed=0, global_batch=8, window_frames=100)
