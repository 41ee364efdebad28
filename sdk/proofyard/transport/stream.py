"""A bidirectional QUIC stream for coroutines, with back-pressure in both directions."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from proofyard.transport.errors import DeadlineExceeded, ProtocolViolation, TransportError
from proofyard.transport.quic import SEND_BUFFER, STREAM_WINDOW

LOOK_AGAIN_S = 0.25

PIECE = 8 << 10
"""Pieces of so many bytes are kept as they came."""


class Unread:
    """Bytes in the pieces in which they came, so that many at once are copied when they are read and not before. What
    came in small pieces lies together."""

    def __init__(self) -> None:
        self.size = 0
        self._pieces: deque[bytes | bytearray] = deque()
        self._at = 0
        """How much of the first piece was read."""

    def add(self, data: bytes) -> None:
        self.size += len(data)
        if len(data) >= PIECE:
            self._pieces.append(data)
        elif self._pieces and isinstance(self._pieces[-1], bytearray) and len(self._pieces[-1]) < PIECE:
            self._pieces[-1] += data
        elif data:
            self._pieces.append(bytearray(data))

    def take(self, limit: int) -> bytes:
        """The first bytes, up to `limit`."""
        parts: list[bytes | bytearray] = []
        left = min(limit, self.size)
        self.size -= left
        while left:
            piece = self._pieces[0]
            part = piece[self._at : self._at + left] if self._at or len(piece) > left else piece
            left -= len(part)
            self._at += len(part)
            if self._at == len(piece):
                self._pieces.popleft()
                self._at = 0
            parts.append(part)
        return parts[0] if len(parts) == 1 and isinstance(parts[0], bytes) else b"".join(parts)

    def clear(self) -> int:
        """Drop everything; how much it was."""
        size, self.size, self._at = self.size, 0, 0
        self._pieces.clear()
        return size


class StreamOwner(Protocol):
    """What a stream needs of its connection."""

    def stream_send(self, stream_id: int, data: bytes | memoryview, end: bool) -> None: ...
    def stream_unacknowledged(self, stream_id: int) -> int: ...
    def stream_may_send(self) -> bool: ...
    def stream_consumed(self, stream_id: int, count: int, limit: int) -> None: ...
    def stream_reset(self, stream_id: int, code: int) -> None: ...
    def stream_stop(self, stream_id: int, code: int) -> None: ...


class Stream:
    """One stream: its owner feeds it, one coroutine reads, one writes."""

    def __init__(self, owner: StreamOwner, stream_id: int) -> None:
        self.stream_id = stream_id
        self.on_unwanted: Callable[[], object] = lambda: None
        """Called when the peer wants nothing more of what this side sends."""
        self._owner = owner
        self._unread = Unread()
        self._received = 0
        self._consumed = 0
        self._granted = STREAM_WINDOW
        self._read_done = False
        self._write_done = False
        self._discarding = False
        self._read_error: TransportError | None = None
        self._write_error: TransportError | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    @property
    def finished(self) -> bool:
        """Nothing more happens on this stream in either direction."""
        return self._read_done and self._write_done and not self._unread.size

    @property
    def complete(self) -> bool:
        """All that the peer sends is here: nothing is waited for."""
        return self._read_done

    async def read(self, limit: int, seconds: float) -> bytes:
        """Up to `limit` bytes, b"" at the end of the stream; waits at most `seconds` for the first of them."""
        if not self._unread.size:
            await self._wait_readable(seconds)
        data = self._unread.take(limit)
        self._consume(len(data))
        return data

    async def read_exactly(self, size: int, seconds: float) -> bytes:
        """`size` bytes, waiting at most `seconds` for each piece. Raises `ProtocolViolation` at an early end."""
        pieces = []
        left = size
        while left:
            piece = await self.read(left, seconds)
            if not piece:
                raise ProtocolViolation(f"a stream ended {left} bytes early")
            pieces.append(piece)
            left -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def write(self, data: bytes | memoryview, seconds: float) -> None:
        """Send, waiting at most `seconds` while more than `SEND_BUFFER` bytes are not acknowledged, or the peer has
        all of this process's memory that it may have."""
        await self.room(seconds)
        self._owner.stream_send(self.stream_id, data, False)
        while self._owner.stream_unacknowledged(self.stream_id) > SEND_BUFFER:
            self._writer = asyncio.get_running_loop().create_future()
            await _within(self._writer, seconds, "sending a body")
            self._raise_write_error()

    async def room(self, seconds: float) -> None:
        """Until something may be written, at most `seconds`."""
        self._raise_write_error()
        if self._owner.stream_may_send():
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not self._owner.stream_may_send():
            left = deadline - loop.time()
            if left <= 0:
                raise DeadlineExceeded("sending a body", seconds)
            # Woken by what this peer acknowledges; what others give back is looked at every so often.
            self._writer = loop.create_future()
            await asyncio.wait([self._writer], timeout=min(left, LOOK_AGAIN_S))
            self._raise_write_error()

    def finish(self) -> None:
        """No more data follows from this side."""
        if not self._write_done:
            self._write_done = True
            self._owner.stream_send(self.stream_id, b"", True)

    def abort(self, code: int) -> None:
        """Give up what is still open; the peer sees `code` in either direction."""
        self.stop_reading(code)
        if not self._write_done:
            self._write_done = True
            self._owner.stream_reset(self.stream_id, code)

    def stop_reading(self, code: int) -> None:
        """What the peer still sends is of no interest."""
        if self._discarding:
            return
        self._discarding = True
        self._consume(self._unread.clear())
        if not self._read_done:
            self._owner.stream_stop(self.stream_id, code)

    # Called by the connection

    def feed(self, data: bytes, end: bool) -> None:
        """Data in order; the last of it when `end`."""
        self._received += len(data)
        self._read_done = self._read_done or end
        if self._discarding:
            self._consume(len(data))
        else:
            self._unread.add(data)
            _wake(self._reader)

    def peer_reset(self, error: TransportError, final_size: int) -> None:
        """The peer gave up sending after `final_size` bytes, some of which may never have come."""
        self._read_done = True
        self._read_error = error
        self._consume(max(0, final_size - self._received))
        _wake(self._reader)

    def peer_stopped(self, error: TransportError) -> None:
        """The peer wants no more data; QUIC has reset our side."""
        self._write_done = True
        self._write_error = error
        _wake(self._writer)
        self.on_unwanted()

    def lost(self, error: TransportError) -> None:
        """The connection is gone."""
        if not self._read_done:
            self._read_done = True
            self._read_error = error
        self._write_done = True
        self._write_error = error
        _wake(self._reader)
        _wake(self._writer)
        self.on_unwanted()

    def acknowledged(self) -> None:
        """The peer may have acknowledged something: a waiting writer looks again."""
        if (
            self._writer is not None
            and self._owner.stream_unacknowledged(self.stream_id) <= SEND_BUFFER // 2
            and self._owner.stream_may_send()
        ):
            _wake(self._writer)

    def _consume(self, count: int) -> None:
        self._consumed += count
        # Granting in halves keeps MAX_STREAM_DATA frames rare.
        if self._granted - self._consumed <= STREAM_WINDOW // 2:
            self._granted = self._consumed + STREAM_WINDOW
        self._owner.stream_consumed(self.stream_id, count, self._granted)

    async def _wait_readable(self, seconds: float) -> None:
        if not self._read_done:
            self._reader = asyncio.get_running_loop().create_future()
            await _within(self._reader, seconds, "waiting for data of the peer")
        if self._read_error is not None and not self._unread.size:
            raise _again(self._read_error)

    def _raise_write_error(self) -> None:
        if self._write_error is not None:
            raise _again(self._write_error)


def _again(error: TransportError) -> TransportError:
    """The same error, to be raised. Raised itself it would hold the frames that it went through, which hold its stream,
    which holds it: what they had to send would wait for a collection."""
    fresh = type(error).__new__(type(error), *error.args)
    fresh.__dict__.update(error.__dict__)
    return fresh


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


async def _within(waiter: asyncio.Future[None], seconds: float, what: str) -> None:
    try:
        async with asyncio.timeout(seconds):
            await waiter
    except TimeoutError:
        raise DeadlineExceeded(what, seconds) from None
