"""Blocks on disk. A block is one file, written aside and renamed, and hashed again whenever it is read.

    blocks/<last two characters of the CID>/<CID>     content
    small.db                                          `small.SmallBlocks`, where a store has them
    links/<CID>-<of the path>                         `linked.Record`: artifacts that lie elsewhere
    tmp/<process>-<random>                            being written; left by a dead process: deleted at start
    putting/<process>-<random>                        locked while something is put, and as old as its beginning

A crash at any instruction leaves whole blocks and rubbish in tmp/. A flipped bit turns a block into a missing one.
Several processes may use one store; one that packs small blocks only on a disk of this machine. A block that is put
again counts as new, and none is deleted that is newer than the oldest put under way (`putting`, `delete_older`): so a
put needs no luck to find all of its blocks there when its artifact is pinned.
"""

import contextlib
import hashlib
import io
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from proofyard.artifacts import dag
from proofyard.artifacts.builder import PutBlock, Readable, build_file, build_tree
from proofyard.artifacts.errors import (
    ArtifactTooLarge,
    BlockMissing,
    CorruptArtifact,
    PartlySupported,
    SourceUnusable,
    StoreUnusable,
    TargetUnusable,
)
from proofyard.artifacts.exporting import write_out
from proofyard.artifacts.files import is_being_written, new_name, sync, write_whole
from proofyard.artifacts.leases import Leases
from proofyard.artifacts.linked import LinkedFile, LinkedFiles, Record, spelt_path
from proofyard.artifacts.small import MAX_SMALL_BYTES, SmallBlocks
from proofyard.artifacts.source import Source, scan
from proofyard.artifacts.unixfs import MAX_BLOCK_BYTES, Link
from proofyard.artifacts.walking import checked
from proofyard.protocol.cid import RAW, CidError, cid_bytes, cid_codec, cid_digest
from proofyard.protocol.codec import CodecError, decode, encode
from proofyard.protocol.types import Cid

if TYPE_CHECKING:
    from proofyard.artifacts.exchange import BlockProvider

logger = logging.getLogger("proofyard.artifacts")

MAX_RECORD_BYTES = 256 << 20
DEFAULT_MAX_BYTES = 64 << 20
"""What `get_bytes` reads into memory unless the caller says otherwise."""

DEFAULT_EXPORT_BYTES = 64 << 30
"""What `export` writes unless the caller says otherwise."""

OnRead = Callable[[int], object]
"""Called with the number of bytes of a source file that were taken in just now."""


GoOn = Callable[[], None]
"""Called before each block of a walk; raises to end it."""


def _always() -> None:
    """Nobody gives the walk up."""


def _unheard(_count: int) -> None:
    """Nobody follows the progress."""


@dataclass(frozen=True)
class StoredBlock:
    """A block with its bytes and when it was written (Unix seconds)."""

    cid: Cid
    size: int
    at: float


class BlockStore:
    """An artifact store in a folder of its own. Its methods may be called from any thread. One that `packs` has small
    blocks in one file; whoever opens its folder finds them there, and adds to them."""

    def __init__(self, path: Path | str, *, packs: bool = False) -> None:
        self.path = Path(path)
        self._small: SmallBlocks | None = None
        self.fallback: BlockProvider | None = None
        """Whom `fetch` asks for what no peer has, such as an IPFS daemon."""
        self._blocks = self.path / "blocks"
        self._links = self.path / "links"
        self._tmp = self.path / "tmp"
        self._leases = Leases(self.path / "putting")
        self._linked = LinkedFiles()
        self._loaded: set[str] = set()
        try:
            for folder in (self._blocks, self._links, self._tmp, self.path / "putting"):
                folder.mkdir(parents=True, exist_ok=True)
            for rubbish in self._tmp.iterdir():
                if not is_being_written(rubbish):
                    rubbish.unlink(missing_ok=True)
            self._load_records()
            small = self.path / "small.db"
            if packs or small.exists():
                self._small = SmallBlocks(small)
        except OSError as error:
            raise StoreUnusable(self.path, error.strerror or str(error)) from None

    # Blocks

    def has(self, cid: Cid) -> bool:
        """Whether the block of this CID is here. Says nothing of the blocks below it; see `missing`."""
        return self._linked.has(cid_digest(cid)) or self._is_stored(cid)

    def get_block(self, cid: Cid) -> bytes:
        """A block, checked. Raises `BlockMissing`, also for one that is damaged, which is deleted."""
        digest = cid_digest(cid)
        path = self._block_path(cid)
        if self._small is not None and (small := self._small.get(cid)) is not None:
            if hashlib.sha256(small).digest() == digest:
                return small
            logger.warning("block %s is damaged on disk and is deleted", cid)
            self._small.delete(cid)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            linked = self._linked.read(digest) if cid_codec(cid) == RAW else None
            if linked is None:
                raise BlockMissing(cid) from None
            return linked
        except OSError as error:
            raise StoreUnusable(self.path, error.strerror or str(error)) from None
        if hashlib.sha256(data).digest() != digest:
            logger.warning("block %s is damaged on disk and is deleted", cid)
            path.unlink(missing_ok=True)
            raise BlockMissing(cid)
        return data

    def block_size(self, cid: Cid) -> int | None:
        """Bytes of a block without reading it, None when it is not here."""
        if self._small is not None and (small := self._small.size(cid)) is not None:
            return small
        try:
            return self._block_path(cid).stat().st_size
        except OSError:
            return self._linked.size(cid_digest(cid)) if cid_codec(cid) == RAW else None

    def small_artifacts(self, cids: Iterable[Cid], most: int) -> dict[Cid, bytes]:
        """Those of some artifacts that are here, and one block of `most` bytes or fewer."""
        wanted = [cid for cid in cids if cid_codec(cid) == RAW]
        packed: dict[Cid, bytes] = {}
        with contextlib.suppress(StoreUnusable):
            packed = {} if self._small is None else self._small.among(wanted)
        found: dict[Cid, bytes] = {}
        for cid in dict.fromkeys(wanted):
            data = packed.get(cid)
            if data is None or hashlib.sha256(data).digest() != cid_digest(cid):
                data = self._small_artifact(cid, most)
            if data is not None and len(data) <= most:
                found[cid] = data
        return found

    def _small_artifact(self, cid: Cid, most: int) -> bytes | None:
        with contextlib.suppress(BlockMissing, StoreUnusable):
            size = self.block_size(cid)
            return None if size is None or size > most else self.get_block(cid)
        return None

    def put_block(self, cid: Cid, data: bytes) -> None:
        """Keep a block. Raises `CorruptArtifact` when `data` is not what the CID names, `StoreUnusable`."""
        _check(cid, data)
        self._put_checked(cid, data)

    def put_blocks(self, blocks: Iterable[tuple[Cid, bytes]]) -> None:
        """The same of several, small ones with one write. What comes before one that is refused is kept."""
        with self._gathering() as put:
            for cid, data in blocks:
                _check(cid, data)
                put(cid, data)

    # Artifacts in

    def put_bytes(self, data: bytes) -> Cid:
        """Store `data` as a file; returns its CID."""
        return build_file(io.BytesIO(data), self._put_checked, self._put_checked).cid

    def put_file(self, path: Path | str, on_read: OnRead = _unheard) -> Cid:
        """Copy a file into the store, in constant memory."""
        return self._put_file(Path(path), "", on_read, self._put_checked).cid

    def put_files(self, paths: Iterable[Path]) -> list[Cid]:
        """The same of several, small blocks with one write."""
        with self._gathering() as put:
            return [self._put_file(path, "", _unheard, put).cid for path in paths]

    def put_directory(self, path: Path | str, on_read: OnRead = _unheard, *, follow: bool = False) -> Cid:
        """Copy a folder's visible files into the store. Symbolic links in it stay links, as with `ipfs add`, unless
        `follow` has them stand for what they point to. Raises `SourceUnusable`."""
        source = scan(Path(path), follow=follow)
        return build_tree(
            source, lambda file, name: self._put_file(file.path, name, on_read, self._put_checked), self._put_checked
        ).cid

    def link_file(self, path: Path | str, on_read: OnRead = _unheard) -> Cid:
        """Make an existing file an artifact where it lies. Not hashed again while it is unchanged."""
        return self._link(Path(path), on_read)

    def link_directory(self, path: Path | str, on_read: OnRead = _unheard, *, follow: bool = False) -> Cid:
        """Make an existing folder's visible files an artifact where they lie, such as a model's directory; `follow` as
        for `put_directory`."""
        return self._link(Path(path), on_read, follow=follow)

    @contextlib.contextmanager
    def putting(self) -> Iterator[None]:
        """No process deletes what is put in here before it ends, so that it can be pinned first."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._leases.hold())
            except OSError as error:
                raise StoreUnusable(self.path, error.strerror or str(error)) from None
            yield

    def renew(self, cid: Cid) -> None:
        """Have all blocks of an artifact that are here count as put just now."""
        stack, seen = [cid], {cid}
        while stack:
            here = stack.pop()
            if not self._renew(here) and self._small is not None:
                self._small.renew(here)
            with contextlib.suppress(BlockMissing, CorruptArtifact):
                below = set(dag.children(self.get_block, here)) - seen
                seen |= below
                stack += below

    # Artifacts out

    def size(self, cid: Cid) -> int:
        """Bytes of content: a file's, or all files' of a directory, each as often as it is linked.

        Needs the directories and the files' roots.
        """
        return dag.extent(self.get_block, cid).size

    def require_size(self, cid: Cid, max_bytes: int, go_on: GoOn = _always) -> None:
        """Raise `ArtifactTooLarge` for an artifact that would be more than `max_bytes` when it is written out."""
        dag.measured(checked(self.get_block, go_on), cid, max_bytes)

    def get_bytes(self, cid: Cid, max_bytes: int = DEFAULT_MAX_BYTES) -> bytes:
        """A file's content. Raises `ArtifactTooLarge` before reading it, `BlockMissing`, `CorruptArtifact`."""
        size = dag.content_size(dag.load(self.get_block, cid))
        if size > max_bytes:
            raise ArtifactTooLarge(cid, size, max_bytes)
        return b"".join(self.read_range(cid, 0, size))

    def read_range(self, cid: Cid, start: int, length: int) -> Iterator[bytes]:
        """A file's bytes from `start`, `length` of them or up to its end, block by block."""
        return dag.read_range(self.get_block, cid, start, length)

    def export(
        self,
        cid: Cid,
        destination: Path | str,
        max_bytes: int = DEFAULT_EXPORT_BYTES,
        *,
        outside_links: bool = False,
    ) -> Path:
        """Write an artifact to `destination`, each file whole or not at all; `local_path` finds it later.

        Raises `ArtifactTooLarge` before anything is written: a few blocks that are linked many times count as often.
        Raises `UnsupportedArtifact` after all else is written, where entries had to be left out: symbolic links that
        lead out of the artifact are, unless `outside_links`.
        """
        root = Path(destination).absolute()
        entries = dag.measured(self.get_block, cid, max_bytes)
        try:
            left_out = write_out(entries, root, self.read_range, outside_links=outside_links)
        except OSError as error:
            raise TargetUnusable(root, error.strerror or str(error)) from None
        if left_out:
            raise PartlySupported(cid, root, [("/".join(path), why) for path, why in left_out.items()])
        # What was there before makes it another folder, or none that could be an artifact.
        with contextlib.suppress(SourceUnusable):
            record = self._record(root, scan(root), _unheard, _drop)
            if record.cid == cid:
                self._remember(record)
        return root

    def unlink(self, cid: Cid) -> None:
        """Forget that an artifact lies elsewhere; the files stay where they are. Idempotent."""
        cid_bytes(cid)
        self._forget(self._linked.of(cid))

    def export_range(
        self, cid: Cid, destination: Path | str, start: int, stop: int, max_bytes: int = DEFAULT_EXPORT_BYTES
    ) -> Path:
        """Write bytes `start` up to `stop` of a file to the file `destination`, whole or not at all."""
        target = Path(destination).absolute()
        self.require_range(cid, start, stop, max_bytes)
        self.write_file(target, self.read_range(cid, start, stop - start))
        return target

    def local_path(self, cid: Cid) -> Path | None:
        """Where a linked or exported artifact lies as a plain file or folder, if it still is unchanged there."""
        return self._linked.path(cid)

    def missing(self, *cids: Cid, seen: set[Cid] | None = None, go_on: GoOn = _always) -> Iterator[Cid]:
        """The blocks that these artifacts lack here; those below a missing block are not known yet.

        Blocks in `seen` are passed over, and those that are looked at are added to it.
        """
        stack = list(reversed(cids))
        seen = set() if seen is None else seen
        while stack:
            here = stack.pop()
            if here in seen:
                continue
            seen.add(here)
            go_on()
            if not self.has(here):
                yield here
            else:
                try:
                    stack += reversed(dag.children(self.get_block, here))
                except BlockMissing:
                    yield here

    def missing_of_range(self, cid: Cid, start: int, stop: int, go_on: GoOn = _always) -> list[Cid]:
        """The blocks that bytes `start` to `stop` of a file lack here, as far as they are known."""
        return dag.missing_of_range(checked(self.get_block, go_on), self.has, cid, start, stop)

    def require_range(self, cid: Cid, start: int, stop: int, max_bytes: int) -> None:
        """Raise `ArtifactTooLarge` where the file has more than `max_bytes` of these bytes. Needs its root."""
        length = dag.range_length(self.get_block, cid, start, stop)
        if length > max_bytes:
            raise ArtifactTooLarge(cid, length, max_bytes)

    def sync(self, *cids: Cid, missing_ok: bool = False) -> None:
        """Have all blocks of artifacts on the disk itself, before somebody signs for them: a power cut must not take
        them. Those of linked files are their owner's to keep. Raises `StoreUnusable`, and `BlockMissing` unless
        `missing_ok`."""
        folders: set[Path] = set()
        leaves = [cid for cid in dict.fromkeys(cids) if cid_codec(cid) == RAW]
        small = frozenset() if self._small is None else self._small.among(leaves).keys()
        packed = bool(small)
        try:
            for cid in dict.fromkeys(cids):
                try:
                    for block in () if cid in small else dag.all_blocks(self.get_block, cid):
                        path = self._block_path(block)
                        if self._small is not None and self._small.size(block) is not None:
                            packed = True
                        elif path.exists():
                            sync(path)
                            folders.add(path.parent)
                        elif not self.has(block):
                            raise BlockMissing(block)
                except BlockMissing:
                    if not missing_ok:
                        raise
            for folder in [*folders, self._blocks] if folders else []:
                sync(folder)
            if packed and self._small is not None:
                self._small.sync()
        except OSError as error:
            raise StoreUnusable(self.path, error.strerror or str(error)) from None

    def linked(self) -> dict[Cid, Path]:
        """The artifacts that lie elsewhere, and where; what other processes linked among them."""
        self._load_records()
        return self._linked.roots()

    def forget_lost(self) -> None:
        """Let the records of files and folders go that are no longer there."""
        self._forget([record for record in self._linked.records() if not record.location().exists()])

    def blocks(self) -> Iterator[StoredBlock]:
        """The blocks in this folder; those of linked files are elsewhere."""
        for path in self._blocks.glob("*/*"):
            with contextlib.suppress(CidError, FileNotFoundError):
                cid_bytes(path.name)
                state = path.stat()
                yield StoredBlock(Cid(path.name), state.st_size, state.st_mtime)
        for cid, size, at in self._small.all() if self._small is not None else ():
            yield StoredBlock(cid, size, at)

    def delete_block(self, cid: Cid) -> None:
        """Let a block go. Idempotent."""
        self._block_path(cid).unlink(missing_ok=True)
        if self._small is not None:
            self._small.delete(cid)

    def oldest_put(self) -> float:
        """When the oldest put began that is still under way, or else now; by the clock of the disk (Unix seconds)."""
        try:
            return self._leases.oldest()
        except OSError as error:
            raise StoreUnusable(self.path, error.strerror or str(error)) from None

    def delete_older(self, cid: Cid, before: float) -> bool:
        """Let a block go unless it was put at `before` (Unix seconds) or later, by whichever process; whether it went.

        It is moved aside before its time is looked at, so that whoever puts it meanwhile either renews it in time, or
        finds it gone and writes it.
        """
        if self._small is not None and self._small.size(cid) is not None:
            return self._small.delete_older(cid, before)
        path, aside = self._block_path(cid), self._tmp / new_name()
        try:
            if path.stat().st_mtime >= before:
                return False
            path.replace(aside)
            if aside.stat().st_mtime < before:
                aside.unlink()
                return True
            aside.replace(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StoreUnusable(self.path, error.strerror or str(error)) from None
        return False

    def close(self) -> None:
        """Let go of what is open; only a store that packs has to be closed. Idempotent."""
        if self._small is not None:
            self._small.close()

    # Files of the store

    def write_file(self, target: Path, pieces: Iterator[bytes]) -> None:
        """Write a file of somebody else's, whole or not at all. Raises `StoreUnusable`."""
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, pieces)
        except OSError as error:
            raise TargetUnusable(target, error.strerror or str(error)) from None

    def write_whole(self, target: Path, data: bytes) -> None:
        """Write one of the store's own files, whole or not at all. Raises `StoreUnusable`."""
        try:
            write_whole(target, [data], aside=self._tmp)
        except OSError as error:
            raise StoreUnusable(self.path, error.strerror or str(error)) from None

    def _block_path(self, cid: Cid) -> Path:
        cid_bytes(cid)  # a path from outside is a digest, nothing else
        return self._blocks / cid[-2:] / cid

    def _is_stored(self, cid: Cid) -> bool:
        path = self._block_path(cid)
        return (self._small is not None and self._small.size(cid) is not None) or path.exists()

    def _put_checked(self, cid: Cid, data: bytes) -> None:
        if self._small is not None and len(data) <= MAX_SMALL_BYTES:
            self._small.put({cid: data})
            return
        path = self._block_path(cid)
        if self._renew(cid):
            return
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise StoreUnusable(self.path, error.strerror or str(error)) from None
        self.write_whole(path, data)

    @contextlib.contextmanager
    def _gathering(self) -> Iterator[PutBlock]:
        """What keeps blocks that were checked, small ones at the end of the `with` statement, however that comes."""
        small: dict[Cid, bytes] = {}

        def put(cid: Cid, data: bytes) -> None:
            if self._small is None or len(data) > MAX_SMALL_BYTES:
                self._put_checked(cid, data)
            else:
                small[cid] = data

        try:
            yield put
        finally:
            if self._small is not None:
                self._small.put(small)

    def _renew(self, cid: Cid) -> bool:
        """Have a block in a file count as put just now; False where there is none."""
        try:
            os.utime(self._block_path(cid))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreUnusable(self.path, error.strerror or str(error)) from None
        return True

    def _put_file(self, path: Path, name: str, on_read: OnRead, put: PutBlock) -> Link:
        def put_leaf(cid: Cid, data: bytes) -> None:
            put(cid, data)
            on_read(len(data))

        with _reading(path) as (source, _):
            return build_file(source, put_leaf, put, name)

    def _link(self, path: Path, on_read: OnRead, *, follow: bool = False) -> Cid:
        path = path.absolute()
        source = scan(path, follow=follow)
        for known in self._linked.of_path(path):
            if known.shape == source.shape() and known.unchanged() and not any(self.missing(known.cid)):
                return known.cid
        record = self._record(path, source, on_read, self._put_checked)
        self._remember(record)
        return record.cid

    def _record(self, path: Path, source: Source, on_read: OnRead, put_node: PutBlock) -> Record:
        """What `path` is as an artifact whose leaves stay where they are."""
        files: list[LinkedFile] = []

        def link_one(file: Source, name: str) -> Link:
            leaves = bytearray()

            def note_leaf(cid: Cid, data: bytes) -> None:
                leaves.extend(cid_digest(cid))
                on_read(len(data))

            with _reading(file.path) as (opened, state):
                link = build_file(opened, note_leaf, put_node, name)
            files.append(LinkedFile(spelt_path(file.path), state.st_size, state.st_mtime_ns, bytes(leaves)))
            return link

        cid = build_tree(source, link_one, put_node).cid
        return Record(cid, spelt_path(path), tuple(files), source.shape())

    def _remember(self, record: Record) -> None:
        """Keep a record. What the same path held before, it holds no longer."""
        self._forget([each for each in self._linked.of_path(record.location()) if each.cid != record.cid])
        file = self._record_file(record)
        self.write_whole(file, encode(record))
        self._loaded.add(file.name)
        self._linked.add(record)

    def _forget(self, records: list[Record]) -> None:
        self._linked.remove(records)
        for record in records:
            self._record_file(record).unlink(missing_ok=True)
            (self._links / record.cid).unlink(missing_ok=True)

    def _record_file(self, record: Record) -> Path:
        return self._links / f"{record.cid}-{hashlib.sha256(os.fsencode(record.location())).hexdigest()[:16]}"

    def _load_records(self) -> None:
        """Know of what was linked since, by any process."""
        for file in self._links.iterdir():
            if file.name in self._loaded:
                continue
            try:
                self._linked.add(decode(file.read_bytes(), Record, max_bytes=MAX_RECORD_BYTES))
                self._loaded.add(file.name)
            except FileNotFoundError:
                continue
            except CodecError as error:
                logger.warning("the record of a linked artifact at %s is unreadable and is deleted: %s", file, error)
                file.unlink(missing_ok=True)


def _check(cid: Cid, data: bytes) -> None:
    """Raise `ArtifactTooLarge` or `CorruptArtifact` for what is no block of this CID."""
    if len(data) > MAX_BLOCK_BYTES:
        raise ArtifactTooLarge(cid, len(data), MAX_BLOCK_BYTES)
    if hashlib.sha256(data).digest() != cid_digest(cid):
        raise CorruptArtifact(cid, "a block does not have its digest")


def _drop(_cid: Cid, _data: bytes) -> None:
    """A block that is here already."""


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[tuple[Readable, os.stat_result]]:
    """A file to be read to its end. Raises `SourceUnusable` where somebody writes to it meanwhile."""
    with _open(path) as source:
        before = os.fstat(source.fileno())
        yield _Measured(source, path, before.st_size), before
        after = os.fstat(source.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise _changing(path)


class _Measured:
    """A file of which no more is read than it had: one that grows as fast as it is read would have no end."""

    def __init__(self, source: io.FileIO, path: Path, size: int) -> None:
        self._source, self._path, self._left = source, path, size

    def read(self, count: int) -> bytes:
        # What is asked for is memory that is taken first, and chunks are much larger than most files.
        data = self._source.read(min(count, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise _changing(self._path)
        return data


def _changing(path: Path) -> SourceUnusable:
    return SourceUnusable(path, "changes while it is read; put it again once nobody writes to it")


def _open(path: Path) -> io.FileIO:
    try:
        return io.FileIO(path)
    except OSError as error:
        raise SourceUnusable(path, f"cannot be read: {error.strerror or error}") from None
