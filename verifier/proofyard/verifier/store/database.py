"""One verifier's database: SQLite by default, PostgreSQL by URL.

It is the durable half of the engine: `write` makes the rows of a step last before anything that follows from them
leaves. A thread of its own takes everything that has come together and commits it as one transaction, so a fsync serves
hundreds of steps. A database that is away is waited for; nothing is answered meanwhile.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, and_, bindparam, event, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, create_engine

from proofyard.protocol.types import JobId, ProofyardError
from proofyard.verifier.engine.rows import Batch, BatchState, Fault, Job, JobState, Log, Row, Seat, Segment, Task, Work
from proofyard.verifier.engine.world import Step
from proofyard.verifier.store.migrations import upgrade
from proofyard.verifier.store.tables import KINDS, TABLES, row_of, values_of

logger = logging.getLogger(__name__)

RETRY_S, MAX_RETRY_S = 0.2, 10.0
Key = tuple[object, ...]


class DatabaseError(ProofyardError):
    """The database cannot be opened."""


@dataclass
class _Group:
    """Steps that are committed together: the last word on each row, and who waits for it."""

    puts: dict[type[Row], dict[Key, dict[str, Any]]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    deletes: dict[type[Row], dict[Key, dict[str, Any]]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    cursor: bytes | None = None
    waiting: list[asyncio.Future[None]] = field(default_factory=list)


class Database:
    """See the module's docstring. `url` is an SQLAlchemy URL."""

    def __init__(self, url: str) -> None:
        try:
            self.engine: Engine = create_engine(url, pool_pre_ping=True)
            if self.engine.dialect.name == "sqlite":
                event.listen(self.engine, "connect", _configure_sqlite)
            upgrade(self.engine)
        except DatabaseError:
            raise
        except Exception as error:
            raise DatabaseError(
                f"the database {url.split('@')[-1]} cannot be opened ({error}); check data_dir or database_url"
            ) from None
        self._upserts = {kind: _upsert(self.engine.dialect.name, kind) for kind in KINDS}
        self._deletes = {kind: _delete(kind) for kind in KINDS}
        self._group = _Group()
        self._lock = threading.Condition()
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.commits: deque[tuple[int, float]] = deque(maxlen=1000)
        """(rows, seconds) of the last commits, for the metrics."""

    # Writing

    async def write(self, step: Step, cursor: bytes | None = None) -> None:
        """Return once the step's rows last. `cursor`: how far the chain was read for it."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        with self._lock:
            self._loop = loop
            self._take(step, cursor)
            self._group.waiting.append(done)
            if self._thread is None:
                self._thread = threading.Thread(target=self._commit_groups, name="database", daemon=True)
                self._thread.start()
            self._lock.notify()
        await done

    def _take(self, step: Step, cursor: bytes | None) -> None:
        for row in step.deleted:
            kind, key = type(row), row.key
            self._group.puts[kind].pop(key, None)
            self._group.deletes[kind][key] = {f"_{name}": getattr(row, name) for name in kind.keys}
        for row in step.rows:
            kind, key = type(row), row.key
            self._group.deletes[kind].pop(key, None)
            self._group.puts[kind][key] = values_of(row)
        if cursor is not None:
            self._group.cursor = cursor

    def _commit_groups(self) -> None:
        while True:
            with self._lock:
                while not self._group.waiting and not self._closing:
                    self._lock.wait()
                if not self._group.waiting:
                    return
                group, self._group = self._group, _Group()
            self._commit(group)
            loop = self._loop
            if loop is not None and not loop.is_closed():
                loop.call_soon_threadsafe(_wake, group.waiting)

    def _commit(self, group: _Group) -> None:
        """Again and again until it lasts: a full disk is emptied, a database comes back."""
        tries, start = 0, time.monotonic()
        while True:
            try:
                with self.engine.begin() as connection:
                    self._write(connection, group)
                break
            except SQLAlchemyError as error:
                tries += 1
                logger.warning("the database does not take what is written, try %s: %s", tries, _first_line(error))
                if self._closing and tries > 3:
                    return
                time.sleep(min(MAX_RETRY_S, RETRY_S * 2.0 ** min(tries - 1, 8)))
        rows = sum(len(puts) for puts in group.puts.values())
        self.commits.append((rows, time.monotonic() - start))

    def _write(self, connection: Connection, group: _Group) -> None:
        for kind in KINDS:
            if group.deletes[kind]:
                connection.execute(self._deletes[kind], list(group.deletes[kind].values()))
            if group.puts[kind]:
                connection.execute(self._upserts[kind], list(group.puts[kind].values()))
        if group.cursor is not None:
            _put_cursor(connection, group.cursor)

    # Reading

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction for what is not the engine's: committed at the end of the block, rolled back on any error."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session
            session.commit()

    def load(self, process: str = "") -> list[Row]:
        """The live rows: of jobs that are not over, or that have a batch that is not final, and of such batches."""
        with self.engine.connect() as connection:
            batches = self._rows(connection, Batch, _live_batches(process))
            works, seats, segments = [], [], []
            ids = [batch.id for batch in batches if isinstance(batch, Batch)]
            for part in _parts(ids):
                works += self._rows(connection, Work, TABLES[Work].c.batch.in_(part))
                segments += self._rows(connection, Segment, TABLES[Segment].c.batch.in_(part))
                seats += self._rows(connection, Seat, TABLES[Seat].c.batch.in_(part))
            needed = {line[0] for batch in batches if isinstance(batch, Batch) for line in batch.lines}
            jobs = self._rows(connection, Job, _live_jobs(process))
            jobs += [
                row
                for part in _parts(sorted(needed - {job.id for job in jobs if isinstance(job, Job)}))
                for row in self._rows(connection, Job, TABLES[Job].c.id.in_(part))
            ]
            ids_ = [job.id for job in jobs if isinstance(job, Job)]
            tasks = [r for p in _parts(ids_) for r in self._rows(connection, Task, TABLES[Task].c.job.in_(p))]
            have = {work.key for work in works}
            for part in _parts(ids_):
                found = self._rows(connection, Work, TABLES[Work].c.job.in_(part))
                works += [work for work in found if work.key not in have]
            faults = self._rows(connection, Fault, None)
        return [*jobs, *tasks, *works, *batches, *segments, *seats, *faults]

    def logged(self, jobs: Sequence[JobId]) -> dict[JobId, int]:
        """How many log lines each of these jobs has."""
        table, found = TABLES[Log], {}
        with self.engine.connect() as connection:
            for part in _parts(list(jobs)):
                query = select(table.c.job, func.max(table.c.seq)).where(table.c.job.in_(part)).group_by(table.c.job)
                found.update({JobId(job): int(seq) for job, seq in connection.execute(query)})
        return found

    def rows(self, kind: type[Row], where: Any = None) -> list[Row]:
        """Rows of one kind, live or not."""
        with self.engine.connect() as connection:
            return self._rows(connection, kind, where)

    @staticmethod
    def _rows(connection: Connection, kind: type[Row], where: Any) -> list[Row]:
        table = TABLES[kind]
        query = select(table) if where is None else select(table).where(where)
        return [row_of(kind, found) for found in connection.execute(query).mappings()]

    def close(self) -> None:
        """Write what is waiting, then let go of the database."""
        with self._lock:
            self._closing = True
            self._lock.notify()
        if self._thread is not None:
            self._thread.join(timeout=5)
        self.engine.dispose()


def _live_batches(process: str) -> Any:
    table = TABLES[Batch]
    live = table.c.state.not_in([BatchState.FINAL.value, BatchState.DROPPED.value])
    return and_(live, table.c.claimed_by == process)


def _live_jobs(process: str) -> Any:
    table, work = TABLES[Job], TABLES[Work]
    promised = select(work.c.job).where(work.c.state.in_(["committed", "batched"]))
    live = or_(table.c.state.not_in([JobState.DONE.value, JobState.FAILED.value]), table.c.id.in_(promised))
    return and_(live, table.c.claimed_by == process)


def _parts(ids: list[Any], size: int = 500) -> Iterator[list[Any]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def _upsert(dialect: str, kind: type[Row]) -> Any:
    table = TABLES[kind]
    insert = (postgresql.insert if dialect == "postgresql" else sqlite.insert)(table)
    rest = {name: insert.excluded[name] for name in kind.__struct_fields__ if name not in kind.keys}
    return insert.on_conflict_do_update(index_elements=list(kind.keys), set_=rest)


def _delete(kind: type[Row]) -> Any:
    table = TABLES[kind]
    return table.delete().where(and_(*(table.c[name] == bindparam(f"_{name}") for name in kind.keys)))


def _wake(waiting: list[asyncio.Future[None]]) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200]


def _configure_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=OFF"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _put_cursor(connection: Connection, state: bytes) -> None:
    from proofyard.verifier.store.tables import Cursor

    table = Cursor.__table__  # type: ignore[attr-defined]
    insert = (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(table)
    connection.execute(
        insert.on_conflict_do_update(index_elements=["id"], set_={"state": insert.excluded.state}),
        [{"id": 1, "state": state}],
    )
