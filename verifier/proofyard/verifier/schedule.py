"""Who gets which task: tasks whose inputs are valid are offered to idle nodes on a lease that progress renews."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping

from sqlmodel import Session, col, select

from proofyard.protocol.codec import decode
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.messages import Ack, TaskOffer
from proofyard.protocol.settlement import FaultReason
from proofyard.protocol.types import Address, Cid, JobId, ProofyardError, Wei
from proofyard.verifier.context import Context, now
from proofyard.verifier.database import Batch, Fault, Job, JobState, Seat, SeatState, Task, TaskState, log, tasks_of
from proofyard.verifier.exposure import BEGUN, objection, rewards_in_flight

logger = logging.getLogger(__name__)

OFFER_TIMEOUT_S = 10.0


async def schedule(context: Context) -> None:
    """One pass: take back lapsed leases, ready what has its inputs, offer what is ready."""
    collusion_bps = (await context.params()).collusion_bps
    with context.database.session() as session:
        release_lapsed(session, now())
        offers = []
        for job in session.exec(select(Job).where(Job.state == JobState.RUNNING).order_by(col(Job.id))):
            tasks = tasks_of(session, job.id)
            promote(tasks)
            offers += assign(session, context, job, tasks, collusion_bps)
    for node, offer in offers:
        context.spawn(_offer(context, node, offer))


def release_lapsed(session: Session, at: float) -> None:
    """A holder that was silent for longer than its lease loses the task; it costs no stake."""
    for task in session.exec(select(Task).where(Task.state == TaskState.ASSIGNED, Task.lease_until < at)):
        log(session, task.job, "lost", f"task {task.index}: no word from its node", task=task.index, node=task.node)
        note_loss(task)
        release(task)


def note_loss(task: Task) -> None:
    """It costs no stake, but the node is offered work after all others from now on."""
    task.lost_by = " ".join([*task.lost_by.split(), task.node or ""])


def release(task: Task) -> None:
    """Back on the list, for anybody."""
    task.state, task.node, task.owner, task.lease_until = TaskState.READY, None, None, 0.0
    task.submission, task.leaf, task.batch, task.result = None, None, None, None


def promote(tasks: list[Task]) -> None:
    """A task is ready once the results of all its dependencies are valid."""
    valid = {task.index for task in tasks if task.state == TaskState.VALID}
    for task in tasks:
        if task.state == TaskState.WAITING and valid.issuperset(decode(task.spec, TaskSpec).deps):
            task.state = TaskState.READY


def assign(
    session: Session, context: Context, job: Job, tasks: list[Task], collusion_bps: int
) -> list[tuple[Address, TaskOffer]]:
    """Give every ready task that an idle node offers to do to one: who lost the fewest tasks of this job first, and
    among those who has the least work in it. A node is passed over where its owner's stake does not back the task
    beside what it has in flight, or where too few other owners are here to audit it.

    The lease is written before the offer leaves, so a crash in between only costs the lease's time.
    """
    workload = context.manifest(Cid(job.manifest)).workload
    shut_out = busy_nodes(session) | faulty_nodes(session)
    load = Counter(task.node for task in tasks if task.node)
    losses = Counter(node for task in tasks for node in task.lost_by.split())
    offering = {a: m.record for a, m in context.members.items() if workload in m.announce.workloads}
    idle = [node for node in offering if node not in shut_out]
    in_flight = rewards_in_flight(session, BEGUN)
    owners = {record.owner for record in offering.values()}
    offers, waits = [], ""
    for task in (task for task in tasks if task.state == TaskState.READY):
        for node in preferred(idle, barred=task.barred.split(), losses=losses, load=load):
            why_not = objection(
                offering[node],
                Wei(int(task.reward)),
                Wei(in_flight[offering[node].owner]),
                segments=decode(task.spec, TaskSpec).segments,
                segments_per_audit=job.segments_per_audit,
                auditors_per_segment=job.auditors_per_segment,
                auditing_owners=owners,
                collusion_bps=collusion_bps,
            )
            if not why_not:
                break
            waits = f"task {task.index} waits: {why_not}"
        else:
            continue
        idle.remove(node)
        task.state, task.node, task.attempts = TaskState.ASSIGNED, node, task.attempts + 1
        task.owner = offering[node].owner
        in_flight[offering[node].owner] += int(task.reward)
        task.lease_until = now() + context.settings.lease_s
        offers.append((node, _offer_of(context, job, task, tasks)))
    job.reason = "" if offers else waits
    return offers


def preferred(
    idle: Iterable[Address], *, barred: Iterable[str], losses: Mapping[str, int], load: Mapping[str, int]
) -> list[Address]:
    """The idle nodes that may have a task: those with the fewest losses first, then those with the least work so far,
    ties by address."""
    return sorted(set(idle) - set(barred), key=lambda n: (losses.get(n, 0), load.get(n, 0), n))


def hand_back(session: Session, context: Context, task: Task, reason: str) -> None:
    """A node cannot or will not do a task: somebody else may. Where nobody who is here is left, the job fails with the
    reason, instead of waiting for its deadline."""
    task.barred = " ".join({*task.barred.split(), task.node or ""})
    note_loss(task)
    release(task)
    job = session.get(Job, task.job)
    assert job is not None
    workload = context.manifest(Cid(job.manifest)).workload
    out = {*task.barred.split(), *faulty_nodes(session)}
    if all(a in out for a, m in context.members.items() if workload in m.announce.workloads):
        job.state, job.reason = JobState.FAILED, f"no node here can do task {task.index}; the last one said: {reason}"
        log(session, job.id, "failed", job.reason, task=task.index)


def busy_nodes(session: Session) -> set[str]:
    """Nodes that hold a task or work on an audit now."""
    tasks = session.exec(select(Task.node).where(Task.state == TaskState.ASSIGNED))
    seats = session.exec(select(Seat.auditor).where(Seat.state == SeatState.WORKING))
    return {node for node in (*tasks, *seats) if node}


def faulty_nodes(session: Session, batch: Batch | None = None) -> set[str]:
    """Nodes that were found at a fault that costs stake, in `batch` or in any."""
    query = select(Fault.node).where(Fault.kind != FaultReason.DISAGREED)
    return set(session.exec(query if batch is None else query.where(Fault.batch == batch.id)))


def inputs_of(task: Task, tasks: list[Task]) -> tuple[Cid, ...]:
    """The results of a task's dependencies, in their order."""
    results = {other.index: other.result for other in tasks}
    return tuple(Cid(results[dep] or "") for dep in decode(task.spec, TaskSpec).deps)


def _offer_of(context: Context, job: Job, task: Task, tasks: list[Task]) -> TaskOffer:
    makers = {other.node for other in tasks if other.index in decode(task.spec, TaskSpec).deps}
    return TaskOffer(
        job=JobId(job.id),
        manifest=Cid(job.manifest),
        task=decode(task.spec, TaskSpec),
        inputs=inputs_of(task, tasks),
        providers=tuple(m.hint for a, m in context.members.items() if a in makers),
        lease_s=context.settings.lease_s,
    )


async def _offer(context: Context, node: Address, offer: TaskOffer) -> None:
    member = context.members.get(node)
    reason = "it has disconnected"
    if member is not None:
        try:
            reply = await member.connection.request(offer, reply=Ack, timeout=OFFER_TIMEOUT_S)
            reason = "" if reply.proceed else reply.reason or "it declined"
        except ProofyardError as error:
            reason = str(error)
    with context.database.session() as session:
        task = session.get(Task, (offer.job, offer.task.index))
        if task is None or task.node != node or task.state != TaskState.ASSIGNED:
            return
        if reason:
            logger.warning("job %s task %s: %s does not take it: %s", offer.job, offer.task.index, node, reason)
            if reason.startswith("busy"):
                release(task)
            else:
                hand_back(session, context, task, reason)
        else:
            text = f"{offer.task.label or offer.task.kind} given to a node, attempt {task.attempts}"
            log(session, offer.job, "assigned", text, task=offer.task.index, node=node)
    context.changed()
