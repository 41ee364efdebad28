"""A database that is away, or full, is waited for; nothing is answered meanwhile."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlmodel import Session

from proofyard.devnet.postgres import PostgresServer
from proofyard.protocol.types import JobId
from proofyard.verifier.engine.rows import Log
from proofyard.verifier.engine.world import Step
from proofyard.verifier.store import database as database_module
from proofyard.verifier.store.database import Database, DatabaseAway, DatabaseError, open_patiently
from proofyard.verifier.store.tables import Duty


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "RETRY_S", 0.01)
    monkeypatch.setattr(database_module, "MAX_RETRY_S", 0.1)


@pytest.fixture
def away(postgres: PostgresServer) -> Iterator[Database]:
    database = Database(postgres.database())
    yield database
    database.close()


def lines(*numbers: int, text: str = "t") -> Step:
    return Step(tuple(Log(job=JobId(1), seq=n, at=1.0, kind="k", text=text) for n in numbers), (), ())


def note(session: Session) -> int:
    session.merge(Duty(name="noted", value=7))
    return 7


async def tried(caplog: pytest.LogCaptureFixture, times: int) -> None:
    async with asyncio.timeout(60):
        while sum("not to be had" in record.message for record in caplog.records) < times:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_server_that_restarts_is_waited_for(
    away: Database, postgres: PostgresServer, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    await away.write(lines(1))
    postgres.stop(mode)
    try:
        written, cursor = asyncio.create_task(away.write(lines(2))), asyncio.create_task(away.write(lines(3), b"here"))
        asked = asyncio.create_task(away.ask(note))
        loaded = asyncio.create_task(asyncio.to_thread(away.load))
        counted = asyncio.create_task(asyncio.to_thread(away.logged, [JobId(1)]))
        await tried(caplog, 10)
        assert not any(task.done() for task in (written, cursor, asked, loaded, counted))
    finally:
        postgres.start()
    async with asyncio.timeout(60):
        await asyncio.gather(written, cursor)
        assert await asked == 7
        assert await loaded == []
        assert (await counted)[JobId(1)] in (1, 2, 3)
    assert sorted(row.key[1] for row in away.rows(Log)) == [1, 2, 3]


async def test_a_database_that_stays_away_lets_its_verifier_stop(away: Database, postgres: PostgresServer) -> None:
    await away.write(lines(1))
    postgres.stop()
    try:
        written, asked = asyncio.create_task(away.write(lines(2))), asyncio.create_task(away.ask(note))
        await asyncio.sleep(0.05)
        start = time.monotonic()
        await asyncio.to_thread(away.close)
        results = await asyncio.gather(written, asked, return_exceptions=True)
        assert time.monotonic() - start < 20
        assert [type(result) for result in results] == [DatabaseError, DatabaseError]
    finally:
        postgres.start()


async def test_a_server_that_is_started_later_is_waited_for(
    postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = postgres.database()
    postgres.stop()
    try:
        with pytest.raises(DatabaseAway, match="cannot be opened"):
            await open_patiently(url, patience_s=0)
        opening = asyncio.create_task(open_patiently(url))
        async with asyncio.timeout(60):
            while sum("trying again" in record.message for record in caplog.records) < 3:
                await asyncio.sleep(0.01)
        assert not opening.done()
    finally:
        postgres.start()
    async with asyncio.timeout(60):
        database = await opening
    await database.write(lines(1))
    database.close()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda url: url.set(database="there_is_none"),
        lambda url: url.set(username="nobody_at_all"),
        lambda url: "sqlite:////proc/none.db",
        lambda url: "sqlite:////no/such/folder/v.db",
        lambda url: "nonsense",
        lambda url: "mysql://u:secret@h/x",
    ],
)
async def test_what_no_waiting_helps_is_said_at_once(postgres: PostgresServer, wrong: Any) -> None:
    url = wrong(make_url(postgres.database()))
    text = url if isinstance(url, str) else url.render_as_string(hide_password=False)
    start = time.monotonic()
    with pytest.raises(DatabaseError) as caught:
        await open_patiently(text)
    assert not isinstance(caught.value, DatabaseAway)
    assert time.monotonic() - start < 20
    assert "secret" not in str(caught.value)


async def test_an_address_is_shown_without_secrets() -> None:
    for url in ("postgresql://u:secret@127.0.0.1:1/x?password=secret", "postgresql://127.0.0.1:1/x?password=secret"):
        with pytest.raises(DatabaseAway) as caught:
            Database(url)
        assert "127.0.0.1:1/x" in str(caught.value)
        assert "secret" not in str(caught.value)


async def test_a_full_disk_is_waited_for(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    database = Database(f"sqlite:///{tmp_path / 'small.db'}")
    pages = 100

    def limit(connection: Any, *_: Any) -> None:
        connection.execute(f"PRAGMA max_page_count={pages}")

    event.listen(database.engine, "checkout", limit)
    full = asyncio.create_task(database.write(lines(1, text="x" * 1_000_000)))
    await tried(caplog, 3)
    after = asyncio.create_task(database.write(lines(2)))
    await asyncio.sleep(0.05)
    assert not full.done() and not after.done() and database.rows(Log) == []
    pages = 100_000
    async with asyncio.timeout(60):
        await asyncio.gather(full, after)
    assert len(database.rows(Log)) == 2
    database.close()


def test_a_question_that_ends_after_the_end_leaves_no_connection_open(url: str) -> None:
    """As where a loop is cancelled whose thread asks on."""
    database, asks, goes_on = Database(url), threading.Event(), threading.Event()
    opened: list[Any] = []

    def work(session: Session) -> None:
        opened.append(session.connection().connection.dbapi_connection)
        asks.set()
        assert goes_on.wait(30)

    thread = threading.Thread(target=database.ask_here, args=(work,))
    thread.start()
    assert asks.wait(30)
    database.close()
    goes_on.set()
    thread.join(30)
    if url.startswith("sqlite"):
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            opened[0].cursor()
    else:
        assert opened[0].closed
