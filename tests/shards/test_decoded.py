"""Decode-once mode: a kept frame stays where it is until its last use."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shards.decoded import keep
from shards.fetch import NO_SLOT


@given(st.lists(st.integers(0, 20), min_size=2, max_size=120), st.integers(1, 25))
def test_a_slot_holds_one_frame_from_first_to_last_use(frames, slots):
    frames = frames[: len(frames) // 2 * 2]
    uses = np.array(frames).reshape(-1, 1, 2)  # [steps 1 2]
    where = np.stack([uses % 3, uses, uses, uses])
    found = keep(where, slots).reshape(-1)
    holds = {}
    decodes = 0
    for use, (frame, slot) in enumerate(zip(frames, found.tolist(), strict=True)):
        last = frame not in frames[use + 1 :]
        if slot == NO_SLOT:
            decodes += 1
            assert last or len(holds) == slots
            continue
        assert slot < slots
        if holds.get(slot) != frame:
            assert slot not in holds and frame not in holds.values()
            holds[slot] = frame
            decodes += 1
        if last:
            del holds[slot]
    if slots >= len(set(frames)):
        assert decodes == len(set(frames))
