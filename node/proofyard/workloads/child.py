"""The process that computes: `proofyard.workloads.child` in a sandbox, started and fed by an `Executor`, for one job.

Orders come in on stdin, reports go out on what was stdout; anything that a library prints goes to stderr. What is
computed goes to files that are there already (`Outbox`); whoever started it takes it from there. The process ends when
its parent does: stdin closes then, and Linux is asked to kill it as well.
"""

import contextlib
import logging
import os
import queue
import resource
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, assert_never

import msgspec

from proofyard.protocol.codec import prepared
from proofyard.workloads.checked import Checked, use
from proofyard.workloads.errors import (
    ExecutionError,
    SegmentFailed,
    StateRefused,
    TaskStopped,
    WorkloadError,
    to_wire,
    within_memory,
)
from proofyard.workloads.frames import (
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
    frame,
    read_order,
)
from proofyard.workloads.state import MAX_STATE_BYTES
from proofyard.workloads.state_store import Outbox, StateStore, state_digest
from proofyard.workloads.warmup import Warm
from proofyard.workloads.workload import Inputs, Progress, Resources, SegmentRunner, Workload, load_workload

logger = logging.getLogger("proofyard.workloads")


class ChildSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a child is started with. `warm`: the arithmetic that it computes in. `outbox`
    and its `slots`: where it writes to. `checked`: see `checked.Checked`, of the model called `model`."""

    resources: Resources
    warm: Warm
    adversary: str | None
    outbox: str
    slots: tuple[str, ...]
    checked: str
    model: str


class Child:
    """Executes one order at a time."""

    def __init__(self, out: BinaryIO, outbox: Outbox, resources: Resources, adversary: str | None) -> None:
        self.outbox = outbox
        self._out = out
        self._resources = resources
        self._adversary = adversary
        self._turn = threading.Lock()
        self.stopping = threading.Event()

    def report(self, message: FromChild) -> None:
        with self._turn:
            self._out.write(frame(message))
            self._out.flush()

    def execute(self, order: Order) -> None:
        """Carry out an order and report how it ended."""
        try:
            with within_memory("the task, within this machine's limit,"):
                match order:
                    case RunTask():
                        self.report(self._run_task(order))
                    case RunSegment():
                        self.report(self._run_segment(order))
                    case _:
                        assert_never(order)
        except WorkloadError as error:
            self.report(Failed(*to_wire(error)))
        except Exception as error:
            logger.exception("order failed")
            reason = ExecutionError(f"the computation failed unexpectedly: {type(error).__name__}: {error}")
            self.report(Failed(*to_wire(reason)))

    def _run_task(self, order: RunTask) -> TaskDone:
        began = time.process_time()
        manifest, task, inputs = order.manifest, order.task, _inputs(order.inputs)
        workload = load_workload(manifest.workload)
        workload.check(manifest)
        store = StateStore(Path(order.folder))
        state = workload.initial_state(manifest, task, inputs)
        self._keep(0, state)
        resumed = 0
        for number in range(1, task.segments + 1):
            if (found := store.read(number)) is None:
                break
            path, state = found
            resumed = number
            self.report(StateFound(number, path.stem.partition("-")[2]))
        if resumed < task.segments:
            runner = self._runner(order, inputs)

            def keep(index: int, state: bytes) -> None:
                if not self._adversary:
                    _check_after(workload, order, index, state)
                self._keep(index + 1, state)

            # A state is checked and written while the next segment is computed.
            with ThreadPoolExecutor(1) as beside:
                kept: Future[None] | None = None
                for index in range(resumed, task.segments):
                    state = runner.run(index, state, self._progress)
                    if kept is not None:
                        kept.result()
                    kept = beside.submit(keep, index, state)
                if kept is not None:
                    kept.result()
        self.outbox.settle()
        result = workload.result(manifest, task, lambda number: _stored(store, number))
        if self._adversary:
            from proofyard.workloads.adversary import corrupt_result

            result = corrupt_result(self._adversary, result)
        return TaskDone(self.outbox.write(result), resumed, time.process_time() - began)

    def _keep(self, number: int, state: bytes) -> None:
        """Have state `number` kept."""
        self.report(StateWritten(number, self.outbox.write(state), state_digest(state)))

    def _run_segment(self, order: RunSegment) -> SegmentDone:
        began = time.process_time()
        workload = load_workload(order.manifest.workload)
        workload.check(order.manifest)
        before = Path(order.before).read_bytes()
        workload.check_state(order.manifest, order.task, order.index, before)
        runner = self._runner(order, _inputs(order.inputs))
        after = runner.run(order.index, before, self._progress)
        _check_after(workload, order, order.index, after)
        return SegmentDone(self.outbox.write(after), time.process_time() - began)

    def _runner(self, order: RunTask | RunSegment, inputs: Inputs) -> SegmentRunner:
        workload = load_workload(order.manifest.workload)
        if self._adversary and isinstance(order, RunTask):
            from proofyard.workloads.adversary import corrupt

            return corrupt(self._adversary, workload, order.manifest, order.task, inputs, self._resources)
        return workload.runner(order.manifest, order.task, inputs, self._resources)

    def _progress(self, progress: Progress) -> None:
        self.report(Step(progress))
        if self.stopping.is_set():
            raise TaskStopped(f"stopped on request in segment {progress.segment}; the states before it are kept")


def _check_after(workload: Workload, order: RunTask | RunSegment, index: int, after: bytes) -> None:
    """A computation that leaves the laws of its workload has failed, for everybody: nobody commits to such a state."""
    try:
        workload.check_state(order.manifest, order.task, index + 1, after)
    except StateRefused as error:
        raise SegmentFailed(index, f"it ends in no valid state: {error}") from None


def _stored(store: StateStore, number: int) -> bytes:
    kept = store.read(number)
    if kept is None:
        raise ExecutionError(f"state {number} of the task is missing or damaged on disk; run the task again")
    return kept[1]


def _inputs(paths: InputPaths) -> Inputs:
    return Inputs(
        model=Path(paths.model) if paths.model else None,
        data=Path(paths.data) if paths.data else None,
        results=paths.results,
        adapter=Path(paths.adapter) if paths.adapter else None,
        carried=paths.carried,
    )


def _receive(stream: BinaryIO, orders: "queue.Queue[Order]", child: Child) -> None:
    """Take in orders beside the computation. The end of the stream means that the parent is gone."""
    while (message := read_order(stream)) is not None:
        if isinstance(message, Stop):
            child.stopping.set()
        elif isinstance(message, Taken):
            child.outbox.taken(message.slot)
        else:
            child.stopping.clear()
            orders.put(message)
    os._exit(0)


def limit_memory(memory_bytes: int | None) -> None:
    """Bound what a job can take from this machine. Memory is what the process has allocated or mapped for itself, the
    model included, although its pages are shared with other executors."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_STATE_BYTES, MAX_STATE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


@contextlib.contextmanager
def private_stdout() -> Iterator[BinaryIO]:
    """The real stdout for reports alone; prints of libraries go to stderr from here on."""
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        yield out


def main() -> None:
    settings = msgspec.json.decode(sys.argv[1], type=prepared(ChildSettings))
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    resources = settings.warm.used(settings.resources)
    with private_stdout() as out:
        outbox = Outbox(Path(settings.outbox), settings.slots)
        child = Child(out, outbox, resources, settings.adversary)
        known = Checked(Path(settings.checked), settings.model)

        def tell(key: str, apart: float) -> None:
            child.report(ModelChecked(key, apart))
            known.wait(key)

        use(replace(known, tell=tell))
        orders: queue.Queue[Order] = queue.Queue()
        threading.Thread(target=_receive, args=(sys.stdin.buffer, orders, child), daemon=True).start()
        child.report(Ready())
        while True:
            child.execute(orders.get())


if __name__ == "__main__":
    main()
