"""A job from its event on chain to its result: taking it up, and handing out the result when everything is valid and
settled.

Every job goes its own way: what one of them cannot do holds up no other.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlmodel import Session, col, func, select

from proofyard.chain import JobOpened
from proofyard.chain.errors import ChainUnreachable, Refused
from proofyard.chain.refusals import JobTakenBy
from proofyard.protocol.cid import make_cid
from proofyard.protocol.codec import encode
from proofyard.protocol.opened import objection_to_job
from proofyard.protocol.types import Cid, JobId, ProofyardError
from proofyard.verifier.context import Context
from proofyard.verifier.database import OVER, Batch, Job, JobState, Line, Task, TaskState, log, tasks_of
from proofyard.verifier.delivery import MAX_STATE_BYTES

logger = logging.getLogger(__name__)

TAKE_AGAIN_S = 30.0
"""How often it is looked at whether a job that another verifier schedules is free."""

Step = Callable[[Context, Job], Awaitable[None]]


def note_opened(session: Session, event: JobOpened) -> None:
    """Write down a job that was opened on chain. Applying the same event again changes nothing."""
    if session.get(Job, event.job) is None:
        session.add(
            Job(
                id=event.job,
                requester=event.requester,
                manifest=make_cid(event.manifest),
                units=event.units,
                reward=str(event.reward),
                audit_fee=str(event.audit_fee),
                verifier_fee=str(event.verifier_fee),
                auditors_per_segment=event.auditors_per_segment,
                segments_per_audit=event.segments_per_audit,
                deadline=event.deadline,
                workload=event.workload,
                opened_block=event.position.block,
            )
        )


async def each(context: Context, jobs: list[Job], step: Step) -> None:
    """Take one step of each job. A chain that is away is waited for; whatever else fails ends in the job's own log."""
    for job in jobs:
        try:
            await step(context, job)
        except ChainUnreachable:
            raise
        except (ProofyardError, OSError) as error:
            logger.warning("job %s: %s; trying again", job.id, error)
        except Exception:
            logger.exception("job %s failed", job.id)
            _fail(context, job, "this verifier met an internal error with it; see its log")


async def take_up(context: Context) -> None:
    """Expand the manifests of new jobs into tasks. A job that cannot run is refused here, with its reason."""
    with context.database.session() as session:
        waiting = list(session.exec(select(Job).where(Job.state == JobState.WAITING)).all())
    await each(context, waiting, _take_up)


async def _take_up(context: Context, job: Job) -> None:
    cid = Cid(job.manifest)
    if job.deadline < context.chain_time():
        _fail(context, job, f"the deadline has passed before the job began; is the manifest {cid} published?")
        return
    if not context.store.has(cid):
        return
    try:
        manifest = context.manifest(cid)
        graph = await asyncio.to_thread(context.graph, cid)
    except ProofyardError as error:
        _fail(context, job, str(error))
        return
    objection = objection_to_job(job.workload, job.units, manifest, graph)
    if objection:
        _fail(context, job, objection)
        return
    if context.rests(job.id, -1, "take"):
        return
    if not await _take(context, job):
        context.rest(job.id, -1, "take", TAKE_AGAIN_S)
        return
    with context.database.session() as session:
        job = session.merge(job)
        job.state, job.tasks = JobState.RUNNING, len(graph)
        for spec in graph:
            reward = int(job.reward) * spec.work_units // job.units
            session.add(Task(job=job.id, index=spec.index, spec=encode(spec), reward=str(reward)))
        log(session, job.id, "opened", f"{manifest.workload} job of {len(graph)} tasks")


async def _take(context: Context, job: Job) -> bool:
    """Make the job this verifier's on chain. A job is published to one verifier; the others only co-sign for it."""
    chain, job_id = context.chain, JobId(job.id)
    record, own = await context.on_chain(lambda: chain.job(job_id)), await context.own()
    if record.closed:
        _fail(context, job, "its requester has closed it")
        return False
    if record.verifier in (0, own):
        try:
            if record.verifier == 0:
                await context.on_chain(lambda: chain.take_job(job_id))
        except JobTakenBy:
            return False
        except Refused as error:
            _fail(context, job, str(error))
            return False
        return True
    return False


def fail(session: Session, job: int, reason: str) -> None:
    """A job ends without a result. What is committed is settled and paid all the same."""
    row = session.get(Job, job)
    if row is not None and row.state not in (JobState.DONE, JobState.FAILED):
        row.state, row.reason = JobState.FAILED, reason
        log(session, row.id, "failed", reason)


def _fail(context: Context, job: Job, reason: str) -> None:
    with context.database.session() as session:
        fail(session, job.id, reason)


def note_closed(session: Session, job: int) -> None:
    """Its requester has closed it: no more work is given out."""
    row = session.get(Job, job)
    if row is not None:
        row.closed = True
        if row.state in (JobState.WAITING, JobState.RUNNING):
            row.state, row.reason = JobState.FAILED, "it was closed before it was done"
            log(session, row.id, "failed", row.reason)


def note_taken(session: Session, job: int, *, own: bool) -> None:
    """Another verifier schedules it from now on; what was promised here is still committed here."""
    row = session.get(Job, job)
    if row is not None and not own and row.state == JobState.RUNNING:
        row.state, row.reason = JobState.FAILED, "another verifier has taken it over"
        log(session, row.id, "failed", row.reason)


async def expire(context: Context) -> None:
    """A job past its deadline takes no more work; the requester can have the rest of the escrow back."""
    at = context.chain_time()
    with context.database.session() as session:
        for job in session.exec(select(Job).where(Job.state == JobState.RUNNING, Job.deadline < at)):
            job.state, job.reason = JobState.FAILED, "the deadline has passed"
            log(session, job.id, "failed", job.reason)


async def complete(context: Context) -> None:
    """Finish jobs whose tasks are all valid and whose batches are all settled."""
    with context.database.session() as session:
        running = session.exec(select(Job).where(col(Job.state).in_([JobState.RUNNING, JobState.SETTLING]))).all()
        finished = []
        for job in running:
            if _valid_tasks(session, job.id) == job.tasks > 0:
                job.state = JobState.SETTLING
                if not _open_batches(session, job.id):
                    finished.append(job)
    await each(context, finished, _deliver)


def _valid_tasks(session: Session, job: int) -> int:
    """Counted where the rows are: a job may have a hundred thousand of them, and is looked at again and again."""
    valid = select(func.count()).select_from(Task).where(Task.job == job, Task.state == TaskState.VALID)
    return session.exec(valid).one()


def _open_batches(session: Session, job: int) -> int:
    query = select(func.count()).select_from(Batch).join(Line, col(Line.batch) == col(Batch.id))
    return session.exec(query.where(Line.job == job, col(Batch.state).not_in(OVER))).one()


async def _deliver(context: Context, job: Job) -> None:
    """Package the last task's result for people."""
    with context.database.session() as session:
        last = tasks_of(session, job.id)[-1]
    manifest = context.manifest(Cid(job.manifest))
    data = context.store.get_bytes(Cid(last.result or ""), max_bytes=MAX_STATE_BYTES)
    with TemporaryDirectory(dir=context.settings.data_dir) as folder:
        package = Path(folder) / "result"
        await asyncio.to_thread(context.workload(manifest).package, manifest, data, package)
        cid = await asyncio.to_thread(context.store.put_directory, package)
    with context.database.session() as session:
        row = session.merge(job)
        row.state, row.result = JobState.DONE, cid
        log(session, row.id, "done", f"result {cid}")


async def close_paid(context: Context) -> None:
    """Give what was not spent back to the requesters of finished jobs, once all their units are paid on chain."""
    with context.database.session() as session:
        done = list(session.exec(select(Job).where(Job.state == JobState.DONE, col(Job.closed).is_(False))).all())
    await each(context, done, _close)


async def _close(context: Context, job: Job) -> None:
    record = await context.on_chain(lambda: context.chain.job(JobId(job.id)))
    if not record.closed:
        if record.units_paid < record.units or record.verifier != await context.own():
            return
        await context.on_chain(lambda: context.chain.close_job(JobId(job.id)))
    with context.database.session() as session:
        session.merge(job).closed = True
