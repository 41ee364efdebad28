"""Listings: things of one kind in an order, read page by page. Each query is made once, and an index has its order. A
cursor is the key of the last row that was shown."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

from sqlalchemy import BigInteger, Column, ColumnElement, Engine, Select, bindparam, tuple_

from proofyard.verifier.api import types as out
from proofyard.verifier.api.reading import Found, read

T = TypeVar("T")

PART = "[0-9]{1,18}"
"""A number in a cursor: any that the database holds."""
ADDRESS = "0x[0-9a-fA-F]{40}"


@dataclass(frozen=True, eq=False)
class Listing(Generic[T]):
    """Things of one kind in the order of `key`. `only`: what a page may be confined to, by the parameter's name."""

    query: Select[Any]
    key: tuple[Column[Any], ...]
    item: Callable[[Any], T]
    only: Mapping[str, ColumnElement[bool]]
    newest_first: bool = False

    @property
    def cursor(self) -> str:
        """The pattern of a cursor."""
        return r"\.".join(PART if _is_number(column) else ADDRESS for column in self.key)

    def page(self, engine: Engine, cursor: str | None, limit: int, **only: Any) -> out.Page[T]:
        """At most `limit` items behind `cursor`; what is None confines nothing."""
        given = {name: value for name, value in only.items() if value is not None}
        statement = statement_of(self, tuple(sorted(given)), behind=cursor is not None)
        found = read(engine, statement, limit=limit, **given, **self._behind(cursor))
        return self.shown(found, limit)

    def shown(self, found: Found, limit: int) -> out.Page[T]:
        last = ".".join(str(found[-1][column.key]) for column in self.key) if len(found) == limit else None
        return out.Page(items=[self.item(row) for row in found], next=last)

    def _behind(self, cursor: str | None) -> dict[str, Any]:
        parts = cursor.split(".") if cursor else []
        return {
            f"behind{place}": int(part) if _is_number(column) else part
            for place, (column, part) in enumerate(zip(self.key, parts, strict=False))
        }


def _is_number(column: Column[Any]) -> bool:
    return isinstance(column.type, BigInteger)


@cache
def statement_of(listing: Listing[Any], only: tuple[str, ...], *, behind: bool = False, limit: int = 0) -> Select[Any]:
    """A page's query, confined to `only`; its parameters have the names of what it is confined to. Without a `limit`
    that is one of them."""
    query = listing.query.where(*(listing.only[name] for name in only))
    query = query.order_by(*(column.desc() if listing.newest_first else column for column in listing.key))
    if behind:
        last = [bindparam(f"behind{place}", type_=column.type) for place, column in enumerate(listing.key)]
        key, bound = (listing.key[0], last[0]) if len(last) == 1 else (tuple_(*listing.key), tuple_(*last))
        query = query.where(key < bound if listing.newest_first else key > bound)
    return query.limit(limit or bindparam("limit", type_=BigInteger()))
