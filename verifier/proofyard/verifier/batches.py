"""The life of a batch: formed, committed on chain, drawn, judged, settled; resumable anywhere."""

import asyncio
import logging

from sqlmodel import Session, select

from proofyard.protocol.audit import WAD, BatchEntry, Operator, Verdict, audit_plan
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.false_audit import false_audits
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.merkle import root
from proofyard.protocol.messages import SubmitCommitment
from proofyard.protocol.record import RecordedOperator
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, ProofyardError, SegmentIndex, Wei
from proofyard.verifier.auditing import Case, NotDelivered, judge_segment, owed
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
from proofyard.verifier.membership import members_of, operators_of
from proofyard.verifier.schedule import inputs_of, note_loss, release
from proofyard.verifier.settling import audits_of, settle
from proofyard.workloads.errors import WorkloadError

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
    wads = [await _probability(context, member.commitment.node, drawn.block) for member in members]
    with context.database.session() as session:
        batch = session.merge(batch)
        job = session.get(Job, batch.job)
        assert job is not None
        plan = audit_plan(
            drawn.seed,
            [
                BatchEntry(m.commitment.task, m.commitment.node, m.commitment.segments, m.commitment.struct_hash(), wad)
                for m, wad in zip(members, wads, strict=True)
            ],
            operators,
            auditors_per_segment=job.auditors_per_segment,
            segments_per_audit=job.segments_per_audit,
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
        batch.audit_wads = encode([str(wad) for wad in wads])
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


async def _probability(context: Context, node: Address, block: int) -> int:
    """The audit probability of each of a node's tasks, by the Registry's dial at the draw, in units of 1e-18. What a
    node has in flight when it is caught is audited whole."""
    with context.database.session() as session:
        if _is_caught(session, node):
            return WAD
    tasks, reward = _in_flight(context, node)
    return await context.on_chain(lambda: context.chain.audit_probability(node, tasks, reward, block=block))


def _in_flight(context: Context, node: Address) -> tuple[int, Wei]:
    """A node's tasks in batches that are not settled, and their reward: its exposure."""
    with context.database.session() as session:
        count, reward = 0, 0
        for batch in session.exec(select(Batch).where(Batch.state != BatchState.SETTLED)):
            job = session.get(Job, batch.job)
            assert job is not None
            units = [m.commitment.work_units for m in members_of(batch) if m.commitment.node == node]
            count += len(units)
            reward += int(job.reward) * sum(units) // total_units(tasks_of(session, job.id))
        return count, Wei(reward)


def total_units(tasks: list[Task]) -> int:
    """The work of a whole job, which its reward is shared over."""
    return sum(decode(task.spec, TaskSpec).work_units for task in tasks)


async def _judge(context: Context, batch: Batch) -> None:
    """Judge all tasks, then the auditors: who was outvoted with an answer that no execution gives is at fault too."""
    members = members_of(batch)
    nodes = {member.commitment.node for member in members}
    await asyncio.gather(
        *(_judge_node(context, batch, [m for m in members if m.commitment.node == node]) for node in nodes)
    )
    with context.database.session() as session:
        manifest = _job_manifest(context, session, batch)
        job = session.get(Job, batch.job)
        assert job is not None
        for fault in false_audits(
            audits_of(session, batch, manifest.tolerance), manifest.tolerance, job.auditors_per_segment
        ):
            log(session, batch.job, "fault", f"false audit: {fault.reason}", task=fault.task, node=fault.node)
            session.merge(
                Fault(batch=batch.id or 0, task=fault.task, node=fault.node, segment=fault.segment, reason=fault.reason)
            )
        session.merge(batch).state = BatchState.JUDGED


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
        drawn = session.exec(select(Segment).where(Segment.batch == batch.id, Segment.task == index)).all()
        if not drawn and _is_caught(session, member.commitment.node, batch):
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
    verdicts = await asyncio.gather(*(judge_segment(context, case) for case in cases))
    reason = next((why for verdict, why in verdicts if verdict == Verdict.FAULT), "")
    reason = reason or await _accept_result(context, batch, member)
    with context.database.session() as session:
        for case, (verdict, why) in zip(cases, verdicts, strict=True):
            row = session.get(Segment, (batch.id, index, case.segment))
            assert row is not None
            row.verdict, row.reason = verdict, why
        task = session.get(Task, (batch.job, index))
        assert task is not None
        node = member.commitment.node
        if reason:
            text = f"{decode(task.spec, TaskSpec).label} by this node is faulty: {reason}"
            log(session, batch.job, "fault", text, task=index, node=node)
            session.merge(Fault(batch=batch.id or 0, task=index, node=node, reason=reason))
            _bar(task, node)
        elif any(verdict == Verdict.UNDECIDED for verdict, _ in verdicts):
            log(session, batch.job, "undecided", "too few auditors agreed; done again", task=index, node=node)
            note_loss(task)
            release(task)
        else:
            task.state = TaskState.VALID
            log(
                session, batch.job, "valid", "audited and valid" if cases else "valid, not drawn", task=index, node=node
            )
    context.changed()


def _is_caught(session: Session, node: Address, batch: Batch | None = None) -> bool:
    """Whether a node was found at fault, in this batch or in any."""
    query = select(Fault.node).where(Fault.node == node)
    return session.exec(query if batch is None else query.where(Fault.batch == batch.id)).first() is not None


def _bar(task: Task, node: Address) -> None:
    """Have the task done again by somebody else."""
    task.barred = " ".join({*task.barred.split(), node})
    release(task)


async def _accept_result(context: Context, batch: Batch, member: SubmitCommitment) -> str:
    """Have the result here, recomputed from the task's last state; the reason if it cannot stand. This is done for
    every task, audited or not: a result that does not fit its workload would spoil the tasks that rest on it."""
    commitment = member.commitment
    try:
        last = await owed(context, commitment.node, member.trace[-1], "the last state")
        manifest, spec = _manifest_and_spec(context, batch, commitment.task)
        result = await asyncio.to_thread(context.workload(manifest).result, manifest, spec, last)
    except (NotDelivered, WorkloadError) as error:
        return str(error)
    cid = await asyncio.to_thread(context.store.put_bytes, result)
    return "" if cid == commitment.result else "the result does not follow from the last state"


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
    tasks = tasks_of(session, job.id)
    task = next(t for t in tasks if t.index == segment.task)
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
        inputs=inputs_of(task, tasks),
        seed=Digest(batch.seed or b""),
        auditors=tuple(Address(a) for a in segment.auditors.split()),
        owners={operator.node: operator.owner for operator in operators_of(batch)},
        seats=job.auditors_per_segment,
        drawn_at=segment.drawn_at,
    )
