"""Judging a batch: look at the states that audits start from and at every result, and have the drawn segments executed.

What comes out is evidence alone, verdicts of segments and faults of results. What it means for tasks and money follows
from the record that is made of it (`settling`).
"""

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

from sqlmodel import select

from proofyard.protocol.audit import UNDECIDED_AFTER_S
from proofyard.protocol.cid import make_cid
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.members import Member, TaskKey
from proofyard.protocol.settlement import FaultReason
from proofyard.protocol.types import Address, BatchId, Cid, JobId, SegmentIndex
from proofyard.protocol.view import BatchView
from proofyard.verifier.auditing import Bench
from proofyard.verifier.case import Case
from proofyard.verifier.context import Context
from proofyard.verifier.database import Batch, BatchState, Fault, Segment, log
from proofyard.verifier.delivery import MAX_STATE_BYTES, NotDelivered, owed, room
from proofyard.verifier.evidence import fetch_manifests
from proofyard.verifier.marks import decoys_of, gather_salts
from proofyard.verifier.membership import members_of
from proofyard.verifier.seating import Patience
from proofyard.workloads.errors import StateRefused

logger = logging.getLogger(__name__)

LOOKS_AT_ONCE = 8
LAST_MARGIN_S = 300
"""A batch that is not settled so long before the chain lets it be dropped takes what verdicts there are."""


async def judge(context: Context, batch: Batch) -> None:
    """Every drawn segment to its verdict, every result checked."""
    view = await context.on_chain(partial(context.chain.view, BatchId(batch.chain_id or 0)))
    state = await context.on_chain(partial(context.chain.batch, view.batch))
    params = await context.params()
    last = state.opened_at + params.settle_grace - LAST_MARGIN_S

    def patience() -> Patience:
        at = context.chain_time()
        if at > max(last, view.drawn_at + UNDECIDED_AFTER_S):
            return Patience.LAST
        return Patience.OVERDUE if at > view.drawn_at + UNDECIDED_AFTER_S else Patience.EARLY

    await gather_salts(context, batch)
    cases = await load_cases(context, view, batch)
    bench = Bench(context, batch.id or 0, cases, patience)
    looks = asyncio.Semaphore(LOOKS_AT_ONCE)
    by_task: dict[TaskKey, list[Case]] = {}
    for case in cases:
        by_task.setdefault((case.job, case.spec.index), []).append(case)
    manifests = await fetch_manifests(context, view)
    owner_of = {key: owner for key, (_, owner) in view.owners.items()}
    decoys = decoys_of(batch)
    await _together(
        bench.sit(),
        *(
            _look_at_task(
                *(context, batch, member, by_task.get(member.key, []), manifests, bench, looks, owner_of),
                decoy=member.key in decoys,
            )
            for member in members_of(batch)
        ),
    )
    with context.database.session() as session:
        session.merge(batch).state = BatchState.JUDGED


async def _together(*work: Coroutine[Any, Any, None]) -> None:
    """All of it side by side; the first error ends the rest and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def load_cases(context: Context, view: BatchView, batch: Batch) -> list[Case]:
    """The drawn segments that have no verdict yet, with all that judging them needs."""
    members, decoys = {member.key: member for member in members_of(batch)}, decoys_of(batch)
    owners = {operator.node: operator.owner for operator in view.operators}
    manifests = await fetch_manifests(context, view)
    with context.database.session() as session:
        rows = session.exec(select(Segment).where(Segment.batch == batch.id)).all()
    cases = []
    for row in sorted(rows, key=lambda row: (row.job, row.task, row.index)):
        job = JobId(row.job)
        member, cid = members[job, row.task], make_cid(view.jobs[job].manifest)  # type: ignore[index]
        cases.append(
            Case(
                batch_row=batch.id or 0,
                batch=view.batch,
                seed=view.seed,
                leaf=member.commitment.struct_hash(),
                job=job,
                manifest_cid=cid,
                manifest=manifests[job],
                spec=context.graph(cid)[row.task],
                segment=SegmentIndex(row.index),
                worker=member.commitment.node,
                trace=member.trace,
                auditors=tuple(Address(a) for a in row.auditors.split()),
                owners=owners,
                seats=view.jobs[job].auditors_per_segment,
                decoy=member.key in decoys,
            )
        )
    return cases


async def _look_at_task(
    context: Context,
    batch: Batch,
    member: Member,
    cases: Sequence[Case],
    manifests: Mapping[JobId, Manifest],
    bench: Bench,
    looks: asyncio.Semaphore,
    owner_of: Mapping[Address, Address],
    *,
    decoy: bool,
) -> None:
    """The states before a task's drawn segments, then its result. This is done for every task, audited or not: a result
    that does not fit its workload would spoil the tasks that rest on it. A decoy's is no fault, and looked at like
    others: what this verifier lacked would tell whoever asks for it that it is one."""
    for case in cases:
        async with looks:
            fault = await _look_at_state(context, case)
        if fault is None:
            bench.ready.add(case.place)
        else:
            bench.refuse(case, *fault)
        context.changed()
    commitment = member.commitment
    if commitment.job not in manifests:
        return
    graph = context.graph(make_cid(commitment.manifest))
    async with looks:
        fault = await _check_result(context, member, manifests[commitment.job], graph[commitment.task])
    if fault is None or decoy:
        return
    kind, reason = fault
    with context.database.session() as session:
        text = f"{graph[commitment.task].label} by this node is faulty: {reason}"
        log(session, commitment.job, "fault", text, task=commitment.task, node=commitment.node)
        session.merge(
            Fault(
                batch=batch.id or 0,
                job=commitment.job,
                task=commitment.task,
                node=commitment.node,
                owner=owner_of.get(commitment.node, ""),
                kind=kind,
                reason=reason,
            )
        )


async def _look_at_state(context: Context, case: Case) -> tuple[FaultReason, str] | None:
    """Why nobody is to execute the state before a segment. A state that breaks a law of its workload is nobody's to
    execute; one that is larger than this verifier looks at is left to the auditors."""
    workload, number = context.workload(case.manifest), case.segment
    what, cid = f"state {number}", case.trace[number]
    try:
        size = await owed(context, case.worker, cid, what, patience_s=context.settings.state_due_s)
        if size > context.settings.max_state_bytes:
            return None
        async with room(context, size):
            state = await _read(context, cid)
            await asyncio.to_thread(workload.check_state, case.manifest, case.spec, number, state)
    except NotDelivered as error:
        return FaultReason.WITHHELD, str(error)
    except StateRefused as error:
        return FaultReason.MISMATCH, f"state {number}: {error}"
    return None


async def _check_result(
    context: Context, member: Member, manifest: Manifest, spec: TaskSpec
) -> tuple[FaultReason, str] | None:
    """The fault of a result that does not follow from its task's states, or is not to be had."""
    commitment, patience = member.commitment, context.settings.state_due_s
    check = context.workload(manifest).check_result
    try:
        sizes = [
            await owed(context, commitment.node, commitment.result, "the result", patience_s=patience),
            await owed(context, commitment.node, member.trace[-1], "the last state", patience_s=patience),
        ]
        async with room(context, *sizes):
            result, last = await _read(context, commitment.result), await _read(context, member.trace[-1])
            await asyncio.to_thread(check, manifest, spec, result, last, member.trace)
    except NotDelivered as error:
        return FaultReason.WITHHELD, str(error)
    except StateRefused as error:
        return FaultReason.MISMATCH, f"the result: {error}"
    return None


async def _read(context: Context, cid: Cid) -> bytes:
    return await asyncio.to_thread(context.store.get_bytes, cid, max_bytes=MAX_STATE_BYTES)
