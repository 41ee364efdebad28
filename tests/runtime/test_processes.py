"""Processes that leave something in their pipes, or somebody at their other end."""

import asyncio

import pytest

from proofyard.runtime.processes import exit_code


@pytest.mark.parametrize("script", ["exec yes", "sleep 5 & exec sleep 60"], ids=["says too much", "leaves a child"])
async def test_a_process_has_ended_whatever_is_left_of_it(script: str) -> None:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("sh", "-c", script, stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    await asyncio.sleep(0.2)
    process.kill()
    async with asyncio.timeout(30):
        assert await exit_code(process) == -9
    process._transport.close()  # type: ignore[attr-defined]
