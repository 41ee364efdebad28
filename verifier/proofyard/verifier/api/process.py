"""The process of a verifier's API: `python -m proofyard.verifier.api.process PARENT LINK SOCKET`, with the number of
the verifier's process and two sockets that it opened: to itself, and where clients come in.

It has no wallet, no password and no way to the chain, reads the database and never writes it, and ends when the link to
the verifier does, however that came about.
"""

import asyncio
import contextlib
import logging
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from proofyard.artifacts import BlockStore
from proofyard.runtime.parent import end_with_parent
from proofyard.verifier.api import wire
from proofyard.verifier.api.answering import Api
from proofyard.verifier.api.app import build_app
from proofyard.verifier.api.streams import Streams
from proofyard.verifier.api.told import Link
from proofyard.verifier.store.database import open_for_reading

MEMORY_BYTES = 2 << 30
"""More the process never has: what it keeps is bounded, and this is for what nobody foresaw."""
TEXT_BYTES = 4000
"""Of a line for the log."""


class ToParent(logging.Handler):
    """Has the verifier log what is logged here."""

    def __init__(self, writer: asyncio.StreamWriter, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._writer, self._loop = writer, loop

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{record.name}: {self.format(record)}"[:TEXT_BYTES]
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._writer.write, wire.framed(wire.Logged(record.levelno, text)))


async def serve(link: socket.socket, listening: socket.socket) -> None:
    """Until the verifier ends, or says that it does."""
    reader, writer = await asyncio.open_unix_connection(sock=link)
    logging.basicConfig(level=logging.WARNING, handlers=[ToParent(writer, asyncio.get_running_loop())])
    begin: wire.Begin = await wire.received(reader, wire.Begin, wire.MAX_TOLD)
    streams = Streams(begin.streams)
    told = Link(writer.write, streams)
    api = Api(open_for_reading(begin.database), BlockStore(Path(begin.blocks)), told, streams, begin.names)
    config = uvicorn.Config(
        build_app(api),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
        server_header=False,
        proxy_headers=False,
        http=_connection(streams.limit + begin.connections, begin.request_s),
    )
    server = _Server(config)

    async def listen() -> None:
        try:
            while True:
                told.take(await wire.received(reader, wire.ToApi, wire.MAX_TOLD))
        except asyncio.IncompleteReadError:
            return
        finally:
            server.should_exit = True
            streams.stop()

    listens = asyncio.create_task(listen())
    await server.serve(sockets=[listening])
    listens.cancel()
    await asyncio.gather(listens, return_exceptions=True)
    api.close()


def _connection(most: int, request_s: float) -> type[H11Protocol]:
    """A connection of at most so many; one that asks for nothing, or does not take what it asked for, is closed."""

    class Connection(H11Protocol):
        _silent: asyncio.TimerHandle | None = None
        _stalled: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > most:
                transport.abort()
                return
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stalled = self.loop.call_later(request_s, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._take_again()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_watch()
            self._take_again()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """Whoever has begun a request, or none, has a moment to bring all of it."""
            if not self._waits():
                self._stop_watch()
            elif self._silent is None:
                self._silent = self.loop.call_later(request_s, self._give_up)

        def _waits(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _give_up(self) -> None:
            self._silent = None
            if self._waits():
                self.transport.abort()

        def _take_again(self) -> None:
            if self._stalled is not None:
                self._stalled.cancel()
                self._stalled = None

        def _stop_watch(self) -> None:
            if self._silent is not None:
                self._silent.cancel()
                self._silent = None

    return Connection


class _Server(uvicorn.Server):
    """Leaves signals alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


def main() -> None:
    parent, link, listening = map(int, sys.argv[1:4])
    end_with_parent(parent, signal.SIGKILL)
    # Who stops the verifier means all of it, and may tell this process as well: it ends with the link.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(ValueError):  # where less is allowed already
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    sockets = [socket.socket(fileno=number) for number in (link, listening)]
    asyncio.run(serve(*sockets))


if __name__ == "__main__":
    main()
