"""Big local files that are artifacts where they lie: leaves are read at their offsets, nothing is copied.

A record says which file holds which leaves. The file may change behind our back, so a leaf is hashed whenever it is
read, and a path is only handed out for use while the size and time of modification of its files are unchanged. The same
content may lie in several places: one that is lost is passed over, and the others serve.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from proofyard.artifacts.builder import CHUNK_BYTES
from proofyard.protocol.types import Cid


class LinkedFile(msgspec.Struct, frozen=True):
    """One file of a record. `leaves` are the 32-byte sha2-256 digests of its chunks, joined; `path` is absolute, as
    `spelt_path` has it."""

    path: str
    size: int
    mtime_ns: int
    leaves: bytes

    def is_there(self) -> bool:
        try:
            return self.location().stat().st_size == self.size
        except OSError:
            return False

    def unchanged(self) -> bool:
        try:
            state = self.location().stat()
        except OSError:
            return False
        return (state.st_size, state.st_mtime_ns) == (self.size, self.mtime_ns)

    def location(self) -> Path:
        return located(self.path)


class Record(msgspec.Struct, frozen=True):
    """A file or folder that was linked: `path` holds the content of `cid`, and has the names of `shape`
    (`Source.shape`)."""

    cid: Cid
    path: str
    files: tuple[LinkedFile, ...]
    shape: bytes = b""

    def unchanged(self) -> bool:
        return all(file.unchanged() for file in self.files)

    def location(self) -> Path:
        return located(self.path)


def spelt_path(path: Path) -> str:
    """A path as a record has it: one that is no UTF-8 as a zero byte, which no path has, and hexadecimal digits."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "\0" + os.fsencode(path).hex()
    return str(path)


def located(spelt: str) -> Path:
    """The path that `spelt_path` spelt."""
    return Path(os.fsdecode(bytes.fromhex(spelt[1:])) if spelt.startswith("\0") else spelt)


@dataclass(frozen=True)
class _Place:
    file: LinkedFile
    index: int


class LinkedFiles:
    """The records, and where each leaf lies."""

    def __init__(self) -> None:
        self._places: defaultdict[bytes, list[_Place]] = defaultdict(list)
        self._records: dict[tuple[Cid, Path], Record] = {}

    def add(self, record: Record) -> None:
        """Know a record, instead of an earlier one of the same artifact and path."""
        self._records.pop((record.cid, record.location()), None)
        self._records[record.cid, record.location()] = record
        for file in record.files:
            for index in range(len(file.leaves) // 32):
                self._places[file.leaves[32 * index : 32 * index + 32]].append(_Place(file, index))

    def remove(self, records: list[Record]) -> None:
        """Forget records; leaves that another one holds as well stay known."""
        if records:
            gone = {(record.cid, record.location()) for record in records}
            kept = [record for key, record in self._records.items() if key not in gone]
            self._places.clear()
            self._records.clear()
            for record in kept:
                self.add(record)

    def records(self) -> list[Record]:
        return list(self._records.values())

    def of(self, cid: Cid) -> list[Record]:
        return [record for (other, _), record in list(self._records.items()) if other == cid]

    def roots(self) -> dict[Cid, Path]:
        """The artifacts of which a place is left, each with one, the latest."""
        return {record.cid: record.location() for record in self.records() if record.location().exists()}

    def has(self, digest: bytes) -> bool:
        """Whether a file that should hold the leaf is there."""
        return next(self._there(digest), None) is not None

    def size(self, digest: bytes) -> int | None:
        """Bytes of the leaf with this digest, as far as a record knows; None where no file of it is there."""
        place = next(self._there(digest), None)
        return None if place is None else min(CHUNK_BYTES, place.file.size - place.index * CHUNK_BYTES)

    def read(self, digest: bytes) -> bytes | None:
        """The leaf with this digest, checked; None when no file has it. A place that has another is forgotten."""
        for place in list(self._there(digest)):
            try:
                with place.file.location().open("rb") as source:
                    source.seek(place.index * CHUNK_BYTES)
                    data = source.read(CHUNK_BYTES)
            except OSError:
                continue
            if hashlib.sha256(data).digest() == digest:
                return data
            self._places[digest].remove(place)
        return None

    def path(self, cid: Cid) -> Path | None:
        """Where the file or folder of `cid` lies, if it still is what it was."""
        return next((record.location() for record in self.of(cid) if record.unchanged()), None)

    def of_path(self, path: Path) -> list[Record]:
        """What was linked at a path, now or earlier."""
        return [record for (_, other), record in list(self._records.items()) if other == path]

    def _there(self, digest: bytes) -> Iterator[_Place]:
        return (place for place in self._places.get(digest, ()) if place.file.is_there())
