"""What the routes answer from: the database and the chain, read in threads, and what the engine knows, asked for in the
verifier's loop. Everything is bounded.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from proofyard.protocol.types import ProofyardError
from proofyard.verifier.api import types as out
from proofyard.verifier.api.explainer import Explainer
from proofyard.verifier.api.listing import Listing
from proofyard.verifier.api.statements import look_around
from proofyard.verifier.context import Context
from proofyard.verifier.health import Watch
from proofyard.verifier.metrics import Metrics
from proofyard.verifier.streams import Streams

T = TypeVar("T")

THREADS = 4
EXPLAINED_AT_ONCE = 2
PATIENCE_S = 20.0
"""How long the chain or the verifier's loop is waited for."""
FRESH_S, STALE_S = 0.5, 3.0
"""What the verifier's loop said so long ago is good enough, while it is asked again, or not good enough."""
MAX_SAID = 256


@dataclass
class _Said:
    """What the verifier's loop said, and when by the monotonic clock; `next` asks it again."""

    at: float
    value: Any
    next: asyncio.Task[None] | None = None


class Busy(ProofyardError):
    """More is asked at a time than is answered."""


class Api:
    """What the routes answer from."""

    def __init__(self, context: Context, metrics: Metrics, watch: Watch, streams: Streams) -> None:
        self.context, self.metrics, self.watch, self.streams = context, metrics, watch, streams
        self.explainer = Explainer(context)
        self.loop: asyncio.AbstractEventLoop | None = None
        """The verifier's; None where the API runs in it."""
        self._threads = ThreadPoolExecutor(THREADS, "api")
        self._slow = ThreadPoolExecutor(EXPLAINED_AT_ONCE, "api-slow")
        self._explaining = 0
        self._said: OrderedDict[tuple[object, ...], _Said] = OrderedDict()

    async def page(self, listing: Listing[Any], cursor: str | None, limit: int, **only: Any) -> Response:
        """A page of a listing."""
        return await self.read(listing.page, cursor, limit, **only)

    async def read(self, work: Callable[..., Any], *args: Any, **named: Any) -> Response:
        """What `work` says of the database, read and encoded in a thread; 404 where it says nothing."""
        return await self._encoded(self._threads, partial(work, self.context.database.engine, *args, **named))

    async def _encoded(self, threads: ThreadPoolExecutor, work: Callable[[], Any]) -> Response:
        data = await asyncio.get_running_loop().run_in_executor(threads, lambda: encoded(work()))
        if data is None:
            raise HTTPException(404, "there is no such thing here")
        return answer(data)

    async def in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def ask(self, work: Callable[[], T], *key: object) -> T:
        """What `work` says in the verifier's loop. It has to be quick. With a `key` it may be what was said under it a
        moment ago: a loop that takes in hundreds of events in one go answers nobody meanwhile."""
        if not key:
            return await self._asked(work)
        said = self._said.get(key)
        if said is None or said.at < time.monotonic() - STALE_S:
            said = self._said[key] = _Said(time.monotonic(), await self._asked(work))
            while len(self._said) > MAX_SAID:
                self._said.popitem(last=False)
        elif said.at < time.monotonic() - FRESH_S and said.next is None:
            said.next = asyncio.create_task(self._say_again(key, work))
        found: T = said.value
        return found

    async def _say_again(self, key: tuple[object, ...], work: Callable[[], Any]) -> None:
        with contextlib.suppress(Busy):
            self._said[key] = _Said(time.monotonic(), await self._asked(work))

    async def _asked(self, work: Callable[[], T]) -> T:
        async def asked() -> T:
            return work()

        found: T = await self._in_loop(asked())
        return found

    async def on_chain(self, call: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self.context.on_chain(call)
        except TimeoutError:
            raise Busy(f"there was no answer in {PATIENCE_S:.0f} s; try again later") from None

    async def _in_loop(self, work: Any) -> Any:
        try:
            async with asyncio.timeout(PATIENCE_S):
                if self.loop is None:
                    return await work
                return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))
        except TimeoutError:
            raise Busy(f"there was no answer in {PATIENCE_S:.0f} s; try again later") from None

    async def explain(self, work: Callable[..., out.Explanation | None], *numbers: int) -> Response:
        """An explanation; few at a time, because each may read a record."""
        if self._explaining >= EXPLAINED_AT_ONCE * 4:
            raise Busy("too many explanations are asked for at once; try again later")
        self._explaining += 1
        try:
            world = self.context.runner.engine.world
            here = await self.ask(lambda: look_around(world, numbers[0]), "around", numbers[0])
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
