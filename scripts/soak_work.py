"""Work for `soak.py` that takes no computing: rounds of tasks whose states are digests of those before them. It takes
the place of `lora` in all processes of a soak: `install` before anything else of Proofyard is imported.

Every state rests on all bits before it, so that a result is right only where all the work before it was.
"""

import asyncio
import hashlib
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np

from proofyard.protocol.cid import raw_cid
from proofyard.protocol.manifest import Manifest, TaskSpec, encode_manifest
from proofyard.protocol.types import Cid, TaskIndex
from proofyard.workloads import workload as workloads
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.executor import OnState, TaskTrace
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.state_store import StateStore, task_folder, write_durably
from proofyard.workloads.workload import Inputs, OnProgress, Workload

SEGMENTS = 3
NUMBERS = 8
PAUSE_S = 0.3
"""What a segment takes at most: kills shall meet tasks in their middle."""


class Rounds:
    """`params`: `rounds` of `width` tasks each; a task rests on all results of the round before."""

    name, exact, arithmetic = "lora", True, False

    def check(self, manifest: Manifest) -> None:
        """Everything fits."""

    def graph(self, manifest: Manifest) -> Sequence[TaskSpec]:
        rounds, width = int(manifest.params["rounds"]), int(manifest.params["width"])
        return [
            TaskSpec(
                index=TaskIndex(number),
                kind="digest",
                deps=tuple(
                    TaskIndex(other) for other in range(number // width * width - width, number // width * width)
                )
                if number >= width
                else (),
                segments=SEGMENTS,
                work_units=1 + number % 3,
            )
            for number in range(rounds * width)
        ]

    def finals(self, manifest: Manifest) -> Sequence[TaskIndex]:
        """All: whoever asks for the result of a job is shown every task's."""
        return [spec.index for spec in self.graph(manifest)]

    def initial_state(self, manifest: Manifest, task: TaskSpec, inputs: Inputs) -> bytes:
        return _state(encode_manifest(manifest), b"%d" % task.index, *inputs.results)

    def check_state(self, manifest: Manifest, task: TaskSpec, number: int, state: bytes) -> None:
        found = decode_state(state).get("x")
        if found is None or found.shape != (NUMBERS,) or not ((found >= 0) & (found <= 1)).all():
            raise StateRefused("holds other numbers than such a state")

    def result(self, manifest: Manifest, task: TaskSpec, states: Callable[[int], bytes]) -> bytes:
        return _state(b"result", states(task.segments))

    def max_bytes(self, manifest: Manifest, task: TaskSpec) -> int:
        return 1 << 20

    def check_result(
        self, manifest: Manifest, task: TaskSpec, result: bytes, last: bytes, trace: Sequence[Cid]
    ) -> None:
        if result != _state(b"result", last):
            raise StateRefused("is another one")

    def package(self, manifest: Manifest, results: Callable[[TaskIndex], bytes], dest: Path) -> Path:
        dest.mkdir()
        (dest / "result").write_bytes(b"".join(map(results, self.finals(manifest))))
        return dest


def after(manifest: Manifest, index: int, before: bytes) -> bytes:
    """The state after segment `index`."""
    return _state(b"%d %d" % (manifest.seed, index), before)


def _state(*parts: bytes) -> bytes:
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return encode_state({"x": np.frombuffer(digest, "<u4").astype("<f4") / np.float32(2**32)})


def executed(manifest: Manifest) -> dict[TaskIndex, bytes]:
    """The results of a job that is executed here and now."""
    rounds, done = Rounds(), dict[TaskIndex, bytes]()
    for task in rounds.graph(manifest):
        state = rounds.initial_state(manifest, task, Inputs(results=tuple(done[dep] for dep in task.deps)))
        for index in range(task.segments):
            state = after(manifest, index, state)
        done[task.index] = _state(b"result", state)
    return done


def result_cids(manifest: Manifest) -> dict[TaskIndex, Cid]:
    return {task: raw_cid(result) for task, result in executed(manifest).items()}


class Digesting:
    """An executor without a child process, with the interface of the real one."""

    backend = "none"
    busy = False

    def __init__(self, folder: Path, **_: Any) -> None:
        self._folder = folder

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is left."""

    async def rest(self) -> None:
        """It has no process that keeps anything in memory."""

    async def run_task(
        self,
        manifest: Manifest,
        task: TaskSpec,
        inputs: Inputs,
        *,
        on_progress: OnProgress | None = None,
        on_state: OnState | None = None,
    ) -> TaskTrace:
        folder = task_folder(self._folder, manifest, task, inputs)
        store, state = StateStore(folder), Rounds().initial_state(manifest, task, inputs)
        states = [store.write(0, state)]
        for index in range(task.segments):
            await asyncio.sleep(random.random() * PAUSE_S)
            state = after(manifest, index, state)
            states.append(store.write(index + 1, state))
        return TaskTrace(tuple(states), write_durably(folder / "result.safetensors", _state(b"result", state)), 0)

    async def run_segment(
        self, manifest: Manifest, task: TaskSpec, index: int, before: bytes, inputs: Inputs, **_: Any
    ) -> bytes:
        await asyncio.sleep(random.random() * PAUSE_S)
        return after(manifest, index, before)

    def forget(self, manifest: Manifest, task: TaskSpec, inputs: Inputs) -> None:
        shutil.rmtree(task_folder(self._folder, manifest, task, inputs), ignore_errors=True)

    def sweep(self, before: float) -> None:
        """Nothing is left behind."""

    async def stop(self) -> None:
        """Nothing takes long."""


def install() -> None:
    """Have every `load_workload` of this process give `Rounds`."""
    rounds = Rounds()
    workloads.load_workload = lambda name: cast(Workload, rounds)
