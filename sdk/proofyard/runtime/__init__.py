"""What the long-running programs share: stopping on a signal, and saying that they serve."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from proofyard.protocol.types import Address
from proofyard.runtime.paths import require_replaceable


def run_service(service: Coroutine[Any, Any, None]) -> None:
    """Run `service` to its end, or until SIGINT or SIGTERM, which cancel it so that it can clean up."""

    async def supervised() -> None:
        task = asyncio.ensure_future(service)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(supervised())


async def run_together(*parts: Coroutine[Any, Any, None]) -> None:
    """Run the parts of a service until one fails; an error of one ends all and is raised as it is."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def write_ready(path: Path | None, address: Address, port: int, **more: int | str) -> None:
    """Tell whoever started this process that it serves, and where: a JSON object, written at once."""
    if path is None:
        return
    require_replaceable(path)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"address": address, "port": port, "pid": os.getpid(), **more}))
    temporary.replace(path)
