"""Runs tasks and segments in a separate process, so that a crash, a leak or a lack of memory there is survived here.

    async with Executor(folder) as executor:
        trace = await executor.run_task(manifest, task, inputs, on_progress=print)
        after = await executor.run_segment(manifest, task, 3, before, inputs)

One order runs at a time; others wait their turn. The child keeps the model loaded between orders and is started
again after a crash. This module never imports torch.
"""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.workloads.errors import ExecutionError, ExecutorCrashed, OutOfMemory, TimeLimit, from_wire
from proofyard.workloads.frames import (
    LENGTH,
    Failed,
    FromChild,
    InputPaths,
    Order,
    Ready,
    RunSegment,
    RunTask,
    SegmentDone,
    StateWritten,
    Step,
    Stop,
    TaskDone,
    ToChild,
    decode_report,
    frame,
)
from proofyard.workloads.state_store import task_folder
from proofyard.workloads.workload import Inputs, OnProgress, Resources

logger = logging.getLogger(__name__)

OnState = Callable[[int, Path], None]
Done = TypeVar("Done", TaskDone, SegmentDone)

OUT_OF_MEMORY_EXIT = 77
"""How the child ends where native.c gets no memory."""
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "SYSTEMROOT")
_KEPT_PREFIXES = ("CUDA_", "HIP_", "ROCR_", "ATEN_", "ONEDNN_", "DNNL_", "MKL_", "OPENBLAS_")


@dataclass(frozen=True)
class TaskTrace:
    """An executed task: its states in order (segments + 1 files of canonical bytes) and its result artifact.
    `resumed` states were already there from an earlier run."""

    states: tuple[Path, ...]
    result: Path
    resumed: int


class Executor:
    """A child process that computes. States and logs go under `folder`.

    `silence_s` bounds the time between two signs of life of an order. `adversary` makes the child cheat, for tests
    and the devnet. `python`: the interpreter of the child, to compute with another build of torch. After `__aenter__`,
    `backend` names the arithmetic that reproduced the golden vectors on this machine; where it is "", workloads with
    `arithmetic` are not to be offered here.
    """

    def __init__(
        self,
        folder: Path,
        *,
        resources: Resources | None = None,
        adversary: str | None = None,
        silence_s: float = 900.0,
        python: str = sys.executable,
    ) -> None:
        self.backend = ""
        self._folder = folder
        self._resources = resources or Resources()
        self._adversary = adversary
        self._silence_s = silence_s
        self._python = python
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        async with self._turn:
            await self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._kill()

    async def run_task(
        self,
        manifest: Manifest,
        task: TaskSpec,
        inputs: Inputs,
        *,
        on_progress: OnProgress | None = None,
        on_state: OnState | None = None,
    ) -> TaskTrace:
        """Execute a whole task, from its last stored state where there is one.

        `on_state` is called with number and file of every state, the resumed ones included. Raises `WorkloadError`:
        `TaskStopped` after `stop`, `ExecutorCrashed`, `OutOfMemory`, `OutOfDisk`, `SegmentFailed` and refusals.
        """
        folder = task_folder(self._folder, manifest, task, inputs)
        states: dict[int, Path] = {}

        def note(number: int, path: Path) -> None:
            states[number] = path
            if on_state:
                on_state(number, path)

        order = RunTask(manifest, task, _paths(inputs), str(folder))
        done = await self._call(order, TaskDone, on_progress, note)
        return TaskTrace(tuple(states[number] for number in range(task.segments + 1)), Path(done.result), done.resumed)

    async def run_segment(
        self,
        manifest: Manifest,
        task: TaskSpec,
        index: int,
        before: bytes,
        inputs: Inputs,
        *,
        on_progress: OnProgress | None = None,
    ) -> bytes:
        """Execute one segment from the state `before` and return the state after it. Raises as `run_task` does."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="segment-", dir=self._folder) as name:
            start, end = Path(name) / "before.safetensors", Path(name) / "after.safetensors"
            start.write_bytes(before)
            order = RunSegment(manifest, task, _paths(inputs), index, str(start), str(end))
            await self._call(order, SegmentDone, on_progress, None)
            return end.read_bytes()

    async def advance(
        self, manifest: Manifest, task: TaskSpec, inputs: Inputs, state: bytes, first: int, last: int
    ) -> bytes:
        """State `last` of a task from its state `first`: how a state that was not kept is made again."""
        for index in range(first, last):
            state = await self.run_segment(manifest, task, index, state, inputs)
        return state

    def forget(self, manifest: Manifest, task: TaskSpec, inputs: Inputs) -> None:
        """Delete what a task left here; it can no longer be resumed."""
        shutil.rmtree(task_folder(self._folder, manifest, task, inputs), ignore_errors=True)

    @property
    def busy(self) -> bool:
        """Whether an order is carried out now."""
        return self._turn.locked()

    def sweep(self, before: float) -> None:
        """Delete what tasks left here that nothing was written for since `before` (Unix seconds)."""
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            if folder.is_dir() and folder.stat().st_mtime < before:
                shutil.rmtree(folder, ignore_errors=True)

    async def rest(self) -> None:
        """End the child between two orders, so that its memory is free for others; the next order starts it again."""
        if not self._turn.locked():
            async with self._turn:
                await self._kill()

    async def wake(self) -> None:
        """Start the child again after `rest`, so that the next order need not wait for it."""
        if not self._turn.locked():
            async with self._turn:
                await self._start()

    async def stop(self) -> None:
        """Ask the order in progress to end after its current step; its call raises `TaskStopped`."""
        if self._process is not None and self._turn.locked():
            await _send(self._process, Stop())

    async def _call(
        self, order: Order, expected: type[Done], on_progress: OnProgress | None, on_state: OnState | None
    ) -> Done:
        """Send an order and pass its reports on until it ends. Whatever else ends it leaves no child behind."""
        async with self._turn:
            process = await self._start()
            about = {"task": order.task.index} | ({"segment": order.index} if isinstance(order, RunSegment) else {})
            logger.debug("begins", extra=about)
            try:
                await _send(process, order)
                report = await self._receive(process)
                while isinstance(report, Step | StateWritten):
                    if isinstance(report, Step):
                        logger.debug("step: %.4f s", report.progress.seconds, extra=about)
                    if isinstance(report, Step) and on_progress:
                        on_progress(report.progress)
                    if isinstance(report, StateWritten) and on_state:
                        on_state(report.number, Path(report.path))
                    report = await self._receive(process)
            except BaseException:
                await self._kill()
                raise
        if isinstance(report, Failed):
            logger.debug("ends: %s", report.name, extra=about)
            raise from_wire(report.name, report.operands)
        if not isinstance(report, expected):
            raise ExecutorCrashed(f"the executor answered {type(report).__name__} instead of {expected.__name__}")
        logger.debug("ends: %.4f s of CPU", report.cpu_s, extra=about)
        return report

    async def _start(self) -> asyncio.subprocess.Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        self._folder.mkdir(parents=True, exist_ok=True)
        settings = {"parent": os.getpid(), "resources": asdict(self._resources), "adversary": self._adversary}
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(self._python, "-m", "proofyard.workloads.child", json.dumps(settings)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=environment(self._resources.threads),
            )
        try:
            report = await self._receive(self._process)
        except BaseException:
            await self._kill()
            raise
        if not isinstance(report, Ready):
            raise ExecutorCrashed(f"the executor answered {type(report).__name__} at its start")
        self.backend = report.backend
        return self._process

    async def _receive(self, process: asyncio.subprocess.Process) -> FromChild:
        assert process.stdout is not None
        try:
            async with asyncio.timeout(self._silence_s):
                (size,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
                return decode_report(await process.stdout.readexactly(size))
        except TimeoutError:
            raise TimeLimit(f"the executor was silent for {self._silence_s:.0f} s and was ended") from None
        except asyncio.IncompleteReadError:
            raise self._end(await process.wait()) from None

    def _end(self, code: int) -> ExecutionError:
        if code == OUT_OF_MEMORY_EXIT:
            return OutOfMemory("the memory limit was reached; raise it or use a smaller batch")
        return ExecutorCrashed(self._obituary(code))

    def _obituary(self, code: int) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        cause = (
            f"signal {-code}" + (" (often: out of memory)" if code == -9 else "") if code < 0 else f"exit code {code}"
        )
        return f"the executor ended with {cause}; its last words in {self._log}: {lines[-1] if lines else 'none'}"

    @property
    def _log(self) -> Path:
        return self._folder / "executor.log"

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await asyncio.shield(process.wait())


async def _send(process: asyncio.subprocess.Process, message: ToChild) -> None:
    assert process.stdin is not None
    process.stdin.write(frame(message))
    with contextlib.suppress(ConnectionError):  # a dead child is noticed, and explained, when its report is awaited
        await process.stdin.drain()


def _paths(inputs: Inputs) -> InputPaths:
    return InputPaths(
        model=str(inputs.model) if inputs.model else None,
        data=str(inputs.data) if inputs.data else None,
        results=inputs.results,
        adapter=str(inputs.adapter) if inputs.adapter else None,
        carried=inputs.carried,
    )


def environment(threads: int) -> dict[str, str]:
    """What the child gets to see: no secrets of the node, no network for libraries that would look for a hub."""
    kept = {n: v for n, v in os.environ.items() if n in _KEPT_VARIABLES or n.startswith(_KEPT_PREFIXES)}
    return kept | {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",  # threads that spin while they wait take the core from those that compute
        "TOKENIZERS_PARALLELISM": "false",
    }
