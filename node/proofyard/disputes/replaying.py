"""Executing segments of a settled batch again, each from the state that its worker committed to.

A segment is right when the state before it is one (`Workload.check_state`) and executing gives a state with the digest
in the trace; in a workload that is not exact, one that agrees with the worker's. A task's first state and its result
are pure functions, of manifest and inputs and of the states, and are checked with the first and the last segment.
"""

import asyncio
import itertools
from dataclasses import dataclass
from typing import Protocol, cast

from proofyard.artifacts import cid_of_bytes
from proofyard.chain import ChainClient
from proofyard.disputes.errors import DisputeError, InputsUnknown, StateWithheld
from proofyard.disputes.network import MAX_STATE_BYTES, Network
from proofyard.disputes.settled import Settled, load_settled_of_job
from proofyard.protocol.cid import cid_bytes, cid_digest
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.merkle import root
from proofyard.protocol.seal import CANNOT_EXECUTE
from proofyard.protocol.types import Cid, Digest, ExitCode, SegmentIndex, TaskIndex
from proofyard.workloads.errors import StateRefused, WorkloadError
from proofyard.workloads.executor import Executor
from proofyard.workloads.workload import InexactWorkload, Inputs, load_workload

MAX_CANDIDATES = 10_000
"""Combinations of earlier results that are tried as a task's inputs; there are several where tasks were done again."""


@dataclass(frozen=True)
class Replayed:
    """One executed segment. `problem` says what is wrong with it, or, where `withheld`, which state nobody delivers.
    `equal`: executing gave the worker's bytes, not only some that the workload calls the same."""

    task: TaskIndex
    segment: SegmentIndex
    problem: str = ""
    withheld: bool = False
    equal: bool = False

    @property
    def holds(self) -> bool | None:
        """Whether the worker's segment is right; None where that cannot be told, for want of a state."""
        return None if self.withheld else not self.problem

    def __str__(self) -> str:
        return self.problem or ("the same bytes" if self.equal else "a state that agrees with the worker's")


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
        task = self._settled.segment(index, segment)
        try:
            if segment == 0:
                await self._check_first(index)
            before, after = await self._execute(index, segment)
            equal = cid_of_bytes(after) == task.trace[segment + 1]
            if not equal:
                await self._check_likeness(index, segment, before, after)
            if segment == task.commitment.segments - 1:
                await self._check_result(index)
        except StateWithheld as error:
            return Replayed(index, segment, str(error), withheld=True)
        except _Wrong as error:
            return Replayed(index, segment, str(error))
        except WorkloadError as error:
            if not error.defined:
                raise
            # What an honest worker cannot have committed to: it would have handed the task back.
            return Replayed(index, segment, str(error))
        return Replayed(index, segment, equal=equal)

    async def answer(self, index: TaskIndex, segment: SegmentIndex) -> Digest:
        """What an honest auditor answers to a segment."""
        self._settled.segment(index, segment)
        try:
            _, after = await self._execute(index, segment)
        except WorkloadError as error:
            if not error.defined:
                raise
            return CANNOT_EXECUTE
        return cid_digest(cid_of_bytes(after))

    async def _execute(self, index: TaskIndex, segment: SegmentIndex) -> tuple[bytes, bytes]:
        """The worker's state before a segment, and this machine's state after it."""
        inputs = await self._inputs(index)
        before = await self.state(index, segment)
        manifest, spec = self._settled.manifest, self._settled.spec(index)
        await asyncio.to_thread(self._workload.check_state, manifest, spec, segment, before)
        return before, await self._executor.run_segment(manifest, spec, segment, before, inputs)

    async def _check_likeness(self, index: TaskIndex, segment: SegmentIndex, before: bytes, after: bytes) -> None:
        """Raise `_Wrong` unless the workload is not exact and calls this machine's state the same as the worker's."""
        if not self._workload.exact:
            workload, theirs = cast(InexactWorkload, self._workload), await self.state(index, segment + 1)
            manifest, spec = self._settled.manifest, self._settled.spec(index)
            await asyncio.to_thread(workload.check_state, manifest, spec, segment + 1, theirs)
            if await asyncio.to_thread(workload.agrees, manifest, spec, segment, before, theirs, after):
                return
        raise _Wrong(f"segment {segment} leads to another state")

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
        """Why a task's result does not follow from its states; empty where it does."""
        try:
            await self._check_result(index)
        except _Wrong as error:
            return str(error)
        return ""

    async def _check_first(self, index: TaskIndex) -> None:
        manifest, spec, inputs = self._settled.manifest, self._settled.spec(index), await self._inputs(index)
        first = await asyncio.to_thread(self._workload.initial_state, manifest, spec, inputs)
        if cid_of_bytes(first) != self._settled.task(index).trace[0]:
            raise _Wrong("the first state does not follow from the manifest and the task's inputs")

    async def _check_result(self, index: TaskIndex) -> None:
        task, spec = self._settled.task(index), self._settled.spec(index)
        last = await self.state(index, task.commitment.segments)
        result = await self._network.read(task.commitment.result, MAX_STATE_BYTES)
        check, manifest = self._workload.check_result, self._settled.manifest
        try:
            await asyncio.to_thread(check, manifest, spec, result, last, task.trace)
        except StateRefused as error:
            raise _Wrong(f"the result does not follow from the task's states: {error}") from None

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
