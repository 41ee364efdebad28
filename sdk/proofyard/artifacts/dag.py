"""Walking DAGs of files and directories, given a way to get a checked block.

The functions here trust nothing but the blocks' digests. A link may be repeated, so that a few blocks stand for any
amount of content. So what an artifact would be is reckoned first, exactly and with each distinct block read once
(`extent`), and everything that makes content asks that before it begins. A child must have exactly the size its parent
says; reading a file costs no more than `Allowance` gives for its size.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from proofyard.artifacts.errors import ArtifactTooLarge, CorruptArtifact, UnsupportedArtifact
from proofyard.artifacts.unixfs import Kind, Link, Node, decode, links_of, name_of, why_unusable
from proofyard.protocol.cid import DAG_PB, cid_codec, is_cid
from proofyard.protocol.types import Cid

MAX_DEPTH = 16
"""Levels of a file's tree, and of folders in folders."""

MAX_SHARD_DEPTH = 24
"""Levels of the shards of one directory: a name's 64 bits, three of them a level at least."""

MAX_ENTRIES = 100_000
"""Files and folders in one artifact, each counted as often as it is linked."""

BLOCK_COST = 1024
"""What a block counts at least, in bytes: content that is cut into crumbs costs more than it is."""

SPARE_COST = 8 << 20
SPARE_ENTRIES = 1024

FOREIGN = "its CID has another hash or codec than sha2-256 with raw or dag-pb"

GetBlock = Callable[[Cid], bytes]


class EntryKind(Enum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True)
class Entry:
    """What an artifact has under `path`, its names from the root, empty for the root itself. `size` counts bytes of
    content, `target` is a symbolic link's, and `why` says what is not supported of an entry that is left out."""

    path: tuple[str, ...]
    cid: Cid
    kind: EntryKind
    size: int = 0
    target: str = ""
    executable: bool = False
    why: str = ""

    @property
    def is_directory(self) -> bool:
        return self.kind is EntryKind.DIRECTORY


@dataclass(frozen=True)
class Extent:
    """What an artifact is when it is written out, each repetition counted: bytes of content, entries with the root, and
    levels of folders."""

    size: int
    entries: int
    depth: int


def load(get: GetBlock, cid: Cid) -> Node | bytes:
    """The node behind a CID, or the bytes of a raw leaf."""
    block = get(cid)
    return decode(cid, block) if cid_codec(cid) == DAG_PB else block


def content_size(node: Node | bytes) -> int:
    """Bytes of content that a file's node or leaf stands for."""
    if isinstance(node, bytes):
        return len(node)
    return len(node.data) if node.kind is Kind.SYMLINK else node.file_size or 0


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


class _Tree:
    """The entries of one artifact; each distinct block is read once."""

    def __init__(self, get: GetBlock, root: Cid) -> None:
        self._get = get
        self._root = root
        self._found: dict[Cid, tuple[Entry, tuple[Link, ...]]] = {}
        self._extents: dict[Cid, Extent] = {}

    def entry(self, link: Link, path: tuple[str, ...]) -> tuple[Entry, tuple[Link, ...]]:
        """What is behind a link, and the links of a directory. What is not supported spoils nothing but itself, unless
        it is the root."""
        if path and (why := why_unusable(link.name) or ("" if is_cid(link.cid) else FOREIGN)):
            return Entry(path, link.cid, EntryKind.UNSUPPORTED, why=why), ()
        if link.cid not in self._found:
            try:
                self._found[link.cid] = self._look(link.cid)
            except UnsupportedArtifact as error:
                if not path:
                    raise
                self._found[link.cid] = Entry((), link.cid, EntryKind.UNSUPPORTED, why=error.reason), ()
        return self._found[link.cid]

    def _look(self, cid: Cid) -> tuple[Entry, tuple[Link, ...]]:
        node = load(self._get, cid)
        if isinstance(node, Node) and node.is_directory:
            return Entry((), cid, EntryKind.DIRECTORY), tuple(_named(self._get, cid, node))
        if isinstance(node, Node) and node.kind is Kind.SYMLINK:
            return Entry((), cid, EntryKind.SYMLINK, len(node.data), name_of(node.data)), ()
        executable = isinstance(node, Node) and bool(node.mode & 0o111)
        return Entry((), cid, EntryKind.FILE, content_size(node), executable=executable), ()

    def extent(self, link: Link, path: tuple[str, ...] = ()) -> Extent:
        """Exact, in the time that the distinct blocks take. Raises `ArtifactTooLarge` below `MAX_DEPTH` folders."""
        if len(path) > MAX_DEPTH:
            raise ArtifactTooLarge(self._root, len(path), MAX_DEPTH, "levels of folders")
        entry, links = self.entry(link, path)
        if not links:
            return Extent(entry.size, 1, 0)
        if link.cid not in self._extents:
            parts = [self.extent(each, (*path, each.name)) for each in links]
            size, count = sum(each.size for each in parts), sum(each.entries for each in parts)
            self._extents[link.cid] = Extent(size, count + 1, max(each.depth for each in parts) + 1)
        found = self._extents[link.cid]
        if len(path) + found.depth > MAX_DEPTH:
            raise ArtifactTooLarge(self._root, len(path) + found.depth, MAX_DEPTH, "levels of folders")
        return found

    def walk(self) -> Iterator[Entry]:
        stack: list[tuple[tuple[str, ...], Link]] = [((), Link(self._root, "", 0))]
        while stack:
            path, link = stack.pop()
            entry, links = self.entry(link, path)
            yield Entry(path, link.cid, entry.kind, entry.size, entry.target, entry.executable, entry.why)
            stack += [((*path, each.name), each) for each in reversed(links)]


def extent(get: GetBlock, cid: Cid) -> Extent:
    """What an artifact is when it is written out. Needs its directories and its files' roots.

    Raises `CorruptArtifact`, `UnsupportedArtifact` for a root that is none of these, `ArtifactTooLarge` for folders
    deeper than `MAX_DEPTH`.
    """
    return _Tree(get, cid).extent(Link(cid, "", 0))


def entries(get: GetBlock, cid: Cid, limit: int = MAX_ENTRIES, max_bytes: int | None = None) -> Iterator[Entry]:
    """The root and everything below it, parents first, in the order of names.

    Raises as `extent` does, and `ArtifactTooLarge` for more than `limit` entries or `max_bytes` of content, before the
    first one comes.
    """
    tree = _Tree(get, cid)
    whole = tree.extent(Link(cid, "", 0))
    if max_bytes is not None and whole.size > max_bytes:
        raise ArtifactTooLarge(cid, whole.size, max_bytes)
    if whole.entries > limit:
        raise ArtifactTooLarge(cid, whole.entries, limit, "entries")
    return tree.walk()


def measured(get: GetBlock, cid: Cid, max_bytes: int) -> Iterator[Entry]:
    """The entries of an artifact whose files hold at most `max_bytes` together, every repetition counted.

    Raises `ArtifactTooLarge`, also for more entries than a disk holds in little more than that room.
    """
    return entries(get, cid, min(MAX_ENTRIES, SPARE_ENTRIES + max_bytes // 4096), max_bytes)


def _named(get: GetBlock, root: Cid, node: Node) -> list[Link]:
    """The entries of a directory, its shards' together, by name. A genuine shard is linked once: its names have their
    own hashes."""
    if node.kind is Kind.DIRECTORY:
        return list(node.links)
    found: dict[str, Link] = {}
    seen: set[Cid] = set()
    stack = [(node, 0)]
    while stack:
        shard, depth = stack.pop()
        for link in shard.links:
            name = link.name[shard.prefix_length :]
            if name:
                if name in found:
                    raise CorruptArtifact(root, "a directory names an entry twice")
                found[name] = Link(link.cid, name, link.tsize)
                continue
            if link.cid in seen or depth == MAX_SHARD_DEPTH:
                raise CorruptArtifact(root, "its shards are no tree")
            seen.add(link.cid)
            below = _shard(get, root, link.cid)
            stack.append((below, depth + 1))
    return [found[name] for name in sorted(found)]


def _shard(get: GetBlock, root: Cid, cid: Cid) -> Node:
    if not is_cid(cid) or cid_codec(cid) != DAG_PB:
        raise UnsupportedArtifact(root, f"a shard of it is {cid[:80]}")
    node = decode(cid, get(cid))
    if node.kind is not Kind.SHARD or not node.links:
        raise CorruptArtifact(root, "a shard of it is none, or empty")
    return node


def read_range(get: GetBlock, cid: Cid, start: int, length: int) -> Iterator[bytes]:
    """The bytes from `start` of a file, `length` of them or up to its end, leaf by leaf."""
    length = range_length(get, cid, start, start + length)
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
        if not is_cid(link.cid):
            raise UnsupportedArtifact(allowance.cid, f"a part of it is {link.cid[:80]}, and {FOREIGN}")
        yield from _read(get, allowance, link.cid, size, start - at, stop - at, depth + 1)


def range_length(get: GetBlock, cid: Cid, start: int, stop: int) -> int:
    """How many of the bytes from `start` to `stop` a file has, by what its root says."""
    node = load(get, cid)
    _require_file(node, cid)
    return max(0, min(stop, content_size(node)) - start)


def missing_of_range(get: GetBlock, has: Callable[[Cid], bool], cid: Cid, start: int, stop: int) -> list[Cid]:
    """The blocks that bytes `start` to `stop` of a file need and `has` denies; those below a missing one are not known.

    Each distinct block is walked once, but for the two edges of the range. Raises `CorruptArtifact` for a directory,
    `UnsupportedArtifact`, and `BlockMissing` for a block that is damaged.
    """
    found: dict[Cid, None] = {}
    whole: set[Cid] = set()

    def walk(here: Cid, start: int, stop: int, size: int, depth: int) -> None:
        _require_depth(cid, depth)
        if not is_cid(here):
            raise UnsupportedArtifact(cid, f"a part of it is {here[:80]}, and {FOREIGN}")
        if start <= 0 and stop >= size:
            if here in whole:
                return
            whole.add(here)
        if not has(here):
            found[here] = None
        elif cid_codec(here) == DAG_PB:
            node = decode(here, get(here))
            _require_file(node, here)
            for link, part, at in _parts(node, start, stop):
                walk(link.cid, start - at, stop - at, part, depth + 1)

    if start < stop:
        if not has(cid):
            return [cid]
        root = load(get, cid)
        _require_file(root, cid)
        size = content_size(root)
        walk(cid, start, min(stop, size), size, 0)
    return list(found)


def claimed_size(cid: Cid, block: bytes) -> int:
    """Bytes that what is below a DAG-PB block has at least, as its author says: enough to give up early, and no more.
    Raises `CorruptArtifact`."""
    try:
        node = decode(cid, block)
    except UnsupportedArtifact:
        return 0
    return sum(link.tsize for link in node.links) if node.is_directory else node.file_size or 0


def children(get: GetBlock, cid: Cid) -> list[Cid]:
    """The distinct blocks right below one, in order; none below a raw leaf, which is not read. What this network has no
    CIDs for is nobody's to keep or send here, and passed over. Raises `CorruptArtifact`."""
    return children_of(cid, get(cid)) if cid_codec(cid) == DAG_PB else []


def children_of(cid: Cid, block: bytes) -> list[Cid]:
    """The same, of a block that is at hand."""
    links = links_of(cid, block) if cid_codec(cid) == DAG_PB else []
    return [each for each in dict.fromkeys(link.cid for link in links) if is_cid(each)]


def all_blocks(get: GetBlock, cid: Cid) -> Iterator[Cid]:
    """Every distinct block of an artifact, parents before their children."""
    stack, seen = [cid], set()
    while stack:
        here = stack.pop()
        if here not in seen:
            seen.add(here)
            yield here
            stack += reversed(children(get, here))


def _parts(node: Node, start: int, stop: int) -> Iterator[tuple[Link, int, int]]:
    """The children of a file's node that hold bytes of the range, their sizes, and where in the node they begin."""
    at = len(node.data)
    for link, size in zip(node.links, node.block_sizes, strict=True):
        if at < stop and start < at + size:
            yield link, size, at
        at += size


def _require_file(node: Node | bytes, cid: Cid) -> None:
    if isinstance(node, Node) and node.kind not in (Kind.FILE, Kind.RAW):
        what = "directory" if node.is_directory else "symbolic link"
        raise UnsupportedArtifact(cid, f"it is a {what} where a file is expected")


def _require_depth(cid: Cid, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise CorruptArtifact(cid, f"its tree is deeper than {MAX_DEPTH} levels")
