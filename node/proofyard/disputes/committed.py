"""What was committed: a batch's header and member list, the jobs' manifests and their task graphs.

All of it is named on chain by digests, so that it is the same for everybody who has it, and none of it is a record:
whether a segment is right, or an operator guilty, can be told although a record is withheld.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from proofyard.artifacts import ArtifactError
from proofyard.chain import ChainClient, Step
from proofyard.chain.events import BatchCommitted
from proofyard.disputes.errors import ListWithheld, NoSuchPlace
from proofyard.disputes.rounds import Counted, closed_rounds
from proofyard.protocol import merkle
from proofyard.protocol.cid import DAG_PB, RAW, cid_bytes, make_cid
from proofyard.protocol.closing import ClosedRound
from proofyard.protocol.codec import CodecError
from proofyard.protocol.manifest import MAX_MANIFEST_BYTES, Manifest, TaskSpec, decode_manifest
from proofyard.protocol.members import MAX_MEMBERS_BYTES, Member, TaskKey, decode_members, members_fit
from proofyard.protocol.record import MAX_RECORD_BYTES, decode_record
from proofyard.protocol.settlement import Header
from proofyard.protocol.types import BatchId, Cid, Digest, JobId, ProofyardError, SegmentIndex, TaskIndex
from proofyard.workloads.workload import load_workload, task_graph

Read = Callable[[Cid, int], Awaitable[bytes]]
"""Fetches an artifact of at most so many bytes, from wherever it can be had."""

ONE_BLOCK = 600
"""A list of more members than this is more than one block."""


@dataclass(frozen=True)
class Committed:
    """A batch as it was committed. `record` is the CID of its last settlement's record, None before there is one."""

    batch: BatchId
    record: Cid | None
    header: Header
    manifests: Mapping[JobId, Manifest]
    graphs: Mapping[JobId, tuple[TaskSpec, ...]]
    entries: tuple[Member, ...]

    @cached_property
    def positions(self) -> dict[TaskKey, int]:
        """Where each task's commitment stands among the batch's leaves."""
        return {entry.key: index for index, entry in enumerate(self.entries)}

    def position(self, job: JobId, task: TaskIndex) -> int:
        """Raises `NoSuchPlace`."""
        if (job, task) not in self.positions:
            known = f"tasks {_listed(list(self.positions))}"
            raise NoSuchPlace(self.batch, f"task {task} of job {job}", known)
        return self.positions[job, task]

    def member(self, job: JobId, task: TaskIndex) -> Member:
        return self.entries[self.position(job, task)]

    def segment(self, job: JobId, task: TaskIndex, segment: SegmentIndex) -> Member:
        """The commitment of a segment that there is. Raises `NoSuchPlace`."""
        member = self.member(job, task)
        if not 0 <= segment < member.commitment.segments:
            known = f"segments 0 to {member.commitment.segments - 1} in that task"
            raise NoSuchPlace(self.batch, f"segment {segment} in task {task} of job {job}", known)
        return member

    def spec(self, job: JobId, task: TaskIndex) -> TaskSpec:
        """A task as its job's graph has it. Raises `NoSuchPlace` for one that the graph does not have."""
        graph = self.graphs.get(job, ())
        if not 0 <= task < len(graph):
            raise NoSuchPlace(self.batch, f"task {task} of job {job}", f"{len(graph)} tasks in that job's graph")
        return graph[task]

    def proof(self, job: JobId, task: TaskIndex) -> list[Digest]:
        """That a task's commitment is in the batch, for the Court."""
        leaves = [entry.commitment.struct_hash() for entry in self.entries]
        return merkle.proof(leaves, self.position(job, task))

    def trace_proof(self, job: JobId, task: TaskIndex, number: int) -> list[Digest]:
        """That state `number` is in a task's trace, for the Court."""
        return merkle.proof([cid_bytes(cid) for cid in self.member(job, task).trace], number)

    def step(self, job: JobId, task: TaskIndex, segment: SegmentIndex, salt: bytes) -> Step:
        """A segment as the Court is shown it; `salt` opens its commitment's mark. Raises `NoSuchPlace`."""
        member = self.segment(job, task, segment)
        return Step(
            member.commitment,
            member.signature,
            salt,
            self.position(job, task),
            self.proof(job, task),
            segment,
            member.trace[segment + 1],
            self.trace_proof(job, task, segment + 1),
        )


async def load_committed(chain: ChainClient, read: Read, batch: BatchId, record: Cid | None = None) -> Committed:
    """A batch as it was committed; its list may also come out of its `record`. Raises `ListWithheld` for a list that
    nobody delivers or that is another batch's, and what `read` raises for a manifest."""
    header = await asyncio.to_thread(chain.header, batch)
    try:
        entries = await load_members(read, batch, header)
    except ListWithheld:
        found = await _list_in(read, header, record) if record else None
        if found is None:
            raise
        entries = found
    manifests = {line.job: await load_manifest(chain, read, line.job) for line in header.lines}
    graphs = {job: await graph_of(chain, read, job, manifest) for job, manifest in manifests.items()}
    return Committed(batch, record, header, manifests, graphs, entries)


async def load_members(read: Read, batch: BatchId, header: Header) -> tuple[Member, ...]:
    """The member list that a batch's header names. Raises `ListWithheld`."""
    codecs = (DAG_PB, RAW) if header.size > ONE_BLOCK else (RAW, DAG_PB)
    reasons = []
    for codec in codecs:
        try:
            members = decode_members(await read(make_cid(header.members, codec), MAX_MEMBERS_BYTES))
        except ArtifactError as error:
            reasons.append(str(error))
            continue
        except ProofyardError as error:
            raise ListWithheld(batch, [f"what it names is no list: {error}"]) from None
        if not await asyncio.to_thread(members_fit, header, members):
            raise ListWithheld(batch, ["what it names is not the list of its root"])
        return members
    raise ListWithheld(batch, reasons)


async def _list_in(read: Read, header: Header, record: Cid) -> tuple[Member, ...] | None:
    """The members that a record repeats, if they are those of the header."""
    try:
        tasks = decode_record(await read(record, MAX_RECORD_BYTES)).tasks
    except (ArtifactError, CodecError):
        return None
    return tasks if await asyncio.to_thread(members_fit, header, tasks) else None


async def load_manifest(chain: ChainClient, read: Read, job: JobId) -> Manifest:
    """A job's manifest, by the digest on chain."""
    digest = (await asyncio.to_thread(chain.job, job)).manifest
    return decode_manifest(await read(make_cid(digest, RAW), MAX_MANIFEST_BYTES))


async def graph_of(
    chain: ChainClient, read: Read, job: JobId, manifest: Manifest, counted: Counted | None = None
) -> tuple[TaskSpec, ...]:
    """A job's task graph, as far as its rounds are open. Raises `WorkloadError` for a manifest that its workload
    refuses, and as `closed_of` does."""
    closed = await closed_of(chain, read, job, manifest, counted)
    return await asyncio.to_thread(task_graph, load_workload(manifest.workload), manifest, closed)


async def closed_of(
    chain: ChainClient, read: Read, job: JobId, manifest: Manifest, counted: Counted | None = None
) -> tuple[ClosedRound, ...]:
    """The rounds of a job that are closed: see `rounds.closed_rounds`. A list that is nowhere any more may be in the
    record of its batch. Raises `ListWithheld` for one that nobody delivers."""

    async def members_of(event: BatchCommitted) -> Sequence[Member]:
        header = Header(event.root, event.size, event.members, event.lines)
        try:
            return await load_members(read, event.batch, header)
        except ListWithheld:
            settled = [each for each in await asyncio.to_thread(chain.settled, job) if each.batch == event.batch]
            found = await _list_in(read, header, settled[-1].record) if settled else None
            if found is None:
                raise
            return found

    return await closed_rounds(chain, job, manifest, members_of, counted)


async def committed_results(
    chain: ChainClient, read: Read, job: JobId, wanted: frozenset[TaskIndex], hidden: list[BatchId]
) -> AsyncIterator[dict[TaskIndex, list[Cid]]]:
    """The results that were committed for the tasks `wanted` of a job, each task's newest first: what is known after
    each batch that adds any, the newest batch first. A task may have several, as one that was done again; which one
    was used is for the caller to tell. Batches whose list cannot be had are passed over, and noted in `hidden`."""
    found: dict[TaskIndex, list[Cid]] = {}
    for event in reversed(await asyncio.to_thread(chain.committed, job)):
        header = Header(event.root, event.size, event.members, event.lines)
        try:
            members = await load_members(read, event.batch, header)
        except ListWithheld:
            hidden.append(event.batch)
            continue
        ours = [member.commitment for member in members if member.commitment.job == job]
        fresh = [c for c in ours if c.task in wanted and c.result not in found.get(c.task, ())]
        for commitment in fresh:
            found.setdefault(commitment.task, []).append(commitment.result)
        if fresh:
            yield found


def _listed(keys: list[TaskKey]) -> str:
    shown = ", ".join(f"{job}:{task}" for job, task in keys[:12])
    return f"{shown} and {len(keys) - 12} more" if len(keys) > 12 else shown
