"""From bytes to a DAG, in constant memory: 256 KiB chunks, balanced trees of 174 links, raw leaves.

The same bytes get the same CID as from `ipfs add --cid-version=1 --raw-leaves`.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from proofyard.artifacts.hamt import build_shards
from proofyard.artifacts.source import Source
from proofyard.artifacts.unixfs import Kind, Link, Node, directory_node, file_node, name_bytes, node_cid, symlink_node
from proofyard.protocol.cid import CID_BYTES, raw_cid
from proofyard.protocol.types import Cid

CHUNK_BYTES = 256 << 10
LINKS_PER_NODE = 174

MAX_DIRECTORY_BYTES = 256 << 10
"""Above this a directory is sharded, counted as Kubo does: bytes of names and CIDs. At exactly this, Kubo before 0.40
shards it and later ones do not."""

PutBlock = Callable[[Cid, bytes], None]


@dataclass(frozen=True)
class _Part:
    cid: Cid
    content: int
    tsize: int


@dataclass
class FileBuilder:
    """Takes a file's chunks in order; `finish` returns its link. Memory: at most 174 links a level.

    `put_leaf` and `put_node` get every block as it is made.
    """

    put_leaf: PutBlock
    put_node: PutBlock
    _levels: list[list[_Part]] = field(default_factory=lambda: [[]])

    def add(self, chunk: bytes) -> None:
        """The next `CHUNK_BYTES` bytes; only the last chunk may be shorter."""
        cid = raw_cid(chunk)
        self.put_leaf(cid, chunk)
        self._push(0, _Part(cid, len(chunk), len(chunk)))

    def finish(self, name: str = "") -> Link:
        if self._levels == [[]]:
            self.add(b"")
        level = 0
        while level + 1 < len(self._levels) or len(self._levels[level]) > 1:
            if self._levels[level]:
                self._close(level)
            level += 1
        root = self._levels[level][0]
        return Link(root.cid, name, root.tsize)

    def _push(self, level: int, part: _Part) -> None:
        if level == len(self._levels):
            self._levels.append([])
        if len(self._levels[level]) == LINKS_PER_NODE:
            self._close(level)
        self._levels[level].append(part)

    def _close(self, level: int) -> None:
        parts = self._levels[level]
        self._levels[level] = []
        node = file_node([Link(part.cid, "", part.tsize) for part in parts], [part.content for part in parts])
        block = node.encode()
        cid = node_cid(block)
        self.put_node(cid, block)
        tsize = len(block) + sum(part.tsize for part in parts)
        self._push(level + 1, _Part(cid, sum(part.content for part in parts), tsize))


class Readable(Protocol):
    def read(self, count: int, /) -> bytes: ...


def build_file(source: Readable, put_leaf: PutBlock, put_node: PutBlock, name: str = "") -> Link:
    """The DAG of everything that `source` still holds."""
    chunk = _read_chunk(source)
    if len(chunk) < CHUNK_BYTES:
        cid = raw_cid(chunk)
        put_leaf(cid, chunk)
        return Link(cid, name, len(chunk))
    builder = FileBuilder(put_leaf, put_node)
    while chunk:
        builder.add(chunk)
        chunk = _read_chunk(source)
    return builder.finish(name)


def cid_of_bytes(data: bytes) -> Cid:
    """The CID of `data` as a file, without storing anything."""
    return build_file(io.BytesIO(data), _drop, _drop).cid


def cid_of_file(path: Path) -> Cid:
    """The same of what a file holds, in constant memory. Raises `OSError`."""
    with path.open("rb") as stream:
        return build_file(stream, _drop, _drop).cid


def build_directory(entries: list[Link], put_node: PutBlock, name: str = "") -> Link:
    """A directory of `entries`, sharded where Kubo would do so."""
    if sum(len(name_bytes(entry.name)) + CID_BYTES for entry in entries) > MAX_DIRECTORY_BYTES:
        return replace(build_shards(entries, put_node), name=name)
    return _put(directory_node(entries), put_node, name)


def build_tree(source: Source, put_file: Callable[[Source, str], Link], put_node: PutBlock, name: str = "") -> Link:
    """The DAG of a file or folder; `put_file` makes its files'."""
    if source.kind is Kind.FILE:
        return put_file(source, name)
    if source.kind is Kind.SYMLINK:
        return _put(symlink_node(source.target), put_node, name)
    entries = [build_tree(child, put_file, put_node, child.path.name) for child in source.children]
    return build_directory(entries, put_node, name)


def _put(node: Node, put_node: PutBlock, name: str) -> Link:
    block = node.encode()
    cid = node_cid(block)
    put_node(cid, block)
    return Link(cid, name, len(block) + sum(link.tsize for link in node.links))


def _drop(_cid: Cid, _block: bytes) -> None:
    pass


def _read_chunk(source: Readable) -> bytes:
    chunk = source.read(CHUNK_BYTES)
    while 0 < len(chunk) < CHUNK_BYTES and (more := source.read(CHUNK_BYTES - len(chunk))):
        chunk += more
    return chunk
