"""Replaying a settled batch: against the chain, against itself, and by executing its audited segments again.

Anyone can do this: it needs the chain, the batch's artifacts and, to execute, the base model. The first two parts are
exact. An executed segment is right when its state has the digest that the worker committed to, or, on other hardware,
when its update is within the manifest's tolerance of the worker's.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from proofyard.artifacts import ArtifactError, cid_of_bytes
from proofyard.chain import BatchSettled, ChainClient
from proofyard.protocol.cid import cid_digest
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.record import BatchRecord, CommittedTask, settlement_of
from proofyard.protocol.replay import RecordInvalid
from proofyard.protocol.settlement import payout_root
from proofyard.protocol.types import Cid, SegmentIndex, TaskIndex
from proofyard.workloads.executor import Executor
from proofyard.workloads.sketch import exact_distance
from proofyard.workloads.workload import Inputs, load_workload

MAX_STATE_BYTES = 8 << 30

Read = Callable[[Cid, int], Awaitable[bytes]]
"""Fetches an artifact of at most so many bytes, from wherever it can be had."""


@dataclass(frozen=True)
class Replayed:
    """One executed segment. `distance`: 0 for equal bytes, None where the worker's state is no longer to be had."""

    task: TaskIndex
    segment: SegmentIndex
    equal: bool
    distance: float | None
    tolerance: float

    @property
    def holds(self) -> bool | None:
        """Whether the worker's state is right; None where that cannot be told."""
        if self.distance is None:
            return None
        return self.distance <= self.tolerance


def compare_with_chain(chain: ChainClient, record: BatchRecord) -> None:
    """Raise `RecordInvalid` unless batch, draw, job and operators are as the Registry has them."""
    batch, drawn, job = chain.batch(record.batch), chain.seed(record.batch), chain.job(record.job)
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
    for name, (said, found) in pairs.items():
        if said != found:
            raise RecordInvalid(record.batch, f"its {name} is not the one on chain")


def compare_with_settlement(event: BatchSettled, record: BatchRecord) -> None:
    """Raise `RecordInvalid` unless the settlement on chain is the one that follows from its record."""
    settlement = settlement_of(record, event.record)
    said = (payout_root(event.batch, settlement.payouts), settlement.total, settlement.audit_root)
    if record.batch != event.batch or said != (event.payout_root, event.payout_total, event.audit_root):
        raise RecordInvalid(event.batch, "it does not give the settlement on chain")


def audited(record: BatchRecord) -> list[tuple[TaskIndex, SegmentIndex]]:
    """The segments that the batch's auditors executed."""
    return [(audit.task, audit.segment) for audit in record.audits]


async def execute(
    record: BatchRecord,
    manifest: Manifest,
    places: Iterable[tuple[TaskIndex, SegmentIndex]],
    *,
    model: Path | None,
    data: Path | None,
    read: Read,
    executor: Executor,
    on_done: Callable[[Replayed], object],
) -> list[Replayed]:
    """Execute segments again from their committed states. Raises `ExecutionError` where this machine cannot, and
    `ArtifactUnavailable` where a state before a segment is gone."""
    workload = load_workload(manifest.workload)
    specs = workload.graph(manifest)
    tasks = {task.commitment.task: task for task in record.tasks}
    results = []
    for index, segment in places:
        if index not in tasks or not 0 <= segment < tasks[index].commitment.segments:
            raise RecordInvalid(record.batch, f"it has no task {index} with a segment {segment}")
        task, spec = tasks[index], specs[index]
        before = await read(task.trace[segment], MAX_STATE_BYTES)
        after = await executor.run_segment(manifest, spec, segment, before, Inputs(model, data))
        found = await _judge(task, spec, manifest, segment, before, after, read)
        results.append(found)
        on_done(found)
    return results


async def _judge(
    task: CommittedTask,
    spec: TaskSpec,
    manifest: Manifest,
    segment: SegmentIndex,
    before: bytes,
    after: bytes,
    read: Read,
) -> Replayed:
    committed, index = task.trace[segment + 1], task.commitment.task
    if cid_of_bytes(after) == committed:
        return Replayed(index, segment, True, 0.0, manifest.tolerance)
    try:
        theirs = await read(committed, MAX_STATE_BYTES)
    except ArtifactError:
        return Replayed(index, segment, False, None, manifest.tolerance)
    change = load_workload(manifest.workload).change
    distance = exact_distance(change(manifest, spec, before, after), change(manifest, spec, before, theirs))
    return Replayed(index, segment, False, distance, manifest.tolerance)
