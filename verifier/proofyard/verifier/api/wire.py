"""What a verifier and the process of its API say to each other, over a socket that both have had since the process was
started: messages, each with its length before it.

The verifier says on its own what the API always shows (`Beat`) and what is new in the log (`Lines`), and answers what
it is asked. The API reads everything else in the database. It is the side that strangers talk to, so what it says is
typed, short, and does nothing but ask.
"""

import asyncio
import struct
from typing import Any, TypeVar

import msgspec

from proofyard.protocol.codec import prepared
from proofyard.verifier.api import types as out
from proofyard.verifier.engine.rows import Log

T = TypeVar("T")

LENGTH = struct.Struct(">I")
MAX_TOLD, MAX_ASKED = 64 << 20, 64 << 10
"""Bytes of a message to the API, and to the verifier."""

# What can be asked


class Question(msgspec.Struct, frozen=True, tag=True):
    """One of those below; its answer is JSON."""


class Nodes(Question, frozen=True):
    """`Page[Node]` of those that are connected."""

    after: str | None
    limit: int


class OneNode(Question, frozen=True):
    """A `Node`, or nothing where it is not connected."""

    address: str


class Around(Question, frozen=True):
    """What the engine knows of a job, or of one task of it, now: `statements.Here`."""

    job: int
    task: int | None = None


class Disputes(Question, frozen=True):
    """`Page[Dispute]`, as the Court has them."""

    before: int | None
    limit: int


class Fees(Question, frozen=True):
    """A list of `statements.Fees`: what verifiers share of a job's last batches."""

    job: int


class Slashes(Question, frozen=True):
    """A list of `statements.Slashed`: what a batch's settlement took."""

    batch: int


class DialOf(Question, frozen=True):
    """The `statements.Dial` of a committed task, or nothing. `row`: of its batch."""

    row: int
    batch: int
    attempt: int
    job: int
    task: int


class Measured(Question, frozen=True):
    """The verifier's metrics, a text."""


AnyQuestion = Nodes | OneNode | Around | Disputes | Fees | Slashes | DialOf | Measured

# To the API


class Begin(msgspec.Struct, frozen=True, tag=True):
    """The first message. `database`: an SQLAlchemy URL. `blocks`: the folder of the artifacts. `streams`: so many
    readers of live events at a time; of other connections more than `connections` are closed at once, and those on
    which no whole request comes within `request_s` seconds. `names`: hosts that it may be asked as, beside localhost
    and addresses; None for any."""

    database: str
    blocks: str
    streams: int
    connections: int = 500
    request_s: float = 10.0
    names: tuple[str, ...] | None = None


class Beat(msgspec.Struct, frozen=True, tag=True):
    """How the verifier is, once a second."""

    health: out.Health
    ready: out.Ready
    status: out.Status


class Lines(msgspec.Struct, frozen=True, tag=True):
    """Lines of the log that last; `first`: how many came before. Where that is not what the API had, some are lost."""

    first: int
    rows: list[Log]


class Answer(msgspec.Struct, frozen=True, tag=True):
    """To the question of this number. `error`: why there is none; `broken`: the verifier met an error of its own."""

    number: int
    body: bytes = b""
    error: str = ""
    broken: bool = False


ToApi = Begin | Beat | Lines | Answer

# To the verifier


class Ask(msgspec.Struct, frozen=True, tag=True):
    number: int
    question: AnyQuestion


class Logged(msgspec.Struct, frozen=True, tag=True):
    """A line for the verifier's log."""

    level: int
    text: str


ToVerifier = Ask | Logged

_encode = msgspec.msgpack.Encoder().encode


def framed(message: ToApi | ToVerifier) -> bytes:
    data = _encode(message)
    return LENGTH.pack(len(data)) + data


async def received(reader: asyncio.StreamReader, kind: Any, limit: int) -> Any:
    """The next message. Raises `IncompleteReadError` where the other side has ended, `ValueError` where it says what is
    none."""
    (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    if size > limit:
        raise ValueError(f"a message of {size} bytes is over the limit of {limit} bytes")
    return msgspec.msgpack.decode(await reader.readexactly(size), type=prepared(kind))
