"""What a workload is: a task graph, states, segments that lead from one state to the next, and a result.

A workload is one object with these members, found by name through the entry points group `proofyard.workloads`.
Everything but `runner` needs no torch and gives the same bytes on every machine, so that a verifier can check a
task's first state, any state's laws and the result without executing anything. `runner` is the heavy part: it is only
called in the child process of an `Executor`, and imports what it needs there.
"""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, cast

import msgspec

from proofyard.protocol.caps import Caps
from proofyard.protocol.closing import ClosedRound, Rounds, final_tasks, open_tasks, since
from proofyard.protocol.manifest import MAX_DEPS, MAX_TASKS, Manifest, TaskSpec
from proofyard.protocol.types import Address, Cid, JobId, TaskIndex
from proofyard.workloads.errors import InputRefused, ManifestRefused, StateRefused, UnknownWorkload
from proofyard.workloads.local_data import LocalData, LocalFile

ENTRY_POINT_GROUP = "proofyard.workloads"


@dataclass(frozen=True)
class Inputs:
    """A task's inputs, fetched and checked against their CIDs: the model directory, data file and adapter of the
    manifest, the result artifacts of `TaskSpec.deps`, in that order, and the artifacts that `carried` finds in them."""

    model: Path | None = None
    data: Path | None = None
    results: tuple[bytes, ...] = ()
    adapter: Path | None = None
    carried: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Resources:
    """What a runner may use. None of it changes a bit of an exact workload's results.

    `device` is a torch device, or "auto" for a GPU where there is one. `micro_batch` bounds the sequences that are
    computed at once where memory is short. `memory_bytes` is the limit of the whole process. `backend` names the
    arithmetic to compute in, for tests and benchmarks; None takes the fastest that is exact on this machine.
    """

    threads: int = 1
    device: str = "auto"
    micro_batch: int | None = None
    memory_bytes: int | None = None
    backend: str | None = None


class Progress(msgspec.Struct, frozen=True):
    """One step done, in `seconds`. `step` counts from 1 within the task of `steps`; `rss_bytes` is the process's
    memory."""

    segment: int
    step: int
    steps: int
    loss: float | None = None
    tokens_per_s: float = 0.0
    rss_bytes: int = 0
    seconds: float = 0.0


OnProgress = Callable[[Progress], None]

States = Callable[[int], bytes]
"""Reads state number 0 .. `segments` of a task."""

Results = Callable[[TaskIndex], bytes]
"""Reads the accepted result of a task, one at a time: a job may have more of them than fit in memory."""


class SegmentRunner(Protocol):
    """Executes segments of one task."""

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        """State `index` + 1 from state `index`.

        Raises `SegmentFailed`, `StateRefused` or `InputRefused` where it cannot be executed by anybody: the same on
        every machine, and an answer in an audit. What this machine alone lacks is another error (`OutOfMemory`).
        """
        ...


class Workload(Protocol):
    """See the module's docstring; `proofyard.workloads.lora` is the example to read.

    `exact`: segments give the same bytes on every machine, and a verdict is equality of digests. Where it is False
    the workload is an `InexactWorkload`. `arithmetic`: segments compute in `proofyard.workloads.exact`, so that only
    machines that reproduce its golden vectors may execute them.
    """

    name: str
    exact: bool
    arithmetic: bool

    def check(self, manifest: Manifest) -> None:
        """Raise `ManifestRefused`, naming the field, where the job cannot be executed as it stands."""
        ...

    def graph(self, manifest: Manifest) -> Sequence[TaskSpec]:
        """The job's tasks in index order; a task only depends on tasks before it (see `task_graph`)."""
        ...

    def finals(self, manifest: Manifest) -> Sequence[TaskIndex]:
        """The tasks whose results the job's result is made of."""
        ...

    def initial_state(self, manifest: Manifest, task: TaskSpec, inputs: Inputs) -> bytes:
        """State 0 in canonical bytes. Of `inputs` only the results (and what the workload says) may be needed."""
        ...

    def check_state(self, manifest: Manifest, task: TaskSpec, number: int, state: bytes) -> None:
        """Raise `StateRefused` for bytes that no honest execution commits to as state `number`.

        Cheap and the same everywhere: schema, finite numbers, the step, and whatever law the workload knows. Applied to
        every state that an audit starts from, and by the executor before a state is committed to.
        """
        ...

    def max_bytes(self, manifest: Manifest, task: TaskSpec) -> int:
        """The most bytes that a state or the result of a task has. What is larger is refused by whoever looks at it,
        before any of it is read: a few megabytes of blocks can stand for gigabytes."""
        ...

    def result(self, manifest: Manifest, task: TaskSpec, states: States) -> bytes:
        """The task's result artifact from its states."""
        ...

    def check_result(
        self, manifest: Manifest, task: TaskSpec, result: bytes, last: bytes, trace: Sequence[Cid]
    ) -> None:
        """Raise `StateRefused` unless `result` is what `result` makes of the states with the CIDs `trace`, of which
        `last` is the last one's bytes. No other state is needed. What passes can be used: `initial_state` of the tasks
        that rest on such results, and `package`, raise nothing."""
        ...

    def package(self, manifest: Manifest, results: Results, dest: Path) -> Path:
        """Write the job's result, a function of the results of `finals`, into the directory `dest` in the form that
        people use; the same bytes every time."""
        ...

    def check_inputs(self, manifest: Manifest, inputs: Inputs) -> None:
        """Raise `InputRefused` where segments cannot be executed on this model and data file, as `runner` would: the
        requester asks before it pays. `manifest` has passed `check`. No weights are read; nothing needs torch."""
        ...

    def load_model(self, manifest: Manifest, model: Path, resources: Resources) -> None:
        """Load the job's model as `runner` does, and raise what that raises: the requester tries it, in a process of
        its own, where torch is installed. Nothing for a workload without one."""
        ...

    def runner(self, manifest: Manifest, task: TaskSpec, inputs: Inputs, resources: Resources) -> SegmentRunner:
        """Load what the segments of `task` need. Only called in an executor's child process.

        A segment is computed from model, data and the state before it: of `inputs` an auditor is given no results.
        """
        ...


class CarryingWorkload(Workload, Protocol):
    """A workload whose tasks need more of earlier ones than their results: what only some tasks need, so that not
    everybody who needs the results has to fetch it."""

    def carries(self, manifest: Manifest) -> bool:
        """Whether tasks of this job do."""
        ...

    def carried(self, manifest: Manifest, task: TaskSpec, results: Sequence[bytes]) -> tuple[Cid, ...]:
        """The artifacts that `initial_state` needs beside the results of the task's `deps`, named in these. What
        `check_result` lets pass names last states of the tasks that it is of, and nothing else: those are delivered and
        kept as inputs are. Raises `StateRefused`."""
        ...


class BeginningWorkload(Workload, Protocol):
    """A workload some of whose tasks begin with the manifest's `adapter`."""

    def begins(self, manifest: Manifest, task: TaskSpec) -> bool:
        """Whether the first state of a task is made from it."""
        ...


class ClosingWorkload(Workload, Protocol):
    """A workload with jobs whose rounds do not wait for everybody: which results a task rests on follows from the
    manifest and from what was committed when (`proofyard.protocol.closing`)."""

    def rounds(self, manifest: Manifest) -> Rounds | None:
        """How the rounds of this job close; None where each waits for all of the one before."""
        ...

    def package_of(self, manifest: Manifest, taken: Sequence[TaskIndex], results: Results, dest: Path) -> Path:
        """As `package`, of what the last round took."""
        ...


class CappedWorkload(Workload, Protocol):
    """A workload with jobs that say how much of a round one owner may do."""

    def caps(self, manifest: Manifest) -> tuple[int, Caps] | None:
        """Tasks of a round, which are numbered round by round, and the most of them; None where all may be anybody's.
        Its tasks can be done in any order and by anybody all the same: who does them changes no result."""
        ...


class LocalWorkload(Workload, Protocol):
    """A workload with jobs that name no data file but what each worker has itself."""

    def local(self, manifest: Manifest) -> LocalData | None:
        """The data of such a job; None for any other."""
        ...

    def local_file(self, manifest: Manifest, task: TaskSpec) -> LocalFile:
        """What of it a task computes on, in place of the manifest's `data`."""
        ...


class InexactWorkload(Workload, Protocol):
    """A workload whose segments differ from machine to machine by something like rounding (`exact` is False).

    Its verdicts rest on its own metric and so never cost stake: work that does not agree is not paid, done again, and
    costs reputation.
    """

    def agrees(self, manifest: Manifest, task: TaskSpec, segment: int, before: bytes, one: bytes, other: bytes) -> bool:
        """Whether two states after `segment`, both of which passed `check_state`, are the same work. Symmetric."""
        ...


_MEMBERS = (
    *("name", "exact", "arithmetic", "check", "graph", "finals", "initial_state"),
    *("check_state", "max_bytes", "result", "check_result", "package", "check_inputs", "load_model", "runner"),
)


@functools.lru_cache(maxsize=8)
def _installed(_path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """All that is installed, by name: looked at once for each module path."""
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def load_workload(name: str) -> Workload:
    """The installed workload of this name. Raises `UnknownWorkload`, which says what an object lacks to be one."""
    found = _installed(tuple(sys.path))
    if name not in found:
        raise UnknownWorkload(name, sorted(found))
    workload: Workload = found[name].load()
    wanted = _MEMBERS if getattr(workload, "exact", True) else (*_MEMBERS, "agrees")
    lacking = [member for member in wanted if not hasattr(workload, member)]
    if lacking or workload.name != name:
        raise UnknownWorkload(name, sorted(found.keys() - {name}), lacking or ["the name that it is installed under"])
    return workload


def task_graph(workload: Workload, manifest: Manifest, closed: Sequence[ClosedRound] = ()) -> tuple[TaskSpec, ...]:
    """A job's tasks with what they rest on: all of them or, where rounds do not wait for everybody, those of the rounds
    that are open, `closed` being the ones before. Raises as `all_tasks` does."""
    tasks, rounds = all_tasks(workload, manifest), rounds_of(workload, manifest)
    return tasks if rounds is None else open_tasks(tasks, rounds, closed)


def finals_of(workload: Workload, manifest: Manifest, closed: Sequence[ClosedRound] = ()) -> tuple[TaskIndex, ...]:
    """The tasks whose results the job's result is made of, `closed` as in `task_graph`: none while a round is open."""
    rounds = rounds_of(workload, manifest)
    return tuple(workload.finals(manifest)) if rounds is None else final_tasks(rounds, closed)


def possible_finals(workload: Workload, manifest: Manifest) -> frozenset[TaskIndex]:
    """The tasks that `finals_of` may name, whatever closes how."""
    rounds = rounds_of(workload, manifest)
    if rounds is None:
        return frozenset(workload.finals(manifest))
    first = max(0, since(rounds.rounds, rounds.key_rounds) - rounds.closing.late_rounds)
    return frozenset(map(TaskIndex, range(first * rounds.workers, rounds.rounds * rounds.workers)))


def write_result(
    workload: Workload, manifest: Manifest, finals: Sequence[TaskIndex], results: Results, dest: Path
) -> Path:
    """Write the job's result, of the `results` of its `finals`, into `dest`: see `Workload.package`."""
    if rounds_of(workload, manifest) is None:
        return workload.package(manifest, results, dest)
    return cast(ClosingWorkload, workload).package_of(manifest, finals, results, dest)


def all_tasks(workload: Workload, manifest: Manifest) -> tuple[TaskSpec, ...]:
    """All tasks that a job may come to; where rounds do not wait for everybody their `deps` are those of rounds that
    are whole. Raises `ManifestRefused`: where the workload does, and for a graph that no verifier could schedule."""
    workload.check(manifest)
    tasks = tuple(workload.graph(manifest))
    if not 0 < len(tasks) <= MAX_TASKS:
        raise ManifestRefused("params", f"make {len(tasks)} tasks, there must be 1 to {MAX_TASKS}")
    for number, task in enumerate(tasks):
        deps = task.deps
        if task.index != number or (deps and not 0 <= min(deps) <= max(deps) < number):
            raise ManifestRefused("params", f"make task {number} depend on what does not come before it")
        if len(deps) > MAX_DEPS:
            raise ManifestRefused("params", f"make task {number} depend on {len(deps)} results, at most {MAX_DEPS} fit")
    return tasks


def rounds_of(workload: Workload, manifest: Manifest) -> Rounds | None:
    """How the rounds of a job close that do not wait for everybody; None for any other job."""
    return cast(ClosingWorkload, workload).rounds(manifest) if hasattr(workload, "rounds") else None


def require_inputs(task: TaskSpec, inputs: Inputs) -> None:
    """Raise `StateRefused` unless there is one result for each of a task's `deps`."""
    if len(inputs.results) != len(task.deps):
        raise StateRefused(f"task {task.index} has {len(task.deps)} inputs, {len(inputs.results)} were given")


def carries(workload: Workload, manifest: Manifest) -> bool:
    """Whether tasks of a job need more of earlier ones than their results."""
    return hasattr(workload, "carries") and cast(CarryingWorkload, workload).carries(manifest)


def begins(workload: Workload, manifest: Manifest, task: TaskSpec) -> bool:
    """Whether a task's first state is made from the manifest's adapter."""
    return hasattr(workload, "begins") and cast(BeginningWorkload, workload).begins(manifest, task)


def first_state(
    workload: Workload,
    manifest: Manifest,
    task: TaskSpec,
    results: Sequence[bytes],
    carried: Sequence[bytes] = (),
    adapter: bytes | None = None,
) -> bytes:
    """A task's first state, without executing anything: of the results that it rests on, what these name
    (`carried_by`), and the manifest's adapter where it `begins` with that. Raises `StateRefused`, `InputRefused`."""
    given = Inputs(results=tuple(results), carried=tuple(carried))
    if adapter is None:
        return workload.initial_state(manifest, task, given)
    with TemporaryDirectory(prefix="proofyard-start-") as folder:
        file = Path(folder) / "adapter"
        file.write_bytes(adapter)
        return workload.initial_state(manifest, task, replace(given, adapter=file))


def caps_of(workload: Workload, manifest: Manifest) -> tuple[int, Caps] | None:
    """Tasks of a round and how many of them are one owner's at most; None for a job that does not say."""
    return cast(CappedWorkload, workload).caps(manifest) if hasattr(workload, "caps") else None


def local_data(workload: Workload, manifest: Manifest) -> LocalData | None:
    """The data of a job that nobody publishes; None for any other job."""
    return cast(LocalWorkload, workload).local(manifest) if hasattr(workload, "local") else None


def local_file(workload: Workload, manifest: Manifest, task: TaskSpec) -> LocalFile | None:
    """What of it a task computes on."""
    if local_data(workload, manifest) is None:
        return None
    return cast(LocalWorkload, workload).local_file(manifest, task)


def is_exact(workload: Workload, manifest: Manifest) -> bool:
    """Whether a verdict about a job's segments costs stake: its workload gives the same bytes everywhere, and whoever
    doubts it can execute it. Of data that stays at home no jury could be shown anything."""
    return workload.exact and local_data(workload, manifest) is None


def workload_of(manifest: Manifest) -> Workload:
    """The installed workload of a job. Raises `UnknownWorkload`."""
    return load_workload(manifest.workload)


def auditors_of(
    manifests: Mapping[JobId, Manifest], load: Callable[[Manifest], Workload]
) -> dict[JobId, frozenset[Address]]:
    """Of the jobs whose auditors are not drawn from everybody, the owners from whom they are."""
    found = {job: local_data(load(each), each) for job, each in manifests.items()}
    return {job: local.owners for job, local in found.items() if local is not None}


def carried_by(workload: Workload, manifest: Manifest, task: TaskSpec, results: Sequence[bytes]) -> tuple[Cid, ...]:
    """The artifacts that a task's results name and its first state is made from as well, at most `MAX_DEPS`. Named in
    the results, they are bound by whatever binds those. Raises `StateRefused` for what are no results."""
    if not results or not carries(workload, manifest):
        return ()
    found = cast(CarryingWorkload, workload).carried(manifest, task, results)
    if len(found) > MAX_DEPS:
        raise StateRefused(
            f"task {task.index} rests on {len(found)} artifacts beside its inputs, at most {MAX_DEPS} fit"
        )
    return found


def require_files(inputs: Inputs) -> tuple[Path, Path]:
    """Model directory and data file. Raises `InputRefused` where a task was not given both."""
    if inputs.model is None or inputs.data is None:
        raise InputRefused("the task", "was given no model directory or no data file")
    return inputs.model, inputs.data


def require_adapter(inputs: Inputs) -> bytes:
    """The manifest's adapter. Raises `InputRefused` where a task was not given it."""
    if inputs.adapter is None:
        raise InputRefused("the task", "was given nothing to go on from")
    return inputs.adapter.read_bytes()


def require_model(model: Path | None) -> Path:
    """Raise `InputRefused` where a task was given no model directory."""
    if model is None:
        raise InputRefused("the task", "was given no model directory")
    return model


def require_size(workload: Workload, manifest: Manifest, task: TaskSpec, size: int, what: str) -> None:
    """Raise `StateRefused` for a state or result, called `what`, of more bytes than its workload can make."""
    most = workload.max_bytes(manifest, task)
    if size > most:
        raise StateRefused(f"{what} has {size} bytes, and no state or result of this task more than {most}")
