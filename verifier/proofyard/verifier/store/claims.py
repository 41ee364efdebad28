"""Which of a verifier's processes has which job, where several share one PostgreSQL.

A job is claimed for the process that leads when it is seen on chain, with everything that comes of it. A process says
every `BEAT_S` that it lives, by the database's clock; one that has not for `LAPSE_S`, or that came back when another
one led, loses what it had to the leader, and writes nothing more: every transaction of an engine looks whether its
process still is itself.
"""

import time
import uuid
from typing import Any

from sqlalchemy import Connection, Numeric, cast, exists, or_, text
from sqlmodel import Session, col, func, select, update

from proofyard.chain import Cursor as ChainCursor
from proofyard.protocol.codec import decode
from proofyard.protocol.types import Address, BatchId, JobId, ProofyardError
from proofyard.verifier.engine.rows import Batch, BatchState, Job, JobState, Task, Work, WorkState
from proofyard.verifier.engine.world import ROWS
from proofyard.verifier.store.database import Database, DatabaseError
from proofyard.verifier.store.tables import TABLES, Claim, Cursor, Duty, Process, Transaction

BEAT_S, LAPSE_S = 3.0, 15.0
LOCK, LEADER = "processes", "leader"
_NOW = text("extract(epoch from clock_timestamp())::float8")
_FENCE = text("SELECT 1 FROM process WHERE name = :name AND token = :token FOR SHARE")


class NeedsPostgres(ProofyardError):
    """Several processes were asked for on a database that cannot serve them."""

    exit_code = 2

    def __init__(self) -> None:
        super().__init__("a named process shares its database with others, which takes PostgreSQL; name a database_url")


class TakenOver(DatabaseError):
    """This process did not say in time that it lives, or another of its name was started."""

    def __init__(self, name: str) -> None:
        super().__init__(f"what the process {name!r} had is another's now; start it again")


class Claims:
    """One process among those of its verifier. Joins at once; `endpoint` is where nodes reach it."""

    def __init__(self, database: Database, endpoint: str) -> None:
        if database.engine.dialect.name != "postgresql":
            raise NeedsPostgres
        self.name, self._endpoint = database.process, endpoint
        self._token = uuid.uuid4().hex
        self._database = database
        self._since = time.monotonic()
        """Since when it has said without a gap that it lives."""
        self._beaten = self._since
        self.rows_from = database.ask_here(self._join)
        database.reader = self.rows_from // ROWS + 1
        database.fence = self._fence

    def _join(self, session: Session) -> int:
        self._database.lock(session, LOCK)
        own = session.get(Process, self.name)
        if own is None:
            last = session.exec(select(func.max(Process.rows_from))).one() or 0
            own = Process(name=self.name, rows_from=last + ROWS)
            if not last:
                self._inherit(session, own)
        own.token, own.endpoint, own.nodes = self._token, self._endpoint, 0
        own.seen_at = _now(session)
        session.add(own)
        return own.rows_from

    def _inherit(self, session: Session, own: Process) -> None:
        """The first named process has what one had that had the database to itself."""
        job = TABLES[Job]
        for (number,) in session.execute(select(job.c.id).where(job.c.claimed_by == "")).all():
            session.add(Claim(job=number, process=self.name))
        self._give(session, "")
        cursor = session.get(Cursor, 1)
        if cursor is not None:
            session.add(Cursor(id=reader_of(own), state=cursor.state))

    def _give(self, session: Session, other: str) -> None:
        """Everything that `other` has is this process's."""
        for table in (TABLES[Job], TABLES[Batch]):
            session.execute(table.update().where(table.c.claimed_by == other).values(claimed_by=self.name))
        session.exec(update(Claim).where(col(Claim.process) == other).values(process=self.name))
        session.exec(update(Transaction).where(col(Transaction.process) == other).values(process=self.name))

    def _fence(self, connection: Connection) -> None:
        if connection.execute(_FENCE, {"name": self.name, "token": self._token}).first() is None:
            raise TakenOver(self.name)

    # Living

    def beat(self, session: Session, nodes: int) -> list[str]:
        """Say that it lives, with so many nodes; the endpoints of all that do. Raises `TakenOver`."""
        own = (col(Process.name) == self.name, col(Process.token) == self._token)
        done = session.exec(update(Process).where(*own).values(seen_at=_now(session), nodes=nodes))
        if not done.rowcount:
            raise TakenOver(self.name)
        if time.monotonic() - self._beaten > LAPSE_S / 2:
            self._since = time.monotonic()
        self._beaten = time.monotonic()
        return [process.endpoint for process in _living(session)]

    def leads(self, session: Session) -> bool:
        """Whether it is the one that does what is nobody's in particular, for as long as it lives."""
        self._database.lock(session, LOCK)
        leader = _leader(session)
        if leader is None and any(each.name == self.name for each in _living(session)):
            session.merge(Duty(name=LEADER, value=self.rows_from))
            return True
        return leader is not None and leader.name == self.name

    def leave(self, session: Session) -> None:
        """What it has may be taken over at once; it writes nothing more, and does not live again."""
        own = (col(Process.name) == self.name, col(Process.token) == self._token)
        session.exec(update(Process).where(*own).values(seen_at=0.0, token=uuid.uuid4().hex))

    # Jobs

    def own(self, session: Session, jobs: list[JobId]) -> set[JobId]:
        """Which of these jobs, just seen on chain, are this process's; nobody's are of the one that leads."""
        self._database.lock(session, LOCK)
        leader = _leader(session)
        known = {claim.job: claim.process for claim in session.exec(select(Claim).where(col(Claim.job).in_(jobs)))}
        for job in jobs:
            if job not in known:
                known[job] = self.name if leader is None else leader.name
                session.add(Claim(job=job, process=known[job]))
        return {job for job in jobs if known[job] == self.name}

    def take_over(self, session: Session) -> list[str]:
        """Have what the others had: their jobs, batches and transactions, and the chain's events from where they had
        read to; their names. Those are processes that do not live any more, and those that came back when this one led
        already: nodes are here, and nobody works for a process that stands by. Nothing for one that does not lead."""
        self._database.lock(session, LOCK)
        leader = _leader(session)
        if leader is None or leader.name != self.name or time.monotonic() - self._since < LAPSE_S:
            return []
        idle = col(Process.seen_at) < _now(session) - LAPSE_S
        others = select(Process).where(Process.name != self.name, col(Process.token) != "", or_(idle, _has_something()))
        found = session.exec(others.with_for_update(skip_locked=True)).all()
        for process in found:
            process.token = ""
            self._give(session, process.name)
            self._read_from(session, process)
        return [process.name for process in found]

    def _read_from(self, session: Session, other: Process) -> None:
        """Read the chain again from where `other` had come to, where that is behind."""
        own, theirs = session.get(Cursor, self._database.reader), session.get(Cursor, reader_of(other))
        if theirs is None and own is not None:
            session.delete(own)
        elif theirs is not None and own is not None and _block(theirs) < _block(own):
            own.state = theirs.state

    # Owners

    def in_flight(self, session: Session) -> dict[Address, int]:
        """The rewards of what each owner has unsettled in jobs of the other processes, in base units."""
        job, task, work = TABLES[Job], TABLES[Task], TABLES[Work]
        promised = [WorkState.GIVEN.value, WorkState.COMMITTED.value, WorkState.BATCHED.value]
        amounts = (
            select(work.c.owner, func.sum(cast(task.c.reward, Numeric)))
            .join(task, (task.c.job == work.c.job) & (task.c.index == work.c.task))
            .join(job, job.c.id == work.c.job)
            .where(work.c.state.in_(promised), job.c.claimed_by != self.name)
            .group_by(work.c.owner)
        )
        return {Address(owner): int(amount) for owner, amount in session.execute(amounts)}

    def batches(self, session: Session) -> set[BatchId]:
        """Numbers on chain of the batches of other processes that are not final."""
        batch = TABLES[Batch]
        over = [BatchState.FINAL.value, BatchState.DROPPED.value]
        open_ = select(batch.c.chain_id).where(batch.c.claimed_by != self.name, batch.c.state.not_in(over))
        return {BatchId(number) for (number,) in session.execute(open_) if number is not None}


def reader_of(process: Process) -> int:
    """Whose cursor is the process's."""
    return process.rows_from // ROWS + 1


def _block(cursor: Cursor) -> int:
    return decode(cursor.state, ChainCursor).next_block


def _has_something() -> Any:
    """Whether a process has what somebody must go on with."""
    job, batch = TABLES[Job], TABLES[Batch]
    done = select(job.c.id).where(job.c.state.in_([JobState.DONE.value, JobState.FAILED.value]))
    over = [BatchState.FINAL.value, BatchState.DROPPED.value]
    return or_(
        exists().where(col(Claim.process) == col(Process.name), col(Claim.job).not_in(done)),
        exists().where(batch.c.claimed_by == col(Process.name), batch.c.state.not_in(over)),
        exists().where(col(Transaction.process) == col(Process.name), col(Transaction.state) == "sent"),
    )


def _now(session: Session) -> float:
    return float(session.execute(select(_NOW)).scalar_one())


def _living(session: Session) -> list[Process]:
    """By their names."""
    lives = (col(Process.token) != "", Process.seen_at >= _now(session) - LAPSE_S)
    return list(session.exec(select(Process).where(*lives).order_by(Process.name)))


def _leader(session: Session) -> Process | None:
    """The process that leads, while it lives."""
    noted = session.get(Duty, LEADER)
    return next((each for each in _living(session) if noted is not None and each.rows_from == noted.value), None)
