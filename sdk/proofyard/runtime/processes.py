"""Starting a process and waiting for its end, without waiting for what is at the other end of its pipes."""

import asyncio
import contextlib
from typing import Any

POLL_S = 0.01


async def start_process(*command: str, **more: Any) -> asyncio.subprocess.Process:
    """`asyncio.create_subprocess_exec`. One that is cancelled meanwhile waits, in Python 3.11, for pipes that may not
    be there yet; here the process is ended, and nothing else waited for."""
    starting = asyncio.create_task(asyncio.create_subprocess_exec(*command, **more))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        while not starting.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({starting})
        if not starting.cancelled() and starting.exception() is None:
            process = starting.result()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await exit_code(process)
            process._transport.close()  # type: ignore[attr-defined]
        raise


async def exit_code(process: asyncio.subprocess.Process) -> int:
    """How a process ended, once it has. `Process.wait` waits for its pipes too, and those stay open where nobody reads
    what it said last, or where a process that it started still holds them."""
    while process.returncode is None:  # noqa: ASYNC110  # there is no event that does not wait for the pipes
        await asyncio.sleep(POLL_S)
    return process.returncode
