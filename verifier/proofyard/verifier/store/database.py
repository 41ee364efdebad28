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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, and_, event, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import InterfaceError, InternalError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlmodel import Session, create_engine

from proofyard.protocol.types import ExitCode, JobId, ProofyardError
from proofyard.runtime.installing import install_command
from proofyard.verifier.engine.rows import Batch, BatchState, Fault, Job, JobState, Log, Row, Seat, Segment, Task, Work
from proofyard.verifier.engine.world import ROWS, Step
from proofyard.verifier.store.migrations import SchemaError, upgrade
from proofyard.verifier.store.statements import Statements
from proofyard.verifier.store.tables import KEY_OF, KINDS, METADATA, TABLES, row_of, values_of

logger = logging.getLogger(__name__)

RETRY_S, MAX_RETRY_S = 0.2, 10.0
OPEN_S = 60.0
"""How long a server is waited for that is away when a verifier starts: both may have been started together."""
PASSING = ("starting up", "shutting down", "too many", "recovery", "terminating connection")
"""Why a server lets nobody in, so that somebody may come in later."""
CLOSE_S = 2.0
POOL = 8
CONNECT_S = 5
SILENT_MS = 15_000
"""A server that is silent for longer is taken for gone."""

T = TypeVar("T")

PASSES = (OperationalError, InterfaceError, InternalError, PoolTimeout)
"""A database that is away, full or locked: what it does not take now it takes later."""


class DatabaseError(ProofyardError):
    """The database cannot be opened, or does not take what is written however often it is tried."""


class DatabaseAway(DatabaseError):
    """Its server does not answer, or not yet."""

    exit_code = ExitCode.UNREACHABLE


@dataclass
class _Group:
    """Steps that are committed together: the last word on each row, and who waits for it."""

    puts: dict[type[Row], dict[Any, list[Any]]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    deletes: dict[type[Row], dict[Any, list[Any]]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    cursor: bytes | None = None
    waiting: list[asyncio.Future[None]] = field(default_factory=list)


class Database:
    """See the module's docstring. `url` is an SQLAlchemy URL, `process` the name among several on one database."""

    def __init__(self, url: str, process: str = "") -> None:
        self.process = process
        self.reader = 1
        """Whose cursor is written."""
        self.fence: Callable[[Connection], None] | None = None
        """Called in every transaction of the engine's; raises where another process has taken its work over."""
        try:
            self.engine: Engine = _open(url)
        except (DatabaseError, SchemaError):
            raise
        except Exception as error:
            kind = DatabaseAway if _is_away(error) else DatabaseError
            raise kind(
                f"the database {_shown(url)} cannot be opened ({_first_line(error)}); check data_dir or database_url"
            ) from None
        self._statements = {kind: Statements(self.engine.dialect.name, kind) for kind in KINDS}
        self._group = _Group()
        self._lock = threading.Condition()
        self._closing = threading.Event()
        self._failed: DatabaseError | None = None
        """Why a step was not written: nothing is, until the rows are loaded again."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.commits: deque[tuple[int, float]] = deque(maxlen=1000)
        """(rows, seconds) of the last commits, for the metrics."""

    # Writing

    async def write(self, step: Step, cursor: bytes | None = None) -> None:
        """Return once the step's rows last, and all that was written before. `cursor`: how far the chain was read for
        it. Raises `DatabaseError` where they never will."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        with self._lock:
            if self._failed is not None:
                raise self._failed
            self._loop = loop
            self._take(step, cursor)
            self._group.waiting.append(done)
            if self._thread is None:
                self._thread = threading.Thread(target=self._commit_groups, name="database", daemon=True)
                self._thread.start()
            self._lock.notify()
        await done

    def _take(self, step: Step, cursor: bytes | None) -> None:
        puts = [(row, values_of(row)) for row in step.rows]
        group = self._group
        for row in step.deleted:
            kind = type(row)
            key = KEY_OF[kind](row)
            group.puts[kind].pop(key, None)
            group.deletes[kind][key] = list(row.key)
        for row, values in puts:
            kind = type(row)
            key = KEY_OF[kind](row)
            if group.deletes[kind]:
                group.deletes[kind].pop(key, None)
            group.puts[kind][key] = values
        if cursor is not None:
            self._group.cursor = cursor

    def _commit_groups(self) -> None:
        while True:
            with self._lock:
                while not self._group.waiting and not self._closing.is_set():
                    self._lock.wait()
                if not self._group.waiting:
                    return
                group, self._group = self._group, _Group()
            error = self._commit(group)
            if error is not None:
                with self._lock:
                    self._failed = error
                    group.waiting += self._group.waiting
                    self._group = _Group()
            loop = self._loop
            if loop is not None and not loop.is_closed():
                loop.call_soon_threadsafe(_wake, group.waiting, error)

    def _commit(self, group: _Group) -> DatabaseError | None:
        """Again and again until it lasts: a full disk is emptied, a database comes back. Why it never will, else."""
        start = time.monotonic()
        try:
            self._lasting(lambda: self._written(group))
        except DatabaseError as error:
            return error
        except Exception as error:
            logger.exception("the database refuses what is written")
            return DatabaseError(f"the database refuses what is written: {_first_line(error)}")
        rows = sum(len(puts) for puts in group.puts.values())
        self.commits.append((rows, time.monotonic() - start))
        return None

    def _written(self, group: _Group) -> None:
        with self.engine.begin() as connection:
            if self.fence is not None:
                self.fence(connection)
            self._write(connection, group)

    def _write(self, connection: Connection, group: _Group) -> None:
        for kind, statements in self._statements.items():
            if group.deletes[kind]:
                statements.delete(connection, group.deletes[kind].values())
            if group.puts[kind]:
                statements.upsert(connection, group.puts[kind].values())
        if group.cursor is not None:
            _put_cursor(connection, self.reader, group.cursor)

    def _lasting(self, work: Callable[[], T]) -> T:
        """What `work` returns, once the database lets it. Raises `DatabaseError` where this is closed before."""
        tries = 0
        while True:
            try:
                return work()
            except PASSES as error:
                tries += 1
                logger.warning("the database is not to be had, try %s: %s", tries, _first_line(error))
                if self._closing.wait(min(MAX_RETRY_S, RETRY_S * 2.0 ** min(tries - 1, 8))) and tries > 1:
                    raise DatabaseError(f"the database was closed before it took all: {_first_line(error)}") from None

    # Reading

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction for what is not the engine's: committed at the end of the block, rolled back on any error."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session
            session.commit()

    async def ask(self, work: Callable[[Session], T]) -> T:
        """What `work` returns in a transaction of its own, off the event loop. A database that is away is waited for:
        `work` may run several times, and only its last run lasts. Raises `DatabaseError` once this is closed."""
        return await asyncio.to_thread(self.ask_here, work)

    def ask_here(self, work: Callable[[Session], T]) -> T:
        """The same, in the thread of whoever asks."""

        def once() -> T:
            with self.session() as session:
                return work(session)

        return self._lasting(once)

    def lock(self, session: Session, name: str) -> None:
        """Let nobody else, in any process, into what `name` names until the session's transaction ends. To be called
        before anything else in it."""
        if self.engine.dialect.name == "sqlite":
            session.connection().exec_driver_sql("BEGIN IMMEDIATE")
        else:
            session.execute(select(func.pg_advisory_xact_lock(func.hashtext(name))))

    def load(self, process: str = "") -> list[Row]:
        """The live rows: of jobs that are not over, or not closed, or that have a batch that is not final, and of such
        batches. What is written from now on follows from these."""
        with self._lock:
            self._failed = None
        return self._lasting(lambda: self._load(process))

    def _load(self, process: str) -> list[Row]:
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
        table = TABLES[Log]

        def count() -> dict[JobId, int]:
            found: dict[JobId, int] = {}
            with self.engine.connect() as connection:
                for part in _parts(list(jobs)):
                    counts = select(table.c.job, func.max(table.c.seq)).where(table.c.job.in_(part))
                    found.update({JobId(j): int(seq) for j, seq in connection.execute(counts.group_by(table.c.job))})
            return found

        return self._lasting(count)

    def last_batch(self, first_row: int) -> int:
        """The newest batch, live or not, of the process whose batches are numbered from `first_row`; 0 for none."""
        number = TABLES[Batch].c.id
        newest = select(func.max(number)).where(number >= first_row, number < first_row + ROWS)

        def read() -> int:
            with self.engine.connect() as connection:
                return connection.execute(newest).scalar_one() or 0

        return self._lasting(read)

    def rows(self, kind: type[Row], where: Any = None) -> list[Row]:
        """Rows of one kind, live or not."""

        def read() -> list[Row]:
            with self.engine.connect() as connection:
                return self._rows(connection, kind, where)

        return self._lasting(read)

    @staticmethod
    def _rows(connection: Connection, kind: type[Row], where: Any) -> list[Row]:
        table = TABLES[kind]
        query = select(table) if where is None else select(table).where(where)
        return [row_of(kind, found) for found in connection.execute(query).mappings()]

    def close(self) -> None:
        """Write what is waiting, then let go of the database. A thread that is still asking ends its question first;
        its connection is closed when it comes back."""
        event.listen(self.engine.pool, "checkin", lambda _, record: record.close())
        with self._lock:
            self._closing.set()
            self._lock.notify()
        if self._thread is not None:
            self._thread.join(timeout=CLOSE_S)
        self.engine.dispose()


def _live_batches(process: str) -> Any:
    table = TABLES[Batch]
    live = table.c.state.not_in([BatchState.FINAL.value, BatchState.DROPPED.value])
    return and_(live, table.c.claimed_by == process)


def _live_jobs(process: str) -> Any:
    table, work = TABLES[Job], TABLES[Work]
    promised = select(work.c.job).where(work.c.state.in_(["committed", "batched"]))
    unpaid = and_(table.c.state == JobState.DONE.value, table.c.units_paid < table.c.units)
    live = or_(table.c.state.not_in([JobState.DONE.value, JobState.FAILED.value]), unpaid, table.c.id.in_(promised))
    return and_(live, table.c.claimed_by == process)


def _parts(ids: list[Any], size: int = 500) -> Iterator[list[Any]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def _open(url: str) -> Engine:
    """The database at its newest version. Raises what SQLAlchemy and the drivers raise."""
    engine = _engine(url)
    try:
        upgrade(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def open_for_reading(url: str) -> Engine:
    """A database that `Database` has opened, where nothing can be written."""
    engine = _engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA query_only=ON"))
    else:
        engine = engine.execution_options(postgresql_readonly=True)
    return engine


def _engine(url: str) -> Engine:
    named = make_url(url)
    if named.drivername in ("postgresql", "postgres"):
        named = named.set(drivername="postgresql+psycopg")
    if named.get_backend_name() == "sqlite":
        engine = create_engine(named)
        event.listen(engine, "connect", _configure_sqlite)
        return engine
    alive = {"connect_timeout": CONNECT_S, "keepalives_idle": 10, "tcp_user_timeout": SILENT_MS}
    try:
        return create_engine(named, pool_pre_ping=True, pool_size=POOL, max_overflow=POOL, connect_args=alive)
    except (ImportError, NoSuchModuleError):
        raise DatabaseError(
            f"there is no driver for a database of {named.drivername}; `{install_command('postgres')}` brings "
            "PostgreSQL's, and SQLite needs none"
        ) from None


async def open_patiently(url: str, process: str = "", *, patience_s: float = OPEN_S) -> Database:
    """The database, whose server may be starting. Raises `DatabaseError`; `DatabaseAway` once that takes too long."""
    give_up, pause = time.monotonic() + patience_s, RETRY_S
    while True:
        try:
            return await asyncio.to_thread(Database, url, process)
        except DatabaseAway as error:
            if time.monotonic() >= give_up:
                raise
            logger.warning("%s; trying again", error)
        await asyncio.sleep(pause)
        pause = min(2 * pause, MAX_RETRY_S)


def _is_away(error: Exception) -> bool:
    """Whether it may pass by itself: no connection, or a server that says that it is starting, stopping or full, and
    not that it refuses user, password or database."""
    if not isinstance(error, OperationalError) or "sqlite" in type(error.orig).__module__:
        return False
    return "FATAL" not in str(error) or any(words in str(error) for words in PASSING)


def _shown(url: str) -> str:
    """A database's address without user, password and options."""
    try:
        named = make_url(url)
    except Exception:
        return "of this URL"
    if named.get_backend_name() == "sqlite":
        return str(named.database or ":memory:")
    return f"{named.host or ''}{f':{named.port}' if named.port else ''}/{named.database or ''}"


def _wake(waiting: list[asyncio.Future[None]], error: DatabaseError | None) -> None:
    for future in waiting:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _configure_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=OFF"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _put_cursor(connection: Connection, reader: int, state: bytes) -> None:
    table = METADATA.tables["cursor"]
    insert = (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(table)
    connection.execute(
        insert.on_conflict_do_update(index_elements=["id"], set_={"state": insert.excluded.state}),
        [{"id": reader, "state": state}],
    )
