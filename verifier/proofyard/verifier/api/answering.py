"""What the routes answer from: the database and records, read in threads, and what the verifier says. Everything is
bounded."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import msgspec
from fastapi.responses import Response
from sqlalchemy import Engine
from starlette.exceptions import HTTPException

from proofyard.artifacts import BlockStore
from proofyard.protocol.codec import prepared
from proofyard.verifier.api import types as out
from proofyard.verifier.api import wire
from proofyard.verifier.api.explainer import Explainer
from proofyard.verifier.api.listing import Listing
from proofyard.verifier.api.measuring import ApiMetrics
from proofyard.verifier.api.statements import Here
from proofyard.verifier.api.streams import Streams
from proofyard.verifier.api.told import PATIENCE_S, Busy, Told

T = TypeVar("T")

THREADS = 4
EXPLAINED_AT_ONCE = 2


class Api:
    """What the routes answer from. `names`: see `wire.Begin`."""

    def __init__(
        self, engine: Engine, store: BlockStore, told: Told, streams: Streams, names: tuple[str, ...] | None = None
    ) -> None:
        self.engine, self.told, self.streams, self.names = engine, told, streams, names
        self.metrics = ApiMetrics()
        self.explainer = Explainer(engine, store, self._ask_from_thread)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = ThreadPoolExecutor(THREADS, "api")
        self._slow = ThreadPoolExecutor(EXPLAINED_AT_ONCE, "api-slow")
        self._explaining = 0

    async def page(self, listing: Listing[Any], cursor: str | None, limit: int, **only: Any) -> Response:
        """A page of a listing."""
        return await self.read(listing.page, cursor, limit, **only)

    async def read(self, work: Callable[..., Any], *args: Any, **named: Any) -> Response:
        """What `work` says of the database, read and encoded in a thread; 404 where it says nothing."""
        return await self._encoded(self._threads, partial(work, self.engine, *args, **named))

    async def _encoded(self, threads: ThreadPoolExecutor, work: Callable[[], Any]) -> Response:
        data = await asyncio.get_running_loop().run_in_executor(threads, lambda: encoded(work()))
        if data is None:
            raise HTTPException(404, "there is no such thing here")
        return answer(data)

    async def in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def ask(self, question: wire.Question, kind: Any) -> Any:
        """What the verifier says, as a `kind`."""
        return msgspec.json.decode(await self.told.ask(question), type=prepared(kind))

    def _ask_from_thread(self, question: wire.Question, kind: Any) -> Any:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(self.ask(question, kind), self._loop).result(PATIENCE_S + 1)

    async def explain(self, work: Callable[..., out.Explanation | None], *numbers: int) -> Response:
        """An explanation; few at a time, because each may read a record."""
        if self._explaining >= EXPLAINED_AT_ONCE * 4:
            raise Busy("too many explanations are asked for at once; try again later")
        self._explaining += 1
        self._loop = asyncio.get_running_loop()
        try:
            here = await self.ask(wire.Around(*numbers[:2]), Here)
            return await self._encoded(self._slow, partial(work, *numbers, here))
        finally:
            self._explaining -= 1

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._slow.shutdown(wait=False, cancel_futures=True)


def encoded(found: Any) -> bytes | None:
    return None if found is None else msgspec.json.encode(found)


def answer(data: bytes | msgspec.Struct, status: int = 200) -> Response:
    content = data if isinstance(data, bytes) else msgspec.json.encode(data)
    return Response(content, status, media_type="application/json")
