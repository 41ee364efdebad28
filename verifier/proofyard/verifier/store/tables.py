"""The tables of a verifier's database: one for each kind of row of the engine, made from its fields, and those of the
shell.

Numbers are 64 bits wide, amounts are decimal strings, tuples are msgpack. What is searched has an index.
"""

import types
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
from sqlalchemy import BigInteger, Boolean, Column, Float, Index, LargeBinary, MetaData, Table, Text
from sqlmodel import Field, SQLModel

from proofyard.protocol.codec import decode, encode
from proofyard.verifier.engine.rows import Batch, Fault, Job, Log, Row, Seat, Segment, Task, Work

KINDS: tuple[type[Row], ...] = (Job, Task, Work, Batch, Segment, Seat, Fault, Log)
METADATA: MetaData = SQLModel.metadata
MAX_CELL_BYTES = 1 << 30

_INDEXES = {
    "job": (("state",), ("claimed_by",)),
    "work": (("batch",), ("state",), ("node",)),
    "batch": (("state",), ("chain_id",)),
    "seat": (("auditor",),),
    "fault": (("owner",),),
}
_COLUMNS: dict[type, Any] = {
    str: Text,
    int: BigInteger,
    float: lambda: Float(53),
    bool: Boolean,
    bytes: LargeBinary,
    tuple: LargeBinary,
}


def _plain(annotation: Any) -> tuple[type, bool]:
    """The basic type behind an annotation, and whether it may be None."""
    while hasattr(annotation, "__supertype__"):
        annotation = annotation.__supertype__
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        inner = [each for each in get_args(annotation) if each is not type(None)]
        return _plain(inner[0])[0], True
    if origin is not None and hasattr(origin, "__mro__"):
        annotation = origin
    if hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    return next(kind for kind in (bool, int, float, bytes, tuple, str) if issubclass(annotation, kind)), False


def _fields(kind: type[Row]) -> dict[str, tuple[type, bool]]:
    hints = get_type_hints(kind)
    return {name: _plain(hints[name]) for name in kind.__struct_fields__}


FIELDS = {kind: _fields(kind) for kind in KINDS}


def _table(kind: type[Row]) -> Table:
    columns = [
        Column(name, _COLUMNS[basic](), nullable=optional, primary_key=name in kind.keys, autoincrement=False)
        for name, (basic, optional) in FIELDS[kind].items()
    ]
    table = Table(kind.table, METADATA, *columns)
    for names in _INDEXES.get(kind.table, ()):
        Index(f"ix_{kind.table}_{'_'.join(names)}", *(table.c[name] for name in names))
    return table


TABLES = {kind: _table(kind) for kind in KINDS}


def values_of(row: Row) -> dict[str, Any]:
    """A row's columns, as they are now."""
    values = msgspec.structs.asdict(row)
    for name, (basic, _) in FIELDS[type(row)].items():
        if basic is tuple:
            values[name] = encode(values[name])
        elif basic is str and values[name] is not None:
            values[name] = str(values[name])
    return values


def row_of(kind: type[Row], values: Any) -> Row:
    """A row from its columns. Raises `CodecError` for what no version of this wrote."""
    found = {str(name): value for name, value in values.items()}
    hints = _HINTS[kind]
    for name, (basic, _) in FIELDS[kind].items():
        if basic is tuple:
            found[name] = decode(found[name], hints[name], max_bytes=MAX_CELL_BYTES)
    return msgspec.convert(found, kind, strict=False, builtin_types=(bytes,))


_HINTS = {kind: get_type_hints(kind) for kind in KINDS}


# The shell's own


class Known(SQLModel, table=True):
    """A batch of anybody's on chain that is not final; what a verifier owes the network follows from these.

    `held`: whether its member list was here when its draw block came (in-time, late), or nobody was here to see
    (away)."""

    batch: int = Field(primary_key=True, sa_type=BigInteger)
    leader: int = Field(sa_type=BigInteger)
    commit_block: int = Field(default=0, sa_type=BigInteger)
    held: str = "away"
    drawn: bool = False
    settled: bool = False


class Signed(SQLModel, table=True):
    """What this verifier signed for a batch and attempt, written before the signature leaves: there is never
    another."""

    batch: int = Field(primary_key=True, sa_type=BigInteger)
    attempt: int = Field(primary_key=True, sa_type=BigInteger)
    digest: bytes
    record: str


class Duty(SQLModel, table=True):
    """When something that recurs was last done; the unit of `value` is the duty's own."""

    name: str = Field(primary_key=True)
    value: int = Field(sa_type=BigInteger)


class Cursor(SQLModel, table=True):
    """How far the chain's events have been applied; `state` is the chain package's own encoding."""

    id: int = Field(default=1, primary_key=True)
    state: bytes = b""


class Process(SQLModel, table=True):
    """A process of this verifier: several on one database share its jobs. `seen_at`: Unix seconds by the database's
    clock, `rows_from`: its batches' rows are numbered from here."""

    name: str = Field(primary_key=True)
    endpoint: str = ""
    seen_at: float = 0.0
    rows_from: int = Field(default=0, sa_type=BigInteger)


class Transaction(SQLModel, table=True):
    """A transaction of this verifier's wallet: written before it is sent, kept until it is settled for good.

    `subject` names what it is for, so that it is sent once; `raw` are the signed versions, newest last (msgpack)."""

    nonce: int = Field(primary_key=True, sa_type=BigInteger)
    subject: str = Field(index=True)
    to: str
    data: bytes
    raw: bytes
    sent_at: float = 0.0
    mined_block: int | None = Field(default=None, sa_type=BigInteger)
    state: str = Field(default="sent", index=True)
