"""Rows for pages, in one step of SQLite.

Whenever SQLite steps to a row Python lets other threads run, and this one waits for its turn again: a page of a hundred
rows took 100 ms beside an engine that computes. So SQLite packs what all queries find into one row of JSON, while
Python runs something else. PostgreSQL's driver has all rows at hand once the first is there.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import Boolean, ColumnElement, Double, Engine, LargeBinary, Select, case, func, select

Found = list[dict[str, Any]]
KEPT = 256
"""Statements that are kept as SQLite takes them: there is one for each set of parameters of a route."""


def read(engine: Engine, query: Select[Any], **values: Any) -> Found:
    """What a query finds, a dictionary each. Queries are made once; `values` are their parameters."""
    return read_all(engine, query, **values)[0]


def read_all(engine: Engine, *queries: Select[Any], **values: Any) -> list[Found]:
    """What several queries find in the same state of the database."""
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            packed = connection.execute(_packed(queries), values).one()
        return [_unpacked(query, text) for query, text in zip(queries, packed, strict=True)]
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        return [[dict(row) for row in connection.execute(query, values).mappings()] for query in queries]


@lru_cache(KEPT)
def _packed(queries: tuple[Select[Any], ...]) -> Select[Any]:
    """One row: for each query a JSON array of arrays."""
    arrays = []
    for query in queries:
        found = query.subquery()
        row = func.json_array(*(_plain(column) for column in found.c))
        arrays.append(select(func.json_group_array(row)).select_from(found).scalar_subquery())
    return select(*arrays)


def _plain(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """A column as JSON has it: bytes in hex, fractions as text that keeps all their digits, and what is no number."""
    if isinstance(column.type, LargeBinary):
        return case((column.is_not(None), func.hex(column)))
    if isinstance(column.type, Double):
        return case((column.is_not(None), func.printf("%!.17g", column)))
    return column


_FORMS: tuple[tuple[type, Callable[[Any], Any]], ...] = ((LargeBinary, bytes.fromhex), (Double, float), (Boolean, bool))


@lru_cache(KEPT)
def _shape(query: Select[Any]) -> tuple[list[str], list[tuple[int, Callable[[Any], Any]]]]:
    """The names of a query's columns, and what is to be made of those at some places."""
    columns = list(query.selected_columns)
    forms = [
        (place, form) for place, column in enumerate(columns) for kind, form in _FORMS if isinstance(column.type, kind)
    ]
    return [column.key or "" for column in columns], forms


def _unpacked(query: Select[Any], text: str) -> Found:
    names, forms = _shape(query)
    rows = msgspec.json.decode(text, type=list[list[Any]])
    for place, form in forms:
        for row in rows:
            if row[place] is not None:
                row[place] = form(row[place])
    return [dict(zip(names, row, strict=True)) for row in rows]
