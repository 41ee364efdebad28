"""Jobs that the benchmark executes, the traces an honest run commits to, and what others answer to their segments."""

import asyncio
import hashlib
from collections.abc import Awaitable, Coroutine, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.workloads.errors import WorkloadError
from proofyard.workloads.executor import Executor
from proofyard.workloads.workload import Inputs, Workload, load_workload

T = TypeVar("T")

AT_ONCE = 2
"""Processes that compute at the same time: the benchmark is made for two cores."""


@dataclass(frozen=True)
class Job:
    """A manifest with its inputs. `group` is what its segments are counted as."""

    name: str
    group: str
    manifest: Manifest
    inputs: Inputs

    @property
    def workload(self) -> Workload:
        return load_workload(self.manifest.workload)


@dataclass(frozen=True)
class Trace:
    """An executed task: files of its states and of its result."""

    job: Job
    task: TaskSpec
    inputs: Inputs
    states: tuple[Path, ...]
    result: Path

    def state(self, number: int) -> bytes:
        return self.states[number].read_bytes()


@dataclass(frozen=True)
class Sample:
    """Segment `index` of a trace."""

    trace: Trace
    index: int

    @property
    def before(self) -> bytes:
        return self.trace.state(self.index)

    @property
    def claimed(self) -> str:
        return digest(self.trace.state(self.index + 1))

    @property
    def place(self) -> str:
        return f"{self.trace.job.name}, task {self.trace.task.index}, segment {self.index}"


def digest(state: bytes) -> str:
    return hashlib.sha256(state).hexdigest()


async def commit(executor: Executor, job: Job) -> list[Trace]:
    """Every task of a job in order."""
    results: dict[int, bytes] = {}
    traces = []
    for task in job.workload.graph(job.manifest):
        inputs = replace(job.inputs, results=tuple(results[number] for number in task.deps))
        traces.append(await run_task(executor, job, task, inputs))
        results[task.index] = traces[-1].result.read_bytes()
    return traces


async def run_task(executor: Executor, job: Job, task: TaskSpec, inputs: Inputs) -> Trace:
    done = await executor.run_task(job.manifest, task, inputs)
    return Trace(job, task, inputs, done.states, done.result)


def samples(traces: Iterable[Trace], kind: str) -> list[Sample]:
    """The segments of all tasks of a kind."""
    return [Sample(trace, i) for trace in traces if trace.task.kind == kind for i in range(trace.task.segments)]


async def answer(executor: Executor, sample: Sample) -> str:
    """What `executor` answers: the digest of its own state after the segment, or the name of a defined failure.
    Raises where it has no answer."""
    trace = sample.trace
    order = (trace.job.manifest, trace.task, sample.index, sample.before, trace.inputs)
    return await outcome(executor.run_segment(*order))


async def outcome(execution: Awaitable[bytes]) -> str:
    try:
        return digest(await execution)
    except WorkloadError as error:
        if not error.defined:
            raise
        return type(error).__name__


async def in_turns(works: Iterable[Coroutine[Any, Any, T]], at_once: int = AT_ONCE) -> list[T]:
    """The results of all works in order; `at_once` of them are under way at any time."""
    turn = asyncio.Semaphore(at_once)

    async def one(work: Coroutine[Any, Any, T]) -> T:
        async with turn:
            return await work

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(work)) for work in works]
    return [task.result() for task in tasks]
