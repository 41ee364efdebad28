"""Who gets which task: tasks whose inputs are valid are offered to idle nodes on a lease that progress renews.

A node that is away, busy or declines costs a task nothing but time. Only who began a task and could not finish it is
not asked again, and only where that is so of everybody on chain who could, or of many owners, does the job fail.
"""

import logging
import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from sqlmodel import Session, col, select

from proofyard.chain import NodeRecord
from proofyard.protocol.codec import decode
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.messages import Ack, TaskOffer
from proofyard.protocol.types import Address, Cid, JobId, ProofyardError, Wei
from proofyard.verifier.context import Context, now
from proofyard.verifier.database import Job, JobState, Seat, SeatState, Task, TaskState, log, tasks_of
from proofyard.verifier.exposure import given_out, objection
from proofyard.verifier.outcomes import bar, faulty_owners, release

logger = logging.getLogger(__name__)

OFFER_TIMEOUT_S = 10.0
REST_S = 3.0
"""A node that declined a task is not offered the same one again for so long."""
MAX_DECLINES = 3
"""Who declined a task so often is not asked again."""
MAX_REFUSERS = 5
"""A task that nodes of so many owners began and could not finish is not tried again."""
BPS = 10_000


async def schedule(context: Context, elsewhere: Mapping[str, int] | None = None) -> None:
    """One pass: take back lapsed leases, ready what has its inputs, offer what is ready. `elsewhere` is what each owner
    has in flight with other verifiers, in base units."""
    params, active = await context.params(), await context.active_nodes()
    given_back = params.slash_requester_bps + params.slash_auditor_bps
    with context.database.session() as session:
        release_lapsed(session, now())
        in_flight = given_out(session)
        in_flight.update(elsewhere or {})
        offers = []
        for job in session.exec(select(Job).where(Job.state == JobState.RUNNING).order_by(col(Job.id))):
            tasks = tasks_of(session, job.id)
            promote(tasks)
            fail_hopeless(session, job, tasks, active)
            if job.state != JobState.RUNNING:
                continue
            try:
                offers += assign(
                    *(session, context, job, tasks, in_flight),
                    collusion_bps=params.collusion_bps,
                    given_back_bps=given_back,
                )
            except ProofyardError as error:
                job.reason = str(error)
                logger.warning("job %s: %s", job.id, error)
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


def promote(tasks: list[Task]) -> None:
    """A task is ready once the results of all its dependencies are valid."""
    valid = {task.index for task in tasks if task.state == TaskState.VALID}
    for task in tasks:
        if task.state == TaskState.WAITING and valid.issuperset(decode(task.spec, TaskSpec).deps):
            task.state = TaskState.READY


def fail_hopeless(session: Session, job: Job, tasks: Iterable[Task], active: Collection[NodeRecord]) -> None:
    """A job ends with its reason, instead of waiting for its deadline, where a task of it cannot be done: nodes of
    `MAX_REFUSERS` owners began it in vain, or every node on chain that could begin it has."""
    guilty = faulty_owners(session)
    able = [node for node in active if node.workloads >> job.workload & 1 and node.owner not in guilty]
    for task in (task for task in tasks if task.state == TaskState.READY and task.barred):
        barred, refusers = set(task.barred.split()), set(task.refused_by.split())
        left = [node for node in able if node.node not in barred]
        if len(refusers) < MAX_REFUSERS and (left or not able):
            continue
        job.state, job.reason = JobState.FAILED, f"no node can do task {task.index}; {job.reason or 'see its log'}"
        log(session, job.id, "failed", job.reason, task=task.index)
        return


def assign(
    session: Session,
    context: Context,
    job: Job,
    tasks: list[Task],
    in_flight: Counter[str],
    *,
    collusion_bps: int,
    given_back_bps: int,
) -> list[tuple[Address, TaskOffer]]:
    """Give every ready task that an idle node offers to do to one: who lost the fewest tasks of this job first, and
    among those who has the least work in it. A node is passed over where its owner's stake does not back the task
    beside what it has `in_flight`, or where too few other owners are here to audit it.

    The lease is written before the offer leaves, so a crash in between only costs the lease's time.
    """
    manifest, guilty = context.manifest(Cid(job.manifest)), faulty_owners(session)
    workload = manifest.workload
    busy = busy_nodes(session)
    load = Counter(task.node for task in tasks if task.node)
    losses = Counter(node for task in tasks for node in task.lost_by.split())
    offering = {a: m.record for a, m in context.members.items() if workload in m.announce.workloads}
    idle = [node for node, record in offering.items() if node not in busy and record.owner not in guilty]
    owners = {record.owner for record in offering.values()} - {Address(job.requester)}
    offers, waits = [], ""
    for task in (task for task in tasks if task.state == TaskState.READY):
        for node in preferred(idle, barred=_not_asked(context, task), losses=losses, load=load):
            why_not = objection(
                offering[node],
                Wei(int(task.reward)),
                Wei(in_flight[offering[node].owner]),
                segments=decode(task.spec, TaskSpec).segments,
                segments_per_audit=job.segments_per_audit,
                auditors_per_segment=job.auditors_per_segment,
                auditing_owners=owners,
                collusion_bps=collusion_bps,
                given_back_bps=given_back_bps,
            )
            if not why_not:
                break
            waits = f"task {task.index} waits: {why_not}"
        else:
            continue
        idle.remove(node)
        task.state, task.node, task.attempts = TaskState.ASSIGNED, node, task.attempts + 1
        task.owner, task.decoy = offering[node].owner, wants_decoy(context, manifest)
        in_flight[offering[node].owner] += int(task.reward)
        task.lease_until = now() + context.settings.lease_s
        offers.append((node, _offer_of(context, job, task, tasks)))
    if offers or waits:
        job.reason = "" if offers else waits
    return offers


def wants_decoy(context: Context, manifest: Manifest) -> bool:
    """Whether a task's worker is to make a decoy as well: by a draw that nobody can foresee, and only where what a
    false answer costs is a stake."""
    return context.workload(manifest).exact and secrets.randbelow(BPS) < context.settings.decoys_bps


def _not_asked(context: Context, task: Task) -> set[str]:
    """Nodes that may not have a task, and those that did not take it a moment ago."""
    resting = {node for node in context.members if context.rests(task.job, task.index, node)}
    return {*task.barred.split(), *resting}


def preferred(
    idle: Iterable[Address], *, barred: Iterable[str], losses: Mapping[str, int], load: Mapping[str, int]
) -> list[Address]:
    """The idle nodes that may have a task: those with the fewest losses first, then those with the least work so far,
    ties by address."""
    return sorted(set(idle) - set(barred), key=lambda n: (losses.get(n, 0), load.get(n, 0), n))


def hand_back(session: Session, task: Task, reason: str) -> None:
    """A node began a task and cannot finish it: somebody else may."""
    job = session.get(Job, task.job)
    assert job is not None
    bar(task, [Address(task.node or "")])
    task.refused_by = " ".join(sorted({*task.refused_by.split(), task.owner or ""}))
    job.reason = f"task {task.index} was handed back: {reason}"
    note_loss(task)
    release(task)


def busy_nodes(session: Session) -> set[str]:
    """Nodes that hold a task or work on an audit now."""
    tasks = session.exec(select(Task.node).where(Task.state == TaskState.ASSIGNED))
    seats = session.exec(select(Seat.auditor).where(Seat.state == SeatState.WORKING))
    return {node for node in (*tasks, *seats) if node}


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
        decoy=task.decoy,
    )


async def _offer(context: Context, node: Address, offer: TaskOffer) -> None:
    member = context.members.get(node)
    reason, declined = "it has disconnected", False
    if member is not None:
        try:
            reply = await member.connection.request(offer, reply=Ack, timeout=OFFER_TIMEOUT_S)
            reason, declined = ("", False) if reply.proceed else (reply.reason or "it declined", True)
        except ProofyardError as error:
            reason = str(error)
    with context.database.session() as session:
        task = session.get(Task, (offer.job, offer.task.index))
        if task is None or task.node != node or task.state != TaskState.ASSIGNED:
            return
        if reason:
            logger.info("job %s task %s: %s does not take it: %s", offer.job, offer.task.index, node, reason)
            _not_taken(session, context, task, reason, declined=declined and not reason.startswith("busy"))
        else:
            text = f"{offer.task.label or offer.task.kind} given to a node, attempt {task.attempts}"
            log(session, offer.job, "assigned", text, task=offer.task.index, node=node)
    context.changed()


def _not_taken(session: Session, context: Context, task: Task, reason: str, *, declined: bool) -> None:
    """An offer that came to nothing: the node may be asked again after a rest, unless it says no again and again."""
    node = Address(task.node or "")
    context.rest(task.job, task.index, node, REST_S)
    if not declined:
        release(task)
        return
    note_loss(task)
    if task.lost_by.split().count(node) < MAX_DECLINES:
        release(task)
    else:
        hand_back(session, task, reason)
