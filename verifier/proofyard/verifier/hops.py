"""Short work for a thread, many pieces at a time: a hop to a thread and back costs more than hashing a small state."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

AT_ONCE = 64
"""Pieces of one hop: nobody waits long for the others."""


class Hops:
    """Collects what is asked for in one turn of the event loop."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises, in a thread."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._go)
        self._waiting.append((work, future))
        return await future

    def _go(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), AT_ONCE):
            task = asyncio.get_running_loop().create_task(_hop(waiting[start : start + AT_ONCE]))
            self._running.add(task)
            task.add_done_callback(self._running.discard)


async def _hop(part: list[tuple[Callable[[], Any], asyncio.Future[Any]]]) -> None:
    found = await asyncio.to_thread(lambda: [_tried(work) for work, _ in part])
    for (_, future), (value, error) in zip(part, found, strict=True):
        if future.done():
            continue
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)


def _tried(work: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return work(), None
    except Exception as error:
        return None, error
