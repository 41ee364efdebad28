"""An authenticated connection: requests in both directions, one stream each.

`request` sends a struct and awaits the answer's struct; `exchange` also hands over the answer's body as a stream.
On the other side `Handlers` maps the struct's type to a handler. A deadline travels with the request, and giving up on
one side (time-out, cancelled task, unread body) resets the stream, which cancels the handler on the other.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from proofyard.protocol.codec import encode
from proofyard.protocol.routes import Kind, direct
from proofyard.protocol.types import Address, ProofyardError
from proofyard.transport.carried import is_carried
from proofyard.transport.errors import (
    DeadlineExceeded,
    MessageTooLarge,
    ProtocolViolation,
    RequestFailed,
    TransportError,
)
from proofyard.transport.frames import (
    VERSION,
    Body,
    ErrorInfo,
    ReplyHeader,
    RequestHeader,
    Source,
    decode_payload,
    frame,
    read_frame,
    send_body,
)
from proofyard.transport.guard import VIOLATION_POINTS, Allowance
from proofyard.transport.link import Link
from proofyard.transport.places import Caller
from proofyard.transport.stream import Stream

logger = logging.getLogger("proofyard.transport")

M = TypeVar("M", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)

Answer = msgspec.Struct | tuple[msgspec.Struct, bytes | Source]
Handler = Callable[["Connection", Any, Body], Awaitable[Answer]]

DEFAULT_TIMEOUT = 30.0
TELL_S = 5.0
STALL_SECONDS = 30.0
"""A frame or body of which nothing arrives for this long is given up."""

CANCELLED = 0x10
"""Stream error code: the requester wants no answer any more, or the body is not needed."""

VIOLATION = 0x12
"""QUIC application error code: what you sent is no valid protocol."""

REQUESTS_PER_SECOND = 500.0
REQUESTS_AT_ONCE = 1000.0
"""What one connection may ask in the long run, and saved up."""

MAX_DEADLINE_SECONDS = 86_400.0

COMPLAINTS_PER_SECOND, COMPLAINTS_AT_ONCE = 0.2, 20.0
"""Tracebacks in the log for requests that a handler failed at: whoever finds one such request could fill the disk."""


class Handlers:
    """Which handler serves which type of request."""

    def __init__(self) -> None:
        self._refusal = ""
        self.complaints = Allowance(COMPLAINTS_PER_SECOND, COMPLAINTS_AT_ONCE)
        self._routes: dict[str, tuple[type[msgspec.Struct], Handler]] = {}

    def add(self, kind: type[M], handler: Callable[["Connection", M, Body], Awaitable[Answer]]) -> None:
        """Serve requests of struct type `kind`, which must have a tag."""
        self._routes[tag_of(kind)] = (kind, handler)

    def refuse(self, reason: str) -> None:
        """From now on every request is refused."""
        self._refusal = reason

    def find(self, tag: str) -> tuple[type[msgspec.Struct], Handler]:
        """Raises `RequestFailed` for a type that nobody serves here."""
        if self._refusal:
            raise RequestFailed("busy", self._refusal)
        route = self._routes.get(tag)
        if route is None:
            raise RequestFailed("unknown-request", f"requests of type {tag[:60]!r} are not served here")
        return route


@dataclass(frozen=True)
class Reply(Generic[R]):
    """An answer whose body is still on its way."""

    message: R
    body: Body


class Connection:
    """A live connection to `peer`, whose wallet is proved. Made by `Endpoint`."""

    def __init__(
        self,
        link: Link,
        peer: Address,
        is_client: bool,
        routes: Handlers,
        on_misconduct: Callable[[Address, float, str], None],
        *,
        settled: bool = True,
    ) -> None:
        self.peer = peer
        self.is_client = is_client
        self._link = link
        self._routes = routes
        self._on_misconduct = on_misconduct
        self.settled = asyncio.Event()
        """Set once the peer is proved to be there now. Until then only idempotent requests pass: a first flight that
        resumes a session could be the repetition of an earlier one."""
        if settled:
            self.settled.set()
        self.on_vouched: Callable[[], object] = lambda: None
        self._tasks: set[asyncio.Task[None]] = set()
        self._told: set[asyncio.Task[None]] = set()
        self._allowance = Allowance(REQUESTS_PER_SECOND, REQUESTS_AT_ONCE)

    def __repr__(self) -> str:
        return f"<Connection {self.peer} at {self.remote[0]}:{self.remote[1]}>"

    @property
    def remote(self) -> tuple[str, int]:
        """The peer's host and UDP port as seen from here."""
        address = self._link.address
        return address[0], address[1]

    @property
    def link(self) -> Link:
        """What its packets travel on; for the transport's own parts."""
        return self._link

    @property
    def way(self) -> Kind:
        """How the peer is reached at present."""
        host, port = self.remote
        if is_carried(host):
            return "relayed"
        return "punched" if is_carried(self._link.remote[0]) else direct(host, port).kind

    @property
    def subnet(self) -> str:
        """The part of the network that the peer is in, as seen from here: a /24, or a /48 of IPv6, that of its relay
        where one carries it; empty while it has not shown that it receives there. On loopback every process is in one
        of its own."""
        seen = self._link.seen_at
        return "" if seen is None else Caller.at(seen[0], seen[1]).subnet

    @property
    def silent_s(self) -> float:
        """For how long no packet came: whoever is busy still acknowledges, whoever has gone does not."""
        return asyncio.get_running_loop().time() - self._link.heard_at

    @property
    def closed(self) -> asyncio.Event:
        """Set once the connection is gone; `reason` then says why."""
        return self._link.closed

    @property
    def tasks(self) -> frozenset[asyncio.Task[None]]:
        """The requests of the peer that are being served."""
        return frozenset(self._tasks)

    @property
    def reason(self) -> str:
        return self._link.reason

    def start(self) -> None:
        """Begin to serve the peer's requests."""
        self._link.accept_streams(self._serve_soon)

    async def close(self, reason: str = "") -> None:
        """End the connection; requests under way fail with `ConnectionLost` on both sides. Idempotent."""
        self._link.close(0, reason)
        current = asyncio.current_task()
        await asyncio.gather(*(task for task in self._tasks if task is not current), return_exceptions=True)

    def vouch(self) -> None:
        """Something speaks for this peer (stake, an open job), so it need not give way to strangers. Idempotent."""
        self.on_vouched()

    def penalise(self, points: float, reason: str) -> None:
        """Hold something against the peer; at 100 points it is banned for a time and disconnected."""
        self._on_misconduct(self.peer, points, reason)

    async def request(
        self,
        message: msgspec.Struct,
        *,
        reply: type[R],
        body: bytes | Source = b"",
        timeout: float = DEFAULT_TIMEOUT,
    ) -> R:
        """Ask and await the answer, a `reply`, within `timeout` seconds.

        Raises `RequestFailed` with the peer's code, `DeadlineExceeded`, `ConnectionLost`, or `ProtocolViolation`.
        """
        async with self.exchange(message, reply=reply, body=body, timeout=timeout) as answer:
            return answer.message

    @asynccontextmanager
    async def exchange(
        self,
        message: msgspec.Struct,
        *,
        reply: type[R],
        body: bytes | Source = b"",
        timeout: float = DEFAULT_TIMEOUT,
    ) -> AsyncIterator[Reply[R]]:
        """Like `request`, but the answer has a body; it is read inside the `async with`, what is left is refused."""
        header = RequestHeader(
            v=VERSION,
            kind=tag_of(type(message)),
            deadline_ms=int(timeout * 1000),
            body=body.size if isinstance(body, Source) else len(body),
            payload=msgspec.Raw(encode(message)),
        )
        head = frame(header)
        sender: asyncio.Task[None] | None = None
        stream: Stream | None = None
        try:
            try:
                async with asyncio.timeout(timeout):
                    if not is_idempotent(type(message)):
                        await self.settled.wait()
                    stream = await self._link.open_stream()
                    if body:
                        # Beside reading: who refuses a body may say so before it has all of it.
                        sender = asyncio.create_task(_send(stream, head, body))
                    else:
                        await _send(stream, head, body)
                    answer = await read_frame(stream, ReplyHeader, timeout)
            except TimeoutError:
                raise DeadlineExceeded(f"{header.kind} to {self.peer}", timeout) from None
            if answer.error is not None:
                raise RequestFailed(answer.error.code, answer.error.message)
            yield Reply(decode_payload(answer.payload, reply), Body(stream, answer.body, STALL_SECONDS))
        finally:
            if sender is not None:
                sender.cancel()
                with contextlib.suppress(asyncio.CancelledError, TransportError):
                    await sender
            if stream is not None:
                stream.abort(CANCELLED)

    def tell(self, message: msgspec.Struct, *, reply: type[msgspec.Struct]) -> None:
        """Send something whose answer changes nothing, and that need not arrive."""

        async def send() -> None:
            with contextlib.suppress(TransportError):
                await self.request(message, reply=reply, timeout=TELL_S)

        task = asyncio.create_task(send())
        self._told.add(task)
        task.add_done_callback(self._told.discard)

    # Serving

    def _serve_soon(self, stream: Stream) -> None:
        task = asyncio.create_task(self._serve(stream))
        # A peer that wants no answer any more, or is gone, must not keep its handler busy.
        stream.on_unwanted = task.cancel
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream: Stream) -> None:
        try:
            head, body = await self._answer(stream)
            stream.stop_reading(CANCELLED)
            await _send(stream, head, body)
        except ProtocolViolation as error:
            logger.warning("%s at %s:%s: %s", self.peer, *self.remote, error)
            self.penalise(VIOLATION_POINTS, str(error))
            self._link.close(VIOLATION, str(error))
        except TransportError as error:
            logger.debug("%s: a request was given up: %s", self.peer, error)
        except Exception:
            logger.exception("sending an answer to %s failed", self.peer)
        finally:
            stream.abort(CANCELLED)
            # Or the task and what it ended with would hold each other, and what its frames hold, until a collection.
            stream.on_unwanted = _nothing

    async def _answer(self, stream: Stream) -> tuple[bytes, bytes | Source]:
        try:
            # In all, not for each piece: who sends a byte now and then must not keep a stream for ever.
            async with asyncio.timeout(STALL_SECONDS) if not stream.complete else contextlib.nullcontext():
                header = await read_frame(stream, RequestHeader, STALL_SECONDS)
        except TimeoutError:
            raise DeadlineExceeded("the header of a request", STALL_SECONDS) from None
        try:
            message, body = _split(await self._handle(stream, header))
            size = body.size if isinstance(body, Source) else len(body)
            return frame(ReplyHeader(v=VERSION, body=size, payload=msgspec.Raw(encode(message)))), body
        except RequestFailed as error:
            failure = ErrorInfo(error.code, error.message)
        except MessageTooLarge as error:
            failure = ErrorInfo("too-large", str(error))
        except TransportError:
            raise
        except ProofyardError as error:
            failure = ErrorInfo("failed", str(error))
        except Exception:
            if self._routes.complaints.take(asyncio.get_running_loop().time()):
                logger.exception("serving %s for %s failed", header.kind[:60], self.peer)
            failure = ErrorInfo("internal", "an internal error; the peer's log has more")
        return frame(ReplyHeader(v=VERSION, error=failure)), b""

    async def _handle(self, stream: Stream, header: RequestHeader) -> Answer:
        if not self._allowance.take(asyncio.get_running_loop().time()):
            raise RequestFailed("busy", f"more than {REQUESTS_PER_SECOND:g} requests a second")
        if header.v != VERSION:
            raise RequestFailed("unknown-request", f"version {header.v} of requests is not served here, only {VERSION}")
        kind, handler = self._routes.find(header.kind)
        try:
            message = decode_payload(header.payload, kind)
        except ProtocolViolation as error:
            raise RequestFailed("bad-request", str(error)) from None
        if not is_idempotent(kind):
            await self.settled.wait()
        seconds = min(header.deadline_ms / 1000, MAX_DEADLINE_SECONDS)
        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                return await handler(self, message, Body(stream, header.body, STALL_SECONDS))
        except TimeoutError:
            if not deadline.expired():
                raise
            raise RequestFailed("deadline", f"{header.kind} was not done within {seconds:g} s") from None


def is_idempotent(kind: type[msgspec.Struct]) -> bool:
    """Whether a request of this type does no harm when it arrives twice; its class says `idempotent = True`."""
    return bool(getattr(kind, "idempotent", False))


def tag_of(kind: type[msgspec.Struct]) -> str:
    """The tag that names a struct type on the wire."""
    tag = kind.__struct_config__.tag
    if not isinstance(tag, str):
        raise TypeError(f"{kind.__name__} needs a tag to be sent as a request")
    return tag


def _nothing() -> None:
    """What is done once nobody is busy with a stream."""


def _split(answer: Answer) -> tuple[msgspec.Struct, bytes | Source]:
    return answer if isinstance(answer, tuple) else (answer, b"")


async def _send(stream: Stream, head: bytes, body: bytes | Source) -> None:
    await stream.write(head, STALL_SECONDS)
    await send_body(stream, body, STALL_SECONDS)
