"""What a verifier remembers: jobs, tasks, batches, audited segments, auditors' seats, signatures and the log.

The database is the verifier's only truth. Every step of the service reads it, does one thing, and writes the outcome
in one transaction, so a crash at any instruction leaves a state from which the same step runs again.
Structures are kept as their msgpack bytes; columns exist for what is searched.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

from sqlalchemy import Engine, event, inspect
from sqlmodel import Field, Session, SQLModel, create_engine, select

from proofyard.protocol.types import ProofyardError

SCHEMA_VERSION = 3


class DatabaseError(ProofyardError):
    """The database cannot be opened or written."""


class JobState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    SETTLING = "settling"
    DONE = "done"
    FAILED = "failed"


class TaskState(StrEnum):
    """waiting for inputs -> ready -> assigned -> committed -> judging (it is in a batch) -> valid; back to ready when
    the holder is lost, or when its batch does not pay it."""

    WAITING = "waiting"
    READY = "ready"
    ASSIGNED = "assigned"
    COMMITTED = "committed"
    JUDGING = "judging"
    VALID = "valid"


class BatchState(StrEnum):
    """formed (here only) -> committed (root on chain) -> auditing (plan drawn) -> judged -> settled.

    taken: another verifier leads it now, and its settlement is waited for. dropped: nobody settled it in time, or the
    chain does not take it."""

    FORMED = "formed"
    COMMITTED = "committed"
    AUDITING = "auditing"
    JUDGED = "judged"
    SETTLED = "settled"
    TAKEN = "taken"
    DROPPED = "dropped"


OVER = (BatchState.SETTLED, BatchState.DROPPED)
"""Batches in which nothing is in flight."""


class SeatState(StrEnum):
    """away: busy, silent or gone; it is asked again after `Seat.not_before`."""

    WORKING = "working"
    SEALED = "sealed"
    OPENED = "opened"
    AWAY = "away"


class Job(SQLModel, table=True):
    id: int = Field(primary_key=True)
    requester: str
    manifest: str
    units: int
    reward: str
    audit_fee: str
    verifier_fee: str = "0"
    auditors_per_segment: int
    segments_per_audit: int
    deadline: int
    workload: int = 0
    """Its bit in the operators' bitmaps."""
    opened_block: int = 0
    tasks: int = 0
    state: JobState = Field(default=JobState.WAITING, index=True)
    reason: str = ""
    result: str | None = None
    closed: bool = False
    """Closed on chain, or nothing that this verifier could close."""


class Task(SQLModel, table=True):
    job: int = Field(primary_key=True, foreign_key="job.id")
    index: int = Field(primary_key=True)
    spec: bytes
    reward: str = "0"
    """Its share of the job's reward, in base units."""
    state: TaskState = Field(default=TaskState.WAITING, index=True)
    node: str | None = None
    owner: str | None = None
    """Of `node`: what is in flight is backed by the owner's stake."""
    lease_until: float = 0.0
    attempts: int = 0
    undecided: int = 0
    """How often its audits came to no verdict."""
    barred: str = ""
    """Nodes that may not have the task again, separated by blanks."""
    lost_by: str = ""
    """Nodes that fell silent with the task, declined it or handed it back, separated by blanks, once for each time."""
    refused_by: str = ""
    """Owners whose nodes began it and could not finish it."""
    submission: bytes | None = None
    promised_until: float = 0.0
    """When the receipt for the submission falls due, in Unix seconds."""
    leaf: bytes | None = None
    batch: int | None = Field(default=None, index=True)
    result: str | None = None
    decoy: bool = False
    """Its holder is asked for a decoy as well, or has given one that has not had its batch."""


class Batch(SQLModel, table=True):
    """A batch that this verifier leads, or led, or took over."""

    id: int | None = Field(default=None, primary_key=True)
    state: BatchState = Field(default=BatchState.FORMED, index=True)
    root: bytes
    members: bytes
    """The member list that the commit names (`proofyard.protocol.members`), frozen when the batch is formed."""
    salts: bytes = b""
    """msgpack of what opens the members' marks, in their order, `mark.UNOPENED` where it is not known; empty for a
    batch that was taken over and not looked at yet."""
    chain_id: int | None = Field(default=None, index=True)
    attempt: int = 0
    counted: bytes = b""
    """msgpack of [(batch, CID)]: the member lists that the plan reckons with."""
    record: str | None = None
    settled_at: float = 0.0
    final: bool = False
    """The challenge window has closed: nobody is owed its states any more."""
    reason: str = ""


class Line(SQLModel, table=True):
    """A job's part of a batch."""

    batch: int = Field(primary_key=True, foreign_key="batch.id")
    job: int = Field(primary_key=True, index=True)
    units: int


class Segment(SQLModel, table=True):
    """A segment that the plan audits; `kind` and `reason` of a fault, `unvoted` where it was found without votes."""

    batch: int = Field(primary_key=True, foreign_key="batch.id")
    job: int = Field(primary_key=True)
    task: int = Field(primary_key=True)
    index: int = Field(primary_key=True)
    auditors: str
    """The plan's order, separated by blanks."""
    verdict: str = "pending"
    kind: int = 0
    unvoted: bool = False
    reason: str = ""


class Seat(SQLModel, table=True):
    """One auditor's place at one segment."""

    batch: int = Field(primary_key=True)
    job: int = Field(primary_key=True)
    task: int = Field(primary_key=True)
    segment: int = Field(primary_key=True)
    auditor: str = Field(primary_key=True)
    state: SeatState = Field(default=SeatState.WORKING, index=True)
    tries: int = 0
    """How often it was asked and gave no answer."""
    not_before: float = 0.0
    """When it may be asked again, in Unix seconds."""
    lease_until: float = 0.0
    seal: bytes | None = None
    signature: bytes | None = None
    opening: bytes | None = None
    answer: bytes | None = None
    """What the opened answer counts as: itself, unless the workload is not exact and finds it alike to another."""
    copied: bool = False
    """Its keyed digest is not that of the state: the answer has no say."""


class Fault(SQLModel, table=True):
    """A commitment that was found wrong, or a false audit of `segment`; `kind` is a `FaultReason`. Where it costs stake
    its owner gets no further work from this verifier."""

    batch: int = Field(primary_key=True, foreign_key="batch.id")
    job: int = Field(primary_key=True)
    task: int = Field(primary_key=True)
    node: str = Field(primary_key=True)
    owner: str = Field(index=True)
    operator: int = 0
    segment: int | None = None
    kind: int
    reason: str


class Held(StrEnum):
    """Whether this verifier held a batch's member list when its draw block came; away: it was not there to see."""

    IN_TIME = "in-time"
    LATE = "late"
    AWAY = "away"


class Known(SQLModel, table=True):
    """A batch of anybody's on chain that is not final; what a verifier owes the network follows from these."""

    batch: int = Field(primary_key=True)
    leader: int
    commit_block: int = 0
    held: Held = Held.AWAY
    drawn: bool = False
    settled: bool = False


class Signed(SQLModel, table=True):
    """What this verifier signed for a batch and attempt, written before the signature leaves: there is never
    another."""

    batch: int = Field(primary_key=True)
    attempt: int = Field(primary_key=True)
    digest: bytes
    record: str


class Duty(SQLModel, table=True):
    """When something that recurs was last done; the unit of `value` is the duty's own."""

    name: str = Field(primary_key=True)
    value: int


class Log(SQLModel, table=True):
    """What happened to a job, in order; the source of its report, its timeline and the status page."""

    id: int | None = Field(default=None, primary_key=True)
    job: int = Field(index=True)
    at: float
    kind: str
    text: str
    task: int | None = None
    node: str | None = None
    loss: float | None = None
    step: int | None = None


class Schema(SQLModel, table=True):
    """Which version of these tables a database has."""

    id: int = Field(default=1, primary_key=True)
    version: int


class Cursor(SQLModel, table=True):
    """How far the chain's events have been applied; `state` is the chain package's own encoding."""

    id: int = Field(default=1, primary_key=True)
    state: bytes = b""


class Database:
    """One verifier's database. SQLite unless the URL names another."""

    def __init__(self, url: str) -> None:
        try:
            self.engine: Engine = create_engine(url)
            if self.engine.dialect.name == "sqlite":
                event.listen(self.engine, "connect", _configure_sqlite)
            self._prepare()
        except DatabaseError:
            raise
        except Exception as error:
            raise DatabaseError(
                f"the database {url.split('@')[-1]} cannot be opened ({error}); check data_dir or database_url"
            ) from None

    def _prepare(self) -> None:
        """Make the tables of a new database; refuse those of another version."""
        old = inspect(self.engine).get_table_names()
        if old and Schema.__tablename__ not in old:
            raise DatabaseError("the database is that of an older version; let its batches settle, then move it away")
        SQLModel.metadata.create_all(self.engine)
        with self.session() as session:
            found = session.get(Schema, 1)
            if found is None:
                session.add(Schema(version=SCHEMA_VERSION))
            elif found.version != SCHEMA_VERSION:
                raise DatabaseError(f"the database has version {found.version}, this verifier needs {SCHEMA_VERSION}")

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction: committed at the end of the block, rolled back on any error."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        self.engine.dispose()


def _configure_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def log(
    session: Session,
    job: int,
    kind: str,
    text: str,
    *,
    task: int | None = None,
    node: str | None = None,
    loss: float | None = None,
    step: int | None = None,
) -> None:
    """Append a line to a job's log."""
    session.add(Log(job=job, at=time.time(), kind=kind, text=text, task=task, node=node, loss=loss, step=step))


def tasks_of(session: Session, job: int) -> list[Task]:
    return list(session.exec(select(Task).where(Task.job == job).order_by(Task.index)))  # type: ignore[arg-type]


def jobs_of(session: Session, batch: int) -> list[int]:
    """The jobs that a batch has lines of, in ascending order."""
    return list(session.exec(select(Line.job).where(Line.batch == batch).order_by(Line.job)))  # type: ignore[arg-type]


def log_batch(session: Session, batch: int, kind: str, text: str) -> None:
    """A line in the log of every job that a batch touches."""
    for job in jobs_of(session, batch):
        log(session, job, kind, text)


def row_of(session: Session, chain_id: int) -> Batch | None:
    """The batch with a number on chain."""
    return session.exec(select(Batch).where(Batch.chain_id == chain_id)).one_or_none()
