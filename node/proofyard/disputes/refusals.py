"""Faults without votes: a state or a result that its verifier says it refused. Whoever checks a record looks itself."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from proofyard.disputes.network import MAX_STATE_BYTES
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.record import BatchRecord, faulty_audit
from proofyard.protocol.replay import RecordInvalid
from proofyard.protocol.settlement import FaultReason
from proofyard.protocol.types import Cid
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.workload import load_workload

Read = Callable[[Cid, int], Awaitable[bytes]]
"""Fetches an artifact of at most so many bytes, from wherever it can be had."""


async def check_refusals(record: BatchRecord, manifest: Manifest, specs: Sequence[TaskSpec], read: Read) -> None:
    """Raise `RecordInvalid` where a state or result that was called a fault is in order, and what `read` raises.

    `record` has passed `check_record`. Faults that rest on votes follow from these; that something was withheld
    cannot be seen afterwards.
    """
    workload = load_workload(manifest.workload)
    tasks = {task.commitment.task: task for task in record.tasks}
    for fault in record.faults:
        audit = faulty_audit(record, fault.task)
        if fault.segment is not None or fault.kind != FaultReason.MISMATCH or (audit and audit.votes):
            continue
        spec, task = specs[fault.task], tasks[fault.task]
        if audit:
            what, state = f"state {audit.segment}", await read(task.trace[audit.segment], MAX_STATE_BYTES)
            check = partial(workload.check_state, manifest, spec, audit.segment, state)
        else:
            what, result = "the result", await read(task.commitment.result, MAX_STATE_BYTES)
            last = await read(task.trace[-1], MAX_STATE_BYTES)
            check = partial(workload.check_result, manifest, spec, result, last, task.trace)
        try:
            await asyncio.to_thread(check)
        except StateRefused:
            continue
        raise RecordInvalid(record.batch, f"{what} of task {fault.task} is called a fault and is in order")
