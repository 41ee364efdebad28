"""What a verifier remembers: jobs, tasks, batches, audited segments, auditors' seats and the log.

The database is the verifier's only truth. Every step of the service reads it, does one thing, and writes the outcome
in one transaction, so a crash at any instruction leaves a state from which the same step runs again.
Structures are kept as their msgpack bytes; columns exist for what is searched.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

from sqlalchemy import Engine, event
from sqlmodel import Field, Session, SQLModel, create_engine, select

from proofyard.protocol.types import ProofyardError


class DatabaseError(ProofyardError):
    """The database cannot be opened or written."""


class JobState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    SETTLING = "settling"
    DONE = "done"
    FAILED = "failed"


class TaskState(StrEnum):
    """waiting for inputs -> ready -> assigned -> committed -> judging (its batch is on chain) -> valid; back to ready
    when the holder is lost or found at fault."""

    WAITING = "waiting"
    READY = "ready"
    ASSIGNED = "assigned"
    COMMITTED = "committed"
    JUDGING = "judging"
    VALID = "valid"


class BatchState(StrEnum):
    """formed (here only) -> committed (root on chain) -> auditing (plan drawn) -> judged -> settled."""

    FORMED = "formed"
    COMMITTED = "committed"
    AUDITING = "auditing"
    JUDGED = "judged"
    SETTLED = "settled"


class SeatState(StrEnum):
    WORKING = "working"
    SEALED = "sealed"
    OPENED = "opened"
    FAILED = "failed"


class Job(SQLModel, table=True):
    id: int = Field(primary_key=True)
    requester: str
    manifest: str
    tasks: int
    reward: str
    audit_fee: str
    auditors_per_segment: int
    segments_per_audit: int
    deadline: int
    opened_block: int = 0
    state: JobState = JobState.WAITING
    reason: str = ""
    result: str | None = None


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
    barred: str = ""
    """Nodes that may not have the task again, separated by blanks."""
    lost_by: str = ""
    """Nodes that fell silent with the task or handed it back, separated by blanks, once for each time."""
    submission: bytes | None = None
    promised_until: float = 0.0
    """When the first receipt for the submission falls due, in Unix seconds."""
    leaf: bytes | None = None
    batch: int | None = Field(default=None, index=True)
    result: str | None = None


class Batch(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    job: int = Field(foreign_key="job.id", index=True)
    state: BatchState = Field(default=BatchState.FORMED, index=True)
    root: bytes
    members: bytes
    """msgpack of [(task, encoded SubmitCommitment)], frozen when the batch is formed."""
    chain_id: int | None = None
    seed: bytes | None = None
    draw_block: int = 0
    operators: bytes = b""
    """msgpack of the `RecordedOperator`s at the draw."""
    odds: bytes = b""
    """msgpack of [`membership.MemberOdds`] at the draw, in the order of the members."""
    audits_paid: str = "0"
    """What auditors were paid by this batch's settlement, in base units."""
    record: str | None = None
    settled_at: float = 0.0
    final: bool = False
    """The challenge window has closed: nobody is owed its states any more."""


class Segment(SQLModel, table=True):
    """A segment that the plan audits, or that was judged without votes (`reason`)."""

    batch: int = Field(primary_key=True, foreign_key="batch.id")
    task: int = Field(primary_key=True)
    index: int = Field(primary_key=True)
    auditors: str
    """The plan's order, separated by blanks."""
    drawn_at: float = 0.0
    verdict: str = "pending"
    reason: str = ""


class Seat(SQLModel, table=True):
    """One auditor's place at one segment."""

    batch: int = Field(primary_key=True)
    task: int = Field(primary_key=True)
    segment: int = Field(primary_key=True)
    auditor: str = Field(primary_key=True)
    state: SeatState = SeatState.WORKING
    attempts: int = 1
    lease_until: float = 0.0
    seal: bytes | None = None
    signature: bytes | None = None
    opening: bytes | None = None
    answer: bytes | None = None
    """What the opened answer counts as: itself, unless the workload is not exact and finds it alike to another."""


class Fault(SQLModel, table=True):
    """A commitment that was found wrong, or a false audit of `segment`; `kind` is a `FaultReason`. Where it costs stake
    its node gets no further work from this verifier, and what it has committed to elsewhere is audited without a draw.
    """

    batch: int = Field(primary_key=True, foreign_key="batch.id")
    task: int = Field(primary_key=True)
    node: str = Field(primary_key=True, index=True)
    segment: int | None = None
    kind: int
    reason: str


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
            SQLModel.metadata.create_all(self.engine)
        except Exception as error:
            raise DatabaseError(
                f"the database {url.split('@')[-1]} cannot be opened ({error}); check data_dir or database_url"
            ) from None

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
