"""Processes that leave something in their pipes, or somebody at their other end."""

import asyncio

import pytest

from proofyard.runtime.processes import exit_code, start_process


@pytest.mark.parametrize("script", ["exec yes", "sleep 5 & exec sleep 60"], ids=["says too much", "leaves a child"])
async def test_a_process_has_ended_whatever_is_left_of_it(script: str) -> None:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("sh", "-c", script, stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    await asyncio.sleep(0.2)
    process.kill()
    async with asyncio.timeout(60):
        assert await exit_code(process) == -9
    process._transport.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("turns", range(16))
async def test_a_start_can_be_cancelled_at_any_moment(turns: int) -> None:
    pipe = asyncio.subprocess.PIPE
    starting = asyncio.create_task(start_process("sleep", "5", stdin=pipe, stdout=pipe, stderr=pipe))
    for _ in range(turns):
        await asyncio.sleep(0)
    was_done = starting.done()
    starting.cancel()
    async with asyncio.timeout(60):
        (found,) = await asyncio.gather(starting, return_exceptions=True)
    if was_done:
        found.kill()
        await exit_code(found)
        found._transport.close()
    else:
        assert isinstance(found, asyncio.CancelledError)
