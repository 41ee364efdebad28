"""Following the chain: whether member lists were here in time, and what a chain that goes back takes along."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from stage import FakeChain, Verifier, assemble, introduce, make_verifier

from proofyard.chain import Cursor, Rollback
from proofyard.chain.events import (
    Absolved,
    BatchCommitted,
    BatchDropped,
    BatchVoided,
    JobClosed,
    JobOpened,
    JobToppedUp,
    Position,
)
from proofyard.protocol.cid import cid_digest, raw_cid
from proofyard.protocol.codec import decode
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.members import Member, decode_members, encode_members, members_root
from proofyard.protocol.settlement import FaultReason, Header, Line, OperatorId
from proofyard.protocol.types import Address, BatchId, Digest, JobId, Signature, TaskIndex, Wei
from proofyard.protocol.view import JobFacts
from proofyard.verifier import context as context_module
from proofyard.verifier import follower as following
from proofyard.verifier.engine.machine import Engine
from proofyard.verifier.engine.rows import Batch, BatchState, Fault, Job, JobState, Row, Work
from proofyard.verifier.engine.world import Step
from proofyard.verifier.follower import AWAY, IN_TIME, LATE, SOUGHT, Follower
from proofyard.verifier.runner import InternalError
from proofyard.verifier.store.tables import Cursor as CursorRow
from proofyard.verifier.store.tables import Known

ZERO = Digest(bytes(32))
NODE = Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")
LIST = encode_members(
    [
        Member(
            Commitment(JobId(1), TaskIndex(0), NODE, ZERO, ZERO, ZERO, 1, raw_cid(b"r"), 1, ZERO),
            Signature(bytes(65)),
            (),
        )
    ]
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
        self.follower = Follower(self.context)

    def committed(self, batch: int, block: int) -> BatchCommitted:
        members = decode_members(LIST)
        digest = cid_digest(raw_cid(LIST))
        position = Position(block, ZERO, batch)
        leader = self.chain.seats[1].id
        return BatchCommitted(position, BatchId(batch), leader, members_root(members), 1, digest, (), 1)

    async def see(self, *events: Any) -> None:
        self.log.waiting += events
        await self.follower.advance()

    def opened(self, job: int, block: int = 1) -> JobOpened:
        terms = {"reward": Wei(1), "audit_fee": Wei(1), "verifier_fee": Wei(1), "units": 1, "deadline": 2**40}
        more = {"auditors_per_segment": 2, "segments_per_audit": 1, "workload": 0}
        position = Position(block, ZERO, job)
        return JobOpened(position, JobId(job), NODE, manifest=cid_digest(raw_cid(b"m")), **terms, **more)  # type: ignore[arg-type]

    def cursor(self) -> Cursor | None:
        with self.context.database.session() as session:
            row = session.get(CursorRow, 1)
            return None if row is None else decode(row.state, Cursor)

    async def begin(self, *rows: Row) -> None:
        """The engine begins with these rows."""
        await self.context.database.write(Step(rows, (), ()))
        self.verifier.start(follow=False)
        await self.verifier.runner.tell_all([])

    def job(self, job: int = 1) -> Job:
        return self.verifier.rows.jobs[JobId(job)]

    def held(self, batch: int) -> str | None:
        with self.context.database.session() as session:
            known = session.get(Known, batch)
            return None if known is None else known.held

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.02)


@pytest.fixture
async def watcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Watcher]:
    monkeypatch.setattr(following, "LIST_RETRY_S", 0.05)
    made = Watcher(tmp_path)
    yield made
    await made.verifier.stop()
    made.context.database.close()
    made.leader.context.database.close()


async def test_a_list_that_was_pushed_before_its_commit_is_in_time(watcher: Watcher) -> None:
    await watcher.begin()
    watcher.context.store.put_bytes(LIST)
    await watcher.see(watcher.committed(1, watcher.chain.block))
    assert watcher.held(1) == IN_TIME


async def see_commit(watcher: Watcher) -> BatchCommitted:
    """A batch of a block that comes while this verifier follows the chain, whose list nobody shows yet."""
    await watcher.begin()
    await watcher.see()
    watcher.chain.mine(1)
    event = watcher.committed(1, watcher.chain.block)
    await watcher.see(event)
    await watcher.until(lambda: watcher.held(1) == SOUGHT)
    return event


async def restarted(watcher: Watcher, event: BatchCommitted) -> Verifier:
    """The same verifier, ended and begun anew on its database and store."""
    await watcher.context.close()
    again = assemble(
        watcher.context.settings,
        watcher.verifier.wallet,
        watcher.context.chain,
        watcher.context.domain,
        watcher.context.database,
        watcher.context.store,
    )
    introduce(again, watcher.leader)
    header = Header(event.root, event.size, event.members, ())
    again.context.chain.header = lambda _: header  # type: ignore[method-assign]
    return again


async def test_a_list_is_in_time_that_is_found_before_the_draw(watcher: Watcher) -> None:
    await see_commit(watcher)
    watcher.leader.context.store.put_bytes(LIST)
    await watcher.until(lambda: watcher.held(1) == IN_TIME)


async def test_a_list_that_comes_with_the_draw_is_late_for_good(watcher: Watcher) -> None:
    await see_commit(watcher)
    watcher.chain.mine(watcher.chain.params_.draw_delay)
    watcher.leader.context.store.put_bytes(LIST)
    await watcher.until(lambda: watcher.held(1) == LATE)
    await watcher.see(watcher.committed(1, watcher.chain.block - 2))
    assert watcher.held(1) == LATE


async def test_what_was_committed_before_this_process_led_it_cannot_tell(watcher: Watcher) -> None:
    """Its leader may have shown the list to nobody but whoever was there, and be gone by now."""
    await watcher.begin()
    await watcher.see(watcher.committed(1, watcher.chain.block))
    watcher.chain.mine(watcher.chain.params_.draw_delay)
    await watcher.until(lambda: not watcher.follower._looking)
    assert watcher.held(1) == AWAY


async def test_who_stands_by_at_the_commit_cannot_tell_either(watcher: Watcher) -> None:
    await watcher.begin()
    watcher.context.leads = False
    await watcher.see()
    watcher.chain.mine(1)
    await watcher.see(watcher.committed(1, watcher.chain.block))
    watcher.context.leads = True
    await watcher.see()
    watcher.chain.mine(watcher.chain.params_.draw_delay)
    await watcher.until(lambda: not watcher.follower._looking)
    assert watcher.held(1) == AWAY


async def test_what_a_process_that_died_looked_for_nobody_can_tell(watcher: Watcher) -> None:
    again = await restarted(watcher, await see_commit(watcher))
    watcher.chain.mine(watcher.chain.params_.draw_delay)
    await Follower(again.context).advance()
    assert watcher.held(1) == AWAY
    await again.context.close()


async def test_what_was_drawn_before_this_verifier_came_it_cannot_tell(watcher: Watcher) -> None:
    await watcher.begin()
    await watcher.see(watcher.committed(1, watcher.chain.block - 50))
    assert watcher.held(1) == AWAY


async def test_batches_are_known_until_they_are_dropped(watcher: Watcher) -> None:
    await watcher.begin()
    position = Position(1, ZERO, 9)
    await watcher.see(watcher.committed(1, 1), watcher.committed(2, 1), BatchDropped(position, BatchId(2)))
    assert (watcher.held(1), watcher.held(2)) == (AWAY, None)
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


async def test_a_list_that_was_looked_for_when_the_verifier_stopped_is_looked_for_again(watcher: Watcher) -> None:
    again = await restarted(watcher, await see_commit(watcher))
    await Follower(again.context).advance()
    watcher.leader.context.store.put_bytes(LIST)
    await watcher.until(lambda: watcher.held(1) == IN_TIME)
    await again.context.close()


# The cursor


async def test_the_cursor_lasts_with_what_was_read(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the engine fails in a range, none of it was read; it is read again, and nothing counts twice."""
    await watcher.begin()
    handle, trouble = Engine.handle, iter([True])

    def failing(engine: Engine, event: Any, now: Any) -> Step:
        if isinstance(getattr(event, "news", None), JobToppedUp):
            for _ in trouble:
                raise ZeroDivisionError("in the engine")
        return handle(engine, event, now)

    monkeypatch.setattr(Engine, "handle", failing)
    lines = (Line(JobId(1), 3, Wei(1)),)
    commit = BatchCommitted(Position(2, ZERO, 2), BatchId(1), OperatorId(77), ZERO, 1, ZERO, lines, 1)
    events = [watcher.opened(1), commit, JobToppedUp(Position(3, ZERO, 3), JobId(1), Wei(1))]
    with pytest.raises(InternalError):
        await watcher.see(*events)
    assert (watcher.cursor(), watcher.verifier.stored(Job)) == (None, [])
    await watcher.see(*events)
    (row,) = watcher.verifier.stored(Job)
    assert (row.units_open, watcher.cursor()) == (3, Cursor(2))


async def test_a_restart_reads_on_where_the_rows_end(watcher: Watcher) -> None:
    await watcher.begin()
    await watcher.see(watcher.opened(1))
    reads: list[Cursor] = []
    read = watcher.log.read

    def noted(cursor: Cursor) -> tuple[list[Any], Cursor]:
        reads.append(cursor)
        return read(cursor)

    watcher.log.read = noted  # type: ignore[method-assign]
    await watcher.see()
    assert reads == [watcher.cursor()] == [Cursor(1)]


async def test_what_a_block_that_goes_takes_along_is_looked_up_again(watcher: Watcher) -> None:
    """What was committed, judged or settled on it is done again; the evidence stays, and what is final."""
    states = (BatchState.COMMITTED, BatchState.JUDGED, BatchState.SETTLED, BatchState.TAKEN, BatchState.FINAL)
    batches = []
    for number, state in enumerate(states, 1):
        batch = Batch(id=number, state=state, root=ZERO, members=LIST, lines=(), chain_id=BatchId(number))
        batch.commit_block = 6 if number < 3 else 1
        batch.settled_block = {BatchState.SETTLED: 7, BatchState.FINAL: 3}.get(state, 0)
        batches.append(batch)
    works = [
        Work(job=JobId(9), task=TaskIndex(number), attempt=1, node=NODE, owner=NODE, batch=number) for number in (1, 2)
    ]
    await watcher.begin(*batches, *works)
    await watcher.see(watcher.opened(1, block=3))
    await watcher.see(Rollback(5))
    found = {row.id: (row.state, row.chain_id) for row in watcher.verifier.stored(Batch)}
    assert found == {
        1: (BatchState.FORMED, None),
        2: (BatchState.FORMED, None),
        3: (BatchState.JUDGED, 3),
        4: (BatchState.TAKEN, 4),
        5: (BatchState.FINAL, 5),
    }
    assert watcher.job().opened_block == 3, "a job stays until the chain says otherwise"


async def test_a_job_that_went_with_its_block_is_gone_until_it_is_told_again(watcher: Watcher) -> None:
    await watcher.begin()
    await watcher.see(watcher.opened(1, block=7))
    await watcher.see(Rollback(5))
    await watcher.until(lambda: JobId(1) in watcher.context.asked_jobs)
    await watcher.see()
    assert watcher.job().gone
    await watcher.see(watcher.opened(1, block=8))
    assert (watcher.job().gone, watcher.job().opened_block) == (False, 8)


async def test_a_batch_that_comes_back_with_the_block_after_it_is_known_again(watcher: Watcher) -> None:
    """A verifier that has forgotten it signs no settlement of it, ever."""
    await watcher.begin()
    for batch, block in ((1, 4), (2, 7), (3, 8)):
        await watcher.see(watcher.committed(batch, block))
    await watcher.see(Rollback(5), watcher.committed(2, 7))
    assert [watcher.held(batch) is not None for batch in (1, 2, 3)] == [True, True, False]


@pytest.mark.parametrize("led", [True, False])
async def test_a_voided_settlement_is_open_again(watcher: Watcher, led: bool) -> None:
    state = BatchState.SETTLED if led else BatchState.TAKEN
    await watcher.begin(Batch(id=1, state=state, root=ZERO, members=LIST, lines=(), chain_id=BatchId(1)))
    await watcher.see(watcher.committed(1, 1))
    await watcher.see(BatchVoided(Position(1, ZERO, 1), BatchId(1), 1))
    (batch,) = watcher.verifier.stored(Batch)
    assert batch.state == (BatchState.JUDGED if led else BatchState.TAKEN)
    with watcher.context.database.session() as session:
        known = session.get(Known, 1)
        assert known is not None and not known.settled


async def test_whoever_was_absolved_gets_work_again(watcher: Watcher) -> None:
    fault = {"batch": 1, "job": JobId(1), "task": TaskIndex(0), "kind": FaultReason.MISMATCH, "reason": ""}
    await watcher.begin(
        Batch(id=1, state=BatchState.SETTLED, root=ZERO, members=LIST, lines=(), chain_id=BatchId(4)),
        Fault(node=Address("0xA"), owner=Address("0xO"), operator=7, **fault),  # type: ignore[arg-type]
        Fault(node=Address("0xB"), owner=Address("0xP"), operator=8, **fault),  # type: ignore[arg-type]
    )
    await watcher.see(Absolved(Position(1, ZERO, 1), BatchId(4), OperatorId(7), Wei(1), 3))
    assert set(watcher.verifier.rows.guilty) == {"0xP"}
    assert [row.owner for row in watcher.verifier.stored(Fault)] == ["0xP"]


async def test_a_closed_job_gets_no_more_work(watcher: Watcher) -> None:
    await watcher.begin()
    job = watcher.chain.add_job(facts_of(watcher.opened(1)))
    watcher.chain.closed.add(job)
    await watcher.see(watcher.opened(1), JobClosed(Position(1, ZERO, 1), JobId(1)))
    assert (watcher.job().state, watcher.job().closed_at) == (JobState.FAILED, watcher.chain.clock)


def facts_of(event: JobOpened) -> JobFacts:
    return JobFacts(**{name: getattr(event, name) for name in JobFacts.__dataclass_fields__})


@pytest.mark.parametrize("off_s", [25 * 3600.0, 600.0, -600.0, -25 * 3600.0])
async def test_the_chain_says_what_time_it_is_and_never_this_machines_clock(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch, off_s: float
) -> None:
    context, wall = watcher.context, time.time
    begun = int(wall())
    mono = [1000.0]
    monkeypatch.setattr(context_module.time, "time", lambda: wall() + off_s)
    monkeypatch.setattr(context_module.time, "monotonic", lambda: mono[0])
    next_time = [begun + 50]
    monkeypatch.setattr(type(context.chain), "next_time", lambda _: next_time[0])
    context._block_time, context._head = context_module._Read(0.0, 0), 0
    assert context.chain_time() == 0.0, "nothing was read"
    watcher.chain.clock = begun
    assert await context.look_at_clock() == (watcher.chain.block, begun)
    assert context.chain_time() == begun + 50, "an old block: the chain says which time its next one has"
    assert abs(context.clock_off_s() - off_s + 50) < 5
    mono[0] += 5.0
    next_time[0] = begun + 10**6
    await context.look_at_clock()
    assert context.chain_time() == begun + 55, "not asked each time"
    watcher.chain.block, watcher.chain.clock = watcher.chain.block + 1, begun + 12
    mono[0] += 20.0
    await context.look_at_clock()
    assert context.chain_time() == begun + 12, "it moves: its own time is what counts"
    mono[0] += context_module.MOVES_S - 1
    await context.look_at_clock()
    assert context.chain_time() == begun + 12 + context_module.MOVES_S - 1, "a chain that is not reached"
    mono[0] += 2.0
    await context.look_at_clock()
    assert context.chain_time() == begun + 10**6, "it stands, and was moved on"


@pytest.mark.parametrize(
    ("left", "pause"),
    [(10.0, 0.5), (0.61, 0.5), (0.35, 0.25), (0.1, 0.1), (0.0, 0.1), (-0.4, 0.1), (-0.5, 0.5), (-60.0, 0.5)],
)
def test_a_block_is_looked_for_most_often_when_it_is_due(left: float, pause: float) -> None:
    assert following.pause_s(left) == pytest.approx(pause)


async def test_the_next_block_is_due_by_the_pace_of_the_last_ones(watcher: Watcher) -> None:
    context = watcher.context
    context._block_time, context._head = context_module._Read(0.0, 0), 0
    assert context.next_block_in_s() < -1000, "nothing is known yet"
    context.saw_block(5, 1000)
    assert context.next_block_in_s() <= 0
    context.saw_block(6, 1012)
    context.saw_block(6, 1012)
    assert 11 < context.next_block_in_s() <= 12
    context.saw_block(7, 1012)
    assert context.next_block_in_s() <= 0, "one that comes when it is asked for"
