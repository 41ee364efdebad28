"""What a workload is: a task graph, states, segments that lead from one state to the next, and what they changed.

A workload is one object with these methods, found by name through the entry points group `proofyard.workloads`.
Everything but `runner` is exact, needs no torch, and gives the same bytes on every machine, so that a verifier
can check a task's first state and its result without executing anything. `runner` is the heavy part: it is only
called in the child process of an `Executor`, and imports what it needs there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec

from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.workloads.errors import UnknownWorkload
from proofyard.workloads.sketch import Change

ENTRY_POINT_GROUP = "proofyard.workloads"


@dataclass(frozen=True)
class Inputs:
    """A task's inputs, fetched and checked against their CIDs: the model directory and data file of the manifest,
    and the result artifacts of `TaskSpec.deps`, in that order."""

    model: Path | None = None
    data: Path | None = None
    results: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Resources:
    """What a runner may use. None of it changes a result beyond rounding.

    `device` is a torch device, or "auto" for a GPU where there is one. `micro_batch` bounds the sequences that are
    computed at once where memory is short. `attention` is "sdpa" or "eager", the plain implementation.
    `memory_bytes` is the limit of the whole process.
    """

    threads: int = 1
    device: str = "auto"
    micro_batch: int | None = None
    attention: str = "sdpa"
    memory_bytes: int | None = None


class Progress(msgspec.Struct, frozen=True):
    """One step done. `step` counts from 1 within the task of `steps`; `rss_bytes` is the process's memory."""

    segment: int
    step: int
    steps: int
    loss: float | None = None
    tokens_per_s: float = 0.0
    rss_bytes: int = 0


OnProgress = Callable[[Progress], None]


class SegmentRunner(Protocol):
    """Executes segments of one task."""

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        """State `index` + 1 from state `index`. Raises `SegmentFailed`, `StateRefused` or `OutOfMemory`."""
        ...


@runtime_checkable
class Workload(Protocol):
    """See the module's docstring; `proofyard.workloads.lora` is the example to read."""

    name: str

    def check(self, manifest: Manifest) -> None:
        """Raise `ManifestRefused`, naming the field, where the job cannot be executed as it stands."""
        ...

    def graph(self, manifest: Manifest) -> Sequence[TaskSpec]:
        """The job's tasks in index order; a task only depends on tasks before it."""
        ...

    def initial_state(self, manifest: Manifest, task: TaskSpec, inputs: Inputs) -> bytes:
        """State 0 in canonical bytes. Of `inputs` only the results (and what the workload says) may be needed."""
        ...

    def result(self, manifest: Manifest, task: TaskSpec, last: bytes) -> bytes:
        """The task's result artifact from its last state."""
        ...

    def change(self, manifest: Manifest, task: TaskSpec, before: bytes, after: bytes) -> Change:
        """What a segment changed, for sketches and distances. Raises `StateRefused` for a state that does not fit."""
        ...

    def package(self, manifest: Manifest, result: bytes, dest: Path) -> Path:
        """Write the job's result, the artifact of its last task, into the directory `dest` in the form that people
        use; the same bytes every time."""
        ...

    def runner(self, manifest: Manifest, task: TaskSpec, inputs: Inputs, resources: Resources) -> SegmentRunner:
        """Load what the segments of `task` need. Only called in an executor's child process."""
        ...


def load_workload(name: str) -> Workload:
    """The installed workload of this name. Raises `UnknownWorkload`."""
    found = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in found:
        raise UnknownWorkload(name, sorted(found))
    workload = found[name].load()
    if not isinstance(workload, Workload) or workload.name != name:
        raise UnknownWorkload(name, sorted(found.keys() - {name}))
    return workload
