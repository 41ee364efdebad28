"""Values that change with blocks, against a plain copy of the whole state after each block."""

from hypothesis import given
from hypothesis import strategies as st

from proofyard.chain.timeline import Timeline, end_of

CHANGES = st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abc"), st.integers(0, 9)), max_size=40)


@given(CHANGES, st.lists(st.integers(0, 60), max_size=3))
def test_every_past_state_is_what_it_was_also_after_blocks_were_undone(changes, forks) -> None:
    timeline: Timeline[str, int] = Timeline()
    after: dict[int, dict[str, int]] = {-1: {}}
    block, now = 0, dict[str, int]()
    rest = list(forks)
    for index, (step, key, value) in enumerate(changes):
        for skipped in range(block, block + step):
            after[skipped] = dict(now)
        block += step
        if rest and index % 7 == 6:
            fork = min(rest.pop(), block - 1)
            timeline.undo(fork)
            now = dict(after[fork])
            block = fork + 1
        timeline.put(key, (block, index), value)
        now[key] = value
    after[block] = dict(now)
    for past, state in after.items():
        if past <= block:
            assert dict(timeline.known(end_of(past))) == state
            assert {key: timeline.at(key, end_of(past)) for key in "abc"} == {key: state.get(key) for key in "abc"}


def test_what_changed_within_a_block_is_told_apart_by_the_logs() -> None:
    timeline: Timeline[str, int] = Timeline()
    for index in range(3):
        timeline.put("a", (5, index), index)
    assert [timeline.at("a", (5, index)) for index in range(3)] == [0, 1, 2]
    assert timeline.at("a", end_of(4)) is None
    assert timeline.changes("a", (5, 1)) == [((5, 0), 0), ((5, 1), 1)]
