"""Blocks on disk. A block is one file, written aside and renamed, and hashed again whenever it is read.

    blocks/<last two characters of the CID>/<CID>     content
    small.db                                          `small.SmallBlocks`, where a store has them
    links/<CID>                                       `linked.Record`: artifacts that lie elsewhere
    tmp/<process>-<number>                            being written; left by a dead process: deleted at start

A crash at any instruction leaves whole blocks and rubbish in tmp/. A flipped bit turns a block into a missing one.
Several processes may use one store; one that packs small blocks only on a disk of this machine.
"""

import contextlib
import hashlib
import io
import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from proofyard.artifacts import dag
from proofyard.artifacts.builder import build_file, build_tree
from proofyard.artifacts.errors import ArtifactTooLarge, BlockMissing, CorruptArtifact, StoreUnusable
from proofyard.artifacts.linked import LinkedFile, LinkedFiles, Record
from proofyard.artifacts.small import MAX_SMALL_BYTES, SmallBlocks
from proofyard.artifacts.unixfs import MAX_BLOCK_BYTES, Link
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
        self._linked = LinkedFiles()
        self._counter = 0
        self._lock = threading.Lock()
        try:
            for folder in (self._blocks, self._links, self._tmp):
                folder.mkdir(parents=True, exist_ok=True)
            for rubbish in self._tmp.iterdir():
                if not _is_being_written(rubbish):
                    rubbish.unlink(missing_ok=True)
            for file in self._links.iterdir():
                self._load_record(file)
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

    def put_block(self, cid: Cid, data: bytes) -> None:
        """Keep a block. Raises `CorruptArtifact` when `data` is not what the CID names, `StoreUnusable`."""
        if len(data) > MAX_BLOCK_BYTES:
            raise ArtifactTooLarge(cid, len(data), MAX_BLOCK_BYTES)
        if hashlib.sha256(data).digest() != cid_digest(cid):
            raise CorruptArtifact(cid, "a block does not have its digest")
        self._put_checked(cid, data)

    # Artifacts in

    def put_bytes(self, data: bytes) -> Cid:
        """Store `data` as a file; returns its CID."""
        return build_file(io.BytesIO(data), self._put_checked, self._put_checked).cid

    def put_file(self, path: Path | str, on_read: OnRead = _unheard) -> Cid:
        """Copy a file into the store, in constant memory."""
        return self._put_file(Path(path), "", on_read).cid

    def put_directory(self, path: Path | str, on_read: OnRead = _unheard) -> Cid:
        """Copy a folder's visible files into the store."""
        return build_tree(Path(path), lambda file, name: self._put_file(file, name, on_read), self._put_checked).cid

    def link_file(self, path: Path | str, on_read: OnRead = _unheard) -> Cid:
        """Make an existing file an artifact where it lies. Not hashed again while it is unchanged."""
        return self._link(Path(path), on_read)

    def link_directory(self, path: Path | str, on_read: OnRead = _unheard) -> Cid:
        """Make an existing folder's visible files an artifact where they lie, such as a model's directory."""
        return self._link(Path(path), on_read)

    # Artifacts out

    def size(self, cid: Cid) -> int:
        """Bytes of content: a file's, or all files' of a directory, each as often as it is linked.

        Needs the directories and the files' roots.
        """
        return sum(entry.size for entry in dag.entries(self.get_block, cid))

    def require_size(self, cid: Cid, max_bytes: int) -> None:
        """Raise `ArtifactTooLarge` for an artifact that would be more than `max_bytes` when it is written out."""
        dag.measured(self.get_block, cid, max_bytes)

    def get_bytes(self, cid: Cid, max_bytes: int = DEFAULT_MAX_BYTES) -> bytes:
        """A file's content. Raises `ArtifactTooLarge` before reading it, `BlockMissing`, `CorruptArtifact`."""
        size = dag.content_size(dag.load(self.get_block, cid))
        if size > max_bytes:
            raise ArtifactTooLarge(cid, size, max_bytes)
        return b"".join(self.read_range(cid, 0, size))

    def read_range(self, cid: Cid, start: int, length: int) -> Iterator[bytes]:
        """A file's bytes from `start`, `length` of them or up to its end, block by block."""
        return dag.read_range(self.get_block, cid, start, length)

    def export(self, cid: Cid, destination: Path | str, max_bytes: int = DEFAULT_EXPORT_BYTES) -> Path:
        """Write a file or directory to `destination`, each file whole or not at all; `local_path` finds it later.

        Raises `ArtifactTooLarge` before anything is written: a few blocks that are linked many times count as often.
        """
        root = Path(destination).absolute()
        entries = dag.measured(self.get_block, cid, max_bytes)
        try:
            for entry in entries:
                target = root.joinpath(*entry.path)
                if entry.is_directory:
                    target.mkdir(parents=True, exist_ok=True)
                else:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    self._write_whole(target, self.read_range(entry.cid, 0, entry.size))
        except OSError as error:
            raise StoreUnusable(root, error.strerror or str(error)) from None
        self._link(root, _unheard)
        return root

    def unlink(self, cid: Cid) -> None:
        """Forget that an artifact lies elsewhere; the files stay where they are. Idempotent."""
        cid_bytes(cid)
        self._linked.remove(cid)
        (self._links / cid).unlink(missing_ok=True)

    def export_range(
        self, cid: Cid, destination: Path | str, start: int, stop: int, max_bytes: int = DEFAULT_EXPORT_BYTES
    ) -> Path:
        """Write bytes `start` up to `stop` of a file to the file `destination`, whole or not at all."""
        target = Path(destination).absolute()
        self.require_range(cid, start, stop, max_bytes)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._write_whole(target, self.read_range(cid, start, stop - start))
        except OSError as error:
            raise StoreUnusable(target, error.strerror or str(error)) from None
        return target

    def local_path(self, cid: Cid) -> Path | None:
        """Where a linked or exported artifact lies as a plain file or folder, if it still is unchanged there."""
        return self._linked.path(cid)

    def missing(self, *cids: Cid, seen: set[Cid] | None = None) -> Iterator[Cid]:
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
            if not self.has(here):
                yield here
            else:
                try:
                    stack += reversed(dag.children(self.get_block, here))
                except BlockMissing:
                    yield here

    def missing_of_range(self, cid: Cid, start: int, stop: int) -> list[Cid]:
        """The blocks that bytes `start` to `stop` of a file lack here, as far as they are known."""
        return dag.missing_of_range(self.get_block, self.has, cid, start, stop)

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
        packed = False
        try:
            for cid in dict.fromkeys(cids):
                try:
                    for block in dag.all_blocks(self.get_block, cid):
                        path = self._block_path(block)
                        if self._small is not None and self._small.size(block) is not None:
                            packed = True
                        elif path.exists():
                            _sync(path)
                            folders.add(path.parent)
                        elif not self.has(block):
                            raise BlockMissing(block)
                except BlockMissing:
                    if not missing_ok:
                        raise
            for folder in [*folders, self._blocks] if folders else []:
                _sync(folder)
            if packed and self._small is not None:
                self._small.sync()
        except OSError as error:
            raise StoreUnusable(self.path, error.strerror or str(error)) from None

    def linked(self) -> dict[Cid, Path]:
        """The artifacts that lie elsewhere, and where."""
        return self._linked.roots()

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

    def close(self) -> None:
        """Let go of what is open; only a store that packs has to be closed. Idempotent."""
        if self._small is not None:
            self._small.close()

    # Files of the store

    def write_whole(self, target: Path, data: bytes) -> None:
        """Write one of the store's own files, whole or not at all. Raises `StoreUnusable`."""
        try:
            self._write_whole(target, [data])
        except OSError as error:
            raise StoreUnusable(self.path, error.strerror or str(error)) from None

    def _block_path(self, cid: Cid) -> Path:
        cid_bytes(cid)  # a path from outside is a digest, nothing else
        return self._blocks / cid[-2:] / cid

    def _is_stored(self, cid: Cid) -> bool:
        path = self._block_path(cid)
        return (self._small is not None and self._small.size(cid) is not None) or path.exists()

    def _put_checked(self, cid: Cid, data: bytes) -> None:
        path = self._block_path(cid)
        if self._small is not None and len(data) <= MAX_SMALL_BYTES:
            self._small.put(cid, data)
            return
        if path.exists():
            return
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise StoreUnusable(self.path, error.strerror or str(error)) from None
        self.write_whole(path, data)

    def _write_whole(self, target: Path, pieces: Iterator[bytes] | list[bytes]) -> None:
        with self._lock:
            self._counter += 1
            name = f"{os.getpid()}-{self._counter}"
        # Next to the target when that is on another file system, so that the rename is atomic.
        inside = target.is_relative_to(self.path)
        temporary = self._tmp / name if inside else target.with_name(f".{target.name}.{name}")
        try:
            with temporary.open("wb") as file:
                for piece in pieces:
                    file.write(piece)
            temporary.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise

    def _put_file(self, path: Path, name: str, on_read: OnRead) -> Link:
        def put_leaf(cid: Cid, data: bytes) -> None:
            self._put_checked(cid, data)
            on_read(len(data))

        with _open(path) as source:
            return build_file(source, put_leaf, self._put_checked, name)

    def _link(self, path: Path, on_read: OnRead) -> Cid:
        path = path.absolute()
        known = self._linked.of_path(path)
        if known is not None:
            return known.cid
        files: list[LinkedFile] = []

        def link_one(file: Path, name: str) -> Link:
            leaves = bytearray()

            def note_leaf(cid: Cid, data: bytes) -> None:
                leaves.extend(cid_digest(cid))
                on_read(len(data))

            with _open(file) as source:
                state = os.fstat(source.fileno())
                link = build_file(source, note_leaf, self._put_checked, name)
            files.append(LinkedFile(str(file), state.st_size, state.st_mtime_ns, bytes(leaves)))
            return link

        cid = (build_tree(path, link_one, self._put_checked) if path.is_dir() else link_one(path, "")).cid
        record = Record(cid, str(path), tuple(files))
        self.write_whole(self._links / cid, encode(record))
        self._linked.add(record)
        return cid

    def _load_record(self, file: Path) -> None:
        try:
            self._linked.add(decode(file.read_bytes(), Record, max_bytes=MAX_RECORD_BYTES))
        except CodecError as error:
            logger.warning("the record of a linked artifact at %s is unreadable and is deleted: %s", file, error)
            file.unlink()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_being_written(temporary: Path) -> bool:
    """Whether the process that this name begins with is alive and not this one, which has begun nothing yet."""
    process = temporary.name.partition("-")[0]
    return process.isdecimal() and int(process) != os.getpid() and psutil.pid_exists(int(process))


def _open(path: Path) -> io.BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise StoreUnusable(path, error.strerror or str(error)) from None
