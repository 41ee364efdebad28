"""The newest version of the schema is what the rows and the shell's tables give, on every way there."""

from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, MetaData, create_engine, insert, inspect, select, text

from proofyard.verifier.store import migrations
from proofyard.verifier.store.database import Database
from proofyard.verifier.store.migrations import SchemaError, config, newest, upgrade, version_of
from proofyard.verifier.store.tables import METADATA

VERSIONS = [script.revision for script in ScriptDirectory(migrations.__path__[0]).walk_revisions()][::-1]


@pytest.fixture
def engine(url: str) -> Any:
    made = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    yield made
    made.dispose()


def bring_to(engine: Engine, version: str) -> None:
    with engine.begin() as connection:
        command.upgrade(config(connection), version)


def differences(engine: Engine) -> list[Any]:
    with engine.connect() as connection:
        return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), METADATA)


def fill(engine: Engine) -> dict[str, dict[str, Any]]:
    """A row in each table, whatever its columns."""
    found = {}
    with engine.begin() as connection:
        there = MetaData()
        there.reflect(connection)
        for table in there.sorted_tables:
            if table.name == "alembic_version":
                continue
            row = {column.name: _value(column.type.python_type) for column in table.columns}
            connection.execute(insert(table), [row])
            found[table.name] = row
    return found


def _value(kind: type) -> Any:
    return {int: 2**40, float: 0.1, bool: True, bytes: b"\x00\xff"}.get(kind, "text")


def test_versions_are_a_line() -> None:
    assert [f"{number:04}" for number in range(1, len(VERSIONS) + 1)] == VERSIONS


def test_a_new_database_has_the_tables_that_the_rows_give(engine: Engine) -> None:
    upgrade(engine)
    assert differences(engine) == []
    upgrade(engine)
    with engine.connect() as connection:
        assert version_of(connection) == newest()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_database_of_any_version_keeps_its_rows(engine: Engine, version: str) -> None:
    bring_to(engine, version)
    before = fill(engine)
    upgrade(engine)
    assert differences(engine) == []
    with engine.connect() as connection:
        for name, row in before.items():
            table = METADATA.tables.get(name)
            if table is None:
                continue
            kept = [column for column in table.columns if column.name in row]
            found = connection.execute(select(*kept)).mappings().all()
            assert [dict(each) for each in found] == [{column.name: row[column.name] for column in kept}]


def test_a_version_that_fails_leaves_everything_as_it_was(
    engine: Engine, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = command.upgrade

    def failing(*call: Any) -> None:
        ran(*call)
        raise ZeroDivisionError("halfway")

    monkeypatch.setattr(command, "upgrade", failing)
    with pytest.raises(ZeroDivisionError):
        upgrade(engine)
    assert inspect(engine).get_table_names() == []
    monkeypatch.undo()
    Database(url).close()


def test_a_newer_version_is_refused(engine: Engine, url: str) -> None:
    upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaError, match=f"version 9999, and this software knows none after {newest()}"):
        Database(url)


def test_a_database_of_another_program_is_refused(engine: Engine, url: str) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE job (id integer)"))
    with pytest.raises(SchemaError, match="older verifier's"):
        Database(url)
    assert inspect(engine).get_table_names() == ["job"]
