"""The tables are made from the engine's rows: what is written is what is loaded."""

from collections.abc import Callable

import msgspec
import pytest

from proofyard.protocol.cid import raw_cid
from proofyard.protocol.settlement import FaultReason
from proofyard.protocol.types import Address, BatchId, Digest, JobId, TaskIndex
from proofyard.verifier.engine.rows import (
    Batch,
    BatchState,
    Fault,
    Job,
    JobState,
    Log,
    Row,
    Seat,
    Segment,
    Task,
    Work,
    WorkState,
)
from proofyard.verifier.engine.world import ROWS as ENGINE_ROWS
from proofyard.verifier.engine.world import Step
from proofyard.verifier.store.database import Database, DatabaseError

A, B = Address("0x" + "aa" * 20), Address("0x" + "bb" * 20)
ROWS: list[Row] = [
    Job(
        id=JobId(2**62),
        manifest=raw_cid(b"m"),
        requester=A,
        opened_block=3,
        opened_hash=bytes(32),
        units=10,
        reward=str(10**27),
        audit_fee="1",
        verifier_fee="0",
        auditors_per_segment=2,
        segments_per_audit=1,
        deadline=2**40,
        workload=0,
    ),
    Task(job=JobId(2**62), index=TaskIndex(1), spec=b"spec", reward="5", barred=(A, B)),
    Work(
        job=JobId(2**62),
        task=TaskIndex(1),
        attempt=1,
        node=A,
        owner=B,
        state=WorkState.BATCHED,
        inputs=(raw_cid(b"in"),),
        result=raw_cid(b"out"),
        batch=7,
    ),
    Batch(
        id=7,
        state=BatchState.AUDITING,
        root=Digest(b"r" * 32),
        members=b"list",
        lines=((JobId(2**62), 10),),
        chain_id=BatchId(9),
        results_due=((JobId(2**62), TaskIndex(1)),),
    ),
    Segment(
        batch=7,
        job=JobId(2**62),
        task=TaskIndex(1),
        index=0,
        auditors=(A,),
        seats=2,
        claimed=Digest(b"c" * 32),
        worker=A,
    ),
    Seat(batch=7, job=JobId(2**62), task=TaskIndex(1), segment=0, auditor=B),
    Fault(batch=7, job=JobId(2**62), task=TaskIndex(1), node=A, owner=B, operator=4, kind=1, reason="why"),
]


@pytest.mark.parametrize("row", ROWS, ids=[row.table for row in ROWS])
async def test_a_row_comes_back_as_it_was(database: Database, row: Row) -> None:
    await database.write(Step(tuple(ROWS), (), ()))
    await database.write(Step((Log(job=JobId(2**62), seq=1, at=1.0, kind="k", text="t"),), (), ()), b"cursor")
    assert row in database.load()
    assert database.logged([JobId(2**62)]) == {JobId(2**62): 1}


async def test_the_last_word_on_a_row_is_what_lasts(database: Database) -> None:
    seat = Seat(batch=7, job=JobId(1), task=TaskIndex(1), segment=0, auditor=B)
    other = Seat(batch=7, job=JobId(1), task=TaskIndex(1), segment=1, auditor=B)
    await database.write(Step((seat, other), (), ()))
    seat.tries = 5
    await database.write(Step((seat,), (), ()))
    assert sorted(database.rows(Seat), key=lambda row: row.key) == [seat, other]
    await database.write(Step((), (seat,), ()))
    assert database.rows(Seat) == [other]
    await database.write(Step((seat,), (seat,), ()))
    assert len(database.rows(Seat)) == 2


async def test_thousands_of_rows_are_one_transaction(opened: Callable[[], Database]) -> None:
    """More than one statement holds; a key that comes twice, with an enum of another state, is one row."""
    database = opened()
    lines = [Log(job=JobId(1), seq=n, at=n / 3, kind="k", text=f"{n}\u2026", loss=None) for n in range(5001)]
    job = ROWS[0]
    assert isinstance(job, Job)
    await database.write(Step((*lines, job), (), ()))
    job.state = JobState.RUNNING
    await database.write(Step((job,), tuple(lines[1:]), ()))
    other = opened()
    assert other.rows(Log) == [lines[0]]
    assert other.rows(Job) == [job]
    job.state = JobState.WAITING


async def test_what_no_column_holds_is_refused_and_nothing_is_written_after_it(database: Database) -> None:
    """Until the rows are loaded again: what follows rests on what is not there."""
    bad = Seat(batch=2**70, job=JobId(1), task=TaskIndex(1), segment=0, auditor=B)
    good = Seat(batch=1, job=JobId(1), task=TaskIndex(1), segment=0, auditor=B)
    with pytest.raises(DatabaseError, match="refuses"):
        await database.write(Step((good, bad), (), ()))
    with pytest.raises(DatabaseError):
        await database.write(Step((good,), (), ()))
    assert database.rows(Seat) == []
    database.load()
    await database.write(Step((good,), (), ()))
    assert database.rows(Seat) == [good]


async def test_a_column_may_hold_numbers_of_all_kinds_in_one_transaction(database: Database) -> None:
    """Small and large, absent, enums, whole ones among fractions."""
    lines = [
        Log(job=JobId(1), seq=seq, at=at, kind="k", text="t", loss=loss, step=step)
        for seq, at, loss, step in ((1, 1, None, None), (2, 0.5, 1, 7), (2**40, 2.0, 0.25, 2**62), (4, 3, 2.5, None))
    ]
    faults = [
        Fault(batch=n, job=JobId(1), task=TaskIndex(0), node=A, owner=B, operator=n, kind=kind, reason="")
        for n, kind in ((1, 3), (2**50, FaultReason.WITHHELD), (3, 2))
    ]
    await database.write(Step((*lines, *faults), (), ()))
    assert sorted(database.rows(Log), key=lambda row: row.key) == sorted(lines, key=lambda row: row.key)
    assert sorted(database.rows(Fault), key=lambda row: row.key) == sorted(faults, key=lambda row: row.key)
    await database.write(Step((), (*lines, *faults), ()))
    assert database.rows(Log) == database.rows(Fault) == []


async def test_the_newest_batch_is_known_when_none_is_live(database: Database) -> None:
    """A number stands for one batch for ever: transactions are named after it."""
    assert database.last_batch(1) == 0
    batch = next(row for row in ROWS if isinstance(row, Batch))
    over = [msgspec.structs.replace(batch, id=number, state=BatchState.FINAL) for number in (8, ENGINE_ROWS + 5)]
    await database.write(Step(tuple(over), (), ()))
    assert not [row for row in database.load() if isinstance(row, Batch)]
    assert database.last_batch(1) == 8
    assert database.last_batch(ENGINE_ROWS) == ENGINE_ROWS + 5


async def test_a_job_that_is_done_is_live_until_it_is_paid_whole(database: Database) -> None:
    job = next(row for row in ROWS if isinstance(row, Job))
    done = msgspec.structs.replace(job, state=JobState.DONE, units_paid=job.units - 1)
    await database.write(Step((done,), (), ()))
    assert database.load() == [done]
    await database.write(Step((msgspec.structs.replace(done, units_paid=job.units),), (), ()))
    assert database.load() == []
