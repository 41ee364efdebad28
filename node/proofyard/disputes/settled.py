"""A settled batch with its record: read from chain and artifacts, and compared with both.

`compare_with_chain`, `compare_with_settlement` and `proofyard.protocol.replay.check_record` together say whether a
settlement follows from what happened; what is left is whether the states are right, which only execution tells.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from proofyard.chain import BatchSettled, ChainClient
from proofyard.chain.reader import RegistryReader
from proofyard.chain.refusals import UnknownBatch
from proofyard.disputes.errors import NoSuchPlace, NotSettled
from proofyard.disputes.refusals import Read, check_refusals
from proofyard.protocol import merkle
from proofyard.protocol.cid import cid_digest
from proofyard.protocol.manifest import MAX_MANIFEST_BYTES, Manifest, TaskSpec, decode_manifest
from proofyard.protocol.record import MAX_RECORD_BYTES, BatchRecord, CommittedTask, decode_record, settlement_of
from proofyard.protocol.replay import RecordInvalid, check_commitments, check_record
from proofyard.protocol.settlement import payout_root
from proofyard.protocol.types import BatchId, Digest, JobId, SegmentIndex, TaskIndex
from proofyard.workloads.workload import load_workload


@dataclass(frozen=True)
class Settled:
    """A settled batch: the chain's event, the record that it names, the job's manifest and its task graph."""

    event: BatchSettled
    record: BatchRecord
    manifest: Manifest
    specs: tuple[TaskSpec, ...]

    def position(self, task: TaskIndex) -> int:
        """Where a task's commitment stands among the batch's leaves. Raises `NoSuchPlace`."""
        for index, committed in enumerate(self.record.tasks):
            if committed.commitment.task == task:
                return index
        raise NoSuchPlace(self.record.batch, f"task {task}", f"tasks {_listed(self.tasks)}")

    @property
    def tasks(self) -> list[TaskIndex]:
        return [committed.commitment.task for committed in self.record.tasks]

    def task(self, task: TaskIndex) -> CommittedTask:
        return self.record.tasks[self.position(task)]

    def segment(self, task: TaskIndex, segment: SegmentIndex) -> CommittedTask:
        """The task of a segment that there is. Raises `NoSuchPlace`."""
        committed = self.task(task)
        if not 0 <= segment < committed.commitment.segments:
            known = f"segments 0 to {committed.commitment.segments - 1} in that task"
            raise NoSuchPlace(self.record.batch, f"segment {segment} in task {task}", known)
        return committed

    def spec(self, task: TaskIndex) -> TaskSpec:
        if not 0 <= task < len(self.specs):
            raise RecordInvalid(self.record.batch, f"the job has no task {task}")
        return self.specs[task]

    def proof(self, task: TaskIndex) -> list[Digest]:
        """That a task's commitment is in the batch, for the Registry."""
        leaves = [committed.commitment.struct_hash() for committed in self.record.tasks]
        return merkle.proof(leaves, self.position(task))

    def check_commitments(self, chain: RegistryReader) -> None:
        """Raise `RecordInvalid` or `SignatureInvalid` unless the record's traces are those the workers committed to."""
        if self.record.root != chain.batch(self.record.batch).root:
            raise RecordInvalid(self.record.batch, "its root is not the one on chain")
        check_commitments(self.record, self.specs)

    async def check(self, chain: RegistryReader, read: Read) -> None:
        """Raise `RecordInvalid` or `SignatureInvalid` unless the whole settlement follows. Reads the chain, and with
        `read` the states and results that were refused."""
        await asyncio.to_thread(self._check_record, chain)
        await check_refusals(self.record, self.manifest, self.specs, read)

    def _check_record(self, chain: RegistryReader) -> None:
        compare_with_settlement(self.event, self.record)
        compare_with_chain(chain, self.record)
        slashed = [(s.operator, s.task, s.segment, s.reason) for s in chain.slashes(self.event.batch)]
        faults = settlement_of(self.record, self.event.record).faults
        if slashed != [(f.operator, f.task, f.segment, int(f.reason)) for f in faults]:
            raise RecordInvalid(self.event.batch, "its faults are not those that were settled")
        check_record(self.record, self.specs, exact=load_workload(self.manifest.workload).exact)


async def load_settled(chain: ChainClient, read: Read, batch: BatchId) -> Settled:
    """The settlement that stands for `batch`. Raises `NotSettled`, and `RecordInvalid` for another batch's record."""
    job = await asyncio.to_thread(_job_of_settled, chain, batch)
    events = [event for event in await asyncio.to_thread(chain.settled, job) if event.batch == batch]
    return await _load(read, events[-1])


async def load_settled_of_job(chain: ChainClient, read: Read, job: JobId) -> list[Settled]:
    """All settled batches of a job, without those whose settlement was voided and not replaced."""
    latest = {event.batch: event for event in await asyncio.to_thread(chain.settled, job)}
    standing = [event for event in latest.values() if (await asyncio.to_thread(chain.batch, event.batch)).settled_at]
    return [await _load(read, event) for event in standing]


async def _load(read: Read, event: BatchSettled) -> Settled:
    record = decode_record(await read(event.record, MAX_RECORD_BYTES))
    if (record.batch, record.job) != (event.batch, event.job):
        raise RecordInvalid(event.batch, f"it is that of batch {record.batch} of job {record.job}")
    manifest = decode_manifest(await read(record.manifest, MAX_MANIFEST_BYTES))
    workload = load_workload(manifest.workload)
    specs = await asyncio.to_thread(workload.graph, manifest)
    return Settled(event, record, manifest, tuple(specs))


def _job_of_settled(chain: ChainClient, batch: BatchId) -> JobId:
    try:
        state = chain.batch(batch)
    except UnknownBatch:
        raise NotSettled(batch, "is unknown to the Registry; `proofyard job wait` names a job's batches") from None
    if state.settled_at == 0:
        voided = "its settlement was voided and is to be made again" if state.attempt else "is not settled yet"
        raise NotSettled(batch, f"{voided}; wait for it")
    return state.job


def compare_with_chain(chain: RegistryReader, record: BatchRecord) -> None:
    """Raise `RecordInvalid` unless batch, draw, job and operators are as the Registry has them.

    A job's terms are those it was opened with: what is added to its escrow later is in no record.
    """
    batch, drawn = chain.batch(record.batch), chain.seed(record.batch)
    job = chain.job(record.job, block=chain.job(record.job).open_block)
    nodes = chain.active_nodes(record.draw_block)
    pairs: dict[str, tuple[object, object]] = {
        "chain": ((record.chain_id, record.registry), (chain.chain_id, chain.registry)),
        "job": (record.job, batch.job),
        "root": (record.root, batch.root),
        "seed": ((record.seed, record.draw_block), drawn and (drawn.seed, drawn.block)),
        "manifest": (cid_digest(record.manifest), job.manifest),
        "auditors": (record.auditors_per_segment, job.auditors_per_segment),
        "audited segments": (record.segments_per_audit, job.segments_per_audit),
        "reward": (int(record.reward), job.reward),
        "audit fee": (int(record.audit_fee), job.audit_fee),
        "operators": (
            [(o.id, o.node, o.owner, o.consecutive_valid) for o in record.operators],
            [(n.id, n.node, n.owner, n.consecutive_valid) for n in nodes],
        ),
    }
    listed = {operator.node for operator in record.operators}
    for task in (task for task in record.tasks if task.commitment.node not in listed):
        operator = chain.operator_of(task.commitment.node)
        owner = operator and chain.operator(operator).owner
        pairs[f"worker of task {task.commitment.task}"] = ((task.operator, task.owner), (operator, owner))
    for name, (said, found) in pairs.items():
        if said != found:
            raise RecordInvalid(record.batch, f"its {name} is not the one on chain")


def compare_with_settlement(event: BatchSettled, record: BatchRecord) -> None:
    """Raise `RecordInvalid` unless the settlement on chain is the one that follows from its record."""
    settlement = settlement_of(record, event.record)
    said = (payout_root(event.batch, settlement.payouts), settlement.total, settlement.audit_root)
    if record.batch != event.batch or said != (event.payout_root, event.payout_total, event.audit_root):
        raise RecordInvalid(event.batch, "it does not give the settlement on chain")


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:12]))
    return f"{shown} and {len(numbers) - 12} more" if len(numbers) > 12 else shown
