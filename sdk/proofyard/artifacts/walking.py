"""Walks over artifacts of strangers, in threads of their own: they take none that other work waits for, and a walk for
which nobody waits any longer ends at its next block."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from proofyard.artifacts.errors import ArtifactError
from proofyard.protocol.types import Cid

T = TypeVar("T")

WALKS_AT_ONCE = 8
_threads = ThreadPoolExecutor(WALKS_AT_ONCE, "artifacts")


class WalkStopped(ArtifactError):
    """Whoever wanted to know has gone."""


async def walk(work: Callable[[Callable[[], None]], T]) -> T:
    """What `work` returns, in a thread. It calls what it is given before each block; once the caller is cancelled that
    raises `WalkStopped`."""
    stop = threading.Event()

    def go_on() -> None:
        if stop.is_set():
            raise WalkStopped("the walk was given up")

    try:
        return await asyncio.get_running_loop().run_in_executor(_threads, work, go_on)
    finally:
        stop.set()


def checked(get: Callable[[Cid], bytes], go_on: Callable[[], None]) -> Callable[[Cid], bytes]:
    """`get`, but for a walk that was given up."""

    def next_block(cid: Cid) -> bytes:
        go_on()
        return get(cid)

    return next_block
