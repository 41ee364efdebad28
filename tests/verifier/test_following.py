"""Following the chain: whether member lists were here in time, and what a chain that goes back takes along."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stage import FakeChain, Verifier, introduce, make_verifier

from proofyard.chain import Cursor, Rollback
from proofyard.chain.events import Absolved, BatchCommitted, BatchDropped, BatchVoided, JobClosed, Position
from proofyard.protocol.cid import cid_digest, raw_cid
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.members import Member, decode_members, encode_members, members_root
from proofyard.protocol.settlement import FaultReason, OperatorId
from proofyard.protocol.types import Address, BatchId, Digest, JobId, Signature, TaskIndex, Wei
from proofyard.verifier import chainsync
from proofyard.verifier.chainsync import Follower
from proofyard.verifier.database import Batch, BatchState, Fault, Held, Job, JobState, Known
from proofyard.verifier.outcomes import faulty_owners

ZERO = Digest(bytes(32))
NODE = Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")
LIST = encode_members(
    [Member(Commitment(JobId(1), TaskIndex(0), NODE, ZERO, ZERO, ZERO, 1, raw_cid(b"r"), 1), Signature(bytes(65)), ())]
)


class Log:
    """The chain's events, handed out once in the order in which they are put in."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []
        self._block = 0

    def read(self, cursor: Cursor) -> tuple[list[Any], Cursor]:
        events, self.waiting = self.waiting, []
        if not events:
            return [], cursor
        self._block += 1
        return events, Cursor(self._block)


class Watcher:
    """A verifier that follows the chain, and another one that leads batches."""

    def __init__(self, folder: Path) -> None:
        self.chain = FakeChain()
        self.verifier: Verifier = make_verifier(self.chain, folder)
        self.leader: Verifier = make_verifier(self.chain, folder)
        introduce(self.verifier, self.leader)
        self.context, self.log = self.verifier.context, Log()
        self.context.chain.events = self.log  # type: ignore[assignment]

    def committed(self, batch: int, block: int) -> BatchCommitted:
        members = decode_members(LIST)
        digest = cid_digest(raw_cid(LIST))
        position = Position(block, ZERO, batch)
        leader = self.chain.seats[1].id
        return BatchCommitted(position, BatchId(batch), leader, members_root(members), 1, digest, (), 1)

    async def see(self, *events: Any) -> None:
        self.log.waiting += events
        await Follower(self.context).advance()

    def held(self, batch: int) -> Held | None:
        with self.context.database.session() as session:
            known = session.get(Known, batch)
            return None if known is None else Held(known.held)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.02)


@pytest.fixture
def watcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watcher]:
    monkeypatch.setattr(chainsync, "LIST_RETRY_S", 0.05)
    made = Watcher(tmp_path)
    yield made
    made.context.database.close()
    made.leader.context.database.close()


async def test_a_list_that_was_pushed_before_its_commit_is_in_time(watcher: Watcher) -> None:
    watcher.context.store.put_bytes(LIST)
    await watcher.see(watcher.committed(1, watcher.chain.block))
    assert watcher.held(1) == Held.IN_TIME


async def test_a_list_is_in_time_that_is_found_before_the_draw(watcher: Watcher) -> None:
    await watcher.see(watcher.committed(1, watcher.chain.block))
    assert watcher.held(1) == Held.LATE
    watcher.leader.context.store.put_bytes(LIST)
    await watcher.until(lambda: watcher.held(1) == Held.IN_TIME)
    await watcher.context.close()


async def test_a_list_that_comes_with_the_draw_is_late_for_good(watcher: Watcher) -> None:
    await watcher.see(watcher.committed(1, watcher.chain.block))
    watcher.chain.mine(watcher.chain.params_.draw_delay)
    watcher.leader.context.store.put_bytes(LIST)
    await asyncio.sleep(0.3)
    await watcher.see(watcher.committed(1, watcher.chain.block - 2))
    assert watcher.held(1) == Held.LATE
    await watcher.context.close()


async def test_what_was_drawn_before_this_verifier_came_it_cannot_tell(watcher: Watcher) -> None:
    await watcher.see(watcher.committed(1, watcher.chain.block - 50))
    assert watcher.held(1) == Held.AWAY


async def test_batches_are_known_until_they_are_dropped(watcher: Watcher) -> None:
    position = Position(1, ZERO, 9)
    await watcher.see(watcher.committed(1, 1), watcher.committed(2, 1), BatchDropped(position, BatchId(2)))
    assert (watcher.held(1), watcher.held(2)) == (Held.AWAY, None)
    await watcher.see(Rollback(0))
    assert watcher.held(1) is None


def put(watcher: Watcher, *rows: Any) -> None:
    with watcher.context.database.session() as session:
        for row in rows:
            session.add(row)
            session.flush()


def job_row(**changes: Any) -> Job:
    pay = {"reward": "1", "audit_fee": "1", "auditors_per_segment": 2, "segments_per_audit": 1, "deadline": 2**40}
    return Job(**{"id": 1, "requester": "", "manifest": "", "units": 1, **pay, **changes})


async def test_a_block_that_goes_takes_along_what_rested_on_it_and_no_evidence(watcher: Watcher) -> None:
    """What was committed, judged or settled is looked up again; the work itself stays."""
    states = (BatchState.COMMITTED, BatchState.JUDGED, BatchState.SETTLED, BatchState.TAKEN)
    batches = [Batch(id=n, state=state, root=b"", members=b"", chain_id=n) for n, state in enumerate(states, 1)]
    final = Batch(id=5, state=BatchState.SETTLED, root=b"", members=b"", chain_id=5, final=True)
    put(watcher, job_row(opened_block=7), job_row(id=2, opened_block=7, state=JobState.RUNNING), *batches, final)
    await watcher.see(Rollback(5))
    with watcher.context.database.session() as session:
        assert session.get(Job, 1) is None and session.get(Job, 2) is not None
        found = [(row.state, row.chain_id) for n in range(1, 6) if (row := session.get(Batch, n)) is not None]
    assert found == [
        (BatchState.FORMED, None),
        (BatchState.FORMED, None),
        (BatchState.JUDGED, 3),
        (BatchState.TAKEN, 4),
        (BatchState.SETTLED, 5),
    ]


@pytest.mark.parametrize("led", [True, False])
async def test_a_voided_settlement_is_open_again(watcher: Watcher, led: bool) -> None:
    put(watcher, Batch(id=1, state=BatchState.SETTLED, root=b"", members=b"", chain_id=1))
    leader = watcher.chain.seats[0 if led else 1].id
    put(watcher, Known(batch=1, leader=leader, settled=True))
    await watcher.see(BatchVoided(Position(1, ZERO, 1), BatchId(1), 1))
    with watcher.context.database.session() as session:
        batch, known = session.get(Batch, 1), session.get(Known, 1)
        assert batch is not None and known is not None
        assert (batch.state, known.settled) == (BatchState.JUDGED if led else BatchState.TAKEN, False)


async def test_whoever_was_absolved_gets_work_again(watcher: Watcher) -> None:
    put(watcher, Batch(id=1, state=BatchState.SETTLED, root=b"", members=b"", chain_id=4))
    fault = {"batch": 1, "job": 1, "task": 0, "kind": FaultReason.MISMATCH, "reason": ""}
    put(
        watcher,
        Fault(node="0xA", owner="0xO", operator=7, **fault),
        Fault(node="0xB", owner="0xP", operator=8, **fault),
    )
    await watcher.see(Absolved(Position(1, ZERO, 1), BatchId(4), OperatorId(7), Wei(1), 3))
    with watcher.context.database.session() as session:
        assert faulty_owners(session) == {"0xP"}


async def test_a_closed_job_gets_no_more_work(watcher: Watcher) -> None:
    put(watcher, job_row(state=JobState.RUNNING))
    await watcher.see(JobClosed(Position(1, ZERO, 1), JobId(1)))
    with watcher.context.database.session() as session:
        job = session.get(Job, 1)
        assert job is not None and job.state == JobState.FAILED and job.closed
