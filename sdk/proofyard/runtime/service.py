"""What the long-running programs share: stopping on a signal, and saying that they serve."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from proofyard.protocol.types import Address
from proofyard.runtime.paths import require_replaceable

LEAVE_S = 1.0
"""How long the threads of a service that has ended may take to end."""
THREADS = 32
"""Of a service, whatever the number of cores: several wait for a chain or a disk that is slow, and the rest goes on."""
END_S = 1.5
"""The parts of a service that ends have so long for what they do last."""

_served: list[bool] = []
"""Whether this process has run a service."""


class _Threads(ThreadPoolExecutor):
    """A service's threads, which nobody waits for: one may hang in a request for as long as its peer likes."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=True)


class Stop:
    """How a service is asked to end. Where somebody heeds it the first signal only asks, and the second ends it."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._heeded = False

    async def asked(self) -> None:
        """Until the service is asked to end, which is left to the caller from now on."""
        self._heeded = True
        try:
            await self._asked.wait()
        finally:
            self._heeded = False

    def ask(self) -> bool:
        """Whether somebody heeds it."""
        heeded = self._heeded and not self._asked.is_set()
        self._asked.set()
        return heeded


def run_service(service: Coroutine[Any, Any, None], stop: Stop | None = None) -> None:
    """Run `service` to its end, or until SIGINT or SIGTERM, which cancel it so that it can clean up, or ask it first
    where it heeds `stop`. Threads may be left that hang: `leave` ends the process all the same."""
    _served.append(True)

    async def supervised() -> None:
        task = asyncio.ensure_future(service)
        loop = asyncio.get_running_loop()
        loop.set_default_executor(_Threads(THREADS, thread_name_prefix="service"))

        def end() -> None:
            if stop is None or not stop.ask():
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end)
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(supervised())


def leave(code: int) -> int:
    """The exit code of a program; ends it here where it was a service of which threads hang: the interpreter would wait
    for these."""
    if not _served:
        return code
    until = time.monotonic() + LEAVE_S
    others = [each for each in threading.enumerate() if each is not threading.main_thread() and not each.daemon]
    for each in others:
        each.join(max(0.0, until - time.monotonic()))
    if any(each.is_alive() for each in others):
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)
    return code


async def run_together(*parts: Coroutine[Any, Any, None]) -> None:
    """Run the parts of a service until one fails; an error of one ends all and is raised as it is. What a part still
    waits for `END_S` after it was cancelled, a thread that hangs say, is not waited for."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        left = set(tasks)
        for _ in range(2):
            for task in left:
                task.cancel()
            done, left = await asyncio.wait(left, timeout=END_S) if left else (set(), left)
            for task in done:
                if not task.cancelled():
                    task.exception()  # the first one is raised, others are not looked at


def write_ready(path: Path | None, address: Address, port: int, **more: int | str) -> None:
    """Tell whoever started this process that it serves, and where: a JSON object, written at once."""
    if path is None:
        return
    require_replaceable(path)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"address": address, "port": port, "pid": os.getpid(), **more}))
    temporary.replace(path)
