"""UnixFS in DAG-PB, byte for byte as Kubo writes it; decoding is strict because blocks come from strangers.

Sources: https://ipld.io/specs/codecs/dag-pb/spec/ and https://github.com/ipfs/specs/blob/main/UNIXFS.md.

    message PBLink { bytes Hash = 1; string Name = 2; uint64 Tsize = 3; }
    message PBNode { repeated PBLink Links = 2; bytes Data = 1; }        // links come first on the wire
    message Data   { DataType Type = 1; bytes Data = 2; uint64 filesize = 3; repeated uint64 blocksizes = 4; ... }
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from proofyard.artifacts.errors import CorruptArtifact
from proofyard.protocol.cid import DAG_PB, CidError, cid_bytes, cid_from_bytes, make_cid
from proofyard.protocol.types import Cid

MAX_BLOCK_BYTES = 2 << 20
"""What IPFS peers exchange at most; Kubo's own blocks stay below 256 KiB and some bytes."""

MAX_LINKS = 16_384
"""Children of one node: Kubo gives a file's nodes 174, and shards a directory before it has 8,000 entries."""

MAX_TIME_BYTES = 16


class Kind(IntEnum):
    """`DataType` of UnixFS, as far as it exists here."""

    RAW = 0
    DIRECTORY = 1
    FILE = 2


@dataclass(frozen=True)
class Link:
    """A child. `tsize` is the cumulative size of its blocks as its author claims it; never trusted."""

    cid: Cid
    name: str
    tsize: int


@dataclass(frozen=True)
class Node:
    """A DAG-PB node. A file's content is `data`, then its children's, `block_sizes[i]` bytes from child i."""

    kind: Kind
    links: tuple[Link, ...] = ()
    data: bytes = b""
    file_size: int | None = None
    block_sizes: tuple[int, ...] = ()

    def encode(self) -> bytes:
        unixfs = bytearray((0x08, self.kind))
        if self.data:
            unixfs += b"\x12" + _varint(len(self.data)) + self.data
        if self.file_size is not None:
            unixfs += b"\x18" + _varint(self.file_size)
        for size in self.block_sizes:
            unixfs += b"\x20" + _varint(size)
        node = bytearray()
        for link in self.links:
            name = link.name.encode()
            body = (
                b"\x0a\x24" + cid_bytes(link.cid) + b"\x12" + _varint(len(name)) + name + b"\x18" + _varint(link.tsize)
            )
            node += b"\x12" + _varint(len(body)) + body
        return bytes(node + b"\x0a" + _varint(len(unixfs)) + unixfs)


def file_node(links: Sequence[Link], sizes: Sequence[int]) -> Node:
    """An inner node of a file whose children hold `sizes` bytes of content each."""
    return Node(Kind.FILE, tuple(links), b"", sum(sizes), tuple(sizes))


def directory_node(links: Sequence[Link]) -> Node:
    """A directory; entries are put in the order of their names' bytes."""
    return Node(Kind.DIRECTORY, tuple(sorted(links, key=lambda link: link.name.encode())))


def node_cid(block: bytes) -> Cid:
    return make_cid(hashlib.sha256(block).digest(), DAG_PB)


def decode(cid: Cid, block: bytes) -> Node:
    """The node in `block`, which must have been checked against `cid` before. Raises `CorruptArtifact`."""
    try:
        return _node(block)
    except (_Malformed, CidError, UnicodeDecodeError) as error:
        raise CorruptArtifact(cid, f"its DAG-PB node is malformed: {error}") from None


class _Malformed(ValueError):
    pass


def _node(block: bytes) -> Node:
    links: list[Link] = []
    data: bytes | None = None
    for number, value in _fields(block):
        if number == 2 and isinstance(value, bytes) and data is None:
            if len(links) == MAX_LINKS:
                raise _Malformed(f"a node has more than {MAX_LINKS} children")
            links.append(_link(value))
        elif number == 1 and isinstance(value, bytes) and data is None:
            data = value
        else:
            raise _Malformed(f"field {number} of a node is out of place")
    if data is None:
        raise _Malformed("a node has no UnixFS data")
    node = _unixfs(data, tuple(links))
    if node.kind is Kind.DIRECTORY:
        _require_directory(node)
    else:
        _require_file(node)
    return node


def _link(value: bytes) -> Link:
    found: dict[int, int | bytes] = {}
    for number, item in _fields(value):
        if number in found or number not in (1, 2, 3):
            raise _Malformed(f"field {number} of a link is out of place")
        found[number] = item
    cid, name, tsize = found.get(1), found.get(2, b""), found.get(3, 0)
    if not isinstance(cid, bytes) or not isinstance(name, bytes) or not isinstance(tsize, int):
        raise _Malformed("a link has a field of the wrong type, or no CID")
    if len(cid) == 34:  # a link of old, version 0: the multihash alone stands for dag-pb
        cid = b"\x01\x70" + cid
    return Link(cid_from_bytes(cid), name.decode(), tsize)


def _unixfs(data: bytes, links: tuple[Link, ...]) -> Node:
    found: dict[int, int | bytes] = {}
    sizes: list[int] = []
    for number, value in _fields(data):
        if number == 4 and isinstance(value, int) and len(sizes) < len(links):
            sizes.append(value)
        elif number in _UNIXFS_FIELDS and isinstance(value, _UNIXFS_FIELDS[number]) and number not in found:
            found[number] = value
        else:
            raise _Malformed(f"field {number} of UnixFS data is out of place or not supported")
    kind, content, file_size, time = found.get(1), found.get(2, b""), found.get(3), found.get(8, b"")
    if not isinstance(kind, int):
        raise _Malformed("UnixFS data has no type")
    if kind not in tuple(Kind):
        raise _Malformed(f"UnixFS type {kind} is not supported, only files and plain directories")
    if not isinstance(content, bytes) or isinstance(file_size, bytes) or not isinstance(time, bytes):
        raise _Malformed("a field of UnixFS data has the wrong type")
    if len(time) > MAX_TIME_BYTES:
        raise _Malformed(f"a time of modification of {len(time)} bytes")
    return Node(Kind(kind), links, content, file_size, tuple(sizes))


_UNIXFS_FIELDS: dict[int, type] = {1: int, 2: bytes, 3: int, 7: int, 8: bytes}
"""Type, content, size, and mode and time of modification, which are no content; each at most once."""


def _require_file(node: Node) -> None:
    if len(node.block_sizes) != len(node.links):
        raise _Malformed(f"{len(node.links)} children but {len(node.block_sizes)} sizes")
    if any(link.name for link in node.links):
        raise _Malformed("a part of a file has a name")
    # An empty child would let a small DAG be walked forever.
    if any(size == 0 for size in node.block_sizes):
        raise _Malformed("a child without content")
    if (node.file_size or 0) != len(node.data) + sum(node.block_sizes):
        raise _Malformed("the file's size is not the sum of its parts")


def _require_directory(node: Node) -> None:
    if node.data or node.block_sizes:
        raise _Malformed("a directory has content of its own")
    names = [link.name for link in node.links]
    if len(set(names)) != len(names):
        raise _Malformed("a directory names an entry twice")
    for name in names:
        if not is_safe_name(name):
            raise _Malformed(f"a directory's entry has the unusable name {name[:60]!r}")


def is_safe_name(name: str) -> bool:
    """Whether `name` is one plain component of a path on every system that Proofyard runs on."""
    return (
        0 < len(name.encode(errors="replace")) <= 255
        and name not in (".", "..")
        and not any(character in '/\\:*?"<>|' or ord(character) < 32 for character in name)
        and not name.endswith((" ", "."))
    )


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        wire = key & 7
        if wire not in (0, 2):
            raise _Malformed(f"wire type {wire}")
        value, at = _read_varint(data, at)
        if wire == 0:
            yield key >> 3, value
            continue
        if value > len(data) - at:
            raise _Malformed("a field is longer than its message")
        yield key >> 3, data[at : at + value]
        at += value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(data):
            raise _Malformed("it ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if (byte == 0 and shift) or value >= 1 << 64:
                raise _Malformed("a number is not in its shortest form or exceeds 64 bits")
            return value, at
    raise _Malformed("a number exceeds 64 bits")
