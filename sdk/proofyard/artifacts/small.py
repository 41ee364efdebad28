"""Small blocks in one SQLite file: a state of a few hundred bytes costs a row instead of a file, and many of them one
write to the disk instead of two each.

Like blocks in files they are whole or not there after a crash, and hashed again whenever they are read. Several
processes of one machine may use it; over a network file system SQLite's write-ahead log does not work.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from proofyard.artifacts.errors import StoreUnusable
from proofyard.artifacts.files import sync
from proofyard.protocol.cid import cid_bytes, cid_from_bytes
from proofyard.protocol.types import Cid

MAX_SMALL_BYTES = 4096
"""Larger blocks are files: a file system is as good at those, and they would only be copied to and fro."""

AT_ONCE = 64
"""Blocks of one statement; each is four values in it."""

WAL_PAGES = 4000
"""So many pages are written ahead before they are moved to the file itself; a page has 4 KiB. CIDs are spread evenly:
nearly every block is on another page, and what is moved less often is moved for several of them."""
BUSY_S = 30.0
"""How long another process that writes is waited for."""
SCHEMA = "create table if not exists blocks (cid blob primary key, size integer, at real, data blob)"


class SmallBlocks:
    """The blocks of one file. Its methods may be called from any thread; each raises `StoreUnusable`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._mapped():
            self._db = sqlite3.connect(path, BUSY_S, isolation_level=None, check_same_thread=False)
            # Written ahead, and synced by `sync` alone, which syncs what was written ahead.
            pragmas = ("journal_mode=WAL", "synchronous=NORMAL", f"wal_autocheckpoint={WAL_PAGES}", "user_version=1")
            for pragma in pragmas:
                self._db.execute(f"pragma {pragma}")
            self._db.execute(SCHEMA)
            self._wal = os.open(f"{path}-wal", os.O_RDONLY)
            sync(path.parent)

    def get(self, cid: Cid) -> bytes | None:
        """A block as it is on disk; None where it is not here."""
        with self._mapped():
            row = self._db.execute("select data from blocks where cid = ?", (cid_bytes(cid),)).fetchone()
        return None if row is None else bytes(row[0])

    def among(self, cids: Iterable[Cid]) -> dict[Cid, bytes]:
        """Those of some blocks that are here, as they are on disk; one query for `AT_ONCE` of them."""
        found: dict[Cid, bytes] = {}
        named = {cid_bytes(cid): cid for cid in cids}
        left = list(named)
        while left:
            part, left = left[:AT_ONCE], left[AT_ONCE:]
            query = f"select cid, data from blocks where cid in ({', '.join('?' * len(part))})"  # noqa: S608
            with self._mapped():
                found |= {named[cid]: data for cid, data in self._db.execute(query, part)}
        return found

    def size(self, cid: Cid) -> int | None:
        """The bytes of a block; None where it is not here."""
        with self._mapped():
            row = self._db.execute("select size from blocks where cid = ?", (cid_bytes(cid),)).fetchone()
        return None if row is None else int(row[0])

    def put(self, blocks: Mapping[Cid, bytes]) -> None:
        """Keep blocks that were checked, in one write for `AT_ONCE` of them; those that are here already count as put
        just now."""
        now, left = time.time(), list(blocks.items())
        while left:
            part, left = left[:AT_ONCE], left[AT_ONCE:]
            rows = ", ".join(["(?, ?, ?, ?)"] * len(part))
            values = [value for cid, data in part for value in (cid_bytes(cid), len(data), now, data)]
            with self._mapped():
                self._db.execute(
                    f"insert into blocks values {rows} on conflict (cid) do update set at = excluded.at",  # noqa: S608
                    values,
                )

    def renew(self, cid: Cid) -> None:
        """Have a block count as put just now."""
        with self._mapped():
            self._db.execute("update blocks set at = ? where cid = ?", (time.time(), cid_bytes(cid)))

    def delete_older(self, cid: Cid, before: float) -> bool:
        """Let a block go unless it was put at `before` (Unix seconds) or later; whether it went."""
        with self._mapped():
            where = (cid_bytes(cid), before)
            return self._db.execute("delete from blocks where cid = ? and at < ?", where).rowcount > 0

    def delete(self, cid: Cid) -> None:
        with self._mapped():
            self._db.execute("delete from blocks where cid = ?", (cid_bytes(cid),))

    def all(self) -> Iterator[tuple[Cid, int, float]]:
        """Every block with its size and the time it was put here (Unix seconds)."""
        with self._mapped():
            rows = self._db.execute("select cid, size, at from blocks").fetchall()
        for cid, size, at in rows:
            yield cid_from_bytes(cid), size, at

    def sync(self) -> None:
        """Have all that was put here on the disk itself."""
        with self._mapped():
            os.fsync(self._wal)

    def close(self) -> None:
        """Idempotent."""
        if self._wal >= 0:
            self._db.close()
            os.close(self._wal)
            self._wal = -1

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreUnusable(self._path, str(error)) from None
