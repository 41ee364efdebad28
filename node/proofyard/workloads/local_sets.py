"""The data sets that an operator keeps for jobs whose data stays at home."""

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from shutil import copyfileobj

import msgspec

from proofyard.protocol.codec import CodecError, decode_json
from proofyard.protocol.types import Cid
from proofyard.workloads.errors import InputRefused
from proofyard.workloads.local_data import LINES, LocalFile, Schema
from proofyard.workloads.text_data import Answer, Document, numbered_lines

FOLDER = "local"
"""Of a node's `data_dir`."""
RECORD_BYTES = 4096
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Kept(LocalFile, frozen=True, kw_only=True):
    """A file that is here: of `documents` lines, `size` bytes."""

    documents: int
    size: int


def described(data: Path) -> tuple[Schema, int]:
    """What the lines of a file are, and how many. Raises `InputRefused` for one that is another kind than the first."""
    found: Schema | None = None
    count = 0
    for number, document in numbered_lines(data, Document):
        schema = _schema_of(document)
        if found not in (None, schema):
            raise InputRefused(f"data file line {number}", f"is {LINES[schema]}, the lines before it {LINES[found]}")
        found, count = schema, count + 1
    assert found is not None, "a file without lines is refused"
    return found, count


def _schema_of(document: Document) -> Schema:
    if isinstance(document.rejected_answer, Answer):
        return "pairs"
    return "text" if document.trained is None else "chat"


class LocalSets:
    """The data sets of one operator, in a folder that is no block store: nothing in it is ever sent to a peer.

    Each is a file called by its CID and one called by its name, which says what it is. Only the operator may read them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._checked: dict[Path, tuple[int, ...]] = {}

    def add(self, name: str, data: Path, schema: Schema, documents: int) -> Kept:
        """Keep a copy of a file that was looked at, in place of what had the name before. Raises `OSError`."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._folder / f"new-{secrets.token_hex(8)}"
        try:
            with data.open("rb") as source, os.fdopen(os.open(new, _NEW, 0o600), "wb") as stream:
                copyfileobj(source, stream)
                stream.flush()
                os.fsync(stream.fileno())
            kept = Kept(name=name, cid=_cid_of(new), schema=schema, documents=documents, size=new.stat().st_size)
            before = self._read(self._record(name))
            new.replace(self._data(kept.cid))
            new.write_bytes(msgspec.json.encode(kept))
            new.replace(self._record(name))
        finally:
            new.unlink(missing_ok=True)
        if before is not None:
            self._drop_unnamed(before.cid)
        return kept

    def remove(self, name: str) -> Kept | None:
        """Forget a data set, and delete its file unless another name has it too; None where there is none."""
        kept = self._read(self._record(name))
        if kept is not None:
            self._record(name).unlink(missing_ok=True)
            self._drop_unnamed(kept.cid)
        return kept

    def all(self) -> list[Kept]:
        """By name."""
        return sorted(self._kept(), key=lambda kept: kept.name)

    def file(self, kept: Kept) -> Path:
        """Where a data set lies."""
        return self._data(kept.cid)

    def path(self, cid: Cid) -> Path | None:
        """The file of this CID, which is read whole the first time and whenever it was written to; None where it is
        not here, or holds something else by now."""
        path = self._data(cid)
        with suppress(OSError):
            found = path.stat()
            seen = (found.st_ino, found.st_size, found.st_mtime_ns)
            if self._checked.get(path) == seen or _cid_of(path) == cid:
                self._checked[path] = seen
                return path
        return None

    def _drop_unnamed(self, cid: Cid) -> None:
        if all(kept.cid != cid for kept in self._kept()):
            self._data(cid).unlink(missing_ok=True)

    def _kept(self) -> Iterator[Kept]:
        with suppress(OSError):
            for record in self._folder.glob("*.json"):
                kept = self._read(record)
                if kept is not None:
                    yield kept

    def _read(self, record: Path) -> Kept | None:
        with suppress(OSError, CodecError), record.open("rb") as stream:
            return decode_json(stream.read(RECORD_BYTES), Kept)
        return None

    def _record(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _data(self, cid: Cid) -> Path:
        return self._folder / f"{cid}.jsonl"


def _cid_of(path: Path) -> Cid:
    from proofyard.artifacts.builder import cid_of_file  # it loads QUIC, which whoever only reads lines does without

    return cid_of_file(path)
