"""A TCP relay to the chain's endpoint that can be told to go wrong."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from enum import StrEnum
from typing import Any


class Mode(StrEnum):
    """Hanging takes what comes and says nothing. Deaf passes requests on and drops the answers: what was sent to it is
    done, and whoever sent it does not know."""

    PASSING = "passing"
    HANGING = "hanging"
    REFUSING = "refusing"
    DEAF = "deaf"


class Relays:
    """A thread with the relays of a soak, for use in a `with` statement; all lead to `port` on 127.0.0.1."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relays", daemon=True)

    def __enter__(self) -> "Relays":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def add(self) -> "Relay":
        relay = Relay(self._port)
        relay.port = self._run(relay.open())
        return relay

    def set(self, relay: "Relay", mode: Mode) -> None:
        self._run(relay.set(mode))

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


class Relay:
    """Its coroutines run in the thread of `Relays`."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self.mode = Mode.PASSING
        self.port = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._passing = asyncio.Event()
        self._passing.set()

    async def open(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return int(self._server.sockets[0].getsockname()[1])

    async def set(self, mode: Mode) -> None:
        self.mode = mode
        if mode in (Mode.PASSING, Mode.DEAF):
            self._passing.set()
        else:
            self._passing.clear()
        if mode == Mode.REFUSING and self._server is not None:
            self._server.close()
            self._server = None
            for writer in list(self._open):
                writer.transport.abort()
        elif mode != Mode.REFUSING and self._server is None:
            await self.open()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        up: asyncio.StreamWriter | None = None
        try:
            back, up = await asyncio.open_connection("127.0.0.1", self._upstream)
            self._open.add(up)
            await asyncio.gather(self._pipe(reader, up), self._pipe(back, writer, answers=True))
        except OSError:
            pass
        finally:
            for each in (writer, up):
                if each is not None:
                    self._open.discard(each)
                    with contextlib.suppress(OSError):
                        each.close()

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False) -> None:
        while data := await reader.read(1 << 16):
            await self._passing.wait()
            if answers and self.mode == Mode.DEAF:
                break
            writer.write(data)
            await writer.drain()
        writer.close()
