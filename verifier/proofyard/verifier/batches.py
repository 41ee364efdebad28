"""The life of a batch: formed, committed on chain, drawn, judged, settled; resumable anywhere."""

import asyncio
import logging

from sqlmodel import Session, col, select

from proofyard.protocol.audit import BatchEntry, Operator, Verdict, audit_plan
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.dial import WAD, tasks_alike
from proofyard.protocol.false_audit import false_audits
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.merkle import root
from proofyard.protocol.messages import SubmitCommitment
from proofyard.protocol.record import RecordedFault, RecordedOperator, claimed_answers
from proofyard.protocol.settlement import FaultReason, OperatorId
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, ProofyardError, SegmentIndex, Wei
from proofyard.verifier.auditing import judge_segment
from proofyard.verifier.case import Case
from proofyard.verifier.context import Context, now
from proofyard.verifier.database import (
    Batch,
    BatchState,
    Fault,
    Job,
    JobState,
    Segment,
    Task,
    TaskState,
    log,
    tasks_of,
)
from proofyard.verifier.delivery import NotDelivered, owed
from proofyard.verifier.exposure import rewards_in_flight
from proofyard.verifier.membership import MemberOdds, members_of, operators_of
from proofyard.verifier.schedule import faulty_nodes, note_loss, release
from proofyard.verifier.settling import audits_of, settle
from proofyard.workloads.errors import StateRefused

logger = logging.getLogger(__name__)

RETRY_S = 1.0
DRAW_POLL_S = 0.3
FIX_SEED_S = 120.0
RECEIPT_MARGIN_S = 300.0
"""A receipt that falls due within this time is honoured now: the chain may be away for a while."""


def form_batches(session: Session, at: float) -> list[int]:
    """Put what is committed into a batch wherever a job can make no progress without its verdicts, or a receipt falls
    due: a promise that no batch honours in time costs this verifier stake. `at`: Unix seconds."""
    formed = []
    for job in session.exec(select(Job).where(Job.state == JobState.RUNNING)):
        tasks = tasks_of(session, job.id)
        committed = [task for task in tasks if task.state == TaskState.COMMITTED]
        due = any(task.promised_until < at + RECEIPT_MARGIN_S for task in committed)
        under_way = any(task.state in (TaskState.READY, TaskState.ASSIGNED) for task in tasks)
        if not committed or (under_way and not due):
            continue
        batch = Batch(
            job=job.id,
            root=root([task.leaf or b"" for task in committed]),
            members=encode([task.submission for task in committed]),
        )
        session.add(batch)
        session.flush()
        for task in committed:
            task.state, task.batch = TaskState.JUDGING, batch.id
        log(session, job.id, "batch", f"batch of {len(committed)} commitments formed")
        formed.append(batch.id or 0)
    return formed


async def run_batch(context: Context, row: int) -> None:
    """Carry a batch from whatever state it is in to its settlement, trying again while the chain is away."""
    steps = {
        BatchState.FORMED: _commit,
        BatchState.COMMITTED: _draw,
        BatchState.AUDITING: _judge,
        BatchState.JUDGED: settle,
    }
    while True:
        batch = load_batch(context, row)
        if batch.state == BatchState.SETTLED:
            return
        try:
            await steps[batch.state](context, batch)
        except ProofyardError as error:
            logger.warning("batch %s (%s): %s", row, batch.state, error)
            await context.wait(RETRY_S)
        context.changed()


def load_batch(context: Context, row: int) -> Batch:
    with context.database.session() as session:
        batch = session.get(Batch, row)
        assert batch is not None, f"batch row {row} has vanished"
        return batch


async def _commit(context: Context, batch: Batch) -> None:
    """Post the root. Looks for an earlier post first, so that a crash after sending does not post twice."""
    job, batch_root, size = JobId(batch.job), Digest(batch.root), len(members_of(batch))
    chain_id = await context.on_chain(lambda: context.chain.find_batch(job, batch_root))
    if chain_id is None:
        chain_id = await context.on_chain(lambda: context.chain.commit_batch(job, batch_root, size))
    with context.database.session() as session:
        batch = session.merge(batch)
        batch.chain_id, batch.state = chain_id, BatchState.COMMITTED
        log(session, batch.job, "batch", f"batch {chain_id}: root of {size} commitments on chain")


async def _draw(context: Context, batch: Batch) -> None:
    """Take the seed from the chain once its block is there, compute the plan, and write down what to audit."""
    chain_id = BatchId(batch.chain_id or 0)
    drawn = await context.on_chain(lambda: context.chain.seed(chain_id))
    if drawn is None:
        await context.wait(DRAW_POLL_S)
        return
    context.spawn(_fix_seed(context, batch.id or 0, chain_id))
    nodes = await context.on_chain(lambda: context.chain.active_nodes(drawn.block))
    snapshot = [RecordedOperator(n.id, n.node, n.owner, n.consecutive_valid) for n in nodes]
    operators = [Operator(o.node, o.owner) for o in snapshot]
    members = members_of(batch)
    listed = {operator.node for operator in operators}
    odds = [await _odds(context, batch, member, drawn.block, listed) for member in members]
    with context.database.session() as session:
        batch = session.merge(batch)
        job = session.get(Job, batch.job)
        assert job is not None
        plan = audit_plan(
            drawn.seed,
            [
                BatchEntry(
                    m.commitment.task,
                    m.commitment.node,
                    o.owner,
                    m.commitment.segments,
                    m.commitment.struct_hash(),
                    o.audit_wad,
                    o.drawn,
                )
                for m, o in zip(members, odds, strict=True)
            ],
            operators,
            auditors_per_segment=job.auditors_per_segment,
        )
        for audit in plan.audits:
            row = Segment(
                batch=batch.id or 0,
                task=audit.task,
                index=audit.segment,
                auditors=" ".join(audit.auditors),
                drawn_at=now(),
            )
            session.add(row)
        batch.seed, batch.draw_block, batch.state = drawn.seed, drawn.block, BatchState.AUDITING
        batch.operators = encode(snapshot)
        batch.odds = encode(odds)
        text = f"batch {chain_id}: {len(plan.audits)} segments drawn for audit, {len(plan.skipped)} tasks skipped"
        log(session, batch.job, "drawn", text)


async def _fix_seed(context: Context, row: int, chain_id: BatchId) -> None:
    """Have the chain keep the seed of a batch whose audits take long: it forgets block hashes. Settling does so too."""
    await asyncio.sleep(FIX_SEED_S)
    if load_batch(context, row).state == BatchState.SETTLED:
        return
    try:
        await context.on_chain(lambda: context.chain.draw(chain_id))
    except ProofyardError as error:
        logger.warning("the seed of batch %s could not be fixed: %s", chain_id, error)


async def _odds(
    context: Context, batch: Batch, member: SubmitCommitment, block: int, listed: set[Address]
) -> MemberOdds:
    """Of one task, by the Registry's dial at the draw and what its owner has in flight. What a node has in flight when
    it is caught, or is not among the active nodes (`listed`) any more, is audited without a draw."""
    commitment = member.commitment
    with context.database.session() as session:
        job, task = session.get(Job, batch.job), session.get(Task, (batch.job, commitment.task))
        assert job is not None and task is not None and task.owner is not None
        owner, reward = Address(task.owner), Wei(int(task.reward))
        in_flight = Wei(rewards_in_flight(session)[owner])
        certain = commitment.node not in listed or commitment.node in faulty_nodes(session)
    operator = await context.on_chain(lambda: context.chain.operator_of(commitment.node)) or OperatorId(0)
    odds = await context.on_chain(
        lambda: context.chain.audit_probability(
            commitment.node,
            tasks_alike(in_flight, reward),
            in_flight,
            commitment.segments,
            job.segments_per_audit,
            block=block,
        )
    )
    return MemberOdds(operator, owner, WAD if certain else odds.wad, odds.segments)


async def _judge(context: Context, batch: Batch) -> None:
    """Judge all tasks, then the auditors: who was outvoted with another answer than k + 1 others is at fault too."""
    members = members_of(batch)
    nodes = {member.commitment.node for member in members}
    await asyncio.gather(
        *(_judge_node(context, batch, [m for m in members if m.commitment.node == node]) for node in nodes)
    )
    with context.database.session() as session:
        for fault in _false_audits(session, context, batch, members):
            log(session, batch.job, "fault", f"false audit: {fault.reason}", task=fault.task, node=fault.node)
            session.merge(
                Fault(
                    batch=batch.id or 0,
                    task=fault.task,
                    node=fault.node,
                    segment=fault.segment,
                    kind=fault.kind,
                    reason=fault.reason,
                )
            )
        session.merge(batch).state = BatchState.JUDGED


def _false_audits(
    session: Session, context: Context, batch: Batch, members: list[SubmitCommitment]
) -> tuple[RecordedFault, ...]:
    job = session.get(Job, batch.job)
    assert job is not None
    if not context.workload(_job_manifest(context, session, batch)).exact:
        return ()
    audits = audits_of(session, batch)
    claimed = claimed_answers({m.commitment.task: m.trace for m in members}, audits)
    return false_audits(audits, claimed, job.auditors_per_segment)


async def _judge_node(context: Context, batch: Batch, members: list[SubmitCommitment]) -> None:
    """One node's tasks, first those that were drawn: if one of them is at fault, nothing of the others is believed."""
    with context.database.session() as session:
        drawn = set(session.exec(select(Segment.task).where(Segment.batch == batch.id)))
    await asyncio.gather(*(_judge_task(context, batch, m) for m in members if m.commitment.task in drawn))
    await asyncio.gather(*(_judge_task(context, batch, m) for m in members if m.commitment.task not in drawn))


async def _judge_task(context: Context, batch: Batch, member: SubmitCommitment) -> None:
    """All drawn segments of one task, then its result; writes the verdict and frees or completes the task."""
    index = member.commitment.task
    with context.database.session() as session:
        task = session.get(Task, (batch.job, index))
        if task is None or task.state != TaskState.JUDGING or task.batch != batch.id:
            return
        job = session.get(Job, batch.job)
        assert job is not None
        drawn = session.exec(
            select(Segment).where(Segment.batch == batch.id, Segment.task == index).order_by(col(Segment.index))
        ).all()
        if not drawn and member.commitment.node in faulty_nodes(session, batch):
            log(
                session,
                batch.job,
                "caught",
                "not drawn, and its node was caught in this batch: done again",
                task=index,
                node=member.commitment.node,
            )
            _bar(task, member.commitment.node)
            return
        cases = [_case(context, session, batch, job, member, segment) for segment in drawn]
    found = await asyncio.gather(*(judge_segment(context, case) for case in cases))
    fault = next(((f.kind, f.reason) for f in found if f.verdict == Verdict.FAULT), None)
    fault = fault or await _check_result(context, batch, member)
    with context.database.session() as session:
        for case, judgement in zip(cases, found, strict=True):
            row = session.get(Segment, (batch.id, index, case.segment))
            assert row is not None
            row.verdict, row.reason = judgement.verdict, judgement.reason
        task = session.get(Task, (batch.job, index))
        assert task is not None
        node = member.commitment.node
        if fault:
            kind, reason = fault
            text = f"{decode(task.spec, TaskSpec).label} by this node is faulty: {reason}"
            log(session, batch.job, "fault", text, task=index, node=node)
            session.merge(Fault(batch=batch.id or 0, task=index, node=node, kind=kind, reason=reason))
            _bar(task, node)
        elif any(judgement.verdict == Verdict.UNDECIDED for judgement in found):
            log(session, batch.job, "undecided", "too few auditors agreed; done again", task=index, node=node)
            note_loss(task)
            release(task)
        else:
            task.state = TaskState.VALID
            log(
                session, batch.job, "valid", "audited and valid" if cases else "valid, not drawn", task=index, node=node
            )
    context.changed()


def _bar(task: Task, node: Address) -> None:
    """Have the task done again by somebody else."""
    task.barred = " ".join({*task.barred.split(), node})
    release(task)


async def _check_result(context: Context, batch: Batch, member: SubmitCommitment) -> tuple[FaultReason, str] | None:
    """Have the result here, and the fault if it does not follow from the task's states. This is done for every task,
    audited or not: a result that does not fit its workload would spoil the tasks that rest on it."""
    commitment = member.commitment
    manifest, spec = _manifest_and_spec(context, batch, commitment.task)
    check = context.workload(manifest).check_result
    try:
        result = await owed(context, commitment.node, commitment.result, "the result")
        last = await owed(context, commitment.node, member.trace[-1], "the last state")
        await asyncio.to_thread(check, manifest, spec, result, last, member.trace)
    except NotDelivered as error:
        return FaultReason.WITHHELD, str(error)
    except StateRefused as error:
        return FaultReason.MISMATCH, f"the result: {error}"
    return None


def _job_manifest(context: Context, session: Session, batch: Batch) -> Manifest:
    job = session.get(Job, batch.job)
    assert job is not None
    return context.manifest(Cid(job.manifest))


def _manifest_and_spec(context: Context, batch: Batch, index: int) -> tuple[Manifest, TaskSpec]:
    with context.database.session() as session:
        task = session.get(Task, (batch.job, index))
        assert task is not None
        return _job_manifest(context, session, batch), decode(task.spec, TaskSpec)


def _case(
    context: Context, session: Session, batch: Batch, job: Job, member: SubmitCommitment, segment: Segment
) -> Case:
    task = next(t for t in tasks_of(session, job.id) if t.index == segment.task)
    return Case(
        batch_row=batch.id or 0,
        batch=BatchId(batch.chain_id or 0),
        job=JobId(job.id),
        manifest_cid=Cid(job.manifest),
        manifest=context.manifest(Cid(job.manifest)),
        spec=decode(task.spec, TaskSpec),
        segment=SegmentIndex(segment.index),
        worker=member.commitment.node,
        trace=member.trace,
        auditors=tuple(Address(a) for a in segment.auditors.split()),
        owners={operator.node: operator.owner for operator in operators_of(batch)},
        seats=job.auditors_per_segment,
        drawn_at=segment.drawn_at,
    )
