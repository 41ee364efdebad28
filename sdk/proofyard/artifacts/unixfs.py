"""UnixFS in DAG-PB, byte for byte as Kubo writes it; decoding is strict because blocks come from strangers.

Two layers: a block's links, which is all that storing and sending needs (`links_of`), and what they mean (`decode`).
What is well formed and not known here is `UnsupportedArtifact`, what cannot be right is `CorruptArtifact`.

Sources: https://ipld.io/specs/codecs/dag-pb/spec/ and https://github.com/ipfs/specs/blob/main/UNIXFS.md. Names and
targets are bytes there; those that are no UTF-8 are kept as Python keeps file names, with surrogates (PEP 383).

    message PBLink { bytes Hash = 1; string Name = 2; uint64 Tsize = 3; }
    message PBNode { repeated PBLink Links = 2; bytes Data = 1; }        // links come first on the wire
    message Data   { DataType Type = 1; bytes Data = 2; uint64 filesize = 3; repeated uint64 blocksizes = 4;
                     uint64 hashType = 5; uint64 fanout = 6; uint32 mode = 7; UnixTime mtime = 8; }
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from proofyard.artifacts.errors import CorruptArtifact, UnsupportedArtifact
from proofyard.protocol.cid import DAG_PB, any_cid, cid_bytes, make_cid
from proofyard.protocol.types import Cid

MAX_BLOCK_BYTES = 2 << 20
"""What IPFS peers exchange at most; Kubo's own blocks stay below 256 KiB and some bytes."""

MAX_TIME_BYTES = 16
MAX_TARGET_BYTES = 4095

MURMUR3 = 0x22
"""The multicodec of the one hash by which directories are sharded."""

FANOUTS = frozenset({8, 16, 32, 64, 128, 256, 512, 1024})
"""Slots of a shard; Kubo writes 256 and reads up to 1,024."""


class Kind(IntEnum):
    """`DataType` of UnixFS, as far as it exists here."""

    RAW = 0
    DIRECTORY = 1
    FILE = 2
    SYMLINK = 4
    SHARD = 5
    """A part of a directory that is too large for one block, its root included: see `hamt`."""


@dataclass(frozen=True)
class Link:
    """A child. `tsize` is the cumulative size of its blocks as its author claims it; never trusted. Its CID may be one
    that this network does not know (`is_cid`)."""

    cid: Cid
    name: str
    tsize: int


@dataclass(frozen=True)
class Node:
    """A DAG-PB node. A file's content is `data`, then its children's, `block_sizes[i]` bytes from child i.

    A symbolic link's `data` is its target, a shard's the bits of the slots that it uses, of `fanout`. `mode` holds the
    permissions where its author gave some.
    """

    kind: Kind
    links: tuple[Link, ...] = ()
    data: bytes = b""
    file_size: int | None = None
    block_sizes: tuple[int, ...] = ()
    fanout: int = 0
    mode: int = 0

    @property
    def is_directory(self) -> bool:
        return self.kind in (Kind.DIRECTORY, Kind.SHARD)

    @property
    def prefix_length(self) -> int:
        """Characters before a name in a shard, which say its slot; a link with no more than those is a shard below."""
        return len(f"{self.fanout - 1:X}") if self.kind is Kind.SHARD else 0

    def encode(self) -> bytes:
        unixfs = bytearray((0x08, self.kind))
        if self.data:
            unixfs += b"\x12" + varint(len(self.data)) + self.data
        if self.file_size is not None:
            unixfs += b"\x18" + varint(self.file_size)
        for size in self.block_sizes:
            unixfs += b"\x20" + varint(size)
        if self.kind is Kind.SHARD:
            unixfs += b"\x28" + varint(MURMUR3) + b"\x30" + varint(self.fanout)
        if self.mode:
            unixfs += b"\x38" + varint(self.mode)
        node = bytearray()
        for link in self.links:
            name = name_bytes(link.name)
            body = b"\x0a\x24" + cid_bytes(link.cid) + b"\x12" + varint(len(name)) + name + b"\x18" + varint(link.tsize)
            node += b"\x12" + varint(len(body)) + body
        return bytes(node + b"\x0a" + varint(len(unixfs)) + unixfs)


def file_node(links: Sequence[Link], sizes: Sequence[int]) -> Node:
    """An inner node of a file whose children hold `sizes` bytes of content each."""
    return Node(Kind.FILE, tuple(links), b"", sum(sizes), tuple(sizes))


def directory_node(links: Sequence[Link]) -> Node:
    """A directory; entries are put in the order of their names' bytes."""
    return Node(Kind.DIRECTORY, tuple(sorted(links, key=lambda link: name_bytes(link.name))))


def symlink_node(target: str) -> Node:
    """A symbolic link."""
    return Node(Kind.SYMLINK, (), name_bytes(target))


def name_bytes(name: str) -> bytes:
    """A name as it is in a block and on disk."""
    return name.encode(errors="surrogateescape")


def name_of(name: bytes) -> str:
    return name.decode(errors="surrogateescape")


def node_cid(block: bytes) -> Cid:
    return make_cid(hashlib.sha256(block).digest(), DAG_PB)


def links_of(cid: Cid, block: bytes) -> list[Link]:
    """The links of a DAG-PB block, whatever they mean. Raises `CorruptArtifact`."""
    try:
        return _node(block)[0]
    except _Malformed as error:
        raise CorruptArtifact(cid, f"its DAG-PB node is malformed: {error}") from None


def decode(cid: Cid, block: bytes) -> Node:
    """The node in `block`, which must have been checked against `cid` before. Raises `CorruptArtifact`, and
    `UnsupportedArtifact` for what is no file, directory or symbolic link."""
    try:
        links, data = _node(block)
        if not data:
            raise _Unknown("it has no UnixFS data")
        node = _unixfs(data, tuple(links))
        _REQUIRE[node.kind](node)
    except _Malformed as error:
        raise CorruptArtifact(cid, f"its DAG-PB node is malformed: {error}") from None
    except _Unknown as error:
        raise UnsupportedArtifact(cid, str(error)) from None
    return node


class _Malformed(ValueError):
    pass


class _Unknown(ValueError):
    pass


def _node(block: bytes) -> tuple[list[Link], bytes | None]:
    links: list[Link] = []
    data: bytes | None = None
    for number, value in _fields(block):
        if number == 2 and isinstance(value, bytes):
            links.append(_link(value))
        elif number == 1 and isinstance(value, bytes) and data is None:
            data = value
        else:
            raise _Malformed(f"field {number} of a node is out of place")
    return links, data


def _link(value: bytes) -> Link:
    found: dict[int, int | bytes] = {}
    for number, item in _fields(value):
        if number in found or number not in (1, 2, 3):
            raise _Malformed(f"field {number} of a link is out of place")
        found[number] = item
    cid, name, tsize = found.get(1), found.get(2, b""), found.get(3, 0)
    if not isinstance(cid, bytes) or not isinstance(name, bytes) or not isinstance(tsize, int):
        raise _Malformed("a link has a field of the wrong type, or no CID")
    return Link(any_cid(cid), name_of(name), tsize)


def _unixfs(data: bytes, links: tuple[Link, ...]) -> Node:
    found: dict[int, int | bytes] = {}
    sizes: list[int] = []
    for number, value in _fields(data):
        if number == 4:  # one at a time, or packed
            sizes += [value] if isinstance(value, int) else _varints(value)
            if len(sizes) > len(links):
                raise _Malformed("there are more sizes than children")
        elif number not in _UNIXFS_FIELDS:
            raise _Unknown(f"field {number} of its UnixFS data is not known")
        elif isinstance(value, _UNIXFS_FIELDS[number]) and number not in found:
            found[number] = value
        else:
            raise _Malformed(f"field {number} of UnixFS data is out of place")
    kind, content, file_size, time = found.get(1), found.get(2, b""), found.get(3), found.get(8, b"")
    hashed, fanout, mode = found.get(5, 0), found.get(6, 0), found.get(7, 0)
    if not isinstance(kind, int):
        raise _Malformed("UnixFS data has no type")
    if kind not in tuple(Kind):
        raise _Unknown(f"UnixFS type {kind} is no file, directory or symbolic link")
    assert isinstance(content, bytes) and not isinstance(file_size, bytes) and isinstance(time, bytes)
    assert isinstance(hashed, int) and isinstance(fanout, int) and isinstance(mode, int)
    if len(time) > MAX_TIME_BYTES:
        raise _Malformed(f"a time of modification of {len(time)} bytes")
    if kind == Kind.SHARD and (hashed != MURMUR3 or fanout not in FANOUTS):
        raise _Unknown(f"a directory sharded by hash {hashed} into {fanout} slots")
    return Node(Kind(kind), links, content, file_size, tuple(sizes), fanout, mode)


_UNIXFS_FIELDS: dict[int, type] = {1: int, 2: bytes, 3: int, 5: int, 6: int, 7: int, 8: bytes}
"""Type, content, size, hash and slots of a shard, and mode and time of modification; each at most once."""


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
    if len({link.name for link in node.links}) != len(node.links):
        raise _Malformed("a directory names an entry twice")


def _require_shard(node: Node) -> None:
    bits = int.from_bytes(node.data, "big") if len(node.data) <= node.fanout // 8 else -1
    slots = [slot for slot in range(node.fanout) if bits >> slot & 1]
    if bits < 0 or len(slots) != len(node.links) or node.block_sizes:
        raise _Malformed("the slots of a shard are not those of its links")
    for slot, link in zip(slots, node.links, strict=True):
        if not link.name.startswith(f"{slot:0{node.prefix_length}X}"):
            raise _Malformed(f"a shard's link {link.name[:60]!r} is not in its slot")


def _require_symlink(node: Node) -> None:
    if node.links or not 0 < len(node.data) <= MAX_TARGET_BYTES or 0 in node.data:
        raise _Malformed("a symbolic link has no usable target")


_REQUIRE = {
    Kind.RAW: _require_file,
    Kind.FILE: _require_file,
    Kind.DIRECTORY: _require_directory,
    Kind.SHARD: _require_shard,
    Kind.SYMLINK: _require_symlink,
}


def why_unusable(name: str) -> str:
    """Why `name` cannot be one plain component of a path on this system; empty where it can."""
    if name in ("", ".", ".."):
        return f"an entry named {name!r} could leave its folder"
    if any(character in _FORBIDDEN for character in name) or (os.name == "nt" and name.endswith((" ", "."))):
        return "its name has characters that no file may have on this system"
    if len(name_bytes(name)) > MAX_NAME_BYTES:
        return f"its name is longer than {MAX_NAME_BYTES} bytes"
    return ""


MAX_NAME_BYTES = 255
_FORBIDDEN = frozenset("/\0") if os.name == "posix" else frozenset('/\\:*?"<>|') | {chr(each) for each in range(32)}


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


def _varints(packed: bytes) -> list[int]:
    found, at = [], 0
    while at < len(packed):
        value, at = _read_varint(packed, at)
        found.append(value)
    return found


def varint(value: int) -> bytes:
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
