"""Every test of the store runs against SQLite and PostgreSQL."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proofyard.devnet.postgres import NoPostgres, PostgresServer
from proofyard.verifier.store.database import Database


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    pytest.importorskip("psycopg", reason="psycopg is not installed: `pip install 'proofyard[postgres]'`")
    try:
        server = PostgresServer()
    except NoPostgres as reason:
        pytest.skip(str(reason))
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'verifier.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture
def opened(url: str) -> Iterator[Callable[[], Database]]:
    """Opens the database once more; what was opened is closed after the test."""
    made: list[Database] = []

    def make() -> Database:
        made.append(Database(url))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def database(opened: Callable[[], Database]) -> Database:
    return opened()
