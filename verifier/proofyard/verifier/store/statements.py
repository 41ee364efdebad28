"""The statements that write rows in bulk: one a kind and database, over rows as lists of values.

SQLite takes a statement for many rows. PostgreSQL takes one array a column, so that a thousand rows are one message.
"""

# Names come from the rows' definitions alone, values are bound.
# ruff: noqa: S608

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection

from proofyard.verifier.engine.rows import Row
from proofyard.verifier.store.tables import FIELDS

PART = 2000
"""Rows in one statement of PostgreSQL."""
_TYPES: dict[type, str] = {
    str: "text",
    int: "bigint",
    float: "float8",
    bool: "boolean",
    bytes: "bytea",
    tuple: "bytea",
}
_PLAIN: dict[type, type] = {kind: bytes if kind is tuple else kind for kind in _TYPES}


class Statements:
    """Upserts and deletes of one kind of row."""

    def __init__(self, dialect: str, kind: type[Row]) -> None:
        self._arrays = dialect == "postgresql"
        columns = list(kind.__struct_fields__)
        self._columns = [_PLAIN[FIELDS[kind][name][0]] for name in columns]
        self._keys = [_PLAIN[FIELDS[kind][name][0]] for name in kind.keys]
        self._upsert = self._insert_of(kind, columns) + _on_conflict(kind, columns)
        self._delete = self._delete_of(kind)

    def upsert(self, connection: Connection, rows: Iterable[Sequence[Any]]) -> None:
        """Rows as `values_of` gives them, each key once."""
        self._execute(connection, self._upsert, list(rows), self._columns)

    def delete(self, connection: Connection, keys: Iterable[Sequence[Any]]) -> None:
        self._execute(connection, self._delete, list(keys), self._keys)

    def _execute(
        self, connection: Connection, statement: str, rows: list[Sequence[Any]], kinds: Sequence[type]
    ) -> None:
        if not self._arrays:
            connection.exec_driver_sql(statement, [tuple(row) for row in rows])
            return
        for start in range(0, len(rows), PART):
            columns = zip(*rows[start : start + PART], strict=True)
            arrays = tuple(_plain(column, kind) for column, kind in zip(columns, kinds, strict=True))
            connection.exec_driver_sql(statement, arrays)

    def _insert_of(self, kind: type[Row], columns: list[str]) -> str:
        into = f'INSERT INTO "{kind.table}" ({_listed(columns)}) '
        if self._arrays:
            return into + f"SELECT * FROM unnest({_arrays(kind, columns)})"
        return into + f"VALUES ({', '.join('?' for _ in columns)})"

    def _delete_of(self, kind: type[Row]) -> str:
        keys = list(kind.keys)
        if self._arrays:
            same = " AND ".join(f'"{kind.table}"."{name}" = gone."{name}"' for name in keys)
            gone = f"unnest({_arrays(kind, keys)}) AS gone({_listed(keys)})"
            return f'DELETE FROM "{kind.table}" USING {gone} WHERE {same}'
        return f'DELETE FROM "{kind.table}" WHERE ' + " AND ".join(f'"{name}" = ?' for name in keys)


def _plain(column: Iterable[Any], kind: type) -> list[Any]:
    """A column as an array of one type: its binary form has no room for enums, or for whole numbers among fractions."""
    return [value if value is None or type(value) is kind else kind(value) for value in column]


def _arrays(kind: type[Row], columns: list[str]) -> str:
    return ", ".join(f"%b::{_TYPES[FIELDS[kind][name][0]]}[]" for name in columns)


def _on_conflict(kind: type[Row], columns: list[str]) -> str:
    rest = ", ".join(f'"{name}" = excluded."{name}"' for name in columns if name not in kind.keys)
    return f" ON CONFLICT ({_listed(kind.keys)}) DO UPDATE SET {rest}"


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in columns)
