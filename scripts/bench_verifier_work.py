"""Work that costs nothing to compute, so that what is measured is everything around it. It takes the place of `lora` in
the processes of `bench_verifier.py`: `install` before anything else of Proofyard is imported."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.types import Cid, TaskIndex
from proofyard.workloads import workload as workloads
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.executor import TaskTrace
from proofyard.workloads.workload import Inputs, Workload

SEGMENTS = 4
SCRATCH = Path("/dev/shm")  # noqa: S108 (memory)
KNOWN = 64
"""Task graphs that are kept: every job has its own manifest."""


class Counting:
    """A workload of independent tasks whose states are their names."""

    name, exact, arithmetic = "lora", True, False

    def __init__(self) -> None:
        self._graphs: dict[int, tuple[TaskSpec, ...]] = {}

    def check(self, manifest: Manifest) -> None:
        """Everything fits."""

    def graph(self, manifest: Manifest) -> Sequence[TaskSpec]:
        tasks = int(manifest.params["tasks"])
        if tasks not in self._graphs:
            self._graphs[tasks] = tuple(
                TaskSpec(index=TaskIndex(index), kind="count", segments=SEGMENTS) for index in range(tasks)
            )
        return self._graphs[tasks]

    def initial_state(self, manifest: Manifest, task: TaskSpec, inputs: Inputs) -> bytes:
        return state_of(manifest, task, 0)

    def check_state(self, manifest: Manifest, task: TaskSpec, number: int, state: bytes) -> None:
        if state != state_of(manifest, task, number):
            raise StateRefused("it is another one")

    def max_bytes(self, manifest: Manifest, task: TaskSpec) -> int:
        return 1 << 10

    def check_result(
        self, manifest: Manifest, task: TaskSpec, result: bytes, last: bytes, trace: Sequence[Cid]
    ) -> None:
        if result != b"result of " + last:
            raise StateRefused("it is another one")

    def finals(self, manifest: Manifest) -> Sequence[TaskIndex]:
        return [TaskIndex(len(self.graph(manifest)) - 1)]

    def package(self, manifest: Manifest, results: Callable[[TaskIndex], bytes], dest: Path) -> Path:
        dest.mkdir()
        (dest / "result").write_bytes(b"".join(map(results, self.finals(manifest))))
        return dest


def state_of(manifest: Manifest, task: TaskSpec, number: int) -> bytes:
    return b"state %d of task %d with seed %d" % (number, task.index, manifest.seed)


class Idle:
    """An executor without a child process: the states are there as soon as they are asked for. Their files are in
    memory where the machine has a folder for it, and short-lived."""

    backend = "none"
    busy = False

    def __init__(self) -> None:
        self._scratch = tempfile.TemporaryDirectory(
            prefix="proofyard-bench-", dir=SCRATCH if SCRATCH.is_dir() else None
        )
        self._folder = Path(self._scratch.name)

    async def run_task(self, manifest: Manifest, task: TaskSpec, inputs: Inputs, **_: Any) -> TaskTrace:
        folder = self._task_folder(manifest, task)
        folder.mkdir(parents=True, exist_ok=True)
        states = [folder / str(number) for number in range(task.segments + 1)]
        for number, path in enumerate(states):
            path.write_bytes(state_of(manifest, task, number))
        result = folder / "result"
        result.write_bytes(b"result of " + state_of(manifest, task, task.segments))
        return TaskTrace(tuple(states), result, 0)

    async def run_segment(
        self, manifest: Manifest, task: TaskSpec, index: int, before: bytes, inputs: Inputs, **_: Any
    ) -> bytes:
        return state_of(manifest, task, index + 1)

    def forget(self, manifest: Manifest, task: TaskSpec, inputs: Inputs) -> None:
        shutil.rmtree(self._task_folder(manifest, task), ignore_errors=True)

    def sweep(self, before: float) -> None:
        """Nothing is left behind."""

    async def stop(self) -> None:
        """Nothing takes time."""

    def _task_folder(self, manifest: Manifest, task: TaskSpec) -> Path:
        return self._folder / f"{manifest.seed}-{task.index}"


def install() -> None:
    """Have every `load_workload` of this process give `Counting`."""
    counting = Counting()
    workloads.load_workload = lambda name: cast(Workload, counting)
