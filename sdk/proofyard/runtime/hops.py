"""Short work in a thread of its own, many pieces at a time: a hop to a thread and back costs more than hashing a small
state, and in a pool that all share short work waits for what is long."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

_Outcome = tuple[Any, Exception | None]

Aside = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a call in some thread, as `asyncio.to_thread` and `Hops.run` do."""

AT_ONCE = 64
"""Pieces of one hop: nobody waits long for the others."""
SMALL_BYTES = 64 << 10
"""Work on so many bytes is short."""


class Hops:
    """One thread at a time. What is asked for while it is busy goes together when it is free."""

    def __init__(self, name: str | None) -> None:
        """With a name it is a thread of its own, or else one of those that everybody shares."""
        self._thread = None if name is None else ThreadPoolExecutor(1, name)
        self._waiting: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self._drain: asyncio.Task[None] | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append((work, future))
        if self._drain is None:
            self._drain = loop.create_task(self._drained())
        return await future

    def close(self) -> None:
        """What has not begun is never done."""
        if self._drain is not None:
            self._drain.cancel()
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _drained(self) -> None:
        try:
            # Whatever becomes due in this turn of the loop goes together.
            await asyncio.sleep(0)
            while self._waiting:
                part, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
                wanted = [(work, future) for work, future in part if not future.done()]
                found = await self._hop([work for work, _ in wanted])
                for (_, future), (value, error) in zip(wanted, found, strict=True):
                    if future.done():
                        continue
                    if error is None:
                        future.set_result(value)
                    else:
                        future.set_exception(error)
        finally:
            self._drain = None

    async def _hop(self, works: list[Callable[[], Any]]) -> list[_Outcome]:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, _tried, works)
        except RuntimeError as error:
            # No thread is to be had now: a machine has so many of them at most.
            return [(None, error)] * len(works)


def _tried(works: list[Callable[[], Any]]) -> list[_Outcome]:
    found: list[_Outcome] = []
    for work in works:
        try:
            found.append((work(), None))
        except Exception as error:
            found.append((None, error))
    return found
