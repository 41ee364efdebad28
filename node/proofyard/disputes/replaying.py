"""Executing segments of a committed batch again, each from the state that its worker committed to.

A segment is right when the state before it is one (`Workload.check_state`) and executing gives a state with the digest
in the trace; in a workload that is not exact, one that agrees with the worker's. A task's first state and its result
are pure functions, of manifest and inputs and of the states, and are checked with the first and the last segment.
"""

import asyncio
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, cast

from proofyard.artifacts import cid_of_bytes
from proofyard.chain import ChainClient
from proofyard.disputes.committed import Committed, committed_results
from proofyard.disputes.errors import DataAtHome, DisputeError, InputsUnknown, StateWithheld
from proofyard.disputes.network import Network
from proofyard.protocol.cid import cid_bytes, cid_digest, make_cid
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.merkle import root
from proofyard.protocol.seal import CANNOT_EXECUTE, REFUSED_STATE, UNAVAILABLE
from proofyard.protocol.types import BatchId, Cid, Digest, ExitCode, JobId, SegmentIndex, TaskIndex
from proofyard.workloads.errors import StateRefused, WorkloadError
from proofyard.workloads.executor import Executor
from proofyard.workloads.workload import InexactWorkload, Inputs, carried_by, load_workload, local_file

MAX_CANDIDATES = 10_000
"""Combinations of earlier results that are tried as a task's inputs; there are several where tasks were done again."""


@dataclass(frozen=True)
class Replayed:
    """One executed segment. `problem` says what is wrong with it, or, where `withheld`, which state nobody delivers.
    `equal`: executing gave the worker's bytes, not only some that the workload calls the same. `answer` is what a juror
    answers: the digest of its own state, `CANNOT_EXECUTE`, `UNAVAILABLE`, or `REFUSED_STATE` for a state, a first state
    or a result that is not what it must be. `state`: the bytes that the answer was found in, None without any."""

    job: JobId
    task: TaskIndex
    segment: SegmentIndex
    problem: str = ""
    withheld: bool = False
    equal: bool = False
    answer: Digest = UNAVAILABLE
    state: bytes | None = None

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
    """Executes segments of one batch in `executor`, with everything they need from `network`.

    `patience_s`: how long a worker's state is asked for before it counts as withheld. `give_up`: the event loop's time
    from which none is waited for any more.
    """

    def __init__(
        self,
        batch: Committed,
        chain: ChainClient,
        network: Network,
        executor: SegmentExecutor,
        *,
        patience_s: float,
        give_up: float = math.inf,
    ) -> None:
        self._batch = batch
        self._chain = chain
        self._network = network
        self._executor = executor
        self._patience_s = patience_s
        self._give_up = give_up

    async def segment(self, job: JobId, index: TaskIndex, segment: SegmentIndex) -> Replayed:
        """Execute a segment and compare it with the worker's.

        Raises `NoSuchPlace`, `InputsUnknown`, `ExecutionError` where this machine cannot, and what `network` raises.
        """
        task = self._batch.segment(job, index, segment)
        workload = load_workload(self._batch.manifests[job].workload)
        before: bytes | None = None
        try:
            before = await self.state(job, index, segment)
            await self._check_state(job, index, segment, before)
            if segment == 0:
                await self._check_first(job, index, before)
            after = await self._execute(job, index, segment, before)
            equal = await asyncio.to_thread(cid_of_bytes, after) == task.trace[segment + 1]
            if not equal and not workload.exact:
                await self._check_likeness(job, index, segment, before, after)
            elif not equal:
                problem, answer = f"segment {segment} leads to another state", cid_digest(cid_of_bytes(after))
                return Replayed(job, index, segment, problem, answer=answer, state=after)
            if segment == task.commitment.segments - 1:
                await self._check_result(job, index)
        except StateWithheld as error:
            return Replayed(job, index, segment, str(error), withheld=True)
        except (_Wrong, StateRefused) as error:
            return Replayed(job, index, segment, str(error), answer=REFUSED_STATE, state=before)
        except WorkloadError as error:
            if not error.defined:
                raise
            # What an honest worker cannot have committed to: it would have handed the task back.
            return Replayed(job, index, segment, str(error), answer=CANNOT_EXECUTE, state=before)
        return Replayed(job, index, segment, equal=equal, answer=cid_digest(task.trace[segment + 1]), state=after)

    async def shown(self, job: JobId, index: TaskIndex, segment: SegmentIndex) -> Replayed:
        """Whether the states before and after a segment can be had and keep their laws, without executing it."""
        after = b""
        try:
            for number in (segment, segment + 1):
                after = await self.state(job, index, number)
                await self._check_state(job, index, number, after)
        except StateWithheld as error:
            return Replayed(job, index, segment, str(error), withheld=True)
        except StateRefused as error:
            return Replayed(job, index, segment, str(error), answer=REFUSED_STATE, state=after)
        answer = cid_digest(self._batch.member(job, index).trace[segment + 1])
        return Replayed(job, index, segment, equal=True, answer=answer, state=after)

    async def answer(self, job: JobId, index: TaskIndex, segment: SegmentIndex) -> tuple[Digest, bytes]:
        """What an honest auditor answers to a segment, and the bytes that its keyed digest is made of. Raises
        `StateWithheld` where the state before it cannot be had."""
        self._batch.segment(job, index, segment)
        before = await self.state(job, index, segment)
        try:
            await self._check_state(job, index, segment, before)
            after = await self._execute(job, index, segment, before)
        except WorkloadError as error:
            if not error.defined:
                raise
            return CANNOT_EXECUTE, before
        return cid_digest(await asyncio.to_thread(cid_of_bytes, after)), after

    async def whole(self, job: JobId, index: TaskIndex, executor: Executor) -> list[Cid]:
        """Execute a whole task from its inputs: the CIDs of its states, as an honest worker commits to them."""
        self._batch.position(job, index)
        at_home = await self._at_home(job, index)
        inputs = await self._inputs(job, await self._input_cids(job, index), self._batch.spec(job, index))
        inputs = replace(inputs, data=at_home or inputs.data)
        trace = await executor.run_task(self._batch.manifests[job], self._batch.spec(job, index), inputs)
        return [cid_of_bytes(await asyncio.to_thread(path.read_bytes)) for path in trace.states]

    async def state(self, job: JobId, index: TaskIndex, number: int) -> bytes:
        """A committed state. Raises `StateWithheld`."""
        member = self._batch.member(job, index)
        return await self._network.state(self._batch.record, member, number, self._patience(), self._most(job, index))

    def _most(self, job: JobId, index: TaskIndex) -> int:
        """Bytes of a state or result of a task."""
        manifest = self._batch.manifests[job]
        return load_workload(manifest.workload).max_bytes(manifest, self._batch.spec(job, index))

    async def check_result(self, job: JobId, index: TaskIndex) -> str:
        """Why a task's result does not follow from its states; empty where it does."""
        try:
            await self._check_result(job, index)
        except _Wrong as error:
            return str(error)
        return ""

    async def _execute(self, job: JobId, index: TaskIndex, segment: SegmentIndex, before: bytes) -> bytes:
        """This machine's state after a segment: of its inputs, model and data are all that it is computed from."""
        manifest, spec = self._batch.manifests[job], self._batch.spec(job, index)
        at_home, inputs = await self._at_home(job, index), await self._inputs(job, ())
        inputs = replace(inputs, data=at_home or inputs.data)
        return await self._executor.run_segment(manifest, spec, segment, before, inputs)

    async def _check_state(self, job: JobId, index: TaskIndex, number: int, state: bytes) -> None:
        """Raise `StateRefused` for a state that breaks a law of its workload."""
        manifest, spec = self._batch.manifests[job], self._batch.spec(job, index)
        await asyncio.to_thread(load_workload(manifest.workload).check_state, manifest, spec, number, state)

    async def _check_likeness(
        self, job: JobId, index: TaskIndex, segment: SegmentIndex, before: bytes, after: bytes
    ) -> None:
        """Raise `_Wrong` unless a workload that is not exact calls this machine's state the same as the worker's."""
        manifest, spec = self._batch.manifests[job], self._batch.spec(job, index)
        workload = cast(InexactWorkload, load_workload(manifest.workload))
        theirs = await self.state(job, index, segment + 1)
        await self._check_state(job, index, segment + 1, theirs)
        if not await asyncio.to_thread(workload.agrees, manifest, spec, segment, before, theirs, after):
            raise _Wrong(f"segment {segment} leads to another state")

    async def _check_first(self, job: JobId, index: TaskIndex, first: bytes) -> None:
        manifest, spec = self._batch.manifests[job], self._batch.spec(job, index)
        inputs = await self._inputs(job, await self._input_cids(job, index), spec)
        make = load_workload(manifest.workload).initial_state
        if await asyncio.to_thread(make, manifest, spec, inputs) != first:
            raise _Wrong("the first state does not follow from the manifest and the task's inputs")

    async def _check_result(self, job: JobId, index: TaskIndex) -> None:
        member, manifest, spec = (
            self._batch.member(job, index),
            self._batch.manifests[job],
            self._batch.spec(job, index),
        )
        check = load_workload(manifest.workload).check_result
        try:
            last = await self.state(job, index, member.commitment.segments)
            result = await self._result(job, index)
            await asyncio.to_thread(check, manifest, spec, result, last, member.trace)
        except StateRefused as error:
            raise _Wrong(f"the result does not follow from the task's states: {error}") from None

    async def _result(self, job: JobId, index: TaskIndex) -> bytes:
        """A task's result, which its worker owes like a state. Raises `StateWithheld`."""
        member = self._batch.member(job, index)
        return await self._network.result(member, self._patience(), self._most(job, index))

    def _patience(self) -> float:
        return max(0.0, min(self._patience_s, self._give_up - asyncio.get_running_loop().time()))

    async def _inputs(self, job: JobId, results: tuple[Cid, ...], spec: TaskSpec | None = None) -> Inputs:
        """`spec`: the task whose first state is to be made of these results."""
        manifest, most = self._batch.manifests[job], self._network.max_state_bytes
        found = [await self._network.read(cid, most) for cid in results]
        named: tuple[Cid, ...] = ()
        if spec is not None:
            named = await asyncio.to_thread(carried_by, load_workload(manifest.workload), manifest, spec, found)
        carried = [await self._network.read(cid, most) for cid in named]
        model = await self._network.on_disk(manifest.model) if manifest.model else None
        data = await self._network.on_disk(manifest.data) if manifest.data else None
        adapter = await self._network.on_disk(manifest.adapter) if manifest.adapter else None
        return Inputs(model, data, tuple(found), adapter, tuple(carried))

    async def _at_home(self, job: JobId, index: TaskIndex) -> Path | None:
        """What a task computes on where nobody publishes that. Raises `DataAtHome` where it is not here."""
        manifest, spec = self._batch.manifests[job], self._batch.spec(job, index)
        named = local_file(load_workload(manifest.workload), manifest, spec)
        if named is None:
            return None
        found = await asyncio.to_thread(self._network.local, named.cid)
        if found is None:
            raise DataAtHome(index, named)
        return found

    async def _input_cids(self, job: JobId, index: TaskIndex) -> tuple[Cid, ...]:
        """The results that a task was given: those of the tasks before it, as they were committed in batches of its
        job, that its commitment names."""
        commitment, deps = self._batch.member(job, index).commitment, self._batch.spec(job, index).deps
        manifest = cid_bytes(make_cid(commitment.manifest))
        if not deps and root([manifest]) == commitment.inputs:
            return ()
        found: dict[TaskIndex, list[Cid]] = {}
        hidden: list[BatchId] = []
        if deps:
            async for found in committed_results(self._chain, self._network.read, job, frozenset(deps), hidden):
                candidates = [found.get(dep, []) for dep in deps]
                for chosen in itertools.islice(combinations(candidates), MAX_CANDIDATES):
                    if root([manifest, *map(cid_bytes, chosen)]) == commitment.inputs:
                        return chosen
        for dep in deps:
            if dep not in found or hidden:
                raise InputsUnknown(index, dep)
        raise _Wrong("the inputs that it was computed from are no committed results")


def combinations(candidates: Sequence[Sequence[Cid]]) -> Iterator[tuple[Cid, ...]]:
    """One of each: the newest of all, those before them, each of these with one that is of another age, then all there
    are. Where a round was done again whole, or one of its tasks was, the right one is among the first."""
    if not all(candidates):
        return
    for age in range(max(map(len, candidates), default=0)):
        usual = [known[min(age, len(known) - 1)] for known in candidates]
        yield tuple(usual)
        for place, known in enumerate(candidates):
            for other in known:
                yield (*usual[:place], other, *usual[place + 1 :])
    yield from itertools.product(*candidates)


class _Wrong(DisputeError):
    """An exact check of the worker's commitment fails; the message says which."""

    exit_code = ExitCode.PROOF_MISMATCH
