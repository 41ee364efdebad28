"""Runs tasks and segments in a process of their own in the sandbox, so that what a job does is not done to this one: it
cannot harm the machine, and a crash, a leak or a lack of memory there is survived here.

    async with Executor(folder) as executor:
        trace = await executor.run_task(manifest, task, inputs, on_progress=print)
        after = await executor.run_segment(manifest, task, 3, before, inputs)

One order runs at a time; others wait their turn. The child keeps the model loaded between orders of one job on the same
files; another job gets another child, which can reach nothing of the first. Nothing that a child says is believed: its
messages have a limit, its files are looked at before they are taken. This module never imports torch.
"""

import asyncio
import contextlib
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.runtime.plain import plain
from proofyard.workloads.checked import Checked, checked_folder
from proofyard.workloads.child import ChildSettings
from proofyard.workloads.confined import Confined, Limit, erase
from proofyard.workloads.errors import ExecutionError, ExecutorCrashed, OutOfMemory, TimeLimit, from_wire
from proofyard.workloads.frames import (
    LENGTH,
    MAX_REPORT_BYTES,
    Failed,
    FromChild,
    InputPaths,
    ModelChecked,
    Order,
    Ready,
    RunSegment,
    RunTask,
    SegmentDone,
    StateFound,
    StateWritten,
    Step,
    Stop,
    Taken,
    TaskDone,
    ToChild,
    decode_report,
    frame,
)
from proofyard.workloads.model_files import files_of
from proofyard.workloads.sandbox import Policy, Sandbox
from proofyard.workloads.state import MAX_STATE_BYTES
from proofyard.workloads.state_store import job_folder, state_name, task_folder
from proofyard.workloads.warmup import Warm, environment, warm_up
from proofyard.workloads.workload import Inputs, OnProgress, Progress, Resources, load_workload

logger = logging.getLogger(__name__)

OnState = Callable[[int, Path], None]
Done = TypeVar("Done", TaskDone, SegmentDone)

OUT_OF_MEMORY_EXIT = 77
"""How the child ends where native.c gets no memory."""
CHILD = "proofyard.workloads.child"
MOST_CHECKS = 16
"""Comparisons of one job's model that are noted."""
REPORTS_AT_ONCE = 64
"""After so many reports others have their turn, however fast a child talks."""


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
    and the devnet. `python`: the interpreter of the child, to compute with another build of torch. `sandbox`: what
    holds the child; the best that this machine has, unless it is given. After `__aenter__`, `backend` names the
    arithmetic that reproduced the golden vectors on this machine; where it is "", workloads with `arithmetic` are not
    to be offered here.
    """

    def __init__(
        self,
        folder: Path,
        *,
        resources: Resources | None = None,
        adversary: str | None = None,
        silence_s: float = 900.0,
        python: str = sys.executable,
        sandbox: Sandbox | None = None,
    ) -> None:
        self.backend = ""
        self._library = ""
        self._sandbox = sandbox or Sandbox()
        self._folder = folder.absolute()
        self._resources = resources or Resources()
        self._adversary = adversary
        self._silence_s = silence_s
        self._python = python
        self._child: Confined | None = None
        self._endings: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._seen: Path | None = None
        """The job's folder that the child sees."""
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        async with self._turn:
            self._sandbox.check()
            warm = await asyncio.to_thread(warm_up, self._resources, self._python)
            self.backend, self._library = warm.backend, warm.library
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
        folder.mkdir(parents=True, exist_ok=True)
        states: dict[int, Path] = {}

        def note(number: int, path: Path) -> None:
            states[number] = path
            if on_state:
                on_state(number, path)

        order = RunTask(manifest, task, _paths(inputs), str(folder))
        done, result = await self._call(order, inputs, TaskDone, on_progress, note, folder)
        if missing := set(range(task.segments + 1)) - states.keys():
            raise ExecutorCrashed(f"the executor gave no state {min(missing)} of the task")
        return TaskTrace(tuple(states[number] for number in range(task.segments + 1)), result, done.resumed)

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
        job_folder(self._folder, manifest).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="segment-", dir=job_folder(self._folder, manifest)) as name:
            start, end = Path(name) / "before.safetensors", Path(name)
            start.write_bytes(before)
            order = RunSegment(manifest, task, _paths(inputs), index, str(start))
            _, result = await self._call(order, inputs, SegmentDone, on_progress, None, end)
            return await asyncio.to_thread(result.read_bytes)

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
        self._clear(job_folder(self._folder, manifest))

    @property
    def busy(self) -> bool:
        """Whether an order is carried out now."""
        return self._turn.locked()

    def sweep(self, before: float) -> None:
        """Delete what tasks left here that nothing was written for since `before` (Unix seconds)."""
        for job in self._folder.iterdir() if self._folder.is_dir() else ():
            if self._child is not None and job == self._child.folder:
                continue
            for folder in job.iterdir() if job.is_dir() else ():
                if folder.is_dir() and folder.stat().st_mtime < before:
                    erase(folder)
            if job.is_dir() and job.stat().st_mtime < before:
                self._clear(job)

    def _clear(self, job: Path) -> None:
        """Remove a job's folder where nothing is in it. The child would not see another one of the same name."""
        if job != self._seen:
            with contextlib.suppress(OSError):
                job.rmdir()

    async def rest(self) -> None:
        """End the child between two orders, so that its memory is free for others; the next order starts it again."""
        if not self._turn.locked():
            async with self._turn:
                await self._kill()

    async def stop(self) -> None:
        """Ask the order in progress to end after its current step; its call raises `TaskStopped`."""
        if self._turn.locked():
            self._stopped = True
            if self._child is not None:
                await _send(self._child, Stop())

    async def _call(
        self,
        order: Order,
        inputs: Inputs,
        expected: type[Done],
        on_progress: OnProgress | None,
        on_state: OnState | None,
        kept: Path,
    ) -> tuple[Done, Path]:
        """Send an order and pass its reports on until it ends; what it writes is put into `kept`, its result is the
        file returned. Whatever else ends it leaves no child behind."""
        async with self._turn:
            self._stopped = False
            child = await self._start(order, inputs)
            about = {"task": order.task.index} | ({"segment": order.index} if isinstance(order, RunSegment) else {})
            logger.debug("begins", extra=about)
            try:
                await _send(child, order)
                if self._stopped:  # while the child started
                    await _send(child, Stop())
                child.watch()
                report = await self._receive(child)
                while not isinstance(report, Failed | TaskDone | SegmentDone):
                    if isinstance(report, Step):
                        logger.debug("step: %.4f s", report.progress.seconds, extra=about)
                    await self._heed(child, report, order, on_progress, on_state, kept)
                    report = await self._receive(child)
                if isinstance(report, expected):
                    result = await self._take(child, report.slot, kept / "result.bin")
                child.rest()
            except BaseException:
                await self._kill()
                raise
        if isinstance(report, Failed):
            logger.debug("ends: %s", report.name, extra=about)
            raise from_wire(report.name, report.operands)
        if not isinstance(report, expected):
            raise ExecutorCrashed(f"the executor answered {type(report).__name__} instead of {expected.__name__}")
        logger.debug("ends: %.4f s of CPU", report.cpu_s, extra=about)
        return report, result

    async def _heed(
        self,
        child: Confined,
        report: FromChild,
        order: Order,
        on_progress: OnProgress | None,
        on_state: OnState | None,
        kept: Path,
    ) -> None:
        """What a report that is not the last one asks for."""
        match report:
            case Step():
                if not _is_possible(report.progress, order.task):
                    raise ExecutorCrashed(f"the executor names a step that its task does not have: {report.progress}")
                if on_progress:
                    on_progress(report.progress)
            case ModelChecked():
                child.checks += 1
                if child.checks > MOST_CHECKS:
                    raise ExecutorCrashed(f"the executor compares its model more than {MOST_CHECKS} times")
                Checked(checked_folder(), order.manifest.model or "").add(report.key, report.apart)
            case StateWritten() | StateFound():
                path = kept / state_name(_number(report, order, child), _hexadecimal(report.digest))
                if isinstance(report, StateWritten):
                    await self._take(child, report.slot, path)
                elif not path.is_file():
                    raise ExecutorCrashed(f"the executor found a state that is not there: {path.name}")
                if on_state:
                    on_state(report.number, path)
            case _:
                raise ExecutorCrashed(f"the executor answered {type(report).__name__} in the middle of an order")

    async def _take(self, child: Confined, slot: str, path: Path) -> Path:
        await asyncio.to_thread(child.take, slot, path)
        await _send(child, Taken(slot))
        return path

    async def _start(self, order: Order, inputs: Inputs) -> Confined:
        """The child for an order: the one that is there where it may read what the order needs and nothing else."""
        workload = load_workload(order.manifest.workload)
        workload.check(order.manifest)
        most = MAX_STATE_BYTES if self._adversary else workload.max_bytes(order.manifest, order.task)
        reads = _files(inputs)
        child = self._child
        if child is not None and child.is_for(order.manifest, reads, most) and child.process.returncode is None:
            return child
        await self._kill()
        self._seen = job = job_folder(self._folder, order.manifest)
        job.mkdir(parents=True, exist_ok=True)
        gpu = self.backend.startswith("cuda")
        policy = Policy(
            read=(*reads, str(job), str(checked_folder()), *([self._library] if self._library else [])),
            builds=self.backend == "cuda-triton",
            helper=True,
            gpu=gpu,
            memory_bytes=self._resources.memory_bytes,
            file_bytes=most,
            tasks=64 + 8 * self._resources.threads,
        )
        limit = Limit(threads=None if gpu else self._resources.threads)
        self._child = child = await Confined.start(
            self._folder,
            self._sandbox,
            policy,
            self._settings_of(order),
            self._python,
            limit,
            environment(self._resources.threads),
        )
        child.assign(order.manifest, reads, most)
        try:
            report = await self._receive(child)
        except BaseException:
            await self._kill()
            raise
        if not isinstance(report, Ready):
            await self._kill()
            raise ExecutorCrashed(f"the executor answered {type(report).__name__} at its start")
        return child

    def _settings_of(self, order: Order) -> Callable[[Path, tuple[str, ...]], str]:
        """What a child is started with, once it is known where it writes to."""

        def settings(outbox: Path, slots: tuple[str, ...]) -> str:
            said = ChildSettings(
                resources=self._resources,
                warm=Warm(self.backend, self._library),
                adversary=self._adversary,
                outbox=str(outbox),
                slots=slots,
                checked=str(checked_folder()),
                model=order.manifest.model or "",
            )
            return msgspec.json.encode(said).decode()

        return settings

    async def _receive(self, child: Confined) -> FromChild:
        """The next report. Raises `TimeLimit`, and what ended the child."""
        stream = child.stdout
        try:
            async with asyncio.timeout(self._silence_s):
                child.reports += 1
                if child.reports % REPORTS_AT_ONCE == 0:
                    await asyncio.sleep(0.001)
                (size,) = LENGTH.unpack(await stream.readexactly(LENGTH.size))
                if size > MAX_REPORT_BYTES:
                    raise ExecutorCrashed(f"the executor announces a report of {size} bytes")
                return decode_report(await stream.readexactly(size))
        except TimeoutError:
            raise TimeLimit(f"the executor was silent for {self._silence_s:.0f} s and was ended") from None
        except msgspec.MsgspecError as error:
            raise ExecutorCrashed(f"the executor's report cannot be read: {error}") from None
        except asyncio.IncompleteReadError:
            raise await self._end(child) from None

    async def _end(self, child: Confined) -> ExecutionError:
        """Why a child ended."""
        code = await child.ended()
        if child.broken is not None:
            return child.broken
        if code == OUT_OF_MEMORY_EXIT:
            return OutOfMemory("the memory limit was reached; raise it or use a smaller batch")
        signalled = code - 128 if code > 128 else -code if code < 0 else 0
        cause = (
            f"signal {signalled}" + (" (often: out of memory)" if signalled == 9 else "")
            if signalled
            else f"exit code {code}"
        )
        words = child.last_words().strip().splitlines()
        self._log.write_text(plain("\n".join(words)))
        return ExecutorCrashed(
            f"the executor ended with {cause}; its last words in {self._log}: {words[-1] if words else 'none'}"
        )

    @property
    def _log(self) -> Path:
        return self._folder / "executor.log"

    async def _kill(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            ending = asyncio.create_task(child.close())
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)
        seen, self._seen = self._seen, None
        if seen is not None:
            self._clear(seen)
        # One whose end nobody waits for any more, being cancelled, is waited for by whoever comes next.
        await asyncio.shield(asyncio.gather(*self._endings))


async def _send(child: Confined, message: ToChild) -> None:
    child.stdin.write(frame(message))
    with contextlib.suppress(ConnectionError):  # a dead child is noticed, and explained, when its report is awaited
        await child.stdin.drain()


def _is_possible(progress: Progress, task: TaskSpec) -> bool:
    """Whether a step may be told to others, who end the connection of whoever says what cannot be."""
    counts = (progress.step, progress.steps, progress.rss_bytes)
    return 0 <= progress.segment < task.segments and all(0 <= count < 1 << 63 for count in counts)


def _number(report: StateWritten | StateFound, order: Order, child: Confined) -> int:
    """States come once each and in order: whoever keeps them keeps no more than a task has."""
    if report.number != child.states or not isinstance(order, RunTask) or child.states > order.task.segments:
        raise ExecutorCrashed(f"the executor names state {report.number}, expected is {child.states}")
    child.states += 1
    return report.number


def _hexadecimal(digest: str) -> str:
    if len(digest) != 32 or not set(digest) <= set("0123456789abcdef"):
        raise ExecutorCrashed(f"the executor names a state by {digest[:64]!r}")
    return digest


def _files(inputs: Inputs) -> tuple[str, ...]:
    """What a job's inputs need to be read."""
    given = (path for path in (inputs.model, inputs.data, inputs.adapter) if path is not None)
    return tuple(file for path in given for file in files_of(path))


def _paths(inputs: Inputs) -> InputPaths:
    return InputPaths(
        model=str(inputs.model) if inputs.model else None,
        data=str(inputs.data) if inputs.data else None,
        results=inputs.results,
        adapter=str(inputs.adapter) if inputs.adapter else None,
        carried=inputs.carried,
    )
