"""Big local files that are artifacts where they lie: leaves are read at their offsets, nothing is copied.

A record says which file holds which leaves. The file may change behind our back, so a leaf is hashed whenever it is
read, and a path is only handed out for use while the size and time of modification of its files are unchanged.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from proofyard.artifacts.builder import CHUNK_BYTES
from proofyard.protocol.types import Cid


class LinkedFile(msgspec.Struct, frozen=True):
    """One file of a record. `leaves` are the 32-byte sha2-256 digests of its chunks, joined; `path` is absolute."""

    path: str
    size: int
    mtime_ns: int
    leaves: bytes

    def unchanged(self) -> bool:
        try:
            state = Path(self.path).stat()
        except OSError:
            return False
        return (state.st_size, state.st_mtime_ns) == (self.size, self.mtime_ns)


class Record(msgspec.Struct, frozen=True):
    """A file or folder that was linked: `path` holds the content of `cid`."""

    cid: Cid
    path: str
    files: tuple[LinkedFile, ...]

    def unchanged(self) -> bool:
        return all(file.unchanged() for file in self.files)


@dataclass(frozen=True)
class _Place:
    file: LinkedFile
    index: int


class LinkedFiles:
    """The records, and where each leaf lies."""

    def __init__(self) -> None:
        self._places: dict[bytes, _Place] = {}
        self._records: dict[Cid, Record] = {}

    def add(self, record: Record) -> None:
        self._records[record.cid] = record
        for file in record.files:
            for index in range(len(file.leaves) // 32):
                self._places[file.leaves[32 * index : 32 * index + 32]] = _Place(file, index)

    def remove(self, cid: Cid) -> None:
        """Forget a record; leaves that another one holds as well stay known."""
        if self._records.pop(cid, None) is not None:
            self._places.clear()
            for record in list(self._records.values()):
                self.add(record)

    def roots(self) -> dict[Cid, Path]:
        return {cid: Path(record.path) for cid, record in self._records.items()}

    def has(self, digest: bytes) -> bool:
        return digest in self._places

    def size(self, digest: bytes) -> int | None:
        """Bytes of the leaf with this digest, as far as the record knows."""
        place = self._places.get(digest)
        return None if place is None else min(CHUNK_BYTES, place.file.size - place.index * CHUNK_BYTES)

    def read(self, digest: bytes) -> bytes | None:
        """The leaf with this digest, checked; None, and forgotten, when the file no longer has it."""
        place = self._places.get(digest)
        if place is None:
            return None
        try:
            with Path(place.file.path).open("rb") as source:
                source.seek(place.index * CHUNK_BYTES)
                data = source.read(CHUNK_BYTES)
        except OSError:
            data = b""
        if hashlib.sha256(data).digest() != digest:
            del self._places[digest]
            return None
        return data

    def path(self, cid: Cid) -> Path | None:
        """Where the file or folder of `cid` lies, if it still is what it was."""
        record = self._records.get(cid)
        return Path(record.path) if record is not None and record.unchanged() else None

    def of_path(self, path: Path) -> Record | None:
        """The record of a path that was linked before and did not change, so that it need not be hashed again."""
        for record in self._records.values():
            if record.path == str(path) and record.unchanged():
                names = [file.path for file in record.files]
                if names == [str(file) for file in visible_files(path)]:
                    return record
        return None


def visible_files(path: Path) -> list[Path]:
    """`path` itself, or the files below it in the order of a directory's DAG, hidden ones left out."""
    if not path.is_dir():
        return [path]
    children = sorted(child for child in path.iterdir() if not child.name.startswith("."))
    return [file for child in children for file in visible_files(child)]
