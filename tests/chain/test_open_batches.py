"""Which batches were open at a block, of which only those of the last blocks are looked at."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from proofyard.chain import CourtParams, History, Params
from proofyard.chain.events import BatchCommitted, BatchDropped, BatchSettled, BatchVoided, Event, Position
from proofyard.chain.following import Rollback
from proofyard.chain.history import LATELY_BLOCKS
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.commitment import Domain
from proofyard.protocol.settlement import OperatorId
from proofyard.protocol.types import Address, BatchId, Digest, Wei

ZERO = Digest(bytes(32))
RECORD = raw_cid(b"record")
STEP = st.tuples(
    st.sampled_from(("commit", "settle", "void", "drop", "nothing")), st.integers(0, 9), st.integers(1, 700)
)


def empty() -> History:
    domain = Domain(1, Address("0x" + "11" * 20))
    return History(domain, Params(court=CourtParams()))


def events(kind: str, at: Position, open_ones: list[BatchId], over: list[BatchId], which: int) -> Iterator[Event]:
    """What may happen at a block: a batch is committed, or one of those that are there gets another standing."""
    if kind == "commit":
        batch = BatchId(1 + max((*open_ones, *over), default=0))
        yield BatchCommitted(at, batch, OperatorId(1), ZERO, 1, ZERO, (), 1)
    elif kind == "void" and over:
        yield BatchVoided(at, over[which % len(over)], 0)
    elif kind == "settle" and open_ones:
        batch = open_ones[which % len(open_ones)]
        yield BatchSettled(at, batch, 0, ZERO, 0, Wei(0), Wei(0), ZERO, RECORD, 1, 0, ())
    elif kind == "drop" and open_ones:
        yield BatchDropped(at, open_ones[which % len(open_ones)])


@given(st.lists(STEP, max_size=60), st.lists(st.tuples(st.integers(0, 59), st.integers(1, 2000)), max_size=3))
def test_they_are_those_that_looking_at_all_finds_at_any_block_also_after_rollbacks(steps, forks) -> None:
    history, block, depths = empty(), 0, dict(forks)
    for number, (kind, which, blocks) in enumerate(steps):
        if number in depths:
            block = max(0, block - depths[number])
            history.apply([Rollback(block)], block)
        block += blocks
        known = dict(history._standing.known((block, 0)))
        open_ones = [batch for batch, standing in known.items() if standing.open]
        over = [batch for batch, standing in known.items() if standing.record]
        history.apply(events(kind, Position(block, ZERO, 0), open_ones, over, which), block)
        for past in {block, block - 1, block // 2, max(0, block - LATELY_BLOCKS), max(0, block - 3 * LATELY_BLOCKS)}:
            wanted = [batch for batch, standing in history._standing.known((past, 1 << 40)) if standing.open]
            assert [each.batch for each in history.open_batches(past)] == wanted


def test_a_batch_whose_settlement_goes_with_many_blocks_is_open_again() -> None:
    history, one = empty(), BatchId(1)
    history.apply([BatchCommitted(Position(1, ZERO, 0), one, OperatorId(1), ZERO, 1, ZERO, (), 1)], 50)
    settled = BatchSettled(Position(100, ZERO, 0), one, 0, ZERO, 0, Wei(0), Wei(0), ZERO, RECORD, 1, 0, ())
    history.apply([settled], 2000)
    assert not history._lately_open
    history.apply([Rollback(50)], 50)
    history.apply([], 1600)
    assert [each.batch for each in history.open_batches(1600)] == [one]


def test_what_is_over_for_long_is_not_looked_at_again() -> None:
    history = empty()
    for number in range(1, 2001):
        at = Position(number, ZERO, 0)
        batch = BatchId(number)
        settled = BatchSettled(Position(number, ZERO, 1), batch, 0, ZERO, 0, Wei(0), Wei(0), ZERO, RECORD, 1, 0, ())
        history.apply([BatchCommitted(at, batch, OperatorId(1), ZERO, 1, ZERO, (), 1), settled], number)
    assert len(history._lately_open) <= 2 * LATELY_BLOCKS
    assert history.open_batches(2000) == ()
