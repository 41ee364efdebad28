"""What a record says has become of batches that were open before it is held against the chain, now and later."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "protocol"))

from worlds import BATCH, Work, World, changed, simple

from proofyard.chain import Params
from proofyard.chain.events import Position
from proofyard.disputes.settled import check_over, over_now, told_before
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.record import BatchRecord
from proofyard.protocol.redress import Earlier
from proofyard.protocol.types import BatchId, Cid, Digest, JobId
from proofyard.protocol.validate import RecordInvalid

OPEN, SETTLED, VOIDED, DROPPED = BatchId(6), BatchId(7), BatchId(8), BatchId(9)
PARAMS = Params(settle_time=300)
RECORD, VOID = raw_cid(b"the record of batch 7"), raw_cid(b"the record of batch 8")


def at(block: int) -> Position:
    return Position(block, Digest(bytes(32)), 0)


@dataclass
class Chain:
    """Four batches were open before the one that is looked at: one still is, the others went each its way."""

    clock: int = 1000
    settled_at: int = 900
    states: dict[BatchId, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        usual = {"settled_at": 0, "voided": False, "dropped": False, "attempt": 0}
        changes = {
            OPEN: {},
            SETTLED: {"settled_at": self.settled_at},
            VOIDED: {"settled_at": 500, "voided": True},
            DROPPED: {"dropped": True},
        }
        self.states = {batch: SimpleNamespace(**usual | change) for batch, change in changes.items()}

    def now(self) -> int:
        return self.clock

    def params(self) -> Params:
        return PARAMS

    def batch(self, batch: BatchId) -> Any:
        return self.states[batch]

    def header(self, batch: BatchId) -> Any:
        return SimpleNamespace(lines=[SimpleNamespace(job=JobId(1))])

    def settled(self, _job: JobId) -> list[Any]:
        return [
            SimpleNamespace(batch=VOIDED, attempt=0, record=VOID, position=at(40)),
            SimpleNamespace(batch=SETTLED, attempt=0, record=RECORD, position=at(50)),
        ]


@pytest.fixture(scope="module")
def world() -> World:
    batches = {int(batch): [Work(1, 0, "n8")] for batch in (OPEN, SETTLED, VOIDED, DROPPED)}
    world = simple(others=batches)
    assert [claimed.batch for claimed in world.view.claimed_before] == [OPEN, SETTLED, VOIDED, DROPPED]
    return world


def checked(world: World, over: tuple[tuple[BatchId, Cid | None], ...], chain: Chain, before: int | None) -> None:
    record: BatchRecord = changed(world.record, over=over)
    check_over(chain, world.view, record, None if before is None else at(before))  # type: ignore[arg-type]


def test_what_is_over_now_is_settled_or_dropped(world: World) -> None:
    found = over_now(Chain(), world.view)  # type: ignore[arg-type]
    assert found == ((SETTLED, RECORD), (DROPPED, None))
    checked(world, tuple(found), Chain(), None)
    checked(world, tuple(found), Chain(), 60)


@pytest.mark.parametrize(
    "over",
    [
        ((OPEN, None),),
        ((OPEN, RECORD),),
        ((SETTLED, None),),
        ((SETTLED, VOID),),
        ((DROPPED, RECORD),),
        ((BATCH, None),),
        ((BatchId(77), None),),
    ],
)
@pytest.mark.parametrize("before", [None, 60])
def test_an_end_that_no_batch_came_to_is_refused(
    world: World, over: tuple[tuple[BatchId, Cid | None], ...], before: int | None
) -> None:
    with pytest.raises(RecordInvalid, match=r"had not ended as it says|was not open before") as refused:
        checked(world, over, Chain(settled_at=999), before)
    assert refused.value.field == "over"


def test_a_settlement_counts_for_those_that_came_after_it(world: World) -> None:
    checked(world, ((SETTLED, RECORD),), Chain(), 51)
    for block in (50, 49):
        with pytest.raises(RecordInvalid, match="had not ended"):
            checked(world, ((SETTLED, RECORD),), Chain(), block)


def test_a_record_that_was_settled_stands_although_one_that_it_rests_on_was_voided_since(world: World) -> None:
    checked(world, ((VOIDED, VOID),), Chain(), 60)


def test_who_signs_does_not_let_a_settlement_be_overlooked(world: World) -> None:
    """Its leader would make a worker's results stale by it. One that is just settled it may not have seen."""
    checked(world, (), Chain(settled_at=1000 - PARAMS.settle_time), None)
    with pytest.raises(RecordInvalid, match="batch 7 has been settled since 699"):
        checked(world, (), Chain(settled_at=1000 - PARAMS.settle_time - 1), None)
    checked(world, (), Chain(settled_at=0), 60)


async def test_what_nobody_delivers_pays_nothing_and_a_dropped_batch_is_not_asked_for(world: World) -> None:
    asked = []

    async def read(cid: Cid, _max_bytes: int) -> bytes:
        asked.append(cid)
        return b"no record"

    chain: Any = Chain()
    assert await told_before(chain, read, world.view, ((SETTLED, RECORD), (DROPPED, None))) == Earlier()
    assert asked == [RECORD]
