"""Frames on a stream: four bytes of length, big-endian, then typed msgpack; a body may follow the first frame.

A request is one `RequestHeader` frame and its body, a reply one `ReplyHeader` frame and its body, on the same
bidirectional stream. Lengths are checked before anything is read into memory. Unknown fields are ignored, so a
newer peer can talk to an older one.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, TypeVar

import msgspec

from proofyard.protocol.codec import CodecError, decode, encode
from proofyard.transport.errors import MessageTooLarge, ProtocolViolation
from proofyard.transport.stream import Stream

T = TypeVar("T")

VERSION = 1
MAX_HEADER_BYTES = 1 << 20
"""Bound of one header frame with its message; what is larger belongs into a body or an artifact."""

CHUNK = 64 << 10

Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]


class RequestHeader(msgspec.Struct, frozen=True):
    """`kind` is the tag of the struct in `payload`; the answer is wanted within `deadline_ms`; `body` bytes follow."""

    v: int
    kind: str
    deadline_ms: Size
    body: Size
    payload: msgspec.Raw


class ErrorInfo(msgspec.Struct, frozen=True):
    code: str
    message: str


class ReplyHeader(msgspec.Struct, frozen=True):
    """Either `error`, or the answer's struct in `payload` and `body` bytes that follow."""

    v: int
    body: Size = 0
    payload: msgspec.Raw = msgspec.Raw(b"\xc0")
    error: ErrorInfo | None = None


@dataclass(frozen=True)
class Source:
    """A body to send whose bytes come piece by piece; exactly `size` bytes in all."""

    size: int
    chunks: AsyncGenerator[bytes, None]


class Body:
    """The body of a received message, read as it arrives; what is not read holds the sender back."""

    def __init__(self, stream: Stream, size: int, stall_seconds: float) -> None:
        self.size = size
        self._left = size
        self._stream = stream
        self._stall = stall_seconds

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return self._left

    async def read(self, limit: int = CHUNK) -> bytes:
        """Up to `limit` bytes, b"" at the end. Raises `DeadlineExceeded` when nothing arrives for too long."""
        if self._left == 0:
            return b""
        chunk = await self._stream.read(min(limit, self._left), self._stall)
        if not chunk:
            raise ProtocolViolation(f"a body of {self.size} bytes ended {self._left} bytes early")
        self._left -= len(chunk)
        return chunk

    async def read_exactly(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        if size > self._left:
            raise ProtocolViolation(f"{size} bytes wanted of a body that has {self._left} left")
        data = await self._stream.read_exactly(size, self._stall)
        self._left -= size
        return data

    async def read_all(self, max_bytes: int) -> bytes:
        """The whole rest. Raises `MessageTooLarge` before anything is read when it is more than `max_bytes`."""
        if self._left > max_bytes:
            raise MessageTooLarge("a body", self._left, max_bytes)
        return await self.read_exactly(self._left)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := await self.read():
            yield chunk


def frame(value: msgspec.Struct) -> bytes:
    """`value` as a frame. Raises `MessageTooLarge` when no peer would take it."""
    data = encode(value)
    if len(data) > MAX_HEADER_BYTES:
        raise MessageTooLarge("a message", len(data), MAX_HEADER_BYTES)
    return len(data).to_bytes(4, "big") + data


async def read_frame(stream: Stream, kind: type[T], seconds: float, max_bytes: int = MAX_HEADER_BYTES) -> T:
    """The next frame as a `kind`, all of it within `seconds` of each piece. Raises `ProtocolViolation`."""
    size = int.from_bytes(await stream.read_exactly(4, seconds), "big")
    if size > max_bytes:
        raise MessageTooLarge("a frame", size, max_bytes)
    return decode_payload(await stream.read_exactly(size, seconds), kind, max_bytes)


def decode_payload(data: bytes | memoryview, kind: type[T], max_bytes: int = MAX_HEADER_BYTES) -> T:
    try:
        return decode(data, kind, max_bytes=max_bytes)
    except CodecError as error:
        raise ProtocolViolation(str(error)) from None


async def send_body(stream: Stream, body: bytes | Source, stall_seconds: float) -> None:
    """Send `body` and end the stream, waiting whenever the peer does not keep up."""
    if isinstance(body, bytes):
        view = memoryview(body)
        for start in range(0, len(body), CHUNK):
            await stream.write(view[start : start + CHUNK], stall_seconds)
    else:
        left = body.size
        # Closed here and now where the peer goes, because it may hold what others wait for.
        async with aclosing(body.chunks) as chunks:
            async for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    raise ValueError(f"a source of {body.size} bytes yields {-left} bytes more")
                await stream.write(chunk, stall_seconds)
                del chunk  # the next one may be long in coming
        if left:
            raise ValueError(f"a source of {body.size} bytes yields {left} bytes less")
    stream.finish()
