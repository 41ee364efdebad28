"""One HTTP exchange with a router, without redirects: bounded in bytes and in time before anything of it is read.

The end of an answer is where its head says, or where the router closes; the standard library reads what then is there.
"""

import asyncio
import io
from collections.abc import Mapping
from http.client import HTTPException, HTTPResponse
from typing import Any, cast

from proofyard.transport.errors import RouterFailed
from proofyard.transport.mapping.places import Place

EXCHANGE_S = 4.0
MOST_HEAD_BYTES, MOST_BODY_BYTES = 8 << 10, 256 << 10
_PIECE = 16 << 10
_NO_HTTP = (HTTPException, ValueError, OverflowError)
"""What the standard library raises for what is none."""

_END_OF_HEAD, _LAST_CHUNK = b"\r\n\r\n", b"0\r\n\r\n"


async def fetch(
    router: str, place: Place, method: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> tuple[int, bytes]:
    """The status and the body of what the router answers. Raises `RouterFailed`."""
    fields = {"Host": f"{router}:{place.port}", "Connection": "close", **(headers or {})}
    if body:
        fields["Content-Length"] = str(len(body))
    lines = [f"{method} {place.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    try:
        async with asyncio.timeout(EXCHANGE_S):
            answer = await _exchange(router, place.port, "\r\n".join(lines).encode() + body)
    except TimeoutError:
        raise RouterFailed(router, f"port {place.port} gave no whole answer within {EXCHANGE_S:g} s") from None
    except (OSError, EOFError, asyncio.LimitOverrunError, *_NO_HTTP) as error:
        raise RouterFailed(router, f"port {place.port} gave no answer of HTTP ({type(error).__name__})") from error
    return read(answer, router, place.port)


def read(answer: bytes, router: str, port: int) -> tuple[int, bytes]:
    """The status and the body of an answer that has come in. Raises `RouterFailed`."""
    try:
        response = _parsed(answer)
        return response.status, response.read()
    except _NO_HTTP as error:
        raise RouterFailed(router, f"port {port} gave no answer of HTTP ({type(error).__name__})") from error


async def _exchange(router: str, port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(router, port, limit=MOST_HEAD_BYTES)
    try:
        writer.write(request)
        head = await reader.readuntil(_END_OF_HEAD)
        ends = _parsed(head)
        body = bytearray()
        while not _is_whole(body, ends) and (piece := await reader.read(_PIECE)):
            body += piece
            if len(body) > MOST_BODY_BYTES:
                raise ValueError(f"a body of more than {MOST_BODY_BYTES} bytes")
        return head + bytes(body)
    finally:
        writer.transport.abort()


def _is_whole(body: bytearray, head: HTTPResponse) -> bool:
    if head.chunked:
        return body.endswith(b"\r\n" + _LAST_CHUNK) or body == _LAST_CHUNK
    return head.length is not None and len(body) >= head.length


def _parsed(answer: bytes) -> HTTPResponse:
    """Raises `HTTPException` or `ValueError`."""
    response = HTTPResponse(cast(Any, _Received(answer)))
    response.begin()
    return response


class _Received:
    """What has come in, where `HTTPResponse` wants a socket."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)
