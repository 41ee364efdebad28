"""Executing segments of a settled batch again, each from the state that its worker committed to.

A segment is right when its state after has the digest in the trace, or, on other hardware, when its update is within
the manifest's tolerance of the worker's. A task's first state and its result need no tolerance: they are pure
functions, of manifest and inputs and of the last state, and are checked with the first and the last segment.
"""

import asyncio
import itertools
from dataclasses import dataclass
from typing import Protocol

from proofyard.artifacts import cid_of_bytes
from proofyard.chain import ChainClient
from proofyard.disputes.errors import DisputeError, InputsUnknown, StateWithheld
from proofyard.disputes.network import MAX_STATE_BYTES, Network
from proofyard.disputes.settled import Settled, load_settled_of_job
from proofyard.protocol.cid import cid_bytes
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.merkle import root
from proofyard.protocol.types import Cid, ExitCode, SegmentIndex, TaskIndex
from proofyard.workloads.errors import SegmentFailed, StateRefused
from proofyard.workloads.executor import Executor
from proofyard.workloads.sketch import Change, exact_distance
from proofyard.workloads.workload import Inputs, load_workload

MAX_CANDIDATES = 10_000
"""Combinations of earlier results that are tried as a task's inputs; there are several where tasks were done again."""


@dataclass(frozen=True)
class Replayed:
    """One executed segment. `distance` of the two updates is 0 for equal bytes, None where there is none to measure;
    then `problem` says why, and `withheld` that it is a state which nobody delivers."""

    task: TaskIndex
    segment: SegmentIndex
    tolerance: float
    distance: float | None = None
    problem: str = ""
    withheld: bool = False

    @property
    def equal(self) -> bool:
        return self.distance == 0 and not self.problem

    @property
    def holds(self) -> bool | None:
        """Whether the worker's segment is right; None where that cannot be told, for want of a state."""
        if self.withheld:
            return None
        return not self.problem and self.distance is not None and self.distance <= self.tolerance

    def __str__(self) -> str:
        if self.problem:
            return self.problem
        if self.equal:
            return "the same bytes"
        word = "within" if self.holds else "beyond"
        return f"{self.distance:.3g} of the update away, {word} the tolerance of {self.tolerance:.3g}"


class SegmentExecutor(Protocol):
    """Whoever executes one segment; see `proofyard.workloads.executor.Executor`."""

    async def run_segment(
        self, manifest: Manifest, task: TaskSpec, index: int, before: bytes, inputs: Inputs
    ) -> bytes: ...


class Replayer:
    """Executes segments of one settled batch in `executor`, with everything they need from `network`.

    `patience_s`: how long a worker's state is asked for before it counts as withheld.
    """

    def __init__(
        self, settled: Settled, chain: ChainClient, network: Network, executor: SegmentExecutor, *, patience_s: float
    ) -> None:
        self._settled = settled
        self._chain = chain
        self._network = network
        self._executor = executor
        self._patience_s = patience_s
        self._workload = load_workload(settled.manifest.workload)
        self._job: list[Settled] | None = None

    async def segment(self, index: TaskIndex, segment: SegmentIndex) -> Replayed:
        """Execute a segment and compare it with the worker's.

        Raises `NoSuchPlace`, `InputsUnknown`, `ExecutionError` where this machine cannot, and what `network` raises.
        """
        task, tolerance = self._settled.segment(index, segment), self._settled.manifest.tolerance
        try:
            if segment == 0:
                await self._check_first(index)
            before, after = await self.execute(index, segment)
            if cid_of_bytes(after) == task.trace[segment + 1]:
                distance, theirs = 0.0, after
            else:
                theirs = await self.state(index, segment + 1)
                changes = await asyncio.to_thread(self._changes, index, before, after, theirs)
                distance = exact_distance(*changes)
            if segment == task.commitment.segments - 1:
                await asyncio.to_thread(self._check_result, index, theirs)
        except StateWithheld as error:
            return Replayed(index, segment, tolerance, problem=str(error), withheld=True)
        except _Wrong as error:
            return Replayed(index, segment, tolerance, problem=str(error))
        except (StateRefused, SegmentFailed) as error:
            # What an honest worker cannot have committed to: it would have handed the task back.
            return Replayed(index, segment, tolerance, problem=str(error))
        return Replayed(index, segment, tolerance, distance)

    async def execute(self, index: TaskIndex, segment: SegmentIndex) -> tuple[bytes, bytes]:
        """The worker's state before a segment, and this machine's state after it."""
        self._settled.segment(index, segment)
        inputs = await self._inputs(index)
        before = await self.state(index, segment)
        manifest, spec = self._settled.manifest, self._settled.spec(index)
        return before, await self._executor.run_segment(manifest, spec, segment, before, inputs)

    async def whole(self, index: TaskIndex, executor: Executor) -> list[Cid]:
        """Execute a whole task from its inputs: the CIDs of its states, as an honest worker commits to them."""
        self._settled.position(index)
        inputs = await self._inputs(index)
        trace = await executor.run_task(self._settled.manifest, self._settled.spec(index), inputs)
        return [cid_of_bytes(await asyncio.to_thread(path.read_bytes)) for path in trace.states]

    async def state(self, index: TaskIndex, number: int) -> bytes:
        """A committed state. Raises `StateWithheld`."""
        task = self._settled.task(index)
        return await self._network.state(self._settled.event.record, task, number, self._patience_s)

    async def check_result(self, index: TaskIndex) -> str:
        """Why a task's result does not follow from its last state; empty where it does."""
        last = await self.state(index, self._settled.task(index).commitment.segments)
        try:
            await asyncio.to_thread(self._check_result, index, last)
        except (_Wrong, StateRefused) as error:
            return str(error)
        return ""

    def change(self, index: TaskIndex, before: bytes, after: bytes) -> Change:
        return self._workload.change(self._settled.manifest, self._settled.spec(index), before, after)

    def _changes(self, index: TaskIndex, before: bytes, after: bytes, theirs: bytes) -> tuple[Change, Change]:
        return self.change(index, before, after), self.change(index, before, theirs)

    async def _check_first(self, index: TaskIndex) -> None:
        manifest, spec, inputs = self._settled.manifest, self._settled.spec(index), await self._inputs(index)
        first = await asyncio.to_thread(self._workload.initial_state, manifest, spec, inputs)
        if cid_of_bytes(first) != self._settled.task(index).trace[0]:
            raise _Wrong("the first state does not follow from the manifest and the task's inputs")

    def _check_result(self, index: TaskIndex, last: bytes) -> None:
        result = self._workload.result(self._settled.manifest, self._settled.spec(index), last)
        if cid_of_bytes(result) != self._settled.task(index).commitment.result:
            raise _Wrong("the result does not follow from the last state")

    async def _inputs(self, index: TaskIndex) -> Inputs:
        manifest = self._settled.manifest
        cids = await self._input_cids(index)
        results = [await self._network.read(cid, MAX_STATE_BYTES) for cid in cids]
        model = await self._network.on_disk(manifest.model) if manifest.model else None
        data = await self._network.on_disk(manifest.data) if manifest.data else None
        return Inputs(model, data, tuple(results))

    async def _input_cids(self, index: TaskIndex) -> tuple[Cid, ...]:
        """The results that a task was given: those of the settled tasks before it that its commitment names."""
        wanted = self._settled.task(index).commitment.inputs
        if self._job is None:
            deps = self._settled.spec(index).deps
            self._job = (
                await load_settled_of_job(self._chain, self._network.read, self._settled.record.job) if deps else []
            )
        candidates = []
        for dep in self._settled.spec(index).deps:
            found = {t.commitment.result for batch in self._job for t in batch.record.tasks if t.commitment.task == dep}
            if not found:
                raise InputsUnknown(index, dep)
            candidates.append(sorted(found))
        manifest = cid_bytes(self._settled.record.manifest)
        for chosen in itertools.islice(itertools.product(*candidates), MAX_CANDIDATES):
            if root([manifest, *map(cid_bytes, chosen)]) == wanted:
                return chosen
        raise _Wrong("the inputs that it was computed from are not settled results")


class _Wrong(DisputeError):
    """An exact check of the worker's commitment fails; the message says which."""

    exit_code = ExitCode.PROOF_MISMATCH
