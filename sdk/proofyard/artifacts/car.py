"""Artifacts as CAR files, the form in which IPFS tools hand DAGs to one another (`ipfs dag export`, `import`).

Sources: https://ipld.io/specs/transport/car/carv1/ and carv2. A file is a header with the roots, then the blocks, each
behind its length and its CID. Written are version 1 files, blocks in the order of the DAG and each once; read are both.
Blocks under CIDs that this network does not know are passed over.
"""

import io
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from proofyard.artifacts.errors import UnusableCar
from proofyard.artifacts.unixfs import MAX_BLOCK_BYTES, varint
from proofyard.protocol.cid import any_cid, cid_bytes
from proofyard.protocol.types import Cid

MAX_HEADER_BYTES = 64 << 10
MAX_CID_BYTES = 256
MAX_CAR_BYTES = 1 << 60
_PRAGMA = bytes.fromhex("0aa16776657273696f6e02")
"""What a version 2 file begins with: the header of a version 1 file that says it is 2."""


@dataclass(frozen=True)
class Car:
    """A CAR file that is being read. `roots` may be CIDs that this network does not know (`is_cid`), as may those of
    `blocks`, which come one at a time and are not checked."""

    roots: tuple[Cid, ...]
    blocks: Iterator[tuple[Cid, bytes]]


def car_pieces(roots: Iterable[Cid], blocks: Iterable[tuple[Cid, bytes]]) -> Iterator[bytes]:
    """The content of a CAR file, piece by piece."""
    tagged = [b"\xd8\x2a\x58\x25\x00" + cid_bytes(root) for root in roots]
    header = b"\xa2" + _text("roots") + _head(4, len(tagged)) + b"".join(tagged) + _text("version") + b"\x01"
    yield varint(len(header)) + header
    for cid, data in blocks:
        binary = cid_bytes(cid)
        yield varint(len(binary) + len(data)) + binary + data


def read_car(source: BinaryIO) -> Car:
    """Begin to read a CAR file; `source` can be sought in. Raises `UnusableCar`, also while the blocks come."""
    end = None
    if source.read(len(_PRAGMA)) == _PRAGMA:
        header = source.read(40)
        if len(header) != 40:
            raise UnusableCar("it ends inside its header")
        _, _, start, size, _ = struct.unpack("<QQQQQ", header)
        if start < len(_PRAGMA) + len(header) or max(start, size) > MAX_CAR_BYTES:
            raise UnusableCar(f"its header says that {size} bytes at {start} are its content")
        source.seek(start)
        end = start + size
    else:
        source.seek(0)
    length = _read_varint(source)
    if not length:
        raise UnusableCar("it has no header; is it a CAR file?")
    if length > MAX_HEADER_BYTES:
        raise UnusableCar(
            f"its header would have {length} bytes, over the limit of {MAX_HEADER_BYTES}; is it a CAR file?"
        )
    roots = _roots(_exactly(source, length))
    _require_inside(source, end)
    return Car(roots, _blocks(source, end))


def _blocks(source: BinaryIO, end: int | None) -> Iterator[tuple[Cid, bytes]]:
    while (end is None or source.tell() < end) and (length := _read_varint(source)) is not None:
        if length == 0:
            continue  # padding
        if length > MAX_BLOCK_BYTES + MAX_CID_BYTES:
            raise UnusableCar(f"a block of {length} bytes is over the limit of {MAX_BLOCK_BYTES}")
        section = io.BytesIO(_exactly(source, length))
        _require_inside(source, end)
        cid = any_cid(_read_cid(section))
        yield cid, section.read()


def _require_inside(source: BinaryIO, end: int | None) -> None:
    if end is not None and source.tell() > end:
        raise UnusableCar("its content is longer than its header says")


def _read_cid(section: io.BytesIO) -> bytes:
    start = section.read(2)
    if start == b"\x12\x20":
        return start + _exactly(section, 32)
    section.seek(0)
    version, _codec, _hash, size = (_read_varint(section) for _ in range(4))
    if version != 1 or size is None or size > MAX_CID_BYTES:
        raise UnusableCar("a block has no CID of version 0 or 1")
    end = section.tell() + size
    section.seek(0)
    return _exactly(section, end)


def _roots(header: bytes) -> tuple[Cid, ...]:
    """The roots in a header: the CBOR map of `roots`, tagged byte strings, and `version`, 1; in either order."""
    at = io.BytesIO(header)
    roots: list[Cid] = []
    version = 0
    for _ in range(_cbor(at, 5)):
        match _exactly(at, _cbor(at, 3)):
            case b"roots":
                for _ in range(_cbor(at, 4)):
                    if _cbor(at, 6) != 42:
                        raise UnusableCar("a root is no CID")
                    roots.append(any_cid(_exactly(at, _cbor(at, 2))[1:]))
            case b"version":
                version = _cbor(at, 0)
            case other:
                raise UnusableCar(f"its header has the unknown field {other[:20]!r}")
    if version != 1:
        raise UnusableCar(f"its content is of version {version} and not 1")
    return tuple(roots)


def _cbor(source: BinaryIO, major: int) -> int:
    """The number in a CBOR head that must be of this major type."""
    first = _exactly(source, 1)[0]
    short = first & 31
    if first >> 5 != major or short > 27:
        raise UnusableCar("its header is no map of roots and version")
    return short if short < 24 else int.from_bytes(_exactly(source, 1 << short - 24), "big")


def _head(major: int, value: int) -> bytes:
    if value < 24:
        return bytes((major << 5 | value,))
    size = 1 if value < 1 << 8 else 2
    return bytes((major << 5 | 23 + size,)) + value.to_bytes(size, "big")


def _text(text: str) -> bytes:
    return _head(3, len(text)) + text.encode()


def _exactly(source: BinaryIO, size: int) -> bytes:
    data = source.read(size) if size <= MAX_BLOCK_BYTES + MAX_CID_BYTES else b""
    if len(data) != size:
        raise UnusableCar("it ends inside a block or its header")
    return data


def _read_varint(source: BinaryIO) -> int | None:
    """The next number, None at the end."""
    value = 0
    for shift in range(0, 63, 7):
        byte = source.read(1)
        if not byte:
            if shift:
                raise UnusableCar("it ends inside a number")
            return None
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise UnusableCar("a number in it is too large")
