"""Live events by server-sent events: every line of every job's log, once it lasts.

A job's stream goes on behind any line of it that its reader names (`Last-Event-ID`), because the log is in the
database. The stream of all jobs remembers the last `KEPT` lines; who asks for older ones is told so by an event `gap`.
The verifier hands lines over, in order and counted; each stream has a bounded queue. A reader that is too slow, or that
misses lines because the API was, is let go, and comes back with the last id that it has.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Literal

import msgspec

from proofyard.protocol.types import ProofyardError
from proofyard.verifier.api import types as out
from proofyard.verifier.api.queries import line_of
from proofyard.verifier.engine.rows import Log

KEPT = 5000
QUEUE = 1000
PAGE = 500
MOST_DIGITS = 20
"""Of a number that a reader names."""
ALIVE_S = 15.0
"""A stream on which nothing happens says at least so often that it lives."""

ReadLog = Callable[[int, int, int], Awaitable[out.Page[out.LogLine]]]
"""(job, after, limit)"""


class TooManyStreams(ProofyardError):
    """As many streams are read as may be."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(f"{limit} streams are being read, which is all that this verifier serves; try again later")


class Streams:
    """Who reads along."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._boot = secrets.token_hex(4)
        self._count = 0
        self._kept: deque[tuple[int, Log]] = deque(maxlen=KEPT)
        self._readers: set[asyncio.Queue[tuple[int, Log] | None]] = set()

    def __len__(self) -> int:
        return len(self._readers)

    def publish(self, first: int, rows: Sequence[Log]) -> None:
        """Lines that last, behind `first` others."""
        if first != self._count:
            self._kept.clear()
            self.stop()
        self._count = first
        for row in rows:
            self._count += 1
            entry = (self._count, row)
            self._kept.append(entry)
            for reader in list(self._readers):
                if reader.full():
                    # What it missed it asks for when it comes back.
                    self._let_go(reader)
                else:
                    reader.put_nowait(entry)

    def stop(self) -> None:
        """End every stream."""
        for reader in list(self._readers):
            self._let_go(reader)

    def _let_go(self, reader: asyncio.Queue[tuple[int, Log] | None]) -> None:
        self._readers.discard(reader)
        if reader.full():
            reader.get_nowait()
        reader.put_nowait(None)

    def enter(self) -> asyncio.Queue[tuple[int, Log] | None]:
        """A place among the readers. Raises `TooManyStreams`."""
        if len(self._readers) >= self.limit:
            raise TooManyStreams(self.limit)
        queue: asyncio.Queue[tuple[int, Log] | None] = asyncio.Queue(QUEUE)
        self._readers.add(queue)
        return queue

    def leave(self, queue: asyncio.Queue[tuple[int, Log] | None]) -> None:
        self._readers.discard(queue)

    async def of_job(
        self, queue: asyncio.Queue[tuple[int, Log] | None], job: int, after: int, read: ReadLog
    ) -> AsyncIterator[bytes]:
        """A job's lines behind `after`: those in the database, then what comes."""
        try:
            while True:
                while True:
                    page = await read(job, after, PAGE)
                    for line in page.items:
                        yield _event(str(line.seq), line)
                        after = line.seq
                    if page.next is None:
                        break
                while True:
                    entry = await _next_of(queue)
                    if entry is None:
                        return
                    if entry == "alive":
                        yield b": alive\n\n"
                        continue
                    row = entry[1]
                    if row.job != job or row.seq <= after:
                        continue
                    if row.seq > after + 1:
                        break  # Something came out of order: the database has it.
                    yield _event(str(row.seq), line_of(row))
                    after = row.seq
        finally:
            self.leave(queue)

    async def of_all(self, queue: asyncio.Queue[tuple[int, Log] | None], last: str | None) -> AsyncIterator[bytes]:
        """The lines of all jobs as they come, behind the one with the id `last` where it is still known."""
        try:
            seen = self._count
            if last is not None:
                boot, _, number = last.partition("-")
                kept = list(self._kept)
                oldest = kept[0][0] if kept else self._count + 1
                counted = number.isascii() and number.isdecimal() and len(number) <= MOST_DIGITS
                known = boot == self._boot and counted and oldest - 1 <= int(number) <= self._count
                if known:
                    for count, row in kept:
                        if int(number) < count:
                            yield _event(f"{self._boot}-{count}", line_of(row))
                            seen = max(seen, count)
                else:
                    yield b"event: gap\ndata: {}\n\n"
            while True:
                entry = await _next_of(queue)
                if entry is None:
                    return
                if entry == "alive":
                    yield b": alive\n\n"
                elif entry[0] > seen:
                    yield _event(f"{self._boot}-{entry[0]}", line_of(entry[1]))
        finally:
            self.leave(queue)


async def _next_of(
    queue: asyncio.Queue[tuple[int, Log] | None],
) -> tuple[int, Log] | Literal["alive"] | None:
    try:
        async with asyncio.timeout(ALIVE_S):
            return await queue.get()
    except TimeoutError:
        return "alive"


def _event(identity: str, line: out.LogLine) -> bytes:
    return b"id: " + identity.encode() + b"\ndata: " + msgspec.json.encode(line) + b"\n\n"
