"""Waiting for a process to end, whatever is left in its pipes."""

import asyncio

POLL_S = 0.01


async def exit_code(process: asyncio.subprocess.Process) -> int:
    """How a process ended, once it has. `Process.wait` of Python 3.11 waits for its pipes too, and those stay open
    where nobody reads what it said last, or where a process that it started still holds them."""
    while process.returncode is None:  # noqa: ASYNC110  # there is no event that does not wait for the pipes
        await asyncio.sleep(POLL_S)
    return process.returncode
