"""The order contract, on made-up indexes: ranks, restarts, coverage, no frame twice."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import FlickerError
from shards.index import ClipEntry, FrameIndex, ShardIndex
from shards.order import Order, delta_bounds, mix, permutation


def make_index(runs, clip_frames=8, shards=3, fps=None):
    """A FrameIndex of runs of these lengths, cut into clips that are dealt over the shards."""
    per_shard = [[] for _ in range(shards)]
    for run, length in enumerate(runs):
        starts = list(range(0, length, clip_frames))
        for part, start in enumerate(starts):
            numbers = list(range(start, min(start + clip_frames, length)))
            following = f"r{run}_{part + 1:03d}" if part + 1 < len(starts) else None
            entry = ClipEntry(
                key=f"r{run}_{part:03d}",
                source=f"r{run}",
                fps=fps[run] if fps else None,
                numbers=numbers,
                offsets=[512 * number for number in numbers],
                lengths=[100] * len(numbers),
                crc32c=[0] * len(numbers),
                meta=[0, 0, 0],
                next=following,
                next_shard=None,
            )
            per_shard[(run * 7 + part * 5) % shards].append(entry)
    names = [f"shard-{number:06d}.tar" for number in range(shards)]
    return FrameIndex(names, [ShardIndex(name, 0, "", clips) for name, clips in zip(names, per_shard, strict=True)])


def make_order(index, global_batch=4, delta=(2, 5), window_shards=2, seed=3):
    return Order(
        index,
        seed=seed,
        global_batch=global_batch,
        delta=delta,
        delta_unit="frames",
        window_shards=window_shards,
    )


layouts = st.tuples(
    st.lists(st.integers(1, 40), min_size=1, max_size=8).filter(lambda runs: max(runs) > 12),
    st.integers(1, 9),  # clip frames
    st.integers(1, 5),  # shards
    st.integers(1, 6),  # window
    st.integers(1, 7),  # global batch
    st.integers(0, 2**62),  # seed
)


@given(layouts)
@settings(max_examples=60, deadline=None)
def test_an_epoch_holds_each_anchor_at_most_once_and_pairs_stay_in_their_run(layout):
    runs, clip_frames, shards, window, batch, seed = layout
    index = make_index(runs, clip_frames, shards)
    order = make_order(index, batch, window_shards=window, seed=seed)
    anchors = sum(max(0, length - 2) for length in runs)
    assert order.steps_per_epoch == anchors // batch
    assert order.coverage == anchors / sum(runs)
    steps = [order.pairs(1, step) for step in range(order.steps_per_epoch)]
    first = np.concatenate([pairs.first for pairs in steps])
    delta = np.concatenate([pairs.delta for pairs in steps])
    assert len(set(first.tolist())) == len(first) == order.steps_per_epoch * batch
    assert set(first.tolist()) <= set(order.anchors.tolist())
    assert (delta >= 2).all() and (delta <= 5).all()
    np.testing.assert_array_equal(index.run_of(first), index.run_of(first + delta))
    np.testing.assert_array_equal(index.number(first) + delta, index.number(first + delta))


@given(layouts, st.data())
@settings(max_examples=40, deadline=None)
def test_any_step_is_the_same_computed_alone_and_by_ranks(layout, data):
    runs, clip_frames, shards, window, batch, seed = layout
    index = make_index(runs, clip_frames, shards)
    anchors = sum(max(0, length - 2) for length in runs)
    in_turn = make_order(index, 4 * min(batch, anchors // 4), window_shards=window, seed=seed)
    whole = [in_turn.pairs(2, step) for step in range(in_turn.steps_per_epoch)]
    step = data.draw(st.integers(0, len(whole) - 1))
    alone = make_order(index, in_turn.global_batch, window_shards=window, seed=seed)
    for world in (1, 2, 4):
        share = in_turn.global_batch // world
        ranks = [alone.pairs(2, step, slice(rank * share, (rank + 1) * share)) for rank in range(world)]
        for name in ("first", "delta", "seeds"):
            union = np.concatenate([getattr(pairs, name) for pairs in ranks])
            np.testing.assert_array_equal(union, getattr(whole[step], name))


def test_epochs_seeds_and_positions_differ():
    order = make_order(make_index([60, 60]), global_batch=100)
    other = make_order(make_index([60, 60]), global_batch=100, seed=4)
    one, two, three = order.pairs(0, 0), order.pairs(1, 0), other.pairs(0, 0)
    assert set(one.first) != set(two.first) or (one.first != two.first).any()
    assert (one.first != three.first).any()
    seeds = np.concatenate([one.seeds, two.seeds, three.seeds])
    assert len(set(seeds.tolist())) == 300 and (seeds >= 0).all()


def test_reads_stay_within_a_window_of_shards():
    index = make_index([80] * 20, shards=10)
    order = make_order(index, global_batch=50, window_shards=2)
    shards = permutation(10, 3, 0, 1)
    sizes = [np.count_nonzero(index.shard_of(order.anchors) == shard) for shard in shards]
    positions = np.concatenate([order.pairs(0, step).first for step in range(order.steps_per_epoch)])
    start = 0
    for window in range(5):
        end = start + sizes[2 * window] + sizes[2 * window + 1]
        here = set(index.shard_of(positions[start:end]).tolist())
        assert here <= set(shards[2 * window : 2 * window + 2].tolist())
        start = end


def test_delta_covers_its_whole_range_evenly():
    order = make_order(make_index([5000], clip_frames=64), global_batch=4000, delta=(5, 11))
    counts = np.bincount(order.pairs(0, 0).delta, minlength=12)
    assert counts[:5].sum() == 0
    assert abs(counts[5:] - 4000 / 7).max() < 100


def test_delta_is_capped_by_what_the_run_has_left():
    order = make_order(make_index([7]), global_batch=2, delta=(5, 11))
    pairs = order.pairs(0, 0)
    assert sorted(zip(pairs.first.tolist(), pairs.delta.tolist(), strict=True))[1] == (1, 5)
    assert order.coverage == 2 / 7


def test_milliseconds_follow_each_runs_rate():
    index = make_index([50, 50, 50], fps=[200.0, 30.0, 10.0])
    low, high = delta_bounds(index, (25, 55), "ms")
    assert (low.tolist(), high.tolist()) == ([5, 1, 1], [11, 1, 1])
    with pytest.raises(FlickerError, match="--folder_fps"):
        delta_bounds(make_index([50]), (25, 55), "ms")


@pytest.mark.parametrize("delta", [(0, 5), (5, 4), (1.5, 3)])
def test_bad_delta_is_refused(delta):
    with pytest.raises(FlickerError, match="delta"):
        delta_bounds(make_index([50]), delta, "frames")


def test_too_few_pairs_are_refused():
    with pytest.raises(FlickerError, match=r"2 pairs .* fewer than one global batch of 4"):
        make_order(make_index([4]))


def test_hash_is_splitmix64_and_spreads():
    # splitmix64(0) of the reference implementation
    assert int(mix(0)[0]) == 0xE220A8397B1DCDAF
    bits = np.unpackbits(mix(1, 2, np.arange(10_000)).view(np.uint8)).reshape(10_000, 64)
    assert abs(bits.mean(axis=0) - 0.5).max() < 0.03
    assert sorted(permutation(1000, 5).tolist()) == list(range(1000))


def test_index_checks_its_links():
    index = make_index([20])
    assert index.remaining(np.arange(20)).tolist() == list(range(19, -1, -1))
    bad = ClipEntry("a", "s", None, [0, 2], [0, 0], [1, 1], [0, 0], [0, 0, 0], None, None)
    with pytest.raises(FlickerError, match="not consecutive"):
        FrameIndex(["x"], [ShardIndex("x", 0, "", [bad])])
    lost = ClipEntry("a", "s", None, [0], [0], [1], [0], [0, 0, 0], "b", "x")
    with pytest.raises(FlickerError, match="continued by b, which no index lists"):
        FrameIndex(["x"], [ShardIndex("x", 0, "", [lost])])
    round_a = ClipEntry("a", "s", None, [0], [0], [1], [0], [0, 0, 0], "b", "x")
    round_b = ClipEntry("b", "s", None, [1], [0], [1], [0], [0, 0, 0], "a", "x")
    with pytest.raises(FlickerError, match="circle"):
        FrameIndex(["x"], [ShardIndex("x", 0, "", [round_a, round_b])])
