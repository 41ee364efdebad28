"""Walking DAGs of files and directories, given a way to get a checked block.

The functions here trust nothing but the blocks' digests. A link may be repeated, so that a few blocks stand for any
amount of content: what a walk would make is counted with every repetition before any of it is made. A child must have
exactly the size its parent says, and walking a file costs no more than `Allowance` gives for its size; a directory has
no more than `MAX_ENTRIES`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from proofyard.artifacts.errors import ArtifactTooLarge, CorruptArtifact
from proofyard.artifacts.unixfs import Kind, Link, Node, decode
from proofyard.protocol.cid import DAG_PB, cid_codec
from proofyard.protocol.types import Cid

MAX_DEPTH = 16
"""Levels of a file's tree, and of folders in folders."""

MAX_ENTRIES = 100_000
"""Files and folders in one artifact, each counted as often as it is linked."""

BLOCK_COST = 1024
"""What a block counts at least, in bytes: content that is cut into crumbs costs more than it is."""

SPARE_COST = 8 << 20
SPARE_ENTRIES = 1024

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


@dataclass
class Allowance:
    """Bounds what reading `size` bytes of the file `cid` may cost: four times as much, a block at `BLOCK_COST` or more.

    Chunks of 256 KiB cost little more than they hold; a file of single bytes, or of nodes that are mostly something
    else, is refused.
    """

    cid: Cid
    size: int
    spent: int = 0

    def spend(self, block_bytes: int) -> None:
        """Count one block. Raises `CorruptArtifact`."""
        self.spent += BLOCK_COST + block_bytes
        if self.spent > 4 * self.size + SPARE_COST:
            raise CorruptArtifact(self.cid, f"it is cut into too many pieces for {self.size} bytes")


def entries(get: GetBlock, cid: Cid, limit: int = MAX_ENTRIES) -> Iterator[Entry]:
    """The root and everything below it, parents first, each block read once.

    Raises `ArtifactTooLarge` after `limit` entries or below `MAX_DEPTH` folders.
    """
    stack: list[tuple[tuple[str, ...], Cid]] = [((), cid)]
    known: dict[Cid, tuple[int | None, tuple[Link, ...]]] = {}
    seen = 0
    while stack:
        path, here = stack.pop()
        seen += 1
        if seen > limit or len(path) > MAX_DEPTH:
            raise ArtifactTooLarge(cid, seen, limit, "entries")
        if here not in known:
            known[here] = _file_size_and_links(load(get, here))
        size, links = known[here]
        yield Entry(path, here, size is None, size or 0)
        stack += [((*path, link.name), link.cid) for link in reversed(links)]


def measured(get: GetBlock, cid: Cid, max_bytes: int) -> list[Entry]:
    """The entries of an artifact whose files hold at most `max_bytes` together, every repetition counted.

    Raises `ArtifactTooLarge`, also for more entries than a disk holds in little more than that room.
    """
    found, total = [], 0
    for entry in entries(get, cid, min(MAX_ENTRIES, SPARE_ENTRIES + max_bytes // 4096)):
        total += entry.size
        if total > max_bytes:
            raise ArtifactTooLarge(cid, total, max_bytes)
        found.append(entry)
    return found


def read_range(get: GetBlock, cid: Cid, start: int, length: int) -> Iterator[bytes]:
    """The bytes from `start` of a file, `length` of them or up to its end, leaf by leaf."""
    return _read(get, Allowance(cid, length), cid, None, start, start + length, 0)


def _read(
    get: GetBlock, allowance: Allowance, cid: Cid, expected: int | None, start: int, stop: int, depth: int
) -> Iterator[bytes]:
    _require_depth(allowance.cid, depth)
    block = get(cid)
    allowance.spend(len(block))
    node = decode(cid, block) if cid_codec(cid) == DAG_PB else block
    _require_file(node, cid)
    if expected is not None and content_size(node) != expected:
        raise CorruptArtifact(cid, f"it holds {content_size(node)} bytes where its parent says {expected}")
    own = node if isinstance(node, bytes) else node.data
    if start < len(own):
        yield own[max(0, start) : stop]
    if isinstance(node, bytes):
        return
    for link, size, at in _parts(node, start, stop):
        yield from _read(get, allowance, link.cid, size, start - at, stop - at, depth + 1)


def range_length(get: GetBlock, cid: Cid, start: int, stop: int) -> int:
    """How many of the bytes from `start` to `stop` a file has, by what its root says."""
    node = load(get, cid)
    _require_file(node, cid)
    return max(0, min(stop, content_size(node)) - start)


def missing_of_range(get: GetBlock, has: Callable[[Cid], bool], cid: Cid, start: int, stop: int) -> list[Cid]:
    """The blocks that bytes `start` to `stop` of a file need and `has` denies; those below a missing one are not known.

    Raises `CorruptArtifact` for a directory, and `BlockMissing` for a block that is damaged.
    """
    found: dict[Cid, None] = {}
    allowance = Allowance(cid, stop - start)

    def walk(here: Cid, start: int, stop: int, depth: int) -> None:
        _require_depth(cid, depth)
        allowance.spend(0)
        if start >= stop:
            return
        if not has(here):
            found[here] = None
        elif cid_codec(here) == DAG_PB:
            block = get(here)
            allowance.spend(len(block))
            node = decode(here, block)
            _require_file(node, here)
            # A child holds what its parent says or is refused later, so that the walk ends where the range does.
            for link, size, at in _parts(node, start, stop):
                walk(link.cid, max(0, start - at), min(size, stop - at), depth + 1)

    walk(cid, start, stop, 0)
    return list(found)


def children(get: GetBlock, cid: Cid) -> list[Cid]:
    """The distinct blocks right below one, in order; none below a raw leaf, which is not read."""
    return list(dict.fromkeys(link.cid for link in decode(cid, get(cid)).links)) if cid_codec(cid) == DAG_PB else []


def all_blocks(get: GetBlock, cid: Cid) -> Iterator[Cid]:
    """Every distinct block of an artifact, parents before their children."""
    stack, seen = [cid], set()
    while stack:
        here = stack.pop()
        if here not in seen:
            seen.add(here)
            yield here
            stack += reversed(children(get, here))


def _file_size_and_links(node: Node | bytes) -> tuple[int | None, tuple[Link, ...]]:
    if isinstance(node, Node) and node.kind is Kind.DIRECTORY:
        return None, node.links
    return content_size(node), ()


def _parts(node: Node, start: int, stop: int) -> Iterator[tuple[Link, int, int]]:
    """The children of a file's node that hold bytes of the range, their sizes, and where in the node they begin."""
    at = len(node.data)
    for link, size in zip(node.links, node.block_sizes, strict=True):
        if at < stop and start < at + size:
            yield link, size, at
        at += size


def _require_file(node: Node | bytes, cid: Cid) -> None:
    if isinstance(node, Node) and node.kind is Kind.DIRECTORY:
        raise CorruptArtifact(cid, "it is a directory where a file is expected")


def _require_depth(cid: Cid, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise CorruptArtifact(cid, f"its tree is deeper than {MAX_DEPTH} levels")
