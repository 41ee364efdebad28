"""Processes that share a PostgreSQL: each job is of one, a dead one's go to another, and the dead write no more."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlmodel import col, update

from proofyard.chain import Cursor as ChainCursor
from proofyard.devnet.postgres import PostgresServer
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.types import Address, BatchId, Digest, JobId, TaskIndex
from proofyard.verifier.engine.machine import Engine
from proofyard.verifier.engine.rows import Batch, BatchState, Job, JobState, Row, Task, Work, WorkState
from proofyard.verifier.engine.world import ROWS, Rules, Step
from proofyard.verifier.store import claims as claims_module
from proofyard.verifier.store.claims import Claims, NeedsPostgres, TakenOver
from proofyard.verifier.store.database import Database
from proofyard.verifier.store.tables import Cursor, Process, Transaction

A = Address("0x" + "aa" * 20)
LONG_S = claims_module.LAPSE_S + 1
JOBS = [JobId(number) for number in range(1, 21)]


class Member:
    """A process: its database and its claims."""

    def __init__(self, url: str, name: str) -> None:
        self.database = Database(url, name)
        self.claims = Claims(self.database, f"{name}:1")

    def ask(self, work: Callable[..., Any], *more: Any) -> Any:
        return self.database.ask_here(lambda session: work(session, *more))

    def beat(self, nodes: int = 1) -> Any:
        return self.ask(self.claims.beat, nodes)

    def own(self, *jobs: int) -> set[JobId]:
        return self.ask(self.claims.own, [JobId(job) for job in jobs])

    async def write(self, *rows: Row, cursor: int | None = None) -> None:
        await self.database.write(Step(rows, (), ()), None if cursor is None else encode(ChainCursor(cursor)))

    def cursor(self) -> int | None:
        row = self.ask(lambda session: session.get(Cursor, self.database.reader))
        return None if row is None else decode(row.state, ChainCursor).next_block

    def loaded(self) -> set[Any]:
        return {row.key for row in self.database.load(self.claims.name) if isinstance(row, Job | Batch)}


@pytest.fixture
def join(postgres: PostgresServer) -> Iterator[Callable[[str], Member]]:
    url, made = postgres.database(), []

    def make(name: str) -> Member:
        made.append(Member(url, name))
        return made[-1]

    yield make
    for each in made:
        each.database.close()


def job(number: int, process: str) -> Job:
    return Job(
        id=JobId(number),
        manifest=raw_cid(b"m"),
        requester=A,
        opened_block=3,
        opened_hash=bytes(32),
        units=10,
        reward="100",
        audit_fee="1",
        verifier_fee="0",
        auditors_per_segment=2,
        segments_per_audit=1,
        deadline=2**40,
        workload=0,
        state=JobState.RUNNING,
        claimed_by=process,
    )


def batch(row: int, process: str) -> Batch:
    return Batch(
        id=row,
        state=BatchState.AUDITING,
        root=Digest(b"r" * 32),
        members=b"",
        lines=((JobId(1), 10),),
        chain_id=BatchId(row % 1000),
        claimed_by=process,
    )


def lapse(*living: Member) -> None:
    """So long that who does not say that it lives is dead: what was noted a moment ago was noted that long ago."""
    for each in living:
        each.claims._since -= LONG_S
    living[0].ask(lambda session: session.exec(update(Process).values(seen_at=col(Process.seen_at) - LONG_S)))
    for each in living:
        each.beat()


def test_a_job_is_the_leader_s_whoever_asks_first(join: Callable[[str], Member]) -> None:
    first, second = join("a"), join("b")
    assert second.ask(second.claims.leads)
    assert first.own(*JOBS[:10]) == set()
    assert second.own(*JOBS) == set(JOBS)
    assert first.own(*JOBS) == set()


def test_before_anybody_leads_a_job_is_of_who_sees_it_first(join: Callable[[str], Member]) -> None:
    first, second = join("a"), join("b")
    assert first.own(1) == {1} and second.own(1) == set()


async def test_what_a_process_has_that_came_back_too_late_to_lead_is_the_leader_s(
    join: Callable[[str], Member],
) -> None:
    """It was away for so long that another leads, and was there again before that one took what it had."""
    before, leader = join("a"), join("b")
    assert before.ask(before.claims.leads) and before.own(1) == {1}
    await before.write(job(1, "a"), cursor=50)
    lapse(leader)
    assert leader.ask(leader.claims.leads)
    after = join("a")
    assert not after.ask(after.claims.leads) and after.loaded() == {(1,)}
    assert leader.ask(leader.claims.take_over) == ["a"]
    assert leader.loaded() == {(1,)} and leader.own(1) == {1}
    with pytest.raises(TakenOver):
        after.beat()
    again = join("a")
    lapse(leader, again)
    assert leader.ask(leader.claims.take_over) == [], "it stands by, and has nothing"


async def test_what_a_dead_process_had_is_another_s(join: Callable[[str], Member]) -> None:
    dead, heir, third = join("a"), join("b"), join("c")
    assert dead.own(1) == {1}
    await dead.write(job(1, "a"), batch(dead.claims.rows_from, "a"), cursor=50)
    await heir.write(job(2, "b"), cursor=80)
    dead.ask(
        lambda s: s.add(
            Transaction(nonce=3, subject="s", what="w", to=A, data=b"", gas=1, versions=b"", empties=b"", process="a")
        )
    )
    assert dead.ask(dead.claims.leads)
    assert heir.ask(heir.claims.take_over) == [], "it may live"
    lapse(heir, third)
    assert heir.ask(heir.claims.leads)
    assert heir.ask(heir.claims.take_over) == ["a"]
    assert third.ask(third.claims.take_over) == []
    assert heir.loaded() == {(1,), (2,), (dead.claims.rows_from,)}
    assert heir.cursor() == 50, "it is told again what the dead one was not told"
    assert heir.own(1) == {1}
    assert heir.ask(lambda s: s.get(Transaction, 3)).process == "b"
    with pytest.raises(TakenOver):
        await dead.write(job(1, "a"))
    with pytest.raises(TakenOver):
        dead.beat()


async def test_one_that_had_read_nothing_is_read_for_from_the_start(join: Callable[[str], Member]) -> None:
    """A job may have been claimed for it that no engine was told of."""
    dead, heir = join("a"), join("b")
    await heir.write(cursor=80)
    assert dead.ask(dead.claims.leads) and heir.own(1) == set()
    lapse(heir)
    assert heir.ask(heir.claims.leads)
    assert heir.ask(heir.claims.take_over) == ["a"]
    assert heir.cursor() is None
    assert heir.own(1) == {1}


async def test_a_process_that_starts_again_has_what_it_had_and_its_former_life_writes_no_more(
    join: Callable[[str], Member],
) -> None:
    before = join("a")
    await before.write(job(1, "a"))
    after = join("a")
    assert after.claims.rows_from == before.claims.rows_from
    assert after.loaded() == {(1,)}
    with pytest.raises(TakenOver):
        await before.write(job(2, "a"))


def test_a_database_that_was_away_kills_nobody(join: Callable[[str], Member], postgres: PostgresServer) -> None:
    first, second = join("a"), join("b")
    lapse(first, second)
    assert first.ask(first.claims.leads)
    postgres.stop()
    postgres.start()
    first.ask(lambda session: session.exec(update(Process).values(seen_at=col(Process.seen_at) - LONG_S)))
    for each in (first, second):
        each.claims._beaten -= LONG_S
    first.beat()
    assert first.ask(first.claims.leads)
    assert first.ask(first.claims.take_over) == [], "the other had no chance to say that it lives"
    second.beat()
    lapse(first, second)
    assert first.ask(first.claims.take_over) == second.ask(second.claims.take_over) == []


def test_one_leads_at_a_time(join: Callable[[str], Member]) -> None:
    first, second = join("a"), join("b")
    assert [each.ask(each.claims.leads) for each in (first, second)] == [True, False]
    lapse(second)
    assert second.ask(second.claims.leads)
    second.ask(second.claims.leave)
    assert not second.ask(second.claims.leads)


async def test_what_owners_have_in_flight_with_the_other_processes_counts(join: Callable[[str], Member]) -> None:
    first, second = join("a"), join("b")
    task = Task(job=JobId(1), index=TaskIndex(0), spec=b"", reward=str(2 * 10**20))
    work = Work(job=JobId(1), task=TaskIndex(0), attempt=1, node=A, owner=A, state=WorkState.COMMITTED)
    lost = Work(job=JobId(1), task=TaskIndex(0), attempt=2, node=A, owner=A, state=WorkState.LOST)
    await first.write(job(1, "a"), task, work, lost, batch(5, "a"))
    assert second.ask(second.claims.in_flight) == {A: 2 * 10**20}
    assert first.ask(first.claims.in_flight) == {}
    assert second.ask(second.claims.batches) == {5}


def test_an_engine_numbers_its_batches_from_its_own_rows(join: Callable[[str], Member]) -> None:
    """Also where it has batches of a process with higher numbers."""
    first, second = join("a"), join("b")
    assert second.claims.rows_from == first.claims.rows_from + ROWS
    taken, own = batch(second.claims.rows_from + 7, "a"), batch(first.claims.rows_from + 1, "a")
    engine = Engine(Rules(own=1, first_row=first.claims.rows_from, process="a"), [taken, own])
    assert engine.world.new_row() == first.claims.rows_from + 2


def test_sqlite_is_for_one_process(tmp_path: Any) -> None:
    database = Database(f"sqlite:///{tmp_path / 'v.db'}", "a")
    with pytest.raises(NeedsPostgres):
        Claims(database, "a:1")
    database.close()
