"""Walking DAGs of files and directories, given a way to get a checked block.

The functions here trust nothing but the blocks' digests: a child must have exactly the size its parent says, so the
work of walking a file is bounded by its size, and that of a directory by `MAX_ENTRIES`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from proofyard.artifacts.errors import ArtifactTooLarge, CorruptArtifact
from proofyard.artifacts.unixfs import Kind, Node, decode
from proofyard.protocol.cid import DAG_PB, cid_codec
from proofyard.protocol.types import Cid

MAX_DEPTH = 16
MAX_ENTRIES = 100_000

GetBlock = Callable[[Cid], bytes]


@dataclass(frozen=True)
class Entry:
    """A file or folder inside an artifact. `path` holds its names from the root, empty for the root itself."""

    path: tuple[str, ...]
    cid: Cid
    is_directory: bool
    size: int


def load(get: GetBlock, cid: Cid) -> Node | bytes:
    """The node behind a CID, or the bytes of a raw leaf."""
    block = get(cid)
    return decode(cid, block) if cid_codec(cid) == DAG_PB else block


def content_size(node: Node | bytes) -> int:
    """Bytes of content that a file's node or leaf stands for."""
    return len(node) if isinstance(node, bytes) else node.file_size or 0


def entries(get: GetBlock, cid: Cid) -> Iterator[Entry]:
    """The root and everything below it, parents first. Raises `ArtifactTooLarge` after `MAX_ENTRIES`."""
    stack: list[tuple[tuple[str, ...], Cid]] = [((), cid)]
    seen = 0
    while stack:
        path, here = stack.pop()
        seen += 1
        if seen > MAX_ENTRIES or len(path) > MAX_DEPTH:
            raise ArtifactTooLarge(cid, seen, MAX_ENTRIES, "entries")
        node = load(get, here)
        is_directory = not isinstance(node, bytes) and node.kind is Kind.DIRECTORY
        yield Entry(path, here, is_directory, 0 if is_directory else content_size(node))
        if is_directory and not isinstance(node, bytes):
            stack += [((*path, link.name), link.cid) for link in reversed(node.links)]


def read_range(get: GetBlock, cid: Cid, start: int, length: int) -> Iterator[bytes]:
    """The bytes from `start` of a file, `length` of them or up to its end, leaf by leaf."""
    return _read(get, cid, None, start, start + length, 0)


def _read(get: GetBlock, cid: Cid, expected: int | None, start: int, stop: int, depth: int) -> Iterator[bytes]:
    if depth > MAX_DEPTH:
        raise CorruptArtifact(cid, f"its tree is deeper than {MAX_DEPTH} levels")
    node = load(get, cid)
    if not isinstance(node, bytes) and node.kind is Kind.DIRECTORY:
        raise CorruptArtifact(cid, "it is a directory where a file is expected")
    if expected is not None and content_size(node) != expected:
        raise CorruptArtifact(cid, f"it holds {content_size(node)} bytes where its parent says {expected}")
    own = node if isinstance(node, bytes) else node.data
    if start < len(own):
        yield own[max(0, start) : stop]
    if isinstance(node, bytes):
        return
    at = len(own)
    for link, size in zip(node.links, node.block_sizes, strict=True):
        if at < stop and start < at + size:
            yield from _read(get, link.cid, size, start - at, stop - at, depth + 1)
        at += size


def missing_of_range(get: GetBlock, has: Callable[[Cid], bool], cid: Cid, start: int, stop: int) -> list[Cid]:
    """The blocks that bytes `start` to `stop` of a file need and `has` denies; those below a missing one are not known.

    Raises `CorruptArtifact` for a directory, and `BlockMissing` for a block that is damaged.
    """
    if start >= stop:
        return []
    if not has(cid):
        return [cid]
    if cid_codec(cid) != DAG_PB:
        return []
    node = decode(cid, get(cid))
    if node.kind is Kind.DIRECTORY:
        raise CorruptArtifact(cid, "it is a directory where a file is expected")
    found, at = [], len(node.data)
    for link, size in zip(node.links, node.block_sizes, strict=True):
        # A child holds what its parent says or is refused later, so that the walk ends where the range does.
        found += missing_of_range(get, has, link.cid, max(0, start - at), min(size, stop - at))
        at += size
    return found


def children(get: GetBlock, cid: Cid) -> list[Cid]:
    """The blocks right below one, in order; none below a raw leaf, which is not read."""
    return [link.cid for link in decode(cid, get(cid)).links] if cid_codec(cid) == DAG_PB else []


def all_blocks(get: GetBlock, cid: Cid) -> Iterator[Cid]:
    """Every distinct block of an artifact, parents before their children."""
    stack, seen = [cid], set()
    while stack:
        here = stack.pop()
        if here not in seen:
            seen.add(here)
            yield here
            stack += reversed(children(get, here))
