"""The tables of a verifier's database: one for each kind of row of the engine, made from its fields, and those of the
shell.

Numbers are 64 bits wide, amounts are decimal strings, tuples are msgpack. What is searched has an index.
"""

import types
from collections.abc import Callable
from enum import Enum
from operator import attrgetter
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

import msgspec
from sqlalchemy import BigInteger, Boolean, Column, Double, Index, LargeBinary, MetaData, Table, Text, text
from sqlmodel import Field, SQLModel

from proofyard.protocol.codec import decode, encode, prepared
from proofyard.verifier.engine.rows import Batch, Fault, Job, Log, Row, Seat, Segment, Task, Work

KINDS: tuple[type[Row], ...] = (Job, Task, Work, Batch, Segment, Seat, Fault, Log)
METADATA = MetaData()
"""Of a verifier alone: other programs of this process have tables of their own."""
MAX_CELL_BYTES = 1 << 30

_INDEXES = {
    "job": (("state",), ("claimed_by",)),
    "work": (("batch", "job"), ("state",), ("node",)),
    "batch": (("state",), ("chain_id",)),
    "segment": (("job", "batch", "task", "index"),),
    "seat": (("auditor",),),
    "fault": (("owner",), ("job",)),
}
_COLUMNS: dict[type, Any] = {
    str: Text,
    int: BigInteger,
    float: Double,
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

TOLD_OF_TASK = text("kind IN ('assigned', 'lost', 'failed', 'undone')")
"""Lines of the log that say who got a task and lost it: one in ten, and the only ones that are looked for by task."""
_LOG = TABLES[Log]
Index("ix_log_task", _LOG.c.job, _LOG.c.task, _LOG.c.seq, sqlite_where=TOLD_OF_TASK, postgresql_where=TOLD_OF_TASK)

KEY_OF: dict[type[Row], Callable[[Row], Any]] = {kind: attrgetter(*kind.keys) for kind in KINDS}
"""What identifies a row: one value, or a tuple of several."""


def _patches(kind: type[Row]) -> tuple[tuple[int, Callable[[Any], Any]], ...]:
    """Columns whose values the database takes in another form, by their place."""
    found: list[tuple[int, Callable[[Any], Any]]] = []
    for place, (name, (basic, _)) in enumerate(FIELDS[kind].items()):
        if basic is tuple:
            found.append((place, encode))
        elif _is_enum(_HINTS[kind][name]):
            found.append((place, str))
    return tuple(found)


def _is_enum(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Enum)


_HINTS = {kind: get_type_hints(kind) for kind in KINDS}
_PATCHES = {kind: _patches(kind) for kind in KINDS}


def values_of(row: Row) -> list[Any]:
    """A row's columns in their order, as they are now."""
    values = list(msgspec.structs.astuple(row))
    for place, form in _PATCHES[type(row)]:
        values[place] = form(values[place])
    return values


def row_of(kind: type[Row], values: Any) -> Row:
    """A row from its columns. Raises `CodecError` for what no version of this wrote."""
    found = {str(name): value for name, value in values.items()}
    hints = _HINTS[kind]
    for name, (basic, _) in FIELDS[kind].items():
        if basic is tuple:
            found[name] = decode(found[name], hints[name], max_bytes=MAX_CELL_BYTES)
    return msgspec.convert(found, prepared(kind), strict=False, builtin_types=(bytes,))


# The shell's own


class _Own(SQLModel):
    metadata: ClassVar[MetaData] = METADATA


class Known(_Own, table=True):
    """A batch of anybody's on chain that is not final; what a verifier owes the network follows from these.

    `held`: whether its member list was here when its draw block came (in-time, late), is looked for until then
    (sought), or nobody was here from before the commit until the draw to see it (away)."""

    batch: int = Field(primary_key=True, sa_type=BigInteger)
    leader: int = Field(sa_type=BigInteger)
    commit_block: int = Field(default=0, sa_type=BigInteger)
    held: str = Field(default="away", sa_type=Text)
    drawn: bool = False
    settled: bool = False


UNKNOWN_SEED = b""


class Signed(_Own, table=True):
    """What this verifier signed for a batch and attempt that were drawn with a seed, written before the signature
    leaves: there is never another."""

    batch: int = Field(primary_key=True, sa_type=BigInteger)
    attempt: int = Field(primary_key=True, sa_type=BigInteger)
    seed: bytes = Field(primary_key=True, default=UNKNOWN_SEED)
    digest: bytes
    record: str = Field(sa_type=Text)


class Duty(_Own, table=True):
    """When something that recurs was last done; the unit of `value` is the duty's own."""

    name: str = Field(primary_key=True, sa_type=Text)
    value: int = Field(sa_type=BigInteger)


class Cursor(_Own, table=True):
    """How far the chain's events have been applied; `state` is the chain package's own encoding. 1 is of a process that
    has the database to itself, others have theirs each."""

    id: int = Field(default=1, primary_key=True, sa_type=BigInteger)
    state: bytes = b""


class Process(_Own, table=True):
    """A process of this verifier: several on one database share its jobs. `token` is of its present life, empty once
    another has taken over what it had; `seen_at` is by the database's clock, in Unix seconds; rows of its batches are
    numbered from `rows_from`; `nodes` are connected to it."""

    name: str = Field(primary_key=True, sa_type=Text)
    token: str = Field(default="", sa_type=Text)
    endpoint: str = Field(default="", sa_type=Text)
    seen_at: float = Field(default=0.0, sa_type=Double)
    rows_from: int = Field(default=0, sa_type=BigInteger)
    nodes: int = Field(default=0, sa_type=BigInteger)


class Claim(_Own, table=True):
    """The process that a job is of, from the moment it is seen on chain."""

    job: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    process: str = Field(index=True, sa_type=Text)


class Carried(_Own, table=True):
    """What a relay has shown on one day of one circuit between nodes of a job: bytes that were new, and what is owed
    for them in base units, as a decimal string. `payment`: which of the relay's it is paid with, 0 for none yet."""

    relay: str = Field(primary_key=True, sa_type=Text)
    circuit: bytes = Field(primary_key=True)
    day: int = Field(primary_key=True, index=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    job: int = Field(index=True, sa_type=BigInteger)
    bytes: int = Field(default=0, sa_type=BigInteger)
    amount: str = Field(default="0", sa_type=Text)
    payment: int = Field(default=0, index=True, sa_type=BigInteger)
    paid: bool = False


class Transaction(_Own, table=True):
    """A transaction of this verifier's wallet: written before it is sent, kept with its outcome.

    `subject` names what it is for, so that it is sent once. `versions` are the signed transactions, newest last, as
    msgpack; `tip` and `max_fee` of the newest, in wei per gas. `withdrawn`: it is not wanted any more, and an empty
    transaction is to take its nonce; `empties` are the hashes of such versions. `block`, `block_hash`, `hash`: where it
    was mined, and which version."""

    __tablename__ = "outbox"

    nonce: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    subject: str = Field(index=True, sa_type=Text)
    what: str = Field(sa_type=Text)
    to: str = Field(sa_type=Text)
    data: bytes
    gas: int = Field(sa_type=BigInteger)
    tip: int = Field(default=0, sa_type=BigInteger)
    max_fee: int = Field(default=0, sa_type=BigInteger)
    versions: bytes
    empties: bytes
    withdrawn: bool = False
    state: str = Field(default="sent", index=True, sa_type=Text)
    reason: str = Field(default="", sa_type=Text)
    block: int | None = Field(default=None, sa_type=BigInteger)
    block_hash: bytes = b""
    hash: bytes = b""
    written_at: float = Field(default=0.0, sa_type=Double)
    process: str = Field(default="", index=True, sa_type=Text)
