"""Work beside the event loop, where it is worth it."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

SMALL_BYTES = 16 << 10
"""To hash, copy or look up this much takes less than to wake a thread."""


async def at_once(work: Callable[[], T]) -> T:
    """What `work` that is known to be small returns, without a thread."""
    return work()


async def aside(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `work` on `size` bytes returns: done in a thread, unless there are so few that it would only take longer."""
    if size <= SMALL_BYTES:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)
