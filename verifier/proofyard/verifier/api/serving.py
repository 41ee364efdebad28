"""Serves the API in a thread with a loop of its own, so neither waits for the other: a busy verifier answers in time,
and many clients hold up no audit."""

import asyncio
import contextlib
import socket
import threading
from types import TracebackType
from typing import Any, Self

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from proofyard.protocol.types import ExitCode, ProofyardError
from proofyard.verifier.api.answering import Api
from proofyard.verifier.api.app import build_app

BACKLOG = 1024
CONNECTIONS = 500
"""Connections beside those of streams; more are closed at once."""
REQUEST_S = 10.0
"""How long a request may take to come."""
STOP_S = 3.0


class ApiUnavailable(ProofyardError):
    """The status API cannot bind its port."""

    exit_code = ExitCode.PORT_IN_USE


class StatusApi:
    """Serves `build_app` in a thread of its own; `url` is where."""

    def __init__(self, api: Api) -> None:
        self._api, self._settings = api, api.context.settings
        self._server = _Server(
            uvicorn.Config(
                build_app(api),
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=1,
                server_header=False,
                proxy_headers=False,
                http=_connection(api.streams.limit + CONNECTIONS),
            )
        )
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://{self._settings.api_host}:{self.port}"

    async def __aenter__(self) -> Self:
        host, port = self._settings.api_host, self._settings.api_port
        try:
            self._socket = _listen(host, port)
        except OSError as error:
            raise ApiUnavailable(
                f"the status API cannot listen on {host}:{port} ({error.strerror}); choose another api_port"
            ) from None
        self.port = self._socket.getsockname()[1]
        self._api.loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="api", daemon=True)
        self._thread.start()
        return self

    def _run(self) -> None:
        async def serve() -> None:
            assert self._socket is not None
            self._api.streams.attach(asyncio.get_running_loop())
            await self._server.serve(sockets=[self._socket])

        asyncio.run(serve())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._api.streams.stop()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, STOP_S)
        self._api.close()


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. Its protocol is named, because asyncio switches Nagle's algorithm off only where it is: the
    second write of an answer would wait 40 ms for the client's delayed acknowledgement."""
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(BACKLOG)
    except OSError:
        found.close()
        raise
    return found


class _Together:
    """A transport that sends what is written in one turn of the loop at once: head and body of an answer are writes of
    their own, and with each Python lets go of the interpreter, which a busy verifier then has for a while."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._written: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._written:
            self._loop.call_soon(self._flush)
        self._written.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        written, self._written = self._written, []
        if any(written):
            self._transport.write(b"".join(written))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _connection(most: int) -> type[H11Protocol]:
    """A connection of at most so many; one that asks for nothing is closed."""

    class Connection(H11Protocol):
        _silent: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(_Together(transport, self.loop))  # type: ignore[arg-type]
            if len(self.connections) > most:
                transport.abort()
                return
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_watch()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """Whoever has begun a request, or none, has a moment to bring all of it."""
            if not self._waits():
                self._stop_watch()
            elif self._silent is None:
                self._silent = self.loop.call_later(REQUEST_S, self._give_up)

        def _waits(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _give_up(self) -> None:
            self._silent = None
            if self._waits():
                self.transport.abort()

        def _stop_watch(self) -> None:
            if self._silent is not None:
                self._silent.cancel()
                self._silent = None

    return Connection


class _Server(uvicorn.Server):
    """Leaves signals to the service that it is a part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield
