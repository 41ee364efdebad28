"""What a record says of bytes that it does not hold: whoever checks a record looks at them itself.

A state or a result that is called against a law must be so, and so must what is said of keyed digests. That something
was withheld cannot be seen afterwards.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial

from proofyard.artifacts import ArtifactError, ArtifactTooLarge, CorruptArtifact
from proofyard.disputes.committed import Read
from proofyard.protocol.findings import keyed_checks
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.record import BatchRecord, RecordedFault, faulty_audit
from proofyard.protocol.settlement import FaultReason
from proofyard.protocol.types import JobId
from proofyard.protocol.validate import RecordInvalid
from proofyard.protocol.view import BatchView
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.state import MAX_STATE_BYTES
from proofyard.workloads.workload import is_exact, workload_of


async def check_refusals(
    record: BatchRecord, manifests: Mapping[JobId, Manifest], graphs: Mapping[JobId, Sequence[TaskSpec]], read: Read
) -> None:
    """Raise `RecordInvalid` where a state or result that was called a fault is in order, and what `read` raises.
    `record` has passed `validate_record`."""
    for fault in record.faults:
        await _check_fault(record, fault, manifests[fault.job], graphs[fault.job], read)


async def check_keyed(view: BatchView, record: BatchRecord, manifests: Mapping[JobId, Manifest], read: Read) -> None:
    """Raise `RecordInvalid` where a record judges a keyed digest otherwise than the state's bytes do.

    Only where a state can be had: those of segments that were found right are their workers' to deliver, and nobody is
    accused for one that is gone by now. Where the record accuses somebody of copying, it raises what `read` raises.
    """
    exact = {job: is_exact(workload_of(manifest), manifest) for job, manifest in manifests.items()}
    for check in keyed_checks(view, record, exact):
        try:
            state = await read(check.state, MAX_STATE_BYTES)
        except ArtifactError:
            if check.copied:
                raise
            continue
        if wrong := await asyncio.to_thread(check.wrong, view.seed, state):
            place = f"segment {check.segment} of task {check.task} of job {check.job}"
            raise RecordInvalid(record.batch, "audits", f"it judges the keyed digest of {wrong[0]} on {place} wrongly")


async def _check_fault(
    record: BatchRecord, fault: RecordedFault, manifest: Manifest, graph: Sequence[TaskSpec], read: Read
) -> None:
    audit = faulty_audit(record, fault.task_key)
    if fault.kind not in (FaultReason.MISMATCH, FaultReason.DISAGREED) or (audit is not None and audit.votes):
        return
    workload, spec, task = workload_of(manifest), graph[fault.task], record.by_key[fault.task_key]
    what = "the result" if audit is None else f"state {audit.segment}"
    most = workload.max_bytes(manifest, spec)
    try:
        if audit is not None:
            state = await read(task.trace[audit.segment], most)
            check = partial(workload.check_state, manifest, spec, audit.segment, state)
        else:
            result = await read(task.commitment.result, most)
            last = await read(task.trace[-1], most)
            check = partial(workload.check_result, manifest, spec, result, last, task.trace)
        await asyncio.to_thread(check)
    except (StateRefused, ArtifactTooLarge, CorruptArtifact):  # no file, or one that is larger than any of this task
        return
    name = f"task {fault.task} of job {fault.job}"
    raise RecordInvalid(record.batch, "faults", f"{what} of {name} is called a fault and is in order")
