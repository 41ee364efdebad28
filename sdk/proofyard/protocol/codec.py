"""Typed msgpack: the one encoding of structures on the wire, in artifacts and in the database.

Encoding is deterministic (struct fields in their declared order, no maps with unordered keys), so equal values
have equal bytes and CIDs. Decoding checks the size before anything is parsed and the types while parsing;
unknown fields are tolerated so that a newer peer can talk to an older one. In what may be large every list whose
elements may be a few bytes has a limit of its own, which is looked at before any element is: 256 MiB of empty tuples
would take gigabytes, and a minute in which nothing else runs.
"""

import json
import threading
from typing import Annotated, Any, TypeVar

import msgspec

from proofyard.protocol.types import Address, Cid, Digest, ProofyardError, TaskIndex

T = TypeVar("T")
Kind = TypeVar("Kind")

MAX_STRUCTURE_BYTES = 1 << 20
"""Default bound for one encoded structure; a caller that expects more says so."""

Bytes32 = Annotated[Digest, msgspec.Meta(min_length=32, max_length=32)]
"""A digest that comes from outside: the ABI would pad a shorter one, and take it for another."""

Key = Annotated[Address, msgspec.Meta(pattern=r"\A0x[0-9a-fA-F]{40}\Z")]
"""An address that comes from outside."""

CidText = Annotated[Cid, msgspec.Meta(min_length=59, max_length=59)]
"""A CID that comes from outside. A list of anything shorter would unfold: a byte on the wire is eight in memory."""

Task32 = Annotated[TaskIndex, msgspec.Meta(ge=0, lt=1 << 32)]

_encoder = msgspec.msgpack.Encoder(order="deterministic")
_prepared: set[Any] = set()
_preparing = threading.Lock()


class CodecError(ProofyardError, ValueError):
    """Bytes from outside are too large or do not have the expected shape."""


def encode(value: Any) -> bytes:
    """The canonical msgpack bytes of `value`."""
    return _encoder.encode(value)


def decode(data: bytes | memoryview, kind: type[T], *, max_bytes: int = MAX_STRUCTURE_BYTES) -> T:
    """`data` as a `kind`. Raises `CodecError` that names the field that does not fit."""
    if len(data) > max_bytes:
        raise CodecError(f"{_name(kind)} of {len(data)} bytes is over the limit of {max_bytes} bytes")
    try:
        return msgspec.msgpack.decode(data, type=prepared(kind))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"{_name(kind)} cannot be decoded: {error}") from None


def decode_json(data: bytes | str, kind: type[T]) -> T:
    """The same of JSON, as APIs, endpoints and files of one's own have it; `data` is bounded where it was read. Raises
    `CodecError`: also for what is no UTF-8, and for values in values without end."""
    try:
        return msgspec.json.decode(data, type=prepared(kind))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"{_name(kind)} cannot be decoded: {error}") from None


def read_json(data: bytes | str) -> Any:
    """JSON of whatever shape. Raises `CodecError`: also for numbers and values in values without end."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CodecError(f"it is no JSON: {error}") from None


def prepared(kind: Kind) -> Kind:
    """`kind`, for whatever msgspec is to make one of. msgspec looks at a type when it meets it first, and what another
    thread sees of that meanwhile is half of it, which ends the process: so it looks here, one thread at a time."""
    if kind not in _prepared:
        with _preparing:
            msgspec.msgpack.Decoder(kind)
            _prepared.add(kind)
    return kind


def _name(kind: object) -> str:
    return getattr(kind, "__name__", str(kind))
