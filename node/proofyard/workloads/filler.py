"""Fills memory in a process of its own (`filler_child`), which is ended at once when the machine is needed.

async with Filler(device="cpu", threads=2) as filler:
    filled = await filler.fill(seed, 4096, within_s=30)
    opening = await filler.show(17)
"""

import asyncio
import contextlib
import json
import os
import sys
from types import TracebackType
from typing import Self, TypeVar

from proofyard.runtime.processes import exit_code, start_process
from proofyard.workloads.errors import ExecutionError, ExecutorCrashed, OutOfMemory, TimeLimit
from proofyard.workloads.filler_child import Began, Fill, Filled, NoRoom, Show, Shown, Told, frame, read_told
from proofyard.workloads.filling import Opening
from proofyard.workloads.frames import LENGTH
from proofyard.workloads.warmup import environment

T = TypeVar("T", Began, Filled, Shown)

START_S = 120.0
"""torch, and a card's driver, may take long to load."""
SHOW_S = 10.0


class Filler:
    """The process and its memory. `device`: "cpu" or "cuda". `memory_bytes` bounds the whole process, None for what
    there is. `began` says what it found out, after `__aenter__`."""

    def __init__(self, *, device: str, threads: int, memory_bytes: int | None = None) -> None:
        self._settings = {
            "parent": os.getpid(),
            "device": device,
            "threads": threads,
            "memory_bytes": memory_bytes if device == "cpu" else None,
        }
        self._threads = threads
        self._process: asyncio.subprocess.Process | None = None
        self._ended = False
        self._turn = asyncio.Lock()
        self.began = Began("", 0, 1)

    async def __aenter__(self) -> Self:
        self._process = await start_process(
            *(sys.executable, "-m", "proofyard.workloads.filler_child", json.dumps(self._settings)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment(self._threads),
        )
        if self._ended:
            self.end()
        try:
            self.began = await self._receive(Began, START_S)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        if self._process is not None:
            await asyncio.shield(exit_code(self._process))

    def end(self) -> None:
        """End it at once, whatever it does; whoever waits for it is told `ExecutorCrashed`."""
        self._ended = True
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def fill(self, seed: bytes, blocks: int, within_s: float) -> Filled:
        """Fill a memory of `blocks` and hold it. Raises `ExecutionError`: `OutOfMemory`, `TimeLimit`,
        `ExecutorCrashed`."""
        return await self._ask(Fill(seed, blocks), Filled, within_s)

    async def show(self, number: int) -> Opening:
        """Open a step of the memory that is held. Raises `ExecutionError`."""
        return (await self._ask(Show(number), Shown, SHOW_S)).opening

    async def _ask(self, asked: Fill | Show, kind: type[T], within_s: float) -> T:
        assert self._process is not None and self._process.stdin is not None, "it was started"
        async with self._turn:
            self._process.stdin.write(frame(asked))
            with contextlib.suppress(ConnectionError):
                await self._process.stdin.drain()
            return await self._receive(kind, within_s)

    async def _receive(self, kind: type[T], within_s: float) -> T:
        assert self._process is not None and self._process.stdout is not None, "it was started"
        try:
            async with asyncio.timeout(within_s):
                (size,) = LENGTH.unpack(await self._process.stdout.readexactly(LENGTH.size))
                told: Told = read_told(await self._process.stdout.readexactly(size))
        except TimeoutError:
            self.end()
            raise TimeLimit(f"the memory was not filled within {within_s:.0f} s") from None
        except asyncio.IncompleteReadError:
            code = await exit_code(self._process)
            raise ExecutorCrashed(f"the process that fills memory ended with {code}") from None
        if isinstance(told, NoRoom):
            raise OutOfMemory(f"the memory that was to be filled is not there: {told.reason}")
        if not isinstance(told, kind):
            raise ExecutionError(f"the process that fills memory answered {type(told).__name__}")
        return told
